//! The network that the node is in: what the alias `local_network` stands for.
//!
//! In: the configuration and what is known of the host. Out: [`LocalNetwork`]. An alias of the cluster's file wins. Else it is the network of the
//! node's own address:
//!
//! 1. The address is that of `.members`, else that of the node's first link in `corosync.conf`, else that of its name in `/etc/hosts`.
//! 2. Of the routes that lead to the address the connected ones are preferred, and of those the one with the longest prefix. Routes shorter than
//!    /8 (IPv6: /1) are not looked at. Without such a route the network of the interface that has the address counts.
//! 3. If none is found the network is [`UNKNOWN`], as in the reference.
//!
//! Known difference: the reference takes the first route that holds the address, whatever it is, and keeps it until it is restarted.

use std::cmp::Reverse;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::config::Config;
use crate::inventory::facts::HostFacts;

/// What stands for `local_network` where it cannot be found out.
pub const UNKNOWN: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));

/// Alias that overrides what is found out.
pub(super) const ALIAS: &str = "local_network";

/// Shortest prefix of an IPv4 route that is taken for a local network.
const SHORTEST_V4: u8 = 8;

/// Where the node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalNetwork {
    /// The node's address.
    pub address: Option<IpAddr>,
    /// The network that it is in, found out.
    pub detected: Option<IpNet>,
    /// The network that the cluster's file gives instead.
    pub alias: Option<IpNet>,
}

impl LocalNetwork {
    /// The network that is used.
    pub fn network(&self) -> IpNet {
        self.alias.or(self.detected).unwrap_or(UNKNOWN)
    }
}

/// Finds the node's address and network.
pub fn detect(config: &Config, facts: &HostFacts) -> LocalNetwork {
    let address = node_address(config, facts);
    LocalNetwork {
        address,
        detected: address.and_then(|address| network_of(address, facts)),
        alias: config.cluster.aliases.get(ALIAS).map(|alias| alias.net),
    }
}

fn node_address(config: &Config, facts: &HostFacts) -> Option<IpAddr> {
    let member = config.members.get(&config.node).copied();
    let link = || {
        let corosync = config.corosync.as_ref()?;
        let first = corosync.node(&config.node)?.links.values().next()?;
        resolve_name(&first.text, config, facts)
    };
    let own_name = || {
        let addresses = facts.names.get(&config.node)?;
        let mut addresses = addresses.iter().copied();
        addresses.find(|address| !address.is_loopback())
    };
    member.or_else(link).or_else(own_name)
}

/// The address that a text in `corosync.conf` means: itself, or that of a member of the cluster or of a host with that name.
pub(crate) fn resolve_name(text: &str, config: &Config, facts: &HostFacts) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let preference = config
        .corosync
        .as_ref()
        .map(|corosync| corosync.ip_version)
        .unwrap_or_default();
    let mut known: Vec<IpAddr> = config.members.get(text).copied().into_iter().collect();
    let hosts = facts.names.get(text).into_iter().flatten();
    known.extend(hosts.filter(|address| !address.is_loopback()));
    preference.choose(&known)
}

fn network_of(address: IpAddr, facts: &HostFacts) -> Option<IpNet> {
    let fits = |net: &IpNet| {
        let shortest = match net {
            IpNet::V4(_) => SHORTEST_V4,
            IpNet::V6(_) => 1,
        };
        net.prefix_len() >= shortest && net.contains(&address)
    };
    let routes = facts.routes.iter().filter(|route| fits(&route.dest));
    // Of equal ones the first.
    let route = routes.min_by_key(|route| (!route.connected, Reverse(route.dest.prefix_len())));
    let own = || {
        let mut own = facts.addresses.iter();
        own.find(|net| net.addr() == address && fits(net))
    };
    route
        .map(|route| route.dest)
        .or_else(|| own().map(IpNet::trunc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, parse};
    use crate::inventory::facts::Route;

    fn check(files: &[(&str, &str)], facts: &HostFacts, expect: [&str; 3]) {
        let sources = Sources {
            node: "n".into(),
            files: files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec().into()))
                .collect(),
            ..Sources::default()
        };
        let found = detect(&parse(&sources).0, facts);
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        assert_eq!(
            [
                shown(found.address.map(|address| address.to_string())),
                shown(found.detected.map(|net| net.to_string())),
                found.network().to_string()
            ],
            expect,
            "{files:?}"
        );
    }

    fn routes(list: &[&str]) -> HostFacts {
        HostFacts {
            routes: list
                .iter()
                .map(|text| Route {
                    dest: text.trim_end_matches(" via").parse().unwrap(),
                    connected: !text.ends_with(" via"),
                })
                .collect(),
            ..HostFacts::default()
        }
    }

    #[test]
    fn the_connected_network_of_the_nodes_address() {
        let member = [(".members", r#"{"nodelist":{"n":{"ip":"10.1.2.3"}}}"#)];
        let nothing = HostFacts::default();
        check(&member, &nothing, ["10.1.2.3", "-", "127.0.0.0/8"]);
        check(&[], &nothing, ["-", "-", "127.0.0.0/8"]);
        for (list, expect) in [
            (&["0.0.0.0/0 via", "10.1.0.0/16"][..], "10.1.0.0/16"),
            (&["10.1.0.0/16", "10.1.2.0/24"], "10.1.2.0/24"),
            (&["10.1.2.0/24 via", "10.1.0.0/16"], "10.1.0.0/16"),
            (&["10.1.2.0/24 via", "10.0.0.0/8 via"], "10.1.2.0/24"),
        ] {
            check(&member, &routes(list), ["10.1.2.3", expect, expect]);
        }
        check(
            &member,
            &routes(&["8.0.0.0/6", "10.9.0.0/16"]),
            ["10.1.2.3", "-", "127.0.0.0/8"],
        );
        let own = HostFacts {
            addresses: vec!["10.1.2.3/20".parse().unwrap()],
            ..HostFacts::default()
        };
        check(&member, &own, ["10.1.2.3", "10.1.0.0/20", "10.1.0.0/20"]);
    }

    #[test]
    fn where_the_address_comes_from() {
        let facts = HostFacts {
            names: [("n", "127.0.1.1 fd00::3"), ("mesh", "10.7.0.3")]
                .into_iter()
                .map(|(name, list)| {
                    let list = list.split(' ').map(|text| text.parse().unwrap());
                    (name.to_owned(), list.collect())
                })
                .collect(),
            ..routes(&["fd00::/64", "10.7.0.0/24", "10.8.0.0/24"])
        };
        check(&[], &facts, ["fd00::3", "fd00::/64", "fd00::/64"]);
        let corosync = |text: &str| {
            format!(
                "nodelist {{\nnode {{\nname: n\nlink1_addr: 10.8.0.3\nlink0_addr: {text}\n}}\n}}\n"
            )
        };
        for (link, address) in [
            ("10.7.0.3", "10.7.0.3"),
            ("mesh", "10.7.0.3"),
            ("other", "fd00::3"),
        ] {
            let net = if address == "fd00::3" {
                "fd00::/64"
            } else {
                "10.7.0.0/24"
            };
            check(
                &[("corosync.conf", &corosync(link))],
                &facts,
                [address, net, net],
            );
        }
        let alias = (
            "firewall/cluster.fw",
            "[ALIASES]\nLocal_Network 10.8.0.0/16\n",
        );
        check(&[alias], &facts, ["fd00::3", "fd00::/64", "10.8.0.0/16"]);
    }
}
