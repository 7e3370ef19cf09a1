//! Packets for a policy.
//!
//! In: a policy. Out: packets at the edges of its prefixes and ranges. What a packet is made of is drawn first, as indices and bits, and put
//! together by [`compose`] afterwards, so that a failing packet shrinks well.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fw_agent::policy::{AddressSet, Family, Matches, Policy};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::Index;

use super::{PROTOCOLS, TRAITS, address_v4, address_v6, port};
use crate::model::Packet;

/// A packet at the edges of what `policy` asks for.
pub fn packet(policy: &Policy) -> impl Strategy<Value = Packet> + use<> {
    let edges = Arc::new(Edges::of(policy));
    choices().prop_map(move |choices| compose(&edges, &choices))
}

/// An address of either family.
type Pair = (Ipv4Addr, Ipv6Addr);

/// What a packet is made of.
#[derive(Clone, Debug)]
struct Choices {
    /// The rule that is aimed at, if any.
    rule: Option<Index>,
    family: Family,
    protocol: (Index, Option<u8>),
    source: Index,
    dest: Index,
    sport: Index,
    dport: Index,
    /// A later fragment, or a protocol without ports.
    portless: bool,
    traits: u8,
    /// For either family source and destination, used where given.
    elsewhere: (Option<Pair>, Option<Pair>),
    /// Ports from nowhere in the policy.
    any_port: (Option<u16>, Option<u16>),
}

fn choices() -> impl Strategy<Value = Choices> {
    let index = any::<Index>;
    let addresses = || prop::option::weighted(0.1, (address_v4(), address_v6()));
    let ports = || prop::option::weighted(0.1, port());
    (
        prop::option::weighted(0.5, index()),
        prop::bool::ANY.prop_map(|v6| if v6 { Family::V6 } else { Family::V4 }),
        (index(), prop::option::weighted(0.1, any::<u8>())),
        (index(), index(), index(), index()),
        prop::bool::weighted(0.1),
        0..=TRAITS,
        (addresses(), addresses()),
        (ports(), ports()),
    )
        .prop_map(
            |(rule, family, protocol, parts, portless, traits, elsewhere, any_port)| {
                let (source, dest, sport, dport) = parts;
                Choices {
                    rule,
                    family,
                    protocol,
                    source,
                    dest,
                    sport,
                    dport,
                    portless,
                    traits,
                    elsewhere,
                    any_port,
                }
            },
        )
}

/// Addresses and ports at which something changes.
struct Edges {
    rules: Vec<Matches>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
}

impl Edges {
    fn of(policy: &Policy) -> Self {
        let rules: Vec<Matches> = policy
            .rules
            .iter()
            .map(|rule| rule.matches.clone())
            .collect();
        let mut addresses = BTreeSet::new();
        let mut ports = BTreeSet::new();
        for matches in &rules {
            for set in [&matches.source, &matches.dest].into_iter().flatten() {
                addresses.extend(of_set(set));
            }
            ports.extend(of_ranges(&matches.sport));
            ports.extend(of_ranges(&matches.dport));
        }
        addresses.extend([
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]);
        ports.extend([0, 8, 22]);
        Self {
            rules,
            addresses: addresses.into_iter().collect(),
            ports: ports.into_iter().collect(),
        }
    }
}

fn of_set(set: &AddressSet) -> impl Iterator<Item = IpAddr> {
    set.entries.iter().flat_map(|entry| match entry.net {
        IpNet::V4(net) => {
            let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
            let edges = [first.saturating_sub(1), first, last, last.saturating_add(1)];
            edges.map(|bits| IpAddr::V4(bits.into()))
        }
        IpNet::V6(net) => {
            let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
            let edges = [first.saturating_sub(1), first, last, last.saturating_add(1)];
            edges.map(|bits| IpAddr::V6(bits.into()))
        }
    })
}

fn of_ranges(ranges: &[(u16, u16)]) -> impl Iterator<Item = u16> {
    ranges
        .iter()
        .flat_map(|&(first, last)| [first.saturating_sub(1), first, last, last.saturating_add(1)])
}

fn family_of(address: &IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

fn compose(edges: &Edges, choices: &Choices) -> Packet {
    let aim = choices.rule.map(|rule| rule.get(&edges.rules));
    let sets = aim.map_or((None, None), |aim| (aim.source.as_ref(), aim.dest.as_ref()));
    // The family a rule asks for, or one its addresses are of.
    let of_addresses = sets.0.or(sets.1).and_then(|set| {
        let candidates: Vec<IpAddr> = of_set(set).collect();
        (!candidates.is_empty()).then(|| family_of(choices.source.get(&candidates)))
    });
    let family = aim
        .and_then(|aim| aim.family)
        .or(of_addresses)
        .unwrap_or(choices.family);
    let address = |set: Option<&Arc<AddressSet>>, index: Index, elsewhere| {
        if let Some((v4, v6)) = elsewhere {
            return match family {
                Family::V4 => IpAddr::V4(v4),
                Family::V6 => IpAddr::V6(v6),
            };
        }
        let fits = |address: &IpAddr| family_of(address) == family;
        let mut candidates: Vec<IpAddr> =
            set.map_or(Vec::new(), |set| of_set(set).filter(fits).collect());
        if candidates.is_empty() {
            candidates = edges.addresses.iter().copied().filter(fits).collect();
        }
        *index.get(&candidates)
    };
    let (index, any_protocol) = choices.protocol;
    let protocol = aim
        .and_then(|aim| aim.protocol)
        .or(any_protocol)
        .unwrap_or_else(|| *index.get(&PROTOCOLS));
    let port = |ranges: Option<&Vec<(u16, u16)>>, index: Index, any: Option<u16>| {
        let candidates: Vec<u16> = ranges.map_or(Vec::new(), |ranges| of_ranges(ranges).collect());
        let port = match (any, candidates.is_empty()) {
            (Some(port), _) => port,
            (None, true) => *index.get(&edges.ports),
            (None, false) => *index.get(&candidates),
        };
        match protocol {
            // Types and codes have eight bits.
            1 | 58 => Some(port.min(255)).filter(|_| !choices.portless),
            6 | 17 | 132 => Some(port).filter(|_| !choices.portless),
            _ => None,
        }
    };
    let (mask, value) = aim.map_or((0, 0), |aim| (aim.traits_mask, aim.traits_value));
    Packet {
        family,
        protocol,
        source: address(sets.0, choices.source, choices.elsewhere.0),
        dest: address(sets.1, choices.dest, choices.elsewhere.1),
        sport: port(aim.map(|aim| &aim.sport), choices.sport, choices.any_port.0),
        dport: port(aim.map(|aim| &aim.dport), choices.dport, choices.any_port.1),
        traits: (choices.traits & !mask) | value,
    }
}
