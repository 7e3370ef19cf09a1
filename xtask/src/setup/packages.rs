//! Debian packages: which are needed, whether they are there, installing them.
//!
//! The list is short on purpose: programs that the tests and the demo run. Everything else that they do, they do by system call.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::quiet::{self, Quiet};
use crate::progress;
use crate::workspace::{Workspace, programs_named};

/// A package to install.
#[derive(Clone, Copy)]
pub struct Package {
    /// Debian's name.
    pub name: &'static str,
    /// What it is needed for.
    pub purpose: &'static str,
}

/// Programs and the packages they come from.
const PROGRAMS: [(&str, Package); 7] = [
    (
        "ip",
        Package {
            name: "iproute2",
            purpose: "makes the test's network namespaces and links",
        },
    ),
    (
        "nsenter",
        Package {
            name: "util-linux",
            purpose: "runs programs in those namespaces",
        },
    ),
    (
        "bpftool",
        Package {
            name: "bpftool",
            purpose: "lists what the kernel holds, independently of Tapwall",
        },
    ),
    (
        "nft",
        Package {
            name: "nftables",
            purpose: "translates addresses in the tests of a host that does",
        },
    ),
    (
        "iptables-legacy-restore",
        Package {
            name: "iptables",
            purpose: "loads the rulesets that Tapwall is compared with, and that it translates",
        },
    ),
    (
        "logrotate",
        Package {
            name: "logrotate",
            purpose: "rotates the log that the packaged rotation is for",
        },
    ),
    (
        "systemctl",
        Package {
            name: "systemd",
            purpose: "runs the packaged unit, in namespaces of its own",
        },
    ),
];

/// Programs that only the tests of backends run, and the packages they come from.
const FOR_BACKENDS: [(&str, Package); 2] = [
    (
        "sshguard",
        Package {
            name: "sshguard",
            purpose: "decides whom to ban, in the tests of its backend",
        },
    ),
    (
        "fail2ban-server",
        Package {
            name: "fail2ban",
            purpose: "decides whom to ban, in the tests of its action",
        },
    ),
];

/// Packages whose services are not to run because of us.
const DAEMONS: [&str; 2] = ["sshguard", "fail2ban"];

/// Programs that only machines with other kernels need, and the packages they come from.
const FOR_MACHINES: [(&str, Package); 3] = [
    (
        "qemu-system-x86_64",
        Package {
            name: "qemu-system-x86",
            purpose: "boots other kernels",
        },
    ),
    (
        "busybox",
        Package {
            name: "busybox-static",
            purpose: "is the small programs of those machines",
        },
    ),
    (
        "wg",
        Package {
            name: "wireguard-tools",
            purpose: "gives WireGuard devices their keys in tests",
        },
    ),
];

/// Programs that only `cargo xtask bench` runs: what Tapwall is compared with.
const BENCH_PROGRAMS: [(&str, Package); 1] = [(
    "ipset",
    Package {
        name: "ipset",
        purpose: "loads their sets",
    },
)];

/// Programs that only `cargo xtask dist` runs.
const DIST_PROGRAMS: [(&str, Package); 2] = [
    (
        "dpkg-shlibdeps",
        Package {
            name: "dpkg-dev",
            purpose: "finds the libraries that the package depends on",
        },
    ),
    (
        "lintian",
        Package {
            name: "lintian",
            purpose: "checks the package against Debian's policy",
        },
    ),
];

/// Packages whose programs are not there.
pub fn missing() -> Vec<Package> {
    absent(&PROGRAMS)
}

/// Likewise, those that only tests of backends need.
pub fn missing_for_backends() -> Vec<Package> {
    absent(&FOR_BACKENDS)
}

/// Likewise, those that only machines with other kernels need.
pub fn missing_for_machines() -> Vec<Package> {
    absent(&FOR_MACHINES)
}

/// Likewise, for the bench alone.
pub fn missing_for_bench() -> Vec<Package> {
    absent(&BENCH_PROGRAMS)
}

/// Likewise, for the package alone.
pub fn missing_for_dist() -> Vec<Package> {
    absent(&DIST_PROGRAMS)
}

fn absent(programs: &[(&str, Package)]) -> Vec<Package> {
    programs
        .iter()
        .filter(|(program, _)| programs_named(program).is_empty())
        .map(|(_, package)| *package)
        .collect()
}

/// Programs that are there, with their paths.
pub fn present() -> Vec<(&'static str, PathBuf)> {
    PROGRAMS
        .iter()
        .chain(&FOR_BACKENDS)
        .chain(&FOR_MACHINES)
        .filter_map(|(program, _)| Some((*program, programs_named(program).into_iter().next()?)))
        .collect()
}

/// Installs packages, or says how to. `notes` are further reasons for the message.
pub fn install(workspace: &Workspace, packages: &[Package], notes: &[String]) -> Result<()> {
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let apt = !programs_named("apt-get").is_empty();
    if !is_root() || !apt {
        bail!("{}", instructions(packages, notes, apt));
    }
    let mut update = apt_get();
    progress::run(
        workspace,
        "apt-get update",
        "apt-update",
        update.arg("update"),
    )?;
    let mut install = apt_get();
    install
        .args(["install", "-y", "--no-install-recommends"])
        .args(&names);
    let quiet = Quiet::begin()?;
    let installed = progress::run(
        workspace,
        &format!("apt-get install {}", names.join(" ")),
        "apt-install",
        &mut install,
    );
    drop(quiet);
    installed.with_context(|| instructions(packages, notes, apt))?;
    let new = DAEMONS.into_iter().filter(|name| names.contains(name));
    quiet::disable(workspace, &new.collect::<Vec<_>>())
}

/// Whether this process may install, mount and make namespaces.
pub fn is_root() -> bool {
    // The owner of /proc/self is the process's effective user.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|data| data.uid() == 0)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn instructions(packages: &[Package], notes: &[String], apt: bool) -> String {
    let mut text = String::from("missing on this machine:\n");
    for package in packages {
        text.push_str(&format!("  {:<16} {}\n", package.name, package.purpose));
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let names = names.join(" ");
    if apt {
        text.push_str(&format!(
            "install with: sudo apt-get update && sudo apt-get install -y --no-install-recommends {names}"
        ));
    } else {
        text.push_str(&format!(
            "install what corresponds to these Debian packages: {names}"
        ));
    }
    if names.contains("rustc-web") {
        text.push_str("\nor, instead of rustc-web and rust-web-src: rustup component add rust-src");
        for note in notes {
            text.push_str(&format!("\n  {note}"));
        }
    }
    text
}
