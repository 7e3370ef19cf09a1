//! Network namespaces that vanish with their handle.
//!
//! Names are `tw<pid>-<number>-<role>`: tests run in parallel, and `cargo xtask clean` recognises what a killed one left. Links, addresses and
//! routes are made with `ip`; code runs inside on threads of its own, because a namespace belongs to a thread. A socket or a tap device stays
//! in the namespace it was made in, so that only making it needs such a thread.
//!
//! Commands are entered with `nsenter --net`, not with `ip netns exec`, which would hide `/sys/fs/bpf`.
//! Dropping a handle ends the processes in that namespace, by their ids, and touches no other namespace.

use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::patience::patience;

/// Number of the next namespace of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long processes in a namespace may take to end when it is removed.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// A network namespace of this process's making.
pub struct Netns {
    name: String,
    /// The one that this process runs in: nothing in it is ended.
    own: bool,
}

impl Netns {
    /// A new namespace with its loopback device up. `role` is the readable part of its name.
    pub fn new(role: &str) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("network namespaces need root: run this as root");
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tw{}-{number}-{role}", id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name, own: false };
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// The namespace that this process runs in, under a name: the host itself where a whole machine is the test's.
    pub fn own(role: &str) -> Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tw{}-{number}-{role}", id());
        run(Command::new("ip").args(["netns", "attach", &name, &id().to_string()]))?;
        Ok(Self { name, own: true })
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs code inside, on a thread of its own. A panic in it goes on in the caller.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let joined = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter()?;
                    inside()
                })
                .join()
        });
        match joined {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// A program that will run inside, seeing the mounts of this process.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs lines of `ip` arguments inside; all of them or an error that names the line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting ip")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(lines.as_bytes()).context("writing to ip")?;
        }
        let output = child.wait_with_output().context("waiting for ip")?;
        if !output.status.success() {
            bail!(
                "ip in {}: {}\nof:\n{lines}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Sets a network sysctl inside: `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let file = PathBuf::from("/proc/sys").join(key);
        self.run(|| {
            fs::write(&file, value)
                .with_context(|| format!("setting {} to {value} in {}", file.display(), self.name))
        })
    }

    /// Interface index of a device inside.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        self.run(|| {
            rustix::net::netdevice::name_to_index(
                rustix::net::socket(
                    rustix::net::AddressFamily::INET,
                    rustix::net::SocketType::DGRAM,
                    None,
                )?,
                device,
            )
            .with_context(|| format!("looking for {device} in {}", self.name))
        })
    }

    /// Whether an address is configured inside, so that sockets can be bound to it.
    pub fn has_address(&self, address: IpAddr) -> Result<bool> {
        self.run(|| Ok(std::net::UdpSocket::bind((address, 0)).is_ok()))
    }

    fn enter(&self) -> Result<()> {
        use std::os::fd::AsFd;
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering {}", self.name))
    }

    /// Ids of the processes inside, without this one.
    fn processes(&self) -> Result<Vec<Pid>> {
        let output = run(Command::new("ip").args(["netns", "pids", &self.name]))?;
        Ok(output
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .filter_map(Pid::from_raw)
            .filter(|pid| pid.as_raw_nonzero().get().unsigned_abs() != id())
            .collect())
    }

    fn remove(&self) -> Result<()> {
        if self.own {
            return run(Command::new("ip").args(["netns", "delete", &self.name])).map(drop);
        }
        let deadline = Instant::now() + patience(END_TIMEOUT);
        loop {
            let left = self.processes()?;
            if left.is_empty() {
                break;
            }
            if Instant::now() > deadline {
                bail!("processes {left:?} in {} do not end", self.name);
            }
            for pid in left {
                // It may have ended by itself.
                kill_process(pid, Signal::KILL).unwrap_or_default();
            }
            thread::sleep(Duration::from_millis(5));
        }
        run(Command::new("ip").args(["netns", "delete", &self.name])).map(drop)
    }
}

impl fmt::Debug for Netns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("removing namespace {}: {error:#}", self.name);
        }
    }
}

/// Runs a program to its end: its output, or an error with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
