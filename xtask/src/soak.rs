//! `cargo xtask soak`: builds everything, then runs the soak program of the tests crate.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, clean, progress};

/// The command; `minutes` is how long it goes on.
pub fn run(workspace: &Workspace, minutes: u64) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Run)?;
    build::all(workspace, &tools, false)?;
    clean::run()?;
    let mut soak = Command::new(workspace.programs(false).join("soak"));
    soak.args(["--minutes", &minutes.to_string()]);
    progress::run_visible("soak", &mut soak)
}
