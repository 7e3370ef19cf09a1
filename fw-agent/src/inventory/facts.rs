//! What the host itself is: its addresses, its routes, its names.
//!
//! In: netlink and `/etc/hosts`. Out: [`HostFacts`], plain data that `compile` takes beside the files, so that everything behind it stays pure
//! and tests can make it up. For a tree of another machine there are none ([`HostFacts::default`]).
//!
//! Names are those of `/etc/hosts` only, where every node of a cluster has its own; the DNS is not asked, because an answer may take seconds.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use futures_util::stream::TryStreamExt;
use fw_common::wire::Address;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, Prop};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use rtnetlink::{Handle, RouteMessageBuilder};

/// What compiling a configuration needs to know of the machine it is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Addresses of the host's interfaces, with the length of their network's prefix.
    pub addresses: Vec<IpNet>,
    /// Routes of the main table, in the kernel's order.
    pub routes: Vec<Route>,
    /// Addresses by name, as `/etc/hosts` has them.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Alternative names of interfaces and the names that they stand for.
    pub altnames: BTreeMap<String, String>,
}

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub dest: IpNet,
    /// No gateway is between.
    pub connected: bool,
}

impl HostFacts {
    /// Asks the kernel and reads `/etc/hosts`.
    ///
    /// # Errors
    /// Netlink fails.
    pub async fn gather(netlink: &Handle) -> Result<Self, rtnetlink::Error> {
        let mut facts = Self {
            names: std::fs::read_to_string(Path::new("/etc/hosts"))
                .map(|text| hosts(&text))
                .unwrap_or_default(),
            ..Self::default()
        };
        let mut addresses = netlink.address().get().execute();
        while let Some(message) = addresses.try_next().await? {
            let length = message.header.prefix_len;
            let net = own(&message).and_then(|address| IpNet::new(address, length).ok());
            facts.addresses.extend(net);
        }
        for all in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            let mut routes = netlink.route().get(all).execute();
            while let Some(message) = routes.try_next().await? {
                facts.routes.extend(route(&message));
            }
        }
        let mut links = netlink.link().get().execute();
        while let Some(link) = links.try_next().await? {
            let mut name = None;
            let mut others = Vec::new();
            for attribute in &link.attributes {
                if let LinkAttribute::IfName(text) = attribute {
                    name = Some(text.clone());
                } else if let LinkAttribute::PropList(list) = attribute {
                    for property in list {
                        if let Prop::AltIfName(text) = property {
                            others.push(text.clone());
                        }
                    }
                }
            }
            if let Some(name) = name {
                let others = others.into_iter().map(|other| (other, name.clone()));
                facts.altnames.extend(others);
            }
        }
        Ok(facts)
    }
}

/// Gateways of the routes of the main table.
///
/// # Errors
/// Netlink fails.
pub async fn gateways(netlink: &Handle) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let mut found = Vec::new();
    for all in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        let mut routes = netlink.route().get(all).execute();
        while let Some(message) = routes.try_next().await? {
            if message.header.table == RouteHeader::RT_TABLE_MAIN {
                found.extend(message.attributes.iter().filter_map(gateway));
            }
        }
    }
    Ok(found)
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    if let RouteAttribute::Gateway(RouteAddress::Inet(address)) = attribute {
        return Some(IpAddr::V4(*address));
    }
    if let RouteAttribute::Gateway(RouteAddress::Inet6(address)) = attribute {
        return Some(IpAddr::V6(*address));
    }
    if let RouteAttribute::Via(RouteVia::Inet(address)) = attribute {
        return Some(IpAddr::V4(*address));
    }
    if let RouteAttribute::Via(RouteVia::Inet6(address)) = attribute {
        return Some(IpAddr::V6(*address));
    }
    None
}

/// Interface index of each of the host's addresses; of one that several interfaces have, that of one.
///
/// # Errors
/// Netlink fails.
pub async fn interfaces(netlink: &Handle) -> Result<BTreeMap<IpAddr, u32>, rtnetlink::Error> {
    let mut found = BTreeMap::new();
    let mut addresses = netlink.address().get().execute();
    while let Some(message) = addresses.try_next().await? {
        found.extend(own(&message).map(|own| (own, message.header.index)));
    }
    Ok(found)
}

/// The host's own address in a message about one.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    // Of a point-to-point link the local address is the host's own, elsewhere both are the same.
    let mut own = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            own = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            own = own.or(Some(*address));
        }
    }
    own
}

/// An address as the packet pipeline has it.
pub fn address(address: IpAddr) -> Address {
    let octets = match address {
        IpAddr::V4(address) => return Address::v4(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => address.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Address(words)
}

fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut dest = None;
    let mut connected = true;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            if let RouteAddress::Inet(address) = address {
                dest = Some(IpAddr::V4(*address));
            } else if let RouteAddress::Inet6(address) = address {
                dest = Some(IpAddr::V6(*address));
            }
        } else if let RouteAttribute::Gateway(_) | RouteAttribute::Via(_) = attribute {
            connected = false;
        }
    }
    let dest = IpNet::new(dest?, header.destination_prefix_length).ok()?;
    let dest = dest.trunc();
    Some(Route { dest, connected })
}

/// Reads `/etc/hosts`: an address, then names.
fn hosts(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
            continue;
        };
        for name in words {
            names.entry(name.to_owned()).or_default().push(address);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hosts_file() {
        let names = hosts(
            "127.0.0.1 localhost\n# 10.0.0.9 no\n10.0.0.1 pve1.lab pve1 # own\nfd00::1\tpve1\nnonsense pve1\n10.0.0.2\n",
        );
        let of = |name: &str| {
            let addresses = names[name].iter().map(IpAddr::to_string);
            addresses.collect::<Vec<_>>()
        };
        assert_eq!(of("pve1"), ["10.0.0.1", "fd00::1"]);
        assert_eq!(of("pve1.lab"), ["10.0.0.1"]);
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn this_machine_has_addresses_and_routes() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let facts = runtime.block_on(async {
            let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            HostFacts::gather(&netlink).await.unwrap()
        });
        let loopback = facts.addresses.iter().map(|net| net.addr());
        let loopback = loopback.filter(IpAddr::is_loopback).count();
        let up = std::fs::read_to_string("/proc/net/fib_trie")
            .is_ok_and(|table| table.contains("127.0.0.1"));
        assert_eq!(loopback > 0, up, "{facts:?}");
        // Columns of the kernel's own list: interface, destination, gateway, flags, …, mask.
        let table = std::fs::read_to_string("/proc/net/route").unwrap_or_default();
        let rows = table
            .lines()
            .skip(1)
            .map(|line| line.split('\t').collect::<Vec<_>>());
        let expect = rows
            .filter(|row| row[7] != "00000000")
            .map(|row| row[2] == "00000000");
        let mut expect: Vec<bool> = expect.collect();
        let own = facts
            .routes
            .iter()
            .filter(|route| route.dest.addr().is_ipv4());
        let mut found: Vec<bool> = own.map(|route| route.connected).collect();
        expect.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expect, "{facts:?}");
    }
}
