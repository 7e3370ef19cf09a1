//! Who administers this machine right now: the far ends of sessions.
//!
//! 1. The SSH session that this process was started from: `SSH_CONNECTION` of it or of a process above it (`sudo` takes it out of the
//!    environment of those below). 2. SSH sessions that have logged in: `SSH_CONNECTION` of root's processes, and what logind knows.
//! 3. Open connections to the ports of SSH and of the web interface; whether who is there has logged in, nobody knows.
//!
//! Each source is looked at as far as this process may: the agent, which has few privileges, does not see other processes' environments.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sessions::found::{connections, ssh_connection};

/// Ports of SSH and of the web interface.
const PORTS: [u16; 2] = [22, 8006];

/// What sshd tells a session: the peer's address and port, the own address and port.
const VARIABLE: &[u8] = b"SSH_CONNECTION=";

/// Where logind describes sessions.
const LOGIND: &str = "/run/systemd/sessions";

/// The far ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Of the session that this process belongs to.
    pub own: BTreeSet<IpAddr>,
    /// Of sessions that have logged in.
    pub logged_in: BTreeSet<IpAddr>,
    /// Of connections to administrators' ports.
    pub connected: BTreeSet<IpAddr>,
}

impl Sessions {
    /// Looks.
    pub fn find() -> Self {
        let mut found = Self::default();
        let mut ports: BTreeSet<u16> = PORTS.into();
        let mut note = |of: &mut BTreeSet<IpAddr>, peer: Option<(IpAddr, u16)>| {
            if let Some((peer, port)) = peer {
                of.insert(peer);
                ports.insert(port);
            }
        };
        let mut process = Some(std::process::id());
        while let Some(id) = process {
            note(&mut found.own, of_process(id));
            process = parent(id);
        }
        for id in root_processes() {
            note(&mut found.logged_in, of_process(id));
        }
        found.logged_in.extend(of_logind(Path::new(LOGIND)));
        // What the kernel does not tell protects nobody; the other sources are there.
        let connections = connections().unwrap_or_default().into_iter();
        let wanted = connections.filter(|(local, _)| ports.contains(&local.port()));
        found
            .connected
            .extend(wanted.map(|(_, remote)| remote.ip()));
        found
    }
}

/// The peer of the session that a process belongs to, and the port that it came in by.
fn of_process(id: u32) -> Option<(IpAddr, u16)> {
    let environment = fs::read(format!("/proc/{id}/environ")).ok()?;
    peer(&environment)
}

fn peer(environment: &[u8]) -> Option<(IpAddr, u16)> {
    let mut variables = environment.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(VARIABLE))?;
    let (client, server) = ssh_connection(std::str::from_utf8(value).ok()?)?;
    Some((client.ip(), server.port()))
}

/// The process above another.
fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The program's name is in parentheses and may hold any.
    let (_, behind) = stat.rsplit_once(')')?;
    let parent = behind.split_ascii_whitespace().nth(1)?.parse().ok()?;
    (parent != 0).then_some(parent)
}

fn root_processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        (entry.metadata().ok()?.uid() == 0).then_some(id)
    })
}

/// Peers of the sessions that logind describes in a directory, one file each.
fn of_logind(directory: &Path) -> Vec<IpAddr> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let peers = entries.filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        let mut hosts = text
            .lines()
            .filter_map(|line| line.strip_prefix("REMOTE_HOST="));
        hosts.next()?.parse().ok()
    });
    peers.map(|peer: IpAddr| peer.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_sshd_tells_a_session() {
        let session = b"HOME=/root\0SSH_CONNECTION=192.0.2.7 50000 192.0.2.1 2222\0A=b\0";
        assert_eq!(peer(session), Some((address("192.0.2.7"), 2222)));
        let mapped = b"SSH_CONNECTION=::ffff:192.0.2.7 5 ::1 22\0";
        assert_eq!(peer(mapped), Some((address("192.0.2.7"), 22)));
        for none in [
            &b""[..],
            b"SSH_CONNECTION=\0",
            b"XSSH_CONNECTION=192.0.2.7 1 2 3\0",
            b"SSH_CONNECTION=192.0.2.7 1",
            b"SSH_CONNECTION=\xff\xfe 1 2 3",
        ] {
            assert_eq!(peer(none), None, "{none:?}");
        }
    }

    #[test]
    fn what_logind_knows() {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("1", "UID=0\nREMOTE=1\nREMOTE_HOST=192.0.2.7\nTTY=pts/0\n"),
            ("2", "UID=0\nREMOTE=0\nTTY=tty1\n"),
            ("3", "REMOTE_HOST=pc.example.net\n"),
        ] {
            fs::write(place.path().join(name), text).unwrap();
        }
        assert_eq!(of_logind(place.path()), [address("192.0.2.7")]);
        assert!(of_logind(&place.path().join("none")).is_empty());
    }

    #[test]
    fn this_process_is_below_others() {
        let above = parent(std::process::id());
        assert!(above.is_some());
        assert_eq!(parent(1), None);
    }
}
