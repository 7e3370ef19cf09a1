//! The connections that run now: the kernel's sockets, the flows in the pinned tables, and the other nodes of the cluster.
//!
//! 1. TCP: every established socket with an end elsewhere. Who listens on its local port was called, else it has called. 2. UDP: the host's flows that
//!    both ends took part in and that began elsewhere, or on corosync's ports. 3. Each peer of `corosync.conf` as the policy of now knows it: a cluster
//!    that is silent for a moment is not to be lost by that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fw_common::maps::HOST_VMID;
use fw_common::verdict::Direction;

use super::{Session, owners};
use crate::config::registry::UDP;
use crate::datapath::flows::Entry;
use crate::migrate::address;
use crate::policy::NodePolicy;

/// Ports of corosync's links, and of its former ways.
const COROSYNC: std::ops::RangeInclusive<u16> = 5404..=5412;
/// Port of corosync's first link.
const FIRST_LINK: u16 = 5405;

/// What serves a port of a node, by its number.
const SERVICES: [(u16, u16, &str); 6] = [
    (22, 22, "SSH"),
    (8006, 8006, "web interface"),
    (3128, 3128, "SPICE proxy"),
    (5900, 5999, "console"),
    (60_000, 60_050, "migration"),
    (85, 85, "API daemon"),
];

/// A line of the kernel's list of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    listens: bool,
    inode: u64,
}

/// What is known of the machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// The interface that has each of the host's addresses.
    pub interfaces: BTreeMap<IpAddr, String>,
    /// The ends of the connection that carries the shell that asks: the other one, then the host's.
    pub own: Option<(SocketAddr, SocketAddr)>,
}

/// The ends of `SSH_CONNECTION`: client, its port, server, its port.
pub fn ssh_connection(text: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = text.split_ascii_whitespace();
    let mut end = || -> Option<SocketAddr> {
        let address: IpAddr = words.next()?.parse().ok()?;
        Some(SocketAddr::new(
            address.to_canonical(),
            words.next()?.parse().ok()?,
        ))
    };
    Some((end()?, end()?))
}

/// Every connection of the host.
///
/// # Errors
/// The kernel's list of sockets cannot be read.
pub fn sessions(
    machine: &Machine,
    flows: &[Entry],
    policy: &NodePolicy,
) -> std::io::Result<Vec<Session>> {
    let sockets = sockets()?;
    let owners = owners::owners();
    let mut found = tcp(&sockets, &owners, machine);
    found.extend(udp(flows, machine));
    found.extend(corosync(policy, machine));
    found.sort();
    found.dedup();
    Ok(found)
}

/// Both ends of every established TCP connection, the host's first.
///
/// # Errors
/// The kernel's list of sockets cannot be read.
pub fn connections() -> std::io::Result<Vec<(SocketAddr, SocketAddr)>> {
    let sockets = sockets()?.into_iter().filter(|socket| !socket.listens);
    Ok(sockets
        .map(|socket| (socket.local, socket.remote))
        .collect())
}

fn sockets() -> std::io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for file in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match std::fs::read_to_string(file) {
            Ok(text) => sockets.extend(text.lines().skip(1).filter_map(socket)),
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

fn tcp(sockets: &[Socket], owners: &BTreeMap<u64, String>, machine: &Machine) -> Vec<Session> {
    let listening = sockets.iter().filter(|socket| socket.listens);
    let listening: BTreeSet<u16> = listening.map(|socket| socket.local.port()).collect();
    let away = |socket: &&Socket| {
        let remote = socket.remote.ip();
        !socket.listens && !remote.is_loopback() && !machine.interfaces.contains_key(&remote)
    };
    let session = |socket: &Socket| {
        let Socket { local, remote, .. } = *socket;
        let inbound = listening.contains(&local.port());
        let is_own = machine.own == Some((remote, local));
        let service = match (is_own, inbound) {
            (true, _) => Some("SSH"),
            (false, true) => service(local.port()),
            (false, false) => service(remote.port()),
        };
        let owner = owners.get(&socket.inode).map(String::as_str);
        let name = service.or(owner).unwrap_or("a connection");
        Session {
            name: name.to_owned(),
            protocol: "tcp",
            local,
            remote,
            inbound,
            interface: machine.interfaces.get(&local.ip()).cloned(),
            is_own,
        }
    };
    sockets.iter().filter(away).map(session).collect()
}

fn service(port: u16) -> Option<&'static str> {
    let mut services = SERVICES.iter();
    let known = services.find(|(first, last, _)| (*first..=*last).contains(&port))?;
    Some(known.2)
}

fn udp(flows: &[Entry], machine: &Machine) -> Vec<Session> {
    let session = |entry: &Entry| {
        let key = &entry.key;
        if key.vmid != HOST_VMID || key.protocol != UDP || !entry.settled {
            return None;
        }
        let end = |end, port| SocketAddr::new(address(key.version, end), port);
        let local = end(&key.local, key.local_port);
        let inbound = Direction::from_u8(entry.flow.origin) == Direction::In;
        let is_corosync = COROSYNC.contains(&key.local_port);
        (inbound || is_corosync).then(|| Session {
            name: if is_corosync {
                "corosync"
            } else {
                "a UDP flow"
            }
            .to_owned(),
            protocol: "udp",
            local,
            remote: end(&key.remote, key.remote_port),
            inbound,
            interface: machine.interfaces.get(&local.ip()).cloned(),
            is_own: false,
        })
    };
    flows.iter().filter_map(session).collect()
}

/// Both ways to each peer, as the standard rules of the policy have them.
fn corosync(policy: &NodePolicy, machine: &Machine) -> Vec<Session> {
    let rules = policy.host.iter().flat_map(|host| &host.outbound.rules);
    let mut found = Vec::new();
    for rule in rules {
        let words: Vec<&str> = rule.origin.text.split(' ').collect();
        let ["standard:", "corosync", node, "link", link] = words[..] else {
            continue;
        };
        let only = |set: &Option<_>| {
            let set: &std::sync::Arc<crate::policy::AddressSet> = set.as_ref()?;
            set.entries.first().map(|entry| entry.net.addr())
        };
        let (Some(local), Some(remote)) = (only(&rule.matches.source), only(&rule.matches.dest))
        else {
            continue;
        };
        let link: u16 = link.parse().unwrap_or(0);
        let port = FIRST_LINK.saturating_add(link);
        for inbound in [true, false] {
            found.push(Session {
                name: format!("corosync with {node}, link {link}"),
                protocol: "udp",
                local: SocketAddr::new(local, port),
                remote: SocketAddr::new(remote, port),
                inbound,
                interface: machine.interfaces.get(&local).cloned(),
                is_own: false,
            });
        }
    }
    found
}

/// Reads a line of `/proc/net/tcp` or `tcp6`; none if the socket is neither established nor listening.
fn socket(line: &str) -> Option<Socket> {
    /// States of the kernel's `tcp_states.h`.
    const ESTABLISHED: &str = "01";
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let state = *words.get(3)?;
    if state != ESTABLISHED && state != LISTEN {
        return None;
    }
    Some(Socket {
        local: end(words.get(1)?)?,
        remote: end(words.get(2)?)?,
        listens: state == LISTEN,
        inode: words.get(9)?.parse().ok()?,
    })
}

/// `0100007F:0016`: words of the address in this machine's order, then the port.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut octets = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
        octets.extend(word.to_ne_bytes());
    }
    let address = match (
        <[u8; 4]>::try_from(&octets[..]),
        <[u8; 16]>::try_from(&octets[..]),
    ) {
        (Ok(octets), _) => IpAddr::V4(Ipv4Addr::from(octets)),
        (Err(_), Ok(octets)) => IpAddr::V6(Ipv6Addr::from(octets)).to_canonical(),
        (Err(_), Err(_)) => return None,
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "  0: 010200C0:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0
  1: 010200C0:0016 C80200C0:C350 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20
  2: 0100007F:0016 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 13 1 0 20
  3: 010200C0:9C40 C80200C0:EA60 01 00000000:00000000 00:00000000 00000000     0        0 14 1 0 20
  4: 010200C0:0016 C90200C0:C350 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20
  5: 0000000000000000FFFF0000010200C0:0017 0000000000000000FFFF0000C80200C0:C351 01 00000000:00000000 00:00000000 00000000 0 0 15 1 0 20
  6: B80D0120000001000000000001000000:0016 nonsense 01
";

    #[test]
    fn sockets_become_sessions() {
        let sockets: Vec<Socket> = LINES.lines().filter_map(socket).collect();
        assert_eq!(sockets.len(), 5);
        let machine = Machine {
            interfaces: [("192.0.2.1".parse().unwrap(), "vmbr0".to_owned())].into(),
            own: ssh_connection("192.0.2.200 50001 ::ffff:192.0.2.1 23"),
        };
        let owners = [(12, "sshd".to_owned()), (14, "qemu".to_owned())].into();
        let found = tcp(&sockets, &owners, &machine);
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "SSH: tcp 192.0.2.200:50000 -> 192.0.2.1:22 at vmbr0",
                "migration: tcp 192.0.2.1:40000 -> 192.0.2.200:60000 at vmbr0",
                "SSH: tcp 192.0.2.1:23 -> 192.0.2.200:50001 at vmbr0 (this session)",
            ]
        );
    }

    #[test]
    fn each_peer_of_the_cluster_is_there_both_ways() {
        let peers = "nodelist {\n  node {\n    name: n\n    ring1_addr: 192.0.2.1\n  }\n  node {\n    name: o\n    ring1_addr: 192.0.2.2\n  }\n}\n";
        let mut sources = crate::config::Sources {
            node: "n".into(),
            ..Default::default()
        };
        for (path, text) in [
            ("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n"),
            ("corosync.conf", peers),
        ] {
            sources.files.insert(path.into(), text.into());
        }
        let compiled = crate::compile::compile(&sources, &Default::default(), 0);
        let found = corosync(&compiled.policy, &Machine::default());
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "corosync with o, link 1: udp 192.0.2.2:5406 -> 192.0.2.1:5406",
                "corosync with o, link 1: udp 192.0.2.1:5406 -> 192.0.2.2:5406",
            ]
        );
    }

    #[test]
    fn what_is_no_connection_of_ssh_is_none() {
        for text in [
            "",
            "192.0.2.1 22",
            "a 1 b 2",
            "192.0.2.1 99999 192.0.2.2 22",
        ] {
            assert_eq!(ssh_connection(text), None, "{text}");
        }
    }
}
