//! Programs of packages that are not installed but unpacked, below `target/xtask`, where tests look for them. They need nothing but the C library.
//!
//! Debian's packages of them do more than put programs there: that of Prometheus starts a server and depends on the parts of a web page, that of
//! CrowdSec registers the machine with CrowdSec's central service, and fails if it cannot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::is_root;
use crate::progress;
use crate::workspace::{Workspace, is_program, programs_named};

/// A package, and the programs of it that are wanted.
pub struct Unpacked {
    /// Debian's name.
    package: &'static str,
    programs: [&'static str; 2],
}

/// Prometheus and its `promtool`, which check what the agent tells them.
pub const PROMETHEUS: Unpacked = Unpacked {
    package: "prometheus",
    programs: ["promtool", "prometheus"],
};

/// CrowdSec and its command line, whose decisions Tapwall enforces.
pub const CROWDSEC: Unpacked = Unpacked {
    package: "crowdsec",
    programs: ["crowdsec", "cscli"],
};

impl Unpacked {
    /// Finds the programs, or unpacks them.
    pub fn ensure(&self, workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
        let Self { package, programs } = self;
        let root = workspace.target.join("xtask").join(package);
        let find = |program: &'static str| {
            let unpacked = root.join("usr/bin").join(program);
            let mut candidates = programs_named(program);
            candidates.push(unpacked);
            let found = candidates.into_iter().find(|file| is_program(file));
            found.map(|file| (program, file))
        };
        let find_all = || -> Option<Vec<_>> { programs.iter().copied().map(find).collect() };
        if let Some(found) = find_all() {
            return Ok(found);
        }
        unpack(workspace, package, &root).with_context(|| {
            format!(
                "without apt: put {} into a directory of PATH",
                programs.join(" and ")
            )
        })?;
        find_all().with_context(|| format!("the package {package} has no {}", programs.join(", ")))
    }
}

fn unpack(workspace: &Workspace, package: &str, root: &Path) -> Result<()> {
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
        .args(["-o", "APT::Sandbox::User=root", "download", package]);
    progress::run(
        workspace,
        &format!("apt-get download {package}"),
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
