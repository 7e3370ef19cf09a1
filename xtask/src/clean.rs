//! `cargo xtask clean`: what killed tests and demos left behind.
//!
//! Namespaces are called `tw<pid>-<number>-<role>`, pin directories and temporary ones `tapwall-test-<pid>-…`, after the process that made them.
//! Those of processes that are no more are removed, with the processes that still run in such a namespace. Nothing of a living process is
//! touched, and nothing of any other name.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::packages::is_root;

/// Where the tests' agents pin.
const PINS: &str = "/sys/fs/bpf";

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// The command.
pub fn run() -> Result<()> {
    let temporary = env::temp_dir();
    let namespaces = left(Path::new(NAMESPACES), namespace_owner);
    let directories: Vec<PathBuf> = [Path::new(PINS), &temporary]
        .into_iter()
        .flat_map(|parent| {
            let names = left(parent, directory_owner);
            names.into_iter().map(move |name| parent.join(name))
        })
        .collect();
    if namespaces.is_empty() && directories.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "removing what killed tests left ({} namespaces, {} directories) needs root",
            namespaces.len(),
            directories.len()
        );
    }
    for name in &namespaces {
        for pid in processes_in(name)? {
            // It may end by itself meanwhile, which is what is wanted.
            Command::new("kill")
                .args(["-KILL", &pid])
                .output()
                .context("starting kill")?;
        }
        let output = Command::new("ip")
            .args(["netns", "delete", name])
            .output()
            .context("starting ip")?;
        if !output.status.success() {
            bail!(
                "removing namespace {name}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        eprintln!("✓ removed namespace {name}");
    }
    for directory in &directories {
        fs::remove_dir_all(directory)
            .with_context(|| format!("removing {}", directory.display()))?;
        eprintln!("✓ removed {}", directory.display());
    }
    Ok(())
}

/// Names in a directory whose owner is no more.
fn left(directory: &Path, owner: fn(&str) -> Option<u32>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        })
        .collect()
}

fn namespace_owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix("tw")?.split_once('-')?;
    let (number, _) = rest.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

fn directory_owner(name: &str) -> Option<u32> {
    let (pid, _) = name.strip_prefix("tapwall-test-")?.split_once('-')?;
    pid.parse().ok()
}

fn processes_in(namespace: &str) -> Result<Vec<String>> {
    let output = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output()
        .context("starting ip")?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        for (name, expect) in [
            ("tw123-0-node", Some(123)),
            ("tw-0-node", None),
            ("tw123", None),
            ("tw123-node", None),
            ("twilight-1-x", None),
            ("node", None),
        ] {
            assert_eq!(namespace_owner(name), expect, "{name}");
        }
        assert_eq!(directory_owner("tapwall-test-77-2"), Some(77));
        assert_eq!(directory_owner("tapwall-test-77-tree-x7Yz"), Some(77));
        assert_eq!(directory_owner("tapwall"), None);
        assert_eq!(directory_owner("tapwall-test-x-2"), None);
    }
}
