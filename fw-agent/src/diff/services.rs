//! Which ports become open or closed.
//!
//! In: the policies of a node, twice. Out: TCP and UDP ports that others reach than before.
//!
//! The rules of a policy are walked in order for a new connection. A rule without conditions on addresses, interface, family or source port decides its
//! ports for everybody; an ACCEPT with such conditions lets some in; a DROP with them is an exception that closes nothing. Rules for special packets (of
//! impossible flags, to groups) are not looked at. This is an outline for people; `fwctl simulate` says what becomes of a packet.

use std::collections::BTreeMap;
use std::ops::Range;

use fw_common::verdict::Verdict;

use super::{Place, Reach, ServiceChange, Way, pairs};
use crate::config::registry::{TCP, UDP};
use crate::policy::{NodePolicy, Policy, Rule};

/// Inclusive ranges of ports, in order and apart.
type Ranges = Vec<(u16, u16)>;

const PROTOCOLS: [(u8, &str); 2] = [(TCP, "tcp"), (UDP, "udp")];

/// A change without its places.
type Told = (Way, &'static str, Reach, Reach, Ranges);

pub(super) fn compare(before: &NodePolicy, after: &NodePolicy) -> Vec<ServiceChange> {
    let mut found: BTreeMap<Told, Vec<Place>> = BTreeMap::new();
    // Guests that share a group often have equal policies, one after the other.
    let mut last: BTreeMap<Way, (&Policy, &Policy, Vec<Told>)> = BTreeMap::new();
    for (way, place, old, new) in pairs(before, after) {
        if old == new {
            continue;
        }
        let known = last
            .get(&way)
            .filter(|known| known.0 == old && known.1 == new);
        let told = match known {
            Some((_, _, told)) => told.clone(),
            None => told(way, old, new),
        };
        for told in &told {
            found.entry(told.clone()).or_default().push(place.clone());
        }
        last.insert(way, (old, new, told));
    }
    let change = |((way, protocol, before, after, ports), places)| ServiceChange {
        way,
        protocol,
        before,
        after,
        ports,
        places,
    };
    found.into_iter().map(change).collect()
}

fn told(way: Way, old: &Policy, new: &Policy) -> Vec<Told> {
    let mut told = Vec::new();
    for (number, protocol) in PROTOCOLS {
        let begins = begins([old, new], number);
        let [was, is] = [old, new].map(|policy| reach(policy, number, &begins));
        let changes = changes(&begins, &was, &is).into_iter();
        told.extend(changes.map(|((before, after), ports)| (way, protocol, before, after, ports)));
    }
    told
}

/// Where ranges of ports begin that rules of both policies do not tell apart.
fn begins(policies: [&Policy; 2], protocol: u8) -> Vec<u16> {
    let mut begins = vec![0];
    let rules = policies.iter().flat_map(|policy| &policy.rules);
    for rule in rules.filter(|rule| is_about(rule, protocol)) {
        for (first, last) in &rule.matches.dport {
            begins.push(*first);
            begins.extend(last.checked_add(1));
        }
    }
    begins.sort_unstable();
    begins.dedup();
    begins
}

/// Who reaches the ports of each range.
fn reach(policy: &Policy, protocol: u8, begins: &[u16]) -> Vec<Reach> {
    let mut reach = vec![Reach::Closed; begins.len()];
    let mut undecided = Left::new(begins.len());
    // Those of them that nobody reaches yet.
    let mut unreached = Left::new(begins.len());
    for rule in policy.rules.iter().filter(|rule| is_about(rule, protocol)) {
        let all = [(0, u16::MAX)];
        let ports = match rule.matches.dport.is_empty() {
            true => &all[..],
            false => &rule.matches.dport,
        };
        for (first, last) in ports {
            let from = begins.partition_point(|begin| begin < first);
            let to = begins.partition_point(|begin| begin <= last);
            match (has_conditions(rule), rule.verdict) {
                (true, Verdict::Accept) => {
                    unreached.take(from..to, |at| reach[at] = Reach::Some);
                }
                (true, Verdict::Drop | Verdict::Reject) => {}
                (false, verdict) => undecided.take(from..to, |at| {
                    unreached.take_one(at);
                    if verdict == Verdict::Accept {
                        reach[at] = Reach::Open;
                    }
                }),
            }
        }
    }
    reach
}

/// Ranges that are left, each with one from which on to look for the next that is.
struct Left(Vec<usize>);

impl Left {
    fn new(count: usize) -> Self {
        Self((0..=count).collect())
    }

    /// The first that is left, from this one on.
    fn from(&mut self, start: usize) -> usize {
        let mut found = start;
        while self.0[found] != found {
            found = self.0[found];
        }
        let mut at = start;
        while at != found {
            at = std::mem::replace(&mut self.0[at], found);
        }
        found
    }

    fn take_one(&mut self, at: usize) {
        self.0[at] = at + 1;
    }

    /// Takes those that are left among some away.
    fn take(&mut self, those: Range<usize>, mut taken: impl FnMut(usize)) {
        let mut at = self.from(those.start);
        while at < those.end {
            taken(at);
            self.take_one(at);
            at = self.from(at);
        }
    }
}

fn is_about(rule: &Rule, protocol: u8) -> bool {
    let matches = &rule.matches;
    !matches.not_ip
        && matches.traits_mask == 0
        && matches.protocol.is_none_or(|number| number == protocol)
}

fn has_conditions(rule: &Rule) -> bool {
    let matches = &rule.matches;
    matches.source.is_some()
        || matches.dest.is_some()
        || matches.interface.is_some()
        || matches.family.is_some()
        || !matches.sport.is_empty()
}

/// The ports whose reach is another, by how it was and is.
fn changes(begins: &[u16], old: &[Reach], new: &[Reach]) -> BTreeMap<(Reach, Reach), Ranges> {
    let mut found: BTreeMap<(Reach, Reach), Ranges> = BTreeMap::new();
    let ends = begins.iter().skip(1).map(|next| next - 1);
    let ranges = begins.iter().zip(ends.chain([u16::MAX]));
    for ((first, last), (was, is)) in ranges.zip(old.iter().zip(new)) {
        if was == is {
            continue;
        }
        let ranges = found.entry((*was, *is)).or_default();
        match ranges.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(*first) => *end = last,
            Some(_) | None => ranges.push((*first, last)),
        }
    }
    found
}
