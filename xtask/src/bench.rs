//! `cargo xtask bench`: builds everything optimised, then runs the bench program of the tests crate.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, progress};

/// The command.
pub fn run(workspace: &Workspace) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Run)?;
    build::all(workspace, &tools, true)?;
    let mut bench = Command::new(workspace.programs(true).join("bench"));
    bench.arg("--out").arg(workspace.target.join("bench"));
    progress::run_visible("bench", &mut bench)
}
