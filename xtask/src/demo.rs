//! `cargo xtask demo`: builds everything, then runs the demo program of the tests crate.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, clean, progress};

/// The command.
pub fn run(workspace: &Workspace, keep: bool, only_clean: bool) -> Result<()> {
    let program = workspace.programs(false).join("demo");
    if only_clean {
        // What was never built left nothing.
        if program.exists() {
            progress::run_visible("removing the demo", Command::new(&program).arg("--clean"))?;
        }
        return clean::run();
    }
    let tools = setup::ensure(workspace, Scope::Run)?;
    build::all(workspace, &tools, false)?;
    clean::run()?;
    let mut demo = Command::new(&program);
    if keep {
        demo.arg("--keep");
    }
    progress::run_visible("demo", &mut demo)
}
