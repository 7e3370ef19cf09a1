//! The BPF file system, where pins live.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::packages::is_root;

/// Where it is mounted.
pub const DIRECTORY: &str = "/sys/fs/bpf";

/// Mounts it unless it is mounted.
pub fn ensure() -> Result<()> {
    if is_mounted()? {
        return Ok(());
    }
    if !is_root() {
        bail!("the BPF file system is not mounted; run: sudo mount -t bpf bpf {DIRECTORY}");
    }
    let output = Command::new("mount")
        .args(["-t", "bpf", "bpf", DIRECTORY])
        .output()
        .context("starting mount")?;
    // Two commands may have found it missing at the same time.
    if !output.status.success() && !is_mounted()? {
        bail!(
            "mounting the BPF file system on {DIRECTORY}: {}; the kernel needs CONFIG_BPF_SYSCALL",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn is_mounted() -> Result<bool> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    Ok(mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(DIRECTORY) && fields.next() == Some("bpf")
    }))
}
