//! `cargo xtask ci`: the format, the lints of host and kernel crates with warnings denied, then `cargo xtask test`.

use anyhow::{Context, Result};

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, progress, test};

/// How clippy's driver is told its arguments (as `cargo clippy -- -D warnings` does).
const DENY_WARNINGS: &str = "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__";

/// The command.
pub fn run(workspace: &Workspace) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Lint)?;

    let mut format = workspace.cargo();
    format.args(["fmt", "--all", "--check"]);
    progress::run(workspace, "format", "format", &mut format)?;

    // The agent embeds the kernel object, so that linting it needs one.
    build::kernel(workspace, &tools, false)?;
    let mut host = workspace.cargo();
    host.args([
        "clippy",
        "--workspace",
        "--exclude",
        "fw-ebpf",
        "--all-targets",
    ])
    .args(["--", "-D", "warnings"]);
    progress::run(workspace, "lints of host crates", "clippy-host", &mut host)?;

    // `cargo clippy` would take the driver beside cargo; the kernel crate needs the one of the compiler that built its `core`.
    let driver = tools
        .compiler
        .clippy()
        .context("linting the kernel crate: its compiler has no clippy")?;
    let mut kernel = build::kernel_cargo(workspace, &tools, "check")?;
    kernel
        .env("RUSTC_WORKSPACE_WRAPPER", driver)
        .env("CLIPPY_ARGS", DENY_WARNINGS);
    progress::run(
        workspace,
        "lints of kernel crate",
        "clippy-kernel",
        &mut kernel,
    )?;

    test::run(workspace, &[])
}
