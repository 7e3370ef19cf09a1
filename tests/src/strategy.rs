//! Random policies and packets for property tests.
//!
//! Policies have 1 to [`MAX_RULES`] rules, the last of which matches everything. Their address sets are drawn from a few clusters, so that
//! prefixes of all lengths nest, touch and overlap, with `nomatch` entries among them; their port ranges lie around a few ports, so that they
//! overlap too. Packets are made for a policy: half of them aim at one of its rules, and all take addresses from the edges of its prefixes and
//! ports from the edges of its ranges, and one beyond.
//!
//! Invariants of a policy: a set's entries are sorted, each network once, without host bits; a rule's wanted traits lie within those it looks at.
//! Conditions that contradict each other (a family and addresses of the other) occur, and so do empty sets.

mod packet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use fw_agent::policy::{
    AddressSet, Family, Matches, Origin, OriginKind, Policy, Rule, SetEntry, SourceLine,
};
use fw_common::verdict::{Reason, Verdict};
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

pub use self::packet::packet;
use crate::model::Packet;

/// Rules of the largest policy.
pub const MAX_RULES: usize = 300;

/// Protocols of rules and packets: ICMP, IGMP, TCP, UDP, GRE, ICMPv6, SCTP.
const PROTOCOLS: [u8; 7] = [1, 2, 6, 17, 47, 58, 132];

/// All bits of `fw_common::maps::traits`.
const TRAITS: u8 = 0x3f;

/// A policy with 1 to [`MAX_RULES`] rules.
pub fn policy() -> impl Strategy<Value = Policy> {
    policy_of(MAX_RULES)
}

/// A policy with 1 to `rules` rules.
pub fn policy_of(rules: usize) -> impl Strategy<Value = Policy> {
    let pool = vec(set().prop_map(Arc::new), 1..8);
    let rules = prop_oneof![2 => 0..rules.min(12), 1 => 0..rules];
    let rules = rules.prop_flat_map(|count| vec(parts(), count));
    (pool, rules, action()).prop_map(|(pool, parts, last)| {
        let mut rules: Vec<Rule> = parts
            .into_iter()
            .enumerate()
            .map(|(index, parts)| rule(index, parts.matches(&pool), parts.action))
            .collect();
        rules.push(rule(rules.len(), Matches::default(), last));
        Policy { rules }
    })
}

/// A policy and packets for it.
pub fn policy_and_packets(packets: usize) -> impl Strategy<Value = (Policy, Vec<Packet>)> {
    policy().prop_flat_map(move |policy| {
        let packets = vec(packet(&policy), 1..=packets);
        (Just(policy), packets)
    })
}

/// A set of up to 24 prefixes.
pub fn set() -> impl Strategy<Value = AddressSet> {
    let entry = (prefix(), prop::bool::weighted(0.25));
    vec(entry, 0..24).prop_map(|entries| {
        let mut entries: Vec<SetEntry> = entries
            .into_iter()
            .map(|(net, nomatch)| SetEntry { net, nomatch })
            .collect();
        entries.sort();
        entries.dedup_by_key(|entry| entry.net);
        AddressSet { entries }
    })
}

/// A prefix of either family, of a cluster's network or near it.
pub fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (address_v4(), length(32)).prop_map(|(address, length)| (IpAddr::V4(address), length));
    let v6 =
        (address_v6(), length(128)).prop_map(|(address, length)| (IpAddr::V6(address), length));
    prop_oneof![v4, v6].prop_map(|(address, length)| {
        let net = IpNet::new(address, length).unwrap_or_else(|_| IpNet::from(address));
        net.trunc()
    })
}

/// Lengths from 0 to `bits`, most of them long or on a boundary of bytes.
fn length(bits: u8) -> impl Strategy<Value = u8> {
    prop_oneof![
        3 => (0..=bits / 8).prop_map(|bytes| bytes * 8),
        3 => bits - 6..=bits,
        2 => 0..=bits,
        1 => Just(0),
    ]
}

/// An IPv4 address in a cluster.
fn address_v4() -> impl Strategy<Value = Ipv4Addr> {
    const CLUSTERS: [u32; 5] = [0x0a01_0000, 0x0a01_0200, 0xc000_0200, 0, u32::MAX];
    let spread = prop_oneof![4 => 0_u32..8, 2 => 0_u32..1024, 1 => any::<u32>()];
    (select(&CLUSTERS[..]), spread).prop_map(|(base, spread)| Ipv4Addr::from(base ^ spread))
}

/// An IPv6 address in a cluster, apart from its neighbours in the last bits or in the middle.
fn address_v6() -> impl Strategy<Value = Ipv6Addr> {
    const CLUSTERS: [u128; 5] = [
        0x2001_0db8 << 96,
        (0x2001_0db8 << 96) | (1 << 64),
        0xfd00_0001 << 96,
        0,
        u128::MAX,
    ];
    let spread = prop_oneof![
        4 => 0_u128..8,
        2 => (0_u128..1024).prop_map(|low| low << 56),
        1 => any::<u128>(),
    ];
    (select(&CLUSTERS[..]), spread).prop_map(|(base, spread)| Ipv6Addr::from(base ^ spread))
}

/// A rule before its sets are taken from the pool.
#[derive(Clone, Debug)]
struct Parts {
    family: Option<Family>,
    protocol: Option<u8>,
    source: Option<Index>,
    dest: Option<Index>,
    sport: Vec<(u16, u16)>,
    dport: Vec<(u16, u16)>,
    traits: (u8, u8),
    action: (Verdict, Option<u8>),
}

impl Parts {
    fn matches(&self, pool: &[Arc<AddressSet>]) -> Matches {
        let set = |index: &Option<Index>| index.as_ref().map(|index| index.get(pool).clone());
        let (mask, value) = self.traits;
        Matches {
            interface: None,
            not_ip: false,
            family: self.family,
            protocol: self.protocol,
            source: set(&self.source),
            dest: set(&self.dest),
            sport: self.sport.clone(),
            dport: self.dport.clone(),
            traits_mask: mask,
            traits_value: value & mask,
        }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let maybe = prop::option::weighted::<BoxedStrategy<Index>>;
    let index = || any::<Index>().boxed();
    let traits = prop_oneof![
        4 => Just((0, 0)),
        1 => (0..=TRAITS, 0..=TRAITS),
        1 => (0_u8..6, any::<bool>()).prop_map(|(bit, on)| (1 << bit, u8::from(on) << bit)),
    ];
    (
        prop::option::weighted(0.3, select(vec![Family::V4, Family::V6])),
        prop::option::weighted(0.7, select(&PROTOCOLS[..])),
        maybe(0.4, index()),
        maybe(0.4, index()),
        prop_oneof![4 => Just(Vec::new()), 1 => ranges()],
        prop_oneof![1 => Just(Vec::new()), 1 => ranges()],
        traits,
        action(),
    )
        .prop_map(
            |(family, protocol, source, dest, sport, dport, traits, action)| Parts {
                family,
                protocol,
                source,
                dest,
                sport,
                dport,
                traits,
                action,
            },
        )
}

/// One to four ranges of ports; short or long, in any order, overlapping as they come.
fn ranges() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let length = prop_oneof![3 => Just(0_u16), 2 => 0_u16..4, 1 => any::<u16>()];
    let range = (port(), length).prop_map(|(first, length)| (first, first.saturating_add(length)));
    vec(range, 1..=4)
}

/// Ports (and ICMP types and codes) near those that rules like, or any.
fn port() -> impl Strategy<Value = u16> {
    const LIKED: [u16; 10] = [0, 3, 8, 22, 80, 128, 134, 255, 1024, 65535];
    let near = (select(&LIKED[..]), 0_u16..3).prop_map(|(port, off)| port.saturating_add(off));
    prop_oneof![5 => near, 1 => any::<u16>()]
}

fn action() -> impl Strategy<Value = (Verdict, Option<u8>)> {
    let verdicts = vec![Verdict::Accept, Verdict::Drop, Verdict::Reject];
    (select(verdicts), prop::option::weighted(0.2, 0_u8..=7))
}

fn rule(index: usize, matches: Matches, (verdict, log): (Verdict, Option<u8>)) -> Rule {
    let line = index as u32 + 1;
    Rule {
        matches,
        verdict,
        reason: Reason::Rule,
        log,
        origin: Origin {
            line: Some(SourceLine {
                file: "random.fw".into(),
                line,
            }),
            kind: OriginKind::Rule,
            text: format!("rule {index}").into(),
        },
    }
}

#[cfg(test)]
mod tests;
