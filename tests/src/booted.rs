//! This machine's own systemd as process 1 of its own namespaces, on an overlay of the machine's root, in the network of a namespace that is there.
//!
//! Nothing that is written inside outlives it, and no virtual machine is needed. Where the machine forbids the mounts that this takes, or has no
//! systemd, [`Booted::start`] says why and gives none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::netns::Netns;
use crate::tree::temporary_directory;

/// How long anything inside may take.
const LIMIT: Duration = Duration::from_secs(60);

/// What makes the root and becomes systemd.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/booted.sh");

/// A machine as far as systemd can tell; it ends when dropped.
pub struct Booted {
    outer: Child,
    first: Pid,
    group: Option<PathBuf>,
    _place: TempDir,
}

impl Booted {
    /// Boots in the network of `network`, with `over` laid over the root and `tree` as `/etc/pve`, if there is to be one. None if this machine does not let us,
    /// which is said.
    pub fn start(network: &Netns, over: &Path, tree: Option<&Path>) -> Result<Option<Self>> {
        if !Path::new("/lib/systemd/systemd").exists() {
            eprintln!("skipped: systemd is not installed");
            return Ok(None);
        }
        let place = temporary_directory("systemd")?;
        let said = place.path().join("said");
        let work = place.path().join("work");
        fs::create_dir(&work).with_context(|| format!("creating {}", work.display()))?;
        let group = new_group();
        let out =
            fs::File::create(&said).with_context(|| format!("creating {}", said.display()))?;
        // The new process joins its control group before it makes that the root of a namespace.
        let join = "if [ -n \"$1\" ]; then echo $$ > \"$1/cgroup.procs\"; fi; shift; exec \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", join, "sh"]);
        command.arg(group.as_deref().unwrap_or(Path::new("")));
        command.arg("nsenter");
        command.arg(format!("--net={}", network.path().display()));
        command.args([
            "--",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ]);
        command.args(["--cgroup", "--uts", "--ipc", "--", "sh", SCRIPT]);
        command.args([&work, over, tree.unwrap_or(Path::new(""))]);
        command
            .stdin(Stdio::null())
            .stderr(out.try_clone().context("copying a descriptor")?);
        let mut outer = command.stdout(out).spawn().context("starting sh")?;
        let deadline = Instant::now() + LIMIT;
        let first = loop {
            let said = fs::read_to_string(&said).context("reading what the start says")?;
            if let Some(why) = said.lines().find_map(|line| line.strip_prefix("skip: ")) {
                eprintln!(
                    "skipped: this machine does not let us boot systemd in namespaces: {why}"
                );
                outer.wait().context("waiting for the start")?;
                remove_group(group);
                return Ok(None);
            }
            let ended = outer.try_wait().context("waiting for the start")?;
            ensure!(ended.is_none(), "it ended: {said}");
            ensure!(Instant::now() < deadline, "it does not boot: {said}");
            if let Some(first) = systemd_below(outer.id()) {
                break first;
            }
            sleep(Duration::from_millis(10));
        };
        let booted = Self {
            outer,
            first,
            group,
            _place: place,
        };
        let is_up = || {
            Ok(booted
                .run(&["systemctl", "is-active", "basic.target"])?
                .status
                .success())
        };
        booted.until("systemd answers", is_up)?;
        Ok(Some(booted))
    }

    /// Runs a program inside.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first.as_raw_nonzero().to_string()]);
        command.args([
            "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--",
        ]);
        command.args(words).stdin(Stdio::null());
        command
            .output()
            .with_context(|| format!("running {words:?}"))
    }

    /// Runs a program inside that must do what it is asked to; what it printed.
    pub fn insist(&self, words: &[&str]) -> Result<String> {
        let output = self.run(words)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!(
                "{words:?}: {}: {text}{error}\n{}",
                output.status,
                self.journal()
            );
        }
        Ok(text)
    }

    /// What systemd knows of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let property = format!("--property={name}");
        let text = self.insist(&["systemctl", "show", &property, "--value", unit])?;
        Ok(text.trim().to_owned())
    }

    /// What Tapwall's unit said.
    pub fn journal(&self) -> String {
        let unit = ["journalctl", "--no-pager", "--unit", "tapwall.service"];
        match self.run(&unit) {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// Waits until something holds.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !holds()? {
            if Instant::now() >= deadline {
                bail!("not {what}; {}", self.journal());
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A file inside.
    pub fn file(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.first.as_raw_nonzero()))
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // With process 1 the kernel ends all others of the namespace.
        if let Err(error) = kill_process(self.first, Signal::KILL) {
            eprintln!("ending systemd: {error}");
        }
        if let Err(error) = self.outer.wait() {
            eprintln!("waiting for systemd: {error}");
        }
        remove_group(self.group.take());
    }
}

/// A control group of its own, so that systemd finds no processes of others in it; none where there are no groups of version 2.
fn new_group() -> Option<PathBuf> {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let mount = mounts
        .into_iter()
        .find(|path| path.join("cgroup.procs").exists())?;
    let group = mount.join(format!("tapwall-test-{}", std::process::id()));
    fs::create_dir(&group).ok().map(|()| group)
}

fn remove_group(group: Option<PathBuf>) {
    let Some(group) = group else { return };
    let deadline = Instant::now() + Duration::from_secs(5);
    // A group goes when its processes are reaped, and after those inside it.
    while group.exists() && Instant::now() < deadline {
        let mut remove = Command::new("find");
        remove
            .arg(&group)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
        if remove.stderr(Stdio::null()).status().is_err() {
            return;
        }
    }
}

/// The systemd that is a child of this process or of its children.
fn systemd_below(parent: u32) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().find_map(|child| {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        let child = child.parse().ok()?;
        match name.trim() == "systemd" {
            true => Pid::from_raw(child),
            false => systemd_below(child.cast_unsigned()),
        }
    })
}
