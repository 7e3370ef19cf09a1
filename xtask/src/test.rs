//! `cargo xtask test`: setup, build, then every test of the workspace through plain `cargo test`, whose counts CI reads.
//!
//! In front of the tests stands what the verifier says of each kernel program: instructions and stack. Too many fail the command.
//! Behind them a small set of tests runs on the kernels 6.1 and 6.12; with arguments for cargo, which are about other tests, it is left out.

use std::process::Command;

use anyhow::Result;

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, clean, progress, vm};

/// The command; `arguments` are cargo's.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Test)?;
    clean::run()?;
    build::all(workspace, &tools, false)?;
    let mut verify = Command::new(workspace.programs(false).join("verify"));
    let verified = progress::run_visible("verifier", &mut verify);
    let mut command = workspace.cargo();
    command
        .args(["test", "--workspace", "--exclude", "fw-ebpf"])
        // All that fails is to be seen in one run.
        .arg("--no-fail-fast")
        .args(arguments);
    progress::run_visible("tests", &mut command)?;
    verified?;
    if !arguments.is_empty() {
        return Ok(());
    }
    vm::smoke(workspace)
}
