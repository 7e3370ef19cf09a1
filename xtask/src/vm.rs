//! `cargo xtask vm`: builds everything, then has `vm-harness` boot other kernels and run the tests there.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, progress};

/// What of it is wanted.
pub struct Wanted<'a> {
    /// Names of kernel lines.
    pub kernels: &'a [&'a str],
    /// Part of the names of tests.
    pub test: Option<&'a str>,
    /// The small set.
    pub smoke: bool,
    /// A shell instead.
    pub shell: bool,
}

/// The command.
pub fn run(workspace: &Workspace, wanted: &Wanted<'_>) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Machines)?;
    build::all(workspace, &tools, false)?;
    machines(workspace, wanted)
}

/// Boots machines with what is built, tests included.
pub fn machines(workspace: &Workspace, wanted: &Wanted<'_>) -> Result<()> {
    let messages = workspace.target.join("xtask/test-programs.json");
    let mut build = workspace.cargo();
    build
        .args(["test", "--workspace", "--exclude", "fw-ebpf", "--no-run"])
        .args([
            "--tests",
            "--bins",
            "--message-format=json-render-diagnostics",
        ]);
    list(&mut build, workspace)?;
    let mut harness = Command::new(workspace.programs(false).join("vm-harness"));
    for kernel in wanted.kernels {
        harness.args(["--kernel", kernel]);
    }
    if let Some(test) = wanted.test {
        harness.args(["--test", test]);
    }
    if wanted.smoke {
        harness.args(["--smoke", "--jobs", "2"]);
    }
    if wanted.shell {
        harness.arg("--shell");
    }
    harness
        .arg("--messages")
        .arg(&messages)
        .arg("--root")
        .arg(&workspace.root)
        .arg("--out")
        .arg(workspace.target.join("vm"));
    progress::run_visible("machines", &mut harness)
}

/// Builds the tests; what was built is told in a file.
fn list(build: &mut Command, workspace: &Workspace) -> Result<()> {
    let path = workspace.target.join("xtask/test-programs.json");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    eprintln!("… test programs");
    let status = build
        .stdin(Stdio::null())
        .stdout(file)
        .status()
        .context("starting cargo")?;
    if !status.success() {
        bail!("building the tests: {status}");
    }
    Ok(())
}
