//! Other firewalls on this node: Proxmox's own, which would judge the same packets again.
//!
//! In: `/run` and the kernel's tree of control groups. Out: which of them run. A service runs if its pid file names a living process of that name,
//! or if systemd has processes in its control group. What they left in netfilter is a remark only: it can drop what Tapwall accepts, and
//! opens nothing.

use std::path::Path;
use std::process::{Command, Stdio};

use thiserror::Error;

/// Services that must not run beside the agent.
const SERVICES: [&str; 2] = ["pve-firewall", "proxmox-firewall"];

/// Where systemd keeps the control groups of services.
pub const SYSTEM_SLICE: &str = "/sys/fs/cgroup/system.slice";

/// Longest name of a process that the kernel keeps (`TASK_COMM_LEN` without its zero).
const COMM: usize = 15;

/// Another firewall runs.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{service} is running (process {pid}): two firewalls would judge the same packets; stop it with `systemctl disable --now {service}`, or give --force"
)]
pub struct Conflict {
    /// Its name.
    pub service: &'static str,
    /// A process of it.
    pub pid: u32,
}

/// The other firewalls that run, by the pid files in `run` and the control groups below `slice`.
pub fn find(run: &Path, slice: &Path) -> Vec<Conflict> {
    let services = SERVICES.into_iter();
    services
        .filter_map(|service| {
            let pid = by_pid_file(run, service).or_else(|| by_group(slice, service))?;
            Some(Conflict { service, pid })
        })
        .collect()
}

fn by_pid_file(run: &Path, service: &str) -> Option<u32> {
    let text = std::fs::read_to_string(run.join(format!("{service}.pid"))).ok()?;
    let pid: u32 = text.trim().parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let expect = &service[..service.len().min(COMM)];
    (name.trim_end_matches('\n') == expect).then_some(pid)
}

fn by_group(slice: &Path, service: &str) -> Option<u32> {
    let file = slice.join(format!("{service}.service/cgroup.procs"));
    let text = std::fs::read_to_string(file).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// What the other firewalls left in netfilter, as far as the tools that they are managed with are there. Takes some milliseconds.
pub fn leftovers() -> Vec<&'static str> {
    let looks: [(&str, &[&str], &str); 3] = [
        (
            "iptables",
            &["-w", "1", "-n", "-L", "PVEFW-INPUT"],
            "chains of pve-firewall are still in iptables; they go with the next boot or `pve-firewall stop`",
        ),
        (
            "nft",
            &["list", "table", "inet", "proxmox-firewall"],
            "the table inet proxmox-firewall is still in nftables; `nft delete table inet proxmox-firewall` removes it",
        ),
        (
            "nft",
            &["list", "table", "bridge", "proxmox-firewall-guests"],
            "the table bridge proxmox-firewall-guests is still in nftables; `nft delete table bridge proxmox-firewall-guests` removes it",
        ),
    ];
    let is_there = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    looks
        .into_iter()
        .filter(|(program, arguments, _)| is_there(program, arguments))
        .map(|(_, _, sentence)| sentence)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;

    use super::*;

    /// A process whose name is this.
    struct Named(std::process::Child);

    impl Named {
        fn start(name: &str, directory: &Path) -> Self {
            let program = directory.join(name);
            std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
            Self(Command::new(program).arg0(name).arg("60").spawn().unwrap())
        }
    }

    impl Drop for Named {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_pid_file_counts_if_its_process_lives_and_has_the_name() {
        let place = tempfile::tempdir().unwrap();
        let (run, slice) = (place.path(), place.path());
        assert_eq!(find(run, slice), []);
        let file = run.join("proxmox-firewall.pid");
        // Not a number, nobody's, and somebody else's.
        let own = std::process::id().to_string();
        for text in ["", "x", "4294967295", &own] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(find(run, slice), [], "{text:?}");
        }
        let programs = tempfile::tempdir().unwrap();
        let process = Named::start("proxmox-firewall", programs.path());
        let pid = process.0.id();
        std::fs::write(&file, format!("{pid}\n")).unwrap();
        let service = "proxmox-firewall";
        assert_eq!(find(run, slice), [Conflict { service, pid }]);
        drop(process);
        assert_eq!(find(run, slice), []);
    }

    #[test]
    fn a_control_group_counts_if_it_has_processes() {
        let place = tempfile::tempdir().unwrap();
        let group = place.path().join("pve-firewall.service");
        std::fs::create_dir(&group).unwrap();
        for (text, expect) in [("", None), ("812\n813\n", Some(812))] {
            std::fs::write(group.join("cgroup.procs"), text).unwrap();
            let service = "pve-firewall";
            let expect = expect.map(|pid| Conflict { service, pid });
            assert_eq!(
                find(place.path(), place.path()),
                Vec::from_iter(expect),
                "{text:?}"
            );
        }
    }
}
