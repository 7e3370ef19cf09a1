//! Classification against the reference model: for every policy and packet both find the same rule.
//!
//! In: random policies and packets, and some large fixed ones. Each packet is judged twice where it can be: by `classify` on the packet's value in
//! every field, and, if a frame can say what the packet says, by the whole pipeline on that frame. The traits of a frame are those its bytes have, so
//! the model is asked again with them.
//!
//! Beside that: equal policies build equal images, and a policy that is too large costs its own port only.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::IpAddr;
use std::sync::Arc;

use fw_agent::image::{MapImage, Memory, PolicyError};
use fw_agent::policy::{
    AddressSet, Family, GuestKind, Matches, NodePolicy, Policy, PortId, PortPolicy, Rule, SetEntry,
    Vlans,
};
use fw_common::address;
use fw_common::classify::{Values, classify};
use fw_common::maps::{policy as layout, traits};
use fw_common::pipeline;
use fw_common::verdict::{Direction, NO_RULE};
use fw_common::wire::{Address, Headers, IpVersion};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::model::{self, Packet, Segment};
use tapwall_tests::strategy::{packet, policy_and_packets, policy_of};

/// A policy and packets that it is to judge.
type Case = (Policy, Vec<Packet>);

/// A policy with up to `rules` rules and up to `packets` packets for it.
fn case(rules: usize, packets: usize) -> impl Strategy<Value = Case> {
    policy_of(rules).prop_flat_map(move |policy| {
        let packets = vec(packet(&policy), 1..=packets);
        (Just(policy), packets)
    })
}

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

fn port(vmid: u32, inbound: Policy, outbound: Policy) -> PortPolicy {
    PortPolicy {
        port: PortId { vmid, net: 0 },
        kind: GuestKind::Vm,
        mac: Some([0xbc, 0x24, 0x11, 0, 0, 1]),
        macfilter: false,
        macfilter_layer2: false,
        vlans: Vlans::None,
        dhcp: true,
        inbound,
        outbound,
        guard: None,
    }
}

fn node(ports: Vec<PortPolicy>) -> NodePolicy {
    NodePolicy {
        enabled: true,
        ports: ports.into_iter().map(Arc::new).collect(),
        ..NodePolicy::default()
    }
}

/// An image and the tables filled from it.
struct Built {
    image: MapImage,
    memory: Memory,
}

impl Built {
    fn new(node: &NodePolicy) -> Self {
        let image = MapImage::build(node);
        let memory = Memory::new(&image);
        Self { image, memory }
    }

    /// Place of a rule in the policy of a port, by its identity.
    fn place(&self, id: PortId, direction: Direction, rule: u32) -> Option<usize> {
        let policy = self.image.ports[&id].policies[direction as usize];
        let rules = &self.image.policies[policy].rules;
        rules.iter().position(|identity| *identity == rule)
    }

    /// What `classify` finds for the packet's values.
    fn by_values(&self, id: PortId, direction: Direction, packet: &Packet) -> Option<usize> {
        let port = self.memory.port_of(id)?;
        let (version, base) = match packet.family {
            Family::V4 => (IpVersion::V4, 0),
            Family::V6 => (IpVersion::V6, layout::PROTOCOL_V6),
        };
        let class = |address| address::class(&self.memory, port, version, &wire_address(address));
        let number = |port: Option<u16>| port.map_or(layout::NO_PORT, u32::from);
        let mut values: Values = [0; layout::FIELDS];
        values[layout::SOURCE] = class(packet.source);
        values[layout::DEST] = class(packet.dest);
        values[layout::SPORT] = number(packet.sport);
        values[layout::DPORT] = number(packet.dport);
        values[layout::PROTOCOL] = base + u32::from(packet.protocol);
        values[layout::TRAITS] = u32::from(packet.traits);
        let word = classify(&self.memory, port.policy[direction as usize], &values)?;
        self.place(id, direction, word.judgement().rule)
    }

    /// What the pipeline finds for the frame when it knows no flows.
    fn by_frame(&mut self, id: PortId, direction: Direction, frame: &[u8]) -> Option<usize> {
        self.memory.forget_flows();
        let port = *self.memory.port_of(id)?;
        let mut headers = Headers::default();
        let judgement = pipeline::judge(&frame, &self.memory, &port, direction, &mut headers);
        if judgement.rule == NO_RULE {
            return None;
        }
        self.place(id, direction, judgement.rule)
    }

    /// Compares both ways with the model. Returns how many packets had a frame, or the first difference.
    fn check(
        &mut self,
        id: PortId,
        direction: Direction,
        policy: &Policy,
        packets: &[Packet],
    ) -> Result<usize, String> {
        let mut frames = 0;
        for packet in packets {
            let expect = model::judge(policy, packet);
            let found = self.by_values(id, direction, packet);
            if found != Some(expect) {
                return Err(difference("values", policy, packet, expect, found));
            }
            let Some((frame, packet)) = frame_of(packet) else {
                continue;
            };
            frames += 1;
            let expect = model::judge(policy, &packet);
            let found = self.by_frame(id, direction, &frame);
            if found != Some(expect) {
                return Err(difference("frame", policy, &packet, expect, found));
            }
        }
        Ok(frames)
    }
}

fn difference(
    way: &str,
    policy: &Policy,
    packet: &Packet,
    expect: usize,
    found: Option<usize>,
) -> String {
    let rule = |index| policy.rules.get(index).map(|rule: &Rule| &rule.matches);
    format!(
        "by {way}, of {} rules: {packet:?}\n model {expect} {:?}\n found {found:?} {:?}",
        policy.rules.len(),
        rule(expect),
        found.and_then(rule)
    )
}

fn wire_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(u32::from_ne_bytes(address.octets())),
        IpAddr::V6(address) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(address.octets().as_chunks().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            Address(words)
        }
    }
}

/// A frame that says what the packet says, and the packet with the traits that the frame has; none if no frame can.
fn frame_of(packet: &Packet) -> Option<(Vec<u8>, Packet)> {
    let v6 = packet.family == Family::V6;
    let (protocol, wanted) = (packet.protocol, packet.traits);
    let flags = flags(wanted);
    let transport = match (protocol, packet.sport, packet.dport) {
        (6, Some(sport), Some(dport)) => Transport::Tcp {
            sport,
            dport,
            sequence: 1,
            acknowledge: 1,
            flags,
            data: Vec::new(),
        },
        (17, Some(sport), Some(dport)) => Transport::Udp {
            sport,
            dport,
            data: Vec::new(),
        },
        (33 | 132 | 136, Some(sport), Some(dport)) => Transport::Ports { sport, dport },
        (1 | 58, Some(kind), Some(code)) => Transport::Icmp {
            kind: kind as u8,
            code: code as u8,
            word: [0, 7, 0, 1],
            data: Vec::new(),
        },
        // Without ports these are parts of datagrams whose first part nobody saw.
        (1 | 6 | 17 | 33 | 58 | 132 | 136, _, _) => return None,
        // Extension headers.
        (0 | 43 | 44 | 51 | 60, _, _) if v6 => return None,
        _ => Transport::Bytes(vec![0; 24]),
    };
    let dest_mac = match wanted & traits::TO_GROUP {
        0 => [0x02, 0, 0, 0, 0, 1],
        _ => [0x01, 0, 0x5e, 0, 0, 1],
    };
    let payload = transport.payload(protocol, packet.source, packet.dest);
    let frame = Frame {
        dest_mac,
        source_mac: [0x02, 0, 0, 0, 0, 2],
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(packet.source, packet.dest, protocol, payload)),
    };
    let sport = packet.sport.unwrap_or(0);
    let state = model::first_state(v6, protocol, flags, sport);
    let segment = (protocol == 6).then_some(Segment { flags, sport });
    let traits = model::traits_of(dest_mac, packet.source, packet.dest, segment, state);
    let packet = Packet {
        traits,
        ..packet.clone()
    };
    Some((frame.bytes(), packet))
}

/// TCP flags that have some of the wanted traits.
fn flags(wanted: u8) -> u8 {
    let (invalid, from_group) = (wanted & traits::INVALID, wanted & traits::FROM_GROUP);
    match (wanted & traits::BAD_TCP_FLAGS, wanted & traits::NOT_SYN) {
        (0, 0) if from_group != 0 => 0xc2,
        (0, 0) => 0x02,
        (0, _) if invalid != 0 && from_group != 0 => 0x14,
        (0, _) if invalid != 0 => 0x12,
        (0, _) if from_group != 0 => 0x18,
        (0, _) => 0x10,
        (_, 0) if invalid != 0 => 0x29,
        (_, 0) => 0x03,
        (_, _) if invalid != 0 => 0x00,
        (_, _) => 0x16,
    }
}

proptest! {
    #![proptest_config(config(192))]

    #[test]
    fn one_policy((policy, packets) in policy_and_packets(40)) {
        let node = node(vec![port(100, policy.clone(), Policy { rules: policy.rules.clone() })]);
        let mut built = Built::new(&node);
        let id = node.ports[0].port;
        for direction in [Direction::In, Direction::Out] {
            built.check(id, direction, &policy, &packets).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&built.image, &MapImage::build(&node));
    }
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn many_policies_in_one_class_space(cases in vec((case(40, 12), case(40, 12)), 2..24)) {
        let ports = cases
            .iter()
            .zip(100..)
            .map(|(((inbound, _), (outbound, _)), vmid)| port(vmid, inbound.clone(), outbound.clone()));
        let node = node(ports.collect());
        let mut built = Built::new(&node);
        for (((inbound, to), (outbound, from)), port) in cases.iter().zip(&node.ports) {
            built.check(port.port, Direction::In, inbound, to).map_err(TestCaseError::fail)?;
            built.check(port.port, Direction::Out, outbound, from).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&built.image, &MapImage::build(&node));
    }
}

proptest! {
    #![proptest_config(config(6))]

    #[test]
    fn some_thousand_rules((policy, packets) in case(5000, 60)) {
        let node = node(vec![port(100, policy.clone(), Policy::default())]);
        let mut built = Built::new(&node);
        let id = node.ports[0].port;
        built.check(id, Direction::In, &policy, &packets).map_err(TestCaseError::fail)?;
    }
}

/// As many rules as a policy takes: random ones of many policies in a row, without those that match everything.
fn full_policy(runner: &mut TestRunner) -> Policy {
    let mut rules: Vec<Rule> = Vec::new();
    let strategy = policy_of(2000);
    while rules.len() < layout::MAX_RULES - 1 {
        let more = strategy.new_tree(runner).unwrap().current().rules;
        let specific = more.into_iter().filter(|rule| {
            let m = &rule.matches;
            m.source.is_some() && m.dest.is_some() && !m.dport.is_empty()
        });
        rules.extend(specific);
    }
    rules.truncate(layout::MAX_RULES - 1);
    rules.push(Rule {
        matches: Matches::default(),
        ..rules[0].clone()
    });
    for (index, rule) in rules.iter_mut().enumerate() {
        rule.origin.text = format!("rule {index}").into();
    }
    Policy { rules }
}

#[test]
fn a_full_policy() {
    let mut runner = TestRunner::deterministic();
    let policy = full_policy(&mut runner);
    assert_eq!(policy.rules.len(), 16_384);
    let packets: Vec<Packet> = {
        let strategy = packet(&policy);
        let draw = |_| strategy.new_tree(&mut runner).unwrap().current();
        (0..150).map(draw).collect()
    };
    let node = node(vec![port(100, policy.clone(), Policy::default())]);
    let mut built = Built::new(&node);
    let id = node.ports[0].port;
    let frames = built.check(id, Direction::In, &policy, &packets).unwrap();
    assert!(frames > 50, "only {frames} packets had a frame");
}

#[test]
fn every_rule_of_a_full_policy_is_found() {
    let set = |index: usize| {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + index as u32);
        AddressSet {
            entries: vec![SetEntry {
                net: IpAddr::V4(address).into(),
                nomatch: false,
            }],
        }
    };
    let mut runner = TestRunner::deterministic();
    let template = policy_of(1).new_tree(&mut runner).unwrap().current().rules[0].clone();
    let last = layout::MAX_RULES - 1;
    let rules = (0..=last).map(|index| {
        let mut rule = template.clone();
        rule.origin.text = format!("rule {index}").into();
        rule.matches = match index {
            _ if index == last => Matches::default(),
            _ => Matches {
                source: Some(set(index).into()),
                protocol: Some(6),
                dport: vec![(index as u16, index as u16 + 1)],
                ..Matches::default()
            },
        };
        rule
    });
    let policy = Policy {
        rules: rules.collect(),
    };
    let node = node(vec![port(100, Policy::default(), policy.clone())]);
    let built = Built::new(&node);
    for index in (0..=last).step_by(61).chain([63, 64, 4095, 4096, last]) {
        let packet = Packet {
            family: Family::V4,
            protocol: 6,
            source: std::net::Ipv4Addr::from(0x0a00_0000 + index as u32).into(),
            dest: std::net::Ipv4Addr::new(192, 0, 2, 1).into(),
            sport: Some(1024),
            dport: Some(index as u16 + 1),
            traits: traits::NEW,
        };
        let found = built.by_values(node.ports[0].port, Direction::Out, &packet);
        assert_eq!(found, Some(index));
    }
}

#[test]
fn a_policy_over_the_limit_costs_its_own_port_only() {
    let mut runner = TestRunner::deterministic();
    let draw = |runner: &mut TestRunner| case(60, 30).new_tree(runner).unwrap().current();
    let (first, to_first) = draw(&mut runner);
    let (third, to_third) = draw(&mut runner);
    let mut over = full_policy(&mut runner);
    over.rules.push(over.rules[0].clone());
    let node = node(vec![
        port(100, first.clone(), first.clone()),
        port(101, over, third.clone()),
        port(102, third.clone(), first.clone()),
    ]);
    let mut built = Built::new(&node);
    let error = PolicyError::TooManyRules {
        rules: 16_385,
        limit: 16_384,
    };
    let closed = PortId { vmid: 101, net: 0 };
    assert_eq!(built.image.failures, [(closed, Direction::In, error)]);
    assert!(built.memory.port_of(closed).is_none());
    let open: Vec<u32> = built.image.ports.keys().map(|id| id.vmid).collect();
    assert_eq!(open, [100, 102]);
    for (vmid, policy, packets) in [(100, &first, &to_first), (102, &third, &to_third)] {
        let id = PortId { vmid, net: 0 };
        built.check(id, Direction::In, policy, packets).unwrap();
    }
}
