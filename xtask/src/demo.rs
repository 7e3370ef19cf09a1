//! `cargo xtask demo`: builds everything, then runs the demo program of the tests crate.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, clean, progress};

/// The command.
pub fn run(workspace: &Workspace, keep: bool, only_clean: bool) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Run)?;
    build::all(workspace, &tools, false)?;
    let mut demo = Command::new(workspace.programs(false).join("demo"));
    if only_clean {
        progress::run_visible("removing the demo", demo.arg("--clean"))?;
        return clean::run();
    }
    clean::run()?;
    if keep {
        demo.arg("--keep");
    }
    progress::run_visible("demo", &mut demo)
}
