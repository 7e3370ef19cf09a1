//! What an init does for a system: mounts, modules, orphans, the power switch.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, WaitOptions, wait};
use rustix::system::{RebootCommand, finit_module, reboot};

/// Type and place of each file system.
const MOUNTS: [(&str, &str); 8] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("bpf", "/sys/fs/bpf"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];

/// Mounts them.
pub fn mount_all() -> Result<()> {
    for (kind, place) in MOUNTS {
        // Below /sys nothing can be made, nor need it be.
        fs::create_dir_all(place).with_context(|| format!("creating {place}"))?;
        match mount(kind, place, kind, MountFlags::empty(), None::<&CStr>) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mounting {kind} on {place}")),
        }
    }
    // Else every network namespace has the devices of the tunnel modules that are inserted, and tests find some that they did not make.
    const FALLBACK_TUNNELS: &str = "/proc/sys/net/core/fb_tunnels_only_for_init_net";
    fs::write(FALLBACK_TUNNELS, "2").with_context(|| format!("writing {FALLBACK_TUNNELS}"))?;
    let up = Command::new("/usr/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("starting ip")?;
    if !up.success() {
        eprintln!("vm-init: the loopback device is not up: {up}");
    }
    Ok(())
}

/// Inserts a kernel module.
pub fn insert(module: &Path) -> Result<()> {
    let file = File::open(module).with_context(|| format!("opening {}", module.display()))?;
    match finit_module(&file, c"", 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("inserting {}", module.display())),
    }
}

/// Gives a program the console as its controlling terminal, so that its user can interrupt what it starts.
pub fn own_terminal(command: &mut Command) {
    // SAFETY: setsid and ioctl are async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            Ok(())
        });
    }
}

/// Collects processes that end, until this one has.
pub fn collect_until(pid: u32) -> Result<()> {
    let wanted = i32::try_from(pid).ok().and_then(Pid::from_raw);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if Some(ended) == wanted => {
                if status.exit_status() != Some(0) {
                    eprintln!("vm-init: the runner ended with {status:?}");
                }
                return Ok(());
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the runner"),
        }
    }
}

/// The end.
pub fn power_off() {
    rustix::fs::sync();
    if let Err(error) = reboot(RebootCommand::PowerOff) {
        eprintln!("vm-init: powering off: {error}");
    }
}
