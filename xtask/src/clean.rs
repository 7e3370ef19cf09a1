//! `cargo xtask clean`: what killed tests and demos left behind.
//!
//! Namespaces are called `tw<pid>-<number>-<role>` and pin directories `tapwall-test-<pid>-<number>`, after the process that made them.
//! Those of processes that are no more are removed, with the processes that still run in such a namespace. Nothing of a living process is
//! touched, and nothing of any other name.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::packages::is_root;

/// Where the tests' agents pin.
const PINS: &str = "/sys/fs/bpf";

/// Where `ip netns` keeps its namespaces.
const NAMESPACES: &str = "/run/netns";

/// The command.
pub fn run() -> Result<()> {
    let namespaces = left(NAMESPACES, namespace_owner);
    let pins = left(PINS, pins_owner);
    if namespaces.is_empty() && pins.is_empty() {
        return Ok(());
    }
    if !is_root() {
        bail!(
            "removing what killed tests left ({} namespaces, {} pin directories) needs root",
            namespaces.len(),
            pins.len()
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
    for name in &pins {
        let directory = Path::new(PINS).join(name);
        fs::remove_dir_all(&directory)
            .with_context(|| format!("removing {}", directory.display()))?;
        eprintln!("✓ removed {}", directory.display());
    }
    Ok(())
}

/// Names in a directory whose owner is no more.
fn left(directory: &str, owner: fn(&str) -> Option<u32>) -> Vec<String> {
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
    number_and_rest(name.strip_prefix("tw")?)
}

fn pins_owner(name: &str) -> Option<u32> {
    number_and_rest(name.strip_prefix("tapwall-test-")?)
}

/// The number in `<number>-<number>…`.
fn number_and_rest(text: &str) -> Option<u32> {
    let (pid, rest) = text.split_once('-')?;
    rest.starts_with(|character: char| character.is_ascii_digit())
        .then(|| pid.parse().ok())
        .flatten()
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
        assert_eq!(pins_owner("tapwall-test-77-2"), Some(77));
        assert_eq!(pins_owner("tapwall"), None);
        assert_eq!(pins_owner("tapwall-test-x-2"), None);
    }
}
