//! The command that boots a machine.
//!
//! First serial port: the kernel's console, on standard output. Second one: the protocol, on a socket of the harness. Nothing is written to disk. KVM is
//! used where it boots a guest, which is not certain where its device exists: in a nested guest it may hang at the first instruction. That is
//! remembered until the next boot of this machine.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::kernels::Kernel;

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU.
    Emulation,
}

/// A machine to boot.
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// Its first file system.
    pub image: &'a Path,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Memory, MiB.
    pub memory: u32,
    /// Networks that it shares with another machine.
    pub networks: Vec<Network>,
}

/// One end of a network of two machines: a datagram socket for each end.
#[derive(Clone, Debug)]
pub struct Network {
    /// This machine's end.
    pub own: PathBuf,
    /// The other's.
    pub other: PathBuf,
    /// Hardware address of the NIC.
    pub mac: String,
}

impl Machine<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Whatever ends the harness ends its machines.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                Ok(())
            });
        }
        command.args(["-nodefaults", "-no-reboot", "-display", "none"]);
        match self.accelerator {
            Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            // QEMU 7.2 leaves garbage in the flags after `cmpxchg16b`: kernel 6.12, whose allocator uses it throughout, dies of a double fault
            // sooner or later. Without the instruction the allocator takes another way. `-cpu max` makes 6.12 panic at once.
            Accelerator::Emulation => command.args(["-accel", "tcg", "-cpu", "qemu64,-cx16"]),
        };
        command
            .args(["-smp", "1", "-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.image)
            // Mitigations: a return through a trampoline costs an emulated machine a search for translated code.
            .args([
                "-append",
                "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on mitigations=off",
            ]);
        for (number, network) in self.networks.iter().enumerate() {
            command
                .arg("-netdev")
                .arg(format!(
                    "dgram,id=n{number},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    network.own.display(),
                    network.other.display()
                ))
                .arg("-device")
                .arg(format!(
                    "virtio-net-pci,netdev=n{number},mac={},romfile=",
                    network.mac
                ));
        }
        command
    }

    /// For the harness: the console on standard output, the protocol on a socket that the harness listens at.
    pub fn watched(&self, port: &Path) -> Command {
        let mut command = self.command();
        command
            .args(["-serial", "stdio"])
            .arg("-chardev")
            .arg(format!("socket,id=port,path={}", port.display()))
            .args(["-serial", "chardev:port"]);
        command
    }

    /// For a person: the console is the terminal.
    pub fn interactive(&self) -> Command {
        let mut command = self.command();
        command.args(["-serial", "mon:stdio", "-serial", "null"]);
        command
    }
}

/// Whether KVM is worth a try: its device can be opened, and it has not failed since this machine was booted.
pub fn kvm_may_work(cache: &Path) -> bool {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm");
    device.is_ok() && fs::read_to_string(failed_file(cache)).ok() != boot()
}

/// Remembers that KVM did not boot a guest.
pub fn kvm_failed(cache: &Path) {
    if let Some(boot) = boot()
        && let Err(error) = fs::write(failed_file(cache), boot)
    {
        eprintln!("cannot remember that KVM does not boot a guest: {error}");
    }
}

fn failed_file(cache: &Path) -> PathBuf {
    cache.join("kvm-failed-in-boot")
}

fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
