//! CrowdSec's two programs, unpacked below the target directory: installing the package would register the machine with CrowdSec's central service.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::{apt_get, is_root};
use crate::progress;
use crate::workspace::{Workspace, is_program, programs_named};

/// Debian's package.
const PACKAGE: &str = "crowdsec";

const PROGRAMS: [&str; 2] = ["crowdsec", "cscli"];

/// Where the package is unpacked; tests look there, too.
fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("unpacked").join(PACKAGE)
}

/// Finds the programs, on the machine or unpacked, or fetches the package.
pub fn ensure(workspace: &Workspace) -> Result<()> {
    let unpacked = directory(workspace);
    let is_there = |name: &str| {
        is_program(&unpacked.join("usr/bin").join(name)) || !programs_named(name).is_empty()
    };
    if PROGRAMS.into_iter().all(is_there) {
        return Ok(());
    }
    if programs_named("apt-get").is_empty() || programs_named("dpkg-deb").is_empty() {
        bail!("missing on this machine: crowdsec and cscli, as of Debian's package {PACKAGE}");
    }
    let place = workspace.target.join("unpacked/download");
    fs::create_dir_all(&place).with_context(|| format!("creating {}", place.display()))?;
    if is_root() {
        let mut update = apt_get();
        progress::run(
            workspace,
            "apt-get update",
            "apt-update",
            update.arg("update"),
        )?;
    }
    let mut download = apt_get();
    download.args(["download", PACKAGE]).current_dir(&place);
    let step = format!("apt-get download {PACKAGE}");
    progress::run(workspace, &step, "apt-download", &mut download)?;
    let entries = fs::read_dir(&place).with_context(|| format!("reading {}", place.display()))?;
    let package = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|file| file.extension().is_some_and(|end| end == "deb"))
        .with_context(|| format!("no package in {}", place.display()))?;
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("-x").arg(&package).arg(&unpacked);
    let step = format!("unpacking {PACKAGE}");
    progress::run(workspace, &step, "dpkg-deb", &mut unpack)?;
    fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))?;
    if let Some(name) = PROGRAMS.into_iter().find(|name| !is_there(name)) {
        bail!("Debian's package {PACKAGE} has no {name}");
    }
    Ok(())
}
