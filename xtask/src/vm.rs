//! `cargo xtask vm`: builds everything, then has `vm-harness` boot other kernels and run the tests there.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::{self, Scope};
use crate::workspace::Workspace;
use crate::{build, progress};

/// Test programs that plain `cargo test` leaves out.
const ONLY_IN_MACHINES: [&str; 3] = ["devices", "node", "pair"];

/// What of it is wanted.
pub struct Wanted<'a> {
    /// Names of kernel lines.
    pub kernels: &'a [&'a str],
    /// Parts of the names of tests.
    pub test: &'a [String],
    /// The small set.
    pub smoke: bool,
    /// A shell instead.
    pub shell: bool,
    /// How many machines at a time.
    pub jobs: usize,
}

/// The command.
pub fn run(workspace: &Workspace, wanted: &Wanted<'_>) -> Result<()> {
    let tools = setup::ensure(workspace, Scope::Run)?;
    setup::ensure_machines(workspace)?;
    build::all(workspace, &tools, false)?;
    machines(workspace, wanted)
}

/// The small set on old kernels, as a part of all tests. A machine that cannot run it goes without, and says so.
pub fn smoke(workspace: &Workspace) -> Result<()> {
    if let Err(error) = setup::ensure_machines(workspace) {
        eprintln!("SKIPPED: tests on kernels 6.1 and 6.12: {error:#}");
        return Ok(());
    }
    machines(
        workspace,
        &Wanted {
            kernels: &["6.1", "6.12"],
            test: &[],
            smoke: true,
            shell: false,
            jobs: 2,
        },
    )
}

/// Boots machines with what is built, tests included.
pub fn machines(workspace: &Workspace, wanted: &Wanted<'_>) -> Result<()> {
    let messages = test_programs(workspace)?;
    let mut harness = Command::new(workspace.programs(false).join("vm-harness"));
    for kernel in wanted.kernels {
        harness.args(["--kernel", kernel]);
    }
    for test in wanted.test {
        harness.args(["--test", test]);
    }
    if wanted.smoke {
        harness.arg("--smoke");
    }
    if wanted.shell {
        harness.arg("--shell");
    }
    harness
        .args(["--jobs", &wanted.jobs.to_string()])
        .arg("--messages")
        .arg(&messages)
        .arg("--root")
        .arg(&workspace.root)
        .arg("--out")
        .arg(workspace.target.join("vm"));
    progress::run_visible("machines", &mut harness)
}

/// Builds the test programs; cargo's messages about them go to a file.
fn test_programs(workspace: &Workspace) -> Result<PathBuf> {
    let path = workspace.target.join("xtask/test-programs.json");
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    // Whoever names a test program gets only those, and `--tests` leaves some out: hence twice, with the same packages and features.
    let mut only = Vec::new();
    for name in ONLY_IN_MACHINES {
        only.extend(["--test", name]);
    }
    for targets in [&["--tests", "--bins"][..], &only] {
        eprintln!("… test programs");
        let file = file
            .try_clone()
            .with_context(|| format!("writing {}", path.display()))?;
        let status = workspace
            .cargo()
            .args(["test", "--workspace", "--exclude", "fw-ebpf", "--no-run"])
            .arg("--message-format=json-render-diagnostics")
            .args(targets)
            .stdin(Stdio::null())
            .stdout(file)
            .status()
            .context("starting cargo")?;
        if !status.success() {
            bail!("building the tests: {status}");
        }
    }
    Ok(path)
}
