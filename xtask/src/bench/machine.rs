//! Where and when results come from: without it no number means anything.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::workspace::Workspace;

/// A machine at the time of a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// When the run began (RFC 3339, UTC, to the second).
    pub date: String,
    /// Commit of the checkout; `+` behind it: with changes.
    pub commit: String,
    /// Kernel release.
    pub kernel: String,
    /// Model of the processors.
    pub processor: String,
    /// How many.
    pub processors: usize,
    /// Memory, in MiB.
    pub memory: u64,
    /// Processes that wanted to run in the minute before, on average: what else the machine was doing.
    pub load: f64,
}

impl Machine {
    /// This one, now.
    pub fn look(workspace: &Workspace) -> Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
        let load = load.split(' ').next().unwrap_or_default();
        let memory = value_of("/proc/meminfo", "MemTotal")?;
        let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")
            .context("reading the kernel's release")?;
        Ok(Self {
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            commit: commit(workspace),
            kernel: release.trim().to_owned(),
            processor: value_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            processors: std::thread::available_parallelism()?.get(),
            memory: kibibytes / 1024,
            load: load.parse().context("understanding /proc/loadavg")?,
        })
    }
}

/// The first value of a key in a file of `key: value` lines.
fn value_of(file: &str, key: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
        .with_context(|| format!("{file} has no {key}"))
}

/// Empty outside of a git checkout.
fn commit(workspace: &Workspace) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            .arg("-C")
            .arg(&workspace.root)
            .args(arguments)
            .output();
        let output = output.ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    match changed.is_some_and(|changed| !changed.is_empty()) {
        true => commit + "+",
        false => commit,
    }
}
