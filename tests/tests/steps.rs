//! From one configuration to the next, action by action: whoever is judged meanwhile is judged by the one or the other.
//!
//! In: a node with a few ports whose policies look at sets from both sides, changed at random: addresses come and go, rules look at other sets, sets
//! become blacklists. Out: after each action of each plan, the verdicts of packets at every port that there is, from maps in memory to which the actions were
//! applied. Each must be that of the model for the configuration before or for the one after; after the last action, of the one after.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use fw_agent::datapath::plan::{Present, State, next_image, plan_node};
use fw_agent::datapath::{Action, Plan};
use fw_agent::image::{Builder, Prefixes};
use fw_agent::policy::{
    AddressSet, GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy,
    Rule, SetEntry, Vlans,
};
use fw_common::address;
use fw_common::classify::{Values, classify};
use fw_common::maps::classes::MAX_DEPTH;
use fw_common::maps::policy as layout;
use fw_common::maps::port_flag;
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::IpVersion;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;
use tapwall_tests::lookups::Lookups;
use tapwall_tests::model;
use tapwall_tests::strategy::{prefix, set};

const PORTS: u32 = 4;
const SETS: usize = 5;

/// What a node's policies are made of.
#[derive(Clone, Debug)]
struct Blueprint {
    sets: Vec<AddressSet>,
    /// Which sets are blacklists.
    blacklists: Vec<bool>,
    /// By port: rules for what comes in, for what goes out, and the guard.
    ports: Vec<[Vec<Line>; 3]>,
}

/// A rule: sets of source and destination, and whether it accepts.
type Line = (Option<usize>, Option<usize>, bool);

/// A change of a [`Blueprint`].
#[derive(Clone, Debug)]
enum Edit {
    Add(Index, IpNet, bool),
    Remove(Index, Index),
    Replace(Index, AddressSet),
    Rule(Index, Index, Index, Line),
    Blacklist(Index, bool),
}

impl Blueprint {
    fn change(&mut self, edit: &Edit) {
        match edit {
            Edit::Add(set, net, nomatch) => {
                let entries = &mut set.get_mut(&mut self.sets).entries;
                entries.retain(|entry| entry.net != *net);
                entries.push(SetEntry {
                    net: *net,
                    nomatch: *nomatch,
                });
                entries.sort();
            }
            Edit::Remove(set, entry) => {
                let entries = &mut set.get_mut(&mut self.sets).entries;
                if !entries.is_empty() {
                    entries.remove(entry.index(entries.len()));
                }
            }
            Edit::Replace(set, contents) => *set.get_mut(&mut self.sets) = contents.clone(),
            Edit::Rule(port, policy, rule, line) => {
                let lines = &mut port.get_mut(&mut self.ports)[policy.index(3)];
                if !lines.is_empty() {
                    *rule.get_mut(lines) = *line;
                }
            }
            Edit::Blacklist(set, on) => *set.get_mut(&mut self.blacklists) = *on,
        }
    }

    fn node(&self) -> NodePolicy {
        let sets: Vec<Arc<AddressSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        let rule = |index: usize, (source, dest, accept): Line, inbound: bool| {
            let listed =
                inbound && dest.is_none() && source.is_some_and(|set| self.blacklists[set]);
            Rule {
                matches: Matches {
                    source: source.map(|set| Arc::clone(&sets[set])),
                    dest: dest.map(|set| Arc::clone(&sets[set])),
                    ..Matches::default()
                },
                verdict: match accept && !listed {
                    true => Verdict::Accept,
                    false => Verdict::Drop,
                },
                reason: match listed {
                    true => Reason::Blacklist,
                    false => Reason::Rule,
                },
                log: None,
                origin: Origin {
                    line: None,
                    kind: OriginKind::Rule,
                    text: format!("rule {index}").into(),
                },
            }
        };
        let policy = |lines: &[Line], inbound: bool, last: bool| {
            let lines = lines.iter().copied();
            // The blacklist's rule comes first.
            let mut lines: Vec<Line> = lines.collect();
            lines.sort_by_key(|(source, dest, _)| {
                !(inbound && dest.is_none() && source.is_some_and(|set| self.blacklists[set]))
            });
            lines.push((None, None, last));
            let rules = lines.into_iter().enumerate();
            Policy {
                rules: rules
                    .map(|(index, line)| rule(index, line, inbound))
                    .collect(),
            }
        };
        let port = |(number, [inbound, outbound, guard]): (u32, &[Vec<Line>; 3])| PortPolicy {
            port: PortId {
                vmid: 100 + number,
                net: 0,
            },
            kind: GuestKind::Vm,
            mac: None,
            macfilter: false,
            macfilter_layer2: false,
            vlans: Vlans::None,
            dhcp: false,
            inbound: policy(inbound, true, false),
            outbound: policy(outbound, false, true),
            guard: (!guard.is_empty()).then(|| policy(guard, false, false)),
        };
        NodePolicy {
            enabled: true,
            ports: (0..).zip(&self.ports).map(port).map(Arc::new).collect(),
            ..NodePolicy::default()
        }
    }
}

fn line() -> impl Strategy<Value = Line> {
    (
        proptest::option::of(0..SETS),
        proptest::option::weighted(0.3, 0..SETS),
        any::<bool>(),
    )
}

fn blueprint() -> impl Strategy<Value = Blueprint> {
    let policies = [vec(line(), 0..4), vec(line(), 0..4), vec(line(), 0..2)];
    (
        vec(set(), SETS),
        vec(prop::bool::weighted(0.2), SETS),
        vec(policies, PORTS as usize),
    )
        .prop_map(|(sets, blacklists, ports)| Blueprint {
            sets,
            blacklists,
            ports,
        })
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<Index>(), prefix(), prop::bool::weighted(0.2)).prop_map(|(set, net, nomatch)| Edit::Add(set, net, nomatch)),
        3 => any::<[Index; 2]>().prop_map(|[set, entry]| Edit::Remove(set, entry)),
        1 => (any::<Index>(), set()).prop_map(|(index, set)| Edit::Replace(index, set)),
        3 => (any::<[Index; 3]>(), line()).prop_map(|([port, policy, rule], line)| Edit::Rule(port, policy, rule, line)),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(set, on)| Edit::Blacklist(set, on)),
    ]
}

/// What the model says of a packet of a new flow and of one that runs, for each port and direction.
fn expected(node: &NodePolicy, packet: [IpAddr; 2]) -> BTreeMap<(u32, Direction), [bool; 2]> {
    let holds = |set: &Option<Arc<AddressSet>>, address| {
        set.as_ref().is_none_or(|set| model::contains(set, address))
    };
    let decides = |rule: &&Rule| {
        let [source, dest] = packet;
        holds(&rule.matches.source, source) && holds(&rule.matches.dest, dest)
    };
    let accepts = |policy: &Policy| {
        let mut rules = policy.rules.iter();
        rules.find(decides).unwrap().verdict == Verdict::Accept
    };
    let lists: Vec<&Arc<AddressSet>> = node
        .ports
        .iter()
        .flat_map(|port| &port.inbound.rules)
        .filter(|rule| rule.reason == Reason::Blacklist)
        .filter_map(|rule| rule.matches.source.as_ref())
        .collect();
    let is_listed = lists.iter().any(|set| model::contains(set, packet[0]));
    let mut expected = BTreeMap::new();
    for (number, port) in (0..).zip(&node.ports) {
        let inbound = accepts(&port.inbound);
        let cuts = port.inbound.rules.iter();
        let mut cuts = cuts.filter(|rule| rule.reason == Reason::Blacklist);
        let is_cut = cuts.next().is_some() && is_listed;
        let outbound = port.guard.as_ref().is_none_or(accepts) && accepts(&port.outbound);
        expected.insert((number, Direction::In), [inbound, inbound || !is_cut]);
        expected.insert((number, Direction::Out), [outbound, true]);
    }
    expected
}

fn version(address: IpAddr) -> IpVersion {
    match address {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    }
}

/// The same by the maps; none for a port that is not there.
fn found(maps: &Lookups, packet: [IpAddr; 2]) -> BTreeMap<(u32, Direction), [bool; 2]> {
    let mut found = BTreeMap::new();
    for number in 0..PORTS {
        let Some(port) = maps.ports.get(&(10 + number)) else {
            continue;
        };
        let mut values: Values = [0; layout::FIELDS];
        values[layout::SPORT] = layout::NO_PORT;
        values[layout::DPORT] = layout::NO_PORT;
        let version = version(packet[0]);
        values[layout::SOURCE] = address::class(maps, port, version, &packet[0].into());
        values[layout::DEST] = address::class(maps, port, version, &packet[1].into());
        let accepts = |policy: u32| {
            let word = classify(maps, policy, &values).expect("a policy decides");
            word.judgement().verdict == Verdict::Accept
        };
        let [inbound, outbound] = port.policy.map(accepts);
        let outbound = outbound && (port.guard == 0 || accepts(port.guard));
        let is_cut = port.flags & port_flag::BLACKLIST != 0
            && address::is_blacklisted(maps, port, version, &packet[0].into());
        found.insert((number, Direction::In), [inbound, inbound || !is_cut]);
        found.insert((number, Direction::Out), [outbound, true]);
    }
    found
}

/// Addresses at the edges of prefixes.
fn addresses(nodes: [&Blueprint; 2]) -> Vec<IpAddr> {
    let sets = nodes.into_iter().flat_map(|node| &node.sets);
    let nets = sets.flat_map(|set| &set.entries).map(|entry| entry.net);
    let edges = nets.flat_map(|net| [net.network(), net.broadcast()]);
    let distinct: BTreeSet<IpAddr> = edges.collect();
    distinct.into_iter().collect()
}

fn present() -> Present {
    Present {
        devices: (0..PORTS)
            .map(|number| (format!("tap{}i0", 100 + number), 10 + number))
            .collect(),
        ..Present::default()
    }
}

/// Has ports and sets that are as they were be the same allocations, as a resolver keeps them.
fn shared(mut node: NodePolicy, last: &NodePolicy) -> NodePolicy {
    let rules = last.ports.iter().flat_map(|port| &port.inbound.rules);
    let rules = rules.chain(last.ports.iter().flat_map(|port| &port.outbound.rules));
    let sets = rules.flat_map(|rule| [&rule.matches.source, &rule.matches.dest]);
    let sets: Vec<&Arc<AddressSet>> = sets.flatten().collect();
    for (port, last) in node.ports.iter_mut().zip(&last.ports) {
        if port == last {
            *port = Arc::clone(last);
            continue;
        }
        let port = Arc::make_mut(port);
        let policies = [&mut port.inbound, &mut port.outbound].into_iter();
        for rule in policies
            .chain(&mut port.guard)
            .flat_map(|policy| &mut policy.rules)
        {
            for set in [&mut rule.matches.source, &mut rule.matches.dest]
                .into_iter()
                .flatten()
            {
                if let Some(known) = sets.iter().find(|known| **known == set) {
                    *set = Arc::clone(known);
                }
            }
        }
    }
    node
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn no_packet_meets_a_mixture(
        first in blueprint(),
        rounds in vec(vec(edit(), 1..4), 1..12),
        picks in vec(any::<[Index; 2]>(), 48),
    ) {
        let present = present();
        let (mut state, mut maps) = (State::default(), Lookups::default());
        let mut builder = Builder::default();
        let mut old = first.clone();
        let mut last = NodePolicy::default();
        let rounds = std::iter::once(Vec::new()).chain(rounds);
        for (round, edits) in rounds.enumerate() {
            let mut next = old.clone();
            edits.iter().for_each(|edit| next.change(edit));
            let node = shared(next.node(), &last);
            let image = next_image(&mut builder, &state, &node, &present);
            prop_assert_eq!(&image.failures, &[]);
            let plan = plan_node(&mut state, &image, &present, |_| false);
            let addresses = addresses([&old, &next]);
            let packets: Vec<[IpAddr; 2]> = picks
                .iter()
                .filter(|_| !addresses.is_empty())
                .map(|pick| pick.map(|index| *index.get(&addresses)))
                // One family, and not from an address to itself.
                .filter(|[source, dest]| source.is_ipv4() == dest.is_ipv4() && source != dest)
                .collect();
            let before = old.node();
            let expect = |node: &NodePolicy| {
                packets.iter().map(|packet| expected(node, *packet)).collect::<Vec<_>>()
            };
            let (before, after) = (expect(&before), expect(&node));
            for (number, action) in plan.actions.iter().enumerate() {
                maps.apply(action);
                for (index, packet) in packets.iter().enumerate() {
                    for (place, verdicts) in found(&maps, *packet) {
                        let (one, other) = (before[index][&place], after[index][&place]);
                        for flow in 0..2 {
                            prop_assert!(
                                verdicts[flow] == one[flow] || verdicts[flow] == other[flow],
                                "round {} after action {} {:?}: {:?} at {:?}: {:?}, but {:?} before and {:?} after",
                                round, number, action, packet, place, verdicts, one, other
                            );
                        }
                    }
                }
            }
            for (index, packet) in packets.iter().enumerate() {
                prop_assert_eq!(&found(&maps, *packet), &after[index], "round {} {:?}", round, packet);
            }
            // Once more: nothing is left to do, also for one who remembers nothing.
            let again = next_image(&mut Builder::default(), &state, &node, &present);
            prop_assert_eq!(&again.rules, &image.rules, "round {}", round);
            let again = plan_node(&mut state.clone(), &again, &present, |_| false);
            prop_assert_eq!(&again, &Plan::default(), "round {}", round);
            // What the state says of a space is what is in the maps.
            for (space, classes) in &state.spaces {
                let classes = classes.as_ref().unwrap();
                let read = maps.space(*space);
                prop_assert_eq!(&read, &**classes, "space {}", space);
            }
            old = next;
            last = node;
        }
    }
}

#[test]
fn a_class_without_a_known_ancestor_is_closed() {
    let entry = SetEntry {
        net: "192.0.2.0/24".parse().unwrap(),
        nomatch: false,
    };
    let mut plan = Blueprint {
        sets: vec![AddressSet::default(); SETS],
        blacklists: vec![false; SETS],
        ports: vec![[vec![(Some(0), None, true)], Vec::new(), Vec::new()]],
    };
    plan.sets[0].entries.push(entry);
    let (mut state, mut maps) = (State::default(), Lookups::default());
    let image = next_image(&mut Builder::default(), &state, &plan.node(), &present());
    let plan = plan_node(&mut state, &image, &present(), |_| false);
    plan.actions.iter().for_each(|action| maps.apply(action));
    let policy = maps.ports[&10].policy[Direction::In as usize];
    let space = maps.ports[&10].space;
    let judge = |maps: &Lookups, class: u32| {
        let mut values: Values = [0; layout::FIELDS];
        values[layout::SOURCE] = class;
        values[layout::SPORT] = layout::NO_PORT;
        values[layout::DPORT] = layout::NO_PORT;
        classify(maps, policy, &values).map(|word| word.judgement().verdict)
    };
    assert_eq!(judge(&maps, 0), Some(Verdict::Drop));
    assert_eq!(judge(&maps, 1), Some(Verdict::Accept));
    // Nobody's child, its own child, and the child of too many.
    assert_eq!(judge(&maps, 2), None);
    let lineage = |parents: &[(u32, u32)]| Action::WriteEntries {
        space,
        lineage: parents
            .iter()
            .map(|(class, parent)| (*class, parent + 1))
            .collect(),
        prefixes: Prefixes::default(),
    };
    maps.apply(&lineage(&[(2, 1), (3, 3)]));
    assert_eq!(judge(&maps, 2), Some(Verdict::Accept));
    assert_eq!(judge(&maps, 3), None);
    let chain: Vec<(u32, u32)> = (2..=2 + MAX_DEPTH)
        .map(|class| (class, class - 1))
        .collect();
    maps.apply(&lineage(&chain));
    assert_eq!(judge(&maps, 1 + MAX_DEPTH), Some(Verdict::Accept));
    assert_eq!(judge(&maps, 2 + MAX_DEPTH), None);
}
