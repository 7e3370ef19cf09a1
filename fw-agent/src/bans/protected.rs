//! Who is not banned: this machine, its neighbours that it cannot do without, and who administers it.
//!
//! In: the cluster's files, what is known of the host, the sessions. Out: prefixes with what each is, and of a ban that is wanted those that it
//! would hit: those in it, and those that it is in.
//!
//! Invariant: what cannot be read protects nobody less than the last configuration that was applied; if that is not there either, only the machine
//! itself and its sessions are known, and [`Protected::gather`] says so.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rtnetlink::new_connection;
use serde::Serialize;

use super::record::{canonical, shown};
use super::sessions::Sessions;
use crate::cache::Cache;
use crate::config::{self, Config, Sources};
use crate::inventory::facts::{HostFacts, gateways};
use crate::policy::localnet::{detect, resolve_name};
use crate::policy::management;

/// Who asks for a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// A person, who can say that it is meant.
    Person,
    /// A program that has seen an attack. Attackers have connections to the ports that they attack, so those protect nobody.
    Program,
}

/// A prefix that is not banned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Spared {
    /// Which.
    pub network: IpNet,
    /// What it is.
    pub what: String,
}

/// A ban that is not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Who was to be banned.
    pub address: String,
    /// Whom that would have hit.
    pub holds: Vec<Spared>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, holds } = self;
        write!(f, "{address} is not banned: it would hit ")?;
        for (number, hit) in holds.iter().take(NAMED).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", shown(hit.network), hit.what)?;
        }
        match holds.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    entries: Vec<Spared>,
    /// Parts of the management set that are taken out of it.
    outside: Vec<IpNet>,
}

/// Where the configuration is.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Root of the configuration.
    pub root: PathBuf,
    /// This node's name in it.
    pub node: String,
    /// Where the last good configuration is kept.
    pub state_directory: PathBuf,
}

/// The machine does not tell what it is.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// No runtime, or no socket.
    #[error("cannot talk to netlink")]
    Talk(#[source] std::io::Error),
    /// An answer is missing.
    #[error("cannot list the host's addresses and routes")]
    Netlink(#[source] rtnetlink::Error),
}

/// Those that a refusal names.
const NAMED: usize = 5;

const MANAGEMENT: &str = "of the management set";

impl Protected {
    /// Finds them, and says what could not be looked at.
    ///
    /// # Errors
    /// The host's addresses are not known.
    pub fn gather(tree: &Tree, asker: Asker) -> Result<(Self, Option<String>), GatherError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(GatherError::Talk)?;
        let (facts, gateways) = runtime.block_on(async {
            let (connection, netlink, _) = new_connection().map_err(GatherError::Talk)?;
            tokio::spawn(connection);
            let facts = HostFacts::gather(&netlink).await;
            let gateways = gateways(&netlink).await;
            Ok((
                facts.map_err(GatherError::Netlink)?,
                gateways.map_err(GatherError::Netlink)?,
            ))
        })?;
        let (sources, remark) = sources(tree);
        let (mut config, _) = config::parse(&sources);
        config.local_network = Some(detect(&config, &facts).network());
        let mut found = Self::of(&config, &facts, &gateways);
        found.add_sessions(&Sessions::find(), asker);
        Ok((found, remark))
    }

    /// Those that follow from configuration and machine.
    pub fn of(config: &Config, facts: &HostFacts, gateways: &[IpAddr]) -> Self {
        let mut found = Self::default();
        for (network, what) in [
            (v4([127, 0, 0, 0], 8), "this machine itself"),
            (
                IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
                "this machine itself",
            ),
            (
                IpNet::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
                "of machines that have no address yet",
            ),
            (
                IpNet::from(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                "of machines that have no address yet",
            ),
            (
                v6(0xfe80, 10),
                "link-local: neighbours and routers are found by it",
            ),
        ] {
            found.add(network, what);
        }
        for own in facts
            .addresses
            .iter()
            .filter(|own| !own.addr().is_loopback())
        {
            found.add(own.addr().into(), "an address of this node");
        }
        for gateway in gateways {
            found.add((*gateway).into(), "a gateway of this node");
        }
        for (name, address) in &config.members {
            found.add((*address).into(), &format!("node {name} of the cluster"));
        }
        for node in config.corosync.iter().flat_map(|corosync| &corosync.nodes) {
            let links = node.links.values();
            for address in links.filter_map(|link| resolve_name(&link.text, config, facts)) {
                found.add(
                    address.into(),
                    &format!("node {} of the cluster", node.name),
                );
            }
        }
        for entry in &management(config).entries {
            match entry.nomatch {
                true => found.outside.push(entry.net),
                false => found.add(entry.net, MANAGEMENT),
            }
        }
        found
    }

    /// Adds who administers it right now.
    pub fn add_sessions(&mut self, sessions: &Sessions, asker: Asker) {
        let connected = match asker {
            Asker::Person => Some(&sessions.connected),
            Asker::Program => None,
        };
        let connected = connected.into_iter().flatten();
        for (address, what) in sessions
            .own
            .iter()
            .map(|address| (address, "the other end of this session"))
            .chain(
                sessions
                    .logged_in
                    .iter()
                    .map(|address| (address, "the other end of an SSH session")),
            )
            .chain(connected.map(|address| (address, "connected to SSH or the web interface")))
        {
            add_first(&mut self.entries, (*address).into(), what);
        }
    }

    fn add(&mut self, network: IpNet, what: &str) {
        add_first(&mut self.entries, canonical(network), what);
    }

    /// Those that a ban would hit.
    pub fn hit(&self, net: IpNet) -> Vec<Spared> {
        let hits = self.entries.iter().filter(|entry| {
            let (wider, narrower) = match entry.network.contains(&net) {
                true => (entry.network, net),
                false => (net, entry.network),
            };
            wider.contains(&narrower)
                && !(entry.what == MANAGEMENT && self.is_outside(entry.network, narrower))
        });
        hits.cloned().collect()
    }

    /// Those that may be banned, and the others.
    pub fn sift(&self, nets: Vec<IpNet>) -> (Vec<IpNet>, Vec<Refusal>) {
        let (mut free, mut refused) = (Vec::new(), Vec::new());
        for net in nets {
            match self.hit(net) {
                hits if hits.is_empty() => free.push(net),
                holds => refused.push(Refusal {
                    address: shown(net),
                    holds,
                }),
            }
        }
        (free, refused)
    }

    /// Whether all that is hit of a network of the management set is taken out of that network.
    fn is_outside(&self, network: IpNet, hit: IpNet) -> bool {
        self.outside
            .iter()
            .any(|part| network.contains(part) && part.contains(&hit))
    }
}

/// Adds a prefix unless it is there: the first says best what it is.
fn add_first(entries: &mut Vec<Spared>, network: IpNet, what: &str) {
    if !entries.iter().any(|entry| entry.network == network) {
        entries.push(Spared {
            network,
            what: what.to_owned(),
        });
    }
}

/// The cluster's files, or what was applied of them last; and if neither is to be had, a remark.
fn sources(tree: &Tree) -> (Sources, Option<String>) {
    let Tree {
        root,
        node,
        state_directory,
    } = tree;
    let own = root.join("nodes").join(node);
    let found = Sources::read_cluster(root, node);
    if (found.plain || own.is_dir()) && found.unreadable.is_empty() {
        return (found, None);
    }
    let cache = Cache::new(state_directory, root, node);
    match cache.load() {
        Ok(Some(cached)) => (cached.sources, None),
        Ok(None) | Err(_) => {
            let remark = format!(
                "the configuration in {} cannot be read: the management set is not known, and not protected",
                Path::new(root).display()
            );
            (found, Some(remark))
        }
    }
}

fn v4(octets: [u8; 4], length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(octets.into(), length))
}

fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(
        [first, 0, 0, 0, 0, 0, 0, 0].into(),
        length,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::record::net;

    fn protected() -> Protected {
        let files = [
            (
                ".members",
                r#"{"nodelist":{"a":{"ip":"10.0.0.1"},"b":{"ip":"10.0.0.2"}}}"#,
            ),
            (
                "corosync.conf",
                "nodelist {\nnode {\nname: a\nring0_addr: 10.1.0.1\n}\nnode {\nname: b\nring0_addr: 10.1.0.2\n}\n}\n",
            ),
            (
                "firewall/cluster.fw",
                "[IPSET management]\n203.0.113.0/24\n!203.0.113.128/25\n203.0.113.200\n2001:db8::/64\n",
            ),
        ];
        let sources = Sources {
            node: "a".into(),
            files: files
                .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec().into()))
                .into(),
            ..Sources::default()
        };
        let (mut config, _) = config::parse(&sources);
        config.local_network = Some("10.0.0.0/29".parse().unwrap());
        let facts = HostFacts {
            addresses: vec![
                "10.0.0.1/29".parse().unwrap(),
                "192.0.2.1/24".parse().unwrap(),
            ],
            ..HostFacts::default()
        };
        let mut protected = Protected::of(&config, &facts, &["192.0.2.254".parse().unwrap()]);
        let sessions = Sessions {
            own: ["198.51.100.1".parse().unwrap()].into(),
            logged_in: ["198.51.100.2".parse().unwrap()].into(),
            connected: ["198.51.100.3".parse().unwrap()].into(),
        };
        protected.add_sessions(&sessions, Asker::Person);
        protected
    }

    #[test]
    fn what_a_ban_would_hit() {
        let protected = protected();
        for (ban, expect) in [
            ("192.0.2.7", &[][..]),
            ("192.0.2.0/25", &["192.0.2.1 an address of this node"]),
            ("192.0.2.254", &["192.0.2.254 a gateway of this node"]),
            ("10.0.0.6", &["10.0.0.0/29 of the management set"]),
            ("10.0.0.8", &[]),
            ("10.1.0.2", &["10.1.0.2 node b of the cluster"]),
            ("127.0.0.2", &["127.0.0.0/8 this machine itself"]),
            (
                "fe80::1",
                &["fe80::/10 link-local: neighbours and routers are found by it"],
            ),
            ("203.0.113.5", &["203.0.113.0/24 of the management set"]),
            ("203.0.113.130", &[]),
            ("203.0.113.192/26", &["203.0.113.200 of the management set"]),
            ("2001:db8::5", &["2001:db8::/64 of the management set"]),
            ("2001:db8:1::5", &[]),
            (
                "198.51.100.1",
                &["198.51.100.1 the other end of this session"],
            ),
            (
                "198.51.100.2/31",
                &[
                    "198.51.100.2 the other end of an SSH session",
                    "198.51.100.3 connected to SSH or the web interface",
                ],
            ),
        ] {
            let hits = protected.hit(net(ban).unwrap());
            let hits: Vec<String> = hits
                .iter()
                .map(|hit| format!("{} {}", shown(hit.network), hit.what))
                .collect();
            assert_eq!(hits, expect, "{ban}");
        }
        assert!(protected.hit(net("0.0.0.0/0").unwrap()).len() > 8);
        assert!(protected.hit(net("::/0").unwrap()).len() > 2);
    }

    #[test]
    fn a_plain_host_has_its_management_set_in_its_one_file() {
        let place = tempfile::tempdir().unwrap();
        let tree = Tree {
            root: place.path().to_path_buf(),
            node: "a".into(),
            state_directory: place.path().join("state"),
        };
        assert!(sources(&tree).1.is_some(), "there is nothing");
        std::fs::create_dir(place.path().join("firewall")).unwrap();
        let text = "[OPTIONS]\nenable: 1\n[IPSET management]\n203.0.113.0/24\n";
        std::fs::write(place.path().join("firewall/host.fw"), text).unwrap();
        let (found, remark) = sources(&tree);
        assert_eq!(remark, None);
        let (config, _) = config::parse(&found);
        let protected = Protected::of(&config, &HostFacts::default(), &[]);
        assert_eq!(protected.hit(net("203.0.113.5").unwrap()).len(), 1);
    }

    #[test]
    fn a_connection_protects_nobody_from_a_program_that_saw_an_attack() {
        let mut protected = Protected::default();
        let sessions = Sessions {
            connected: ["198.51.100.3".parse().unwrap()].into(),
            logged_in: ["198.51.100.2".parse().unwrap()].into(),
            ..Sessions::default()
        };
        protected.add_sessions(&sessions, Asker::Program);
        assert_eq!(protected.hit(net("198.51.100.3").unwrap()), []);
        assert_eq!(protected.hit(net("198.51.100.2").unwrap()).len(), 1);
    }
}
