//! Prometheus and its `promtool`, which check what the agent tells them.
//!
//! Debian's package starts a server when it is installed, and depends on the parts of a web page. So it is not installed but unpacked, below `target/xtask`: the
//! two programs need nothing but the C library.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::is_root;
use crate::progress;
use crate::workspace::{Workspace, is_program, programs_named};

/// Debian's name.
const PACKAGE: &str = "prometheus";

/// The programs.
const PROGRAMS: [&str; 2] = ["promtool", "prometheus"];

/// Finds the programs, or unpacks them.
pub fn ensure(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    let root = workspace.target.join("xtask").join(PACKAGE);
    let find = |program: &'static str| {
        let unpacked = root.join("usr/bin").join(program);
        let mut candidates = programs_named(program);
        candidates.push(unpacked);
        let found = candidates.into_iter().find(|file| is_program(file));
        found.map(|file| (program, file))
    };
    let find_all = || -> Option<Vec<_>> { PROGRAMS.into_iter().map(find).collect() };
    if let Some(found) = find_all() {
        return Ok(found);
    }
    unpack(workspace, &root).with_context(|| {
        format!(
            "without apt: put {} into a directory of PATH",
            PROGRAMS.join(" and ")
        )
    })?;
    find_all().with_context(|| format!("the package {PACKAGE} has no {}", PROGRAMS.join(", ")))
}

fn unpack(workspace: &Workspace, root: &PathBuf) -> Result<()> {
    fs::create_dir_all(root).with_context(|| format!("creating {}", root.display()))?;
    if is_root() {
        let mut update = Command::new("apt-get");
        progress::run(
            workspace,
            "apt-get update",
            "apt-update",
            update.arg("update"),
        )?;
    }
    let mut download = Command::new("apt-get");
    download
        .current_dir(root)
        // The user that apt would be otherwise may not write here.
        .args(["-o", "APT::Sandbox::User=root", "download", PACKAGE]);
    progress::run(
        workspace,
        &format!("apt-get download {PACKAGE}"),
        "apt-download",
        &mut download,
    )?;
    let entries = fs::read_dir(root).with_context(|| format!("reading {}", root.display()))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    let Some(file) = files.find(|file| file.extension().is_some_and(|end| end == "deb")) else {
        bail!("apt-get has left no package in {}", root.display());
    };
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--extract").arg(&file).arg(root);
    progress::run(workspace, "unpacking it", "unpack", &mut extract)?;
    fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
}
