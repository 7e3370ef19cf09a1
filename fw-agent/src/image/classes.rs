//! Address sets become classes: numbers that stand for "in exactly these sets".
//!
//! In: every address set that a rule of the node mentions. Out: a [`ClassSpace`] (prefix → class, for the LPM tries) and, per set, the
//! classes whose addresses are in it.
//!
//! Prefixes of all sets are walked in address order, the innermost last. A prefix changes the membership of its addresses from that of the
//! prefix around it: the sets that list it gain or (with `!`) lose them. Each distinct membership is one class; so there are at most as many
//! classes as prefixes, and a set of a million prefixes that nothing else overlaps is one class.
//!
//! Classes are numbered as they first appear in the walk. Addresses inside a prefix therefore have (mostly) consecutive classes, and the
//! intervals of a policy stay few however many other sets subdivide the prefix. Class 0 is "in no set".
//!
//! Big sets (the blacklist, and those of [`BIG_SET`] entries or more) are walked by themselves, so that neither a change of another set touches their
//! millions of prefixes, nor do packets that are in none of them. An address's class is then the pair of its small and its big class.

mod prefilter;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fw_common::maps::classes::BLACKLISTED;
use fw_common::verdict::Reason;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::image::directions;
use crate::policy::{AddressSet, NodePolicy};

/// Entries from which on a set is a big one: below, its prefixes fit in a core's cache beside those of all other small sets.
const BIG_SET: usize = 4096;

/// Classes of big sets at the most: what a rule says of a small set has to be said once for each. If there were more (large sets that overlap in
/// many ways), only the blacklist is a big set.
const MAX_BIG_CLASSES: usize = 64;

/// Prefixes and their values, for the LPM tries; the longest prefix that holds an address has its value, and 0 stands for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Classes {
    /// IPv4 prefixes in address order, shorter before longer.
    pub v4: Vec<(Ipv4Net, u32)>,
    /// IPv6 prefixes likewise.
    pub v6: Vec<(Ipv6Net, u32)>,
}

impl Classes {
    /// Whether every address has value 0.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// Classes of all addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassSpace {
    /// The small sets: prefix → class.
    pub small: Arc<Classes>,
    /// The big sets: prefix → class, with [`BLACKLISTED`] where the blacklist holds it.
    pub big: Arc<Classes>,
    /// Bits that a small class takes; 0 if there are no big ones.
    pub bits: u32,
    /// Number of small and of big classes, class 0 included.
    pub counts: [u32; 2],
    /// The blacklist holds some address.
    pub has_blacklist: bool,
}

/// Per address set the classes it consists of, as inclusive ranges.
pub(super) struct Members {
    indices: HashMap<Arc<AddressSet>, usize>,
    ranges: Vec<Vec<(u32, u32)>>,
}

impl Members {
    /// Classes whose addresses are in `set`; none for a set that [`build`] was not given.
    pub(super) fn of(&self, set: &Arc<AddressSet>) -> &[(u32, u32)] {
        match self.indices.get(set) {
            Some(index) => &self.ranges[*index],
            None => &[],
        }
    }
}

/// One prefix of one set, as a 128-bit number with IPv4 in the high bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    address: u128,
    length: u8,
    set: u32,
    nomatch: bool,
}

/// The sets that hold some addresses, ascending.
type Membership = Arc<[u32]>;

/// Builds the class space of all sets in `node`.
pub(super) fn build(node: &NodePolicy) -> (ClassSpace, Members) {
    let (indices, blacklists) = collect(node);
    let is_long = |(set, _): &(&Arc<AddressSet>, &usize)| set.entries.len() >= BIG_SET;
    let long = indices.iter().filter(is_long).map(|(_, index)| *index);
    let mut big_sets: BTreeSet<usize> = long.chain(blacklists.iter().copied()).collect();
    let mut big = Walked::new(&indices, |set| big_sets.contains(&set));
    if big.numbers.memberships.len() > MAX_BIG_CLASSES {
        big_sets.clone_from(&blacklists);
        big = Walked::new(&indices, |set| big_sets.contains(&set));
    }
    let small = Walked::new(&indices, |set| !big_sets.contains(&set));
    let counts = [&small, &big].map(|walked| walked.numbers.memberships.len() as u32);
    let bits = match counts {
        [_, 1] => 0,
        [small, _] => u32::BITS - (small - 1).leading_zeros(),
    };

    let mut ranges = vec![Vec::new(); indices.len()];
    for (set, ranges) in ranges.iter_mut().enumerate() {
        if big_sets.contains(&set) {
            let classes = big.numbers.with(set as u32);
            let whole =
                |(first, last): (u32, u32)| (first << bits, (last << bits) + ((1 << bits) - 1));
            ranges.extend(classes.into_iter().map(whole));
        } else {
            let classes = small.numbers.with(set as u32);
            for upper in (0..counts[1]).map(|class| class << bits) {
                ranges.extend(
                    classes
                        .iter()
                        .map(|(first, last)| (upper | first, upper | last)),
                );
            }
        }
    }
    let is_blacklisted = |class: u32| {
        let membership = &big.numbers.memberships[class as usize];
        membership
            .iter()
            .any(|set| blacklists.contains(&(*set as usize)))
    };
    let flagged = |class: u32| match is_blacklisted(class) {
        true => class | BLACKLISTED,
        false => class,
    };
    let space = ClassSpace {
        has_blacklist: (0..counts[1]).any(is_blacklisted),
        small: Arc::new(small.classes(|class| class)),
        big: Arc::new(big.classes(flagged)),
        bits,
        counts,
    };
    (space, Members { indices, ranges })
}

/// Some sets, walked.
struct Walked {
    v4: Vec<(u128, u8, u32)>,
    v6: Vec<(u128, u8, u32)>,
    numbers: Numbers,
}

impl Walked {
    /// Walks the sets whose index is `chosen`.
    fn new(indices: &HashMap<Arc<AddressSet>, usize>, chosen: impl Fn(usize) -> bool) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for (set, index) in indices.iter().filter(|(_, index)| chosen(**index)) {
            for entry in &set.entries {
                let (list, address) = match entry.net {
                    IpNet::V4(net) => (&mut v4, u128::from(u32::from(net.network())) << 96),
                    IpNet::V6(net) => (&mut v6, u128::from(net.network())),
                };
                list.push(Entry {
                    address,
                    length: entry.net.prefix_len(),
                    set: *index as u32,
                    nomatch: entry.nomatch,
                });
            }
        }
        let mut numbers = Numbers::default();
        Self {
            v4: walk(v4, &mut numbers),
            v6: walk(v6, &mut numbers),
            numbers,
        }
    }

    /// What goes into the tries.
    fn classes(&self, value: impl Fn(u32) -> u32) -> Classes {
        let v4 = self.v4.iter().filter_map(|(address, length, class)| {
            let net = Ipv4Net::new(((address >> 96) as u32).into(), *length).ok()?;
            Some((net, value(*class)))
        });
        let v6 = self.v6.iter().filter_map(|(address, length, class)| {
            let net = Ipv6Net::new((*address).into(), *length).ok()?;
            Some((net, value(*class)))
        });
        Classes {
            v4: v4.collect(),
            v6: v6.collect(),
        }
    }
}

/// Numbers the distinct sets in the order in which the rules mention them; and which of them are blacklists.
fn collect(node: &NodePolicy) -> (HashMap<Arc<AddressSet>, usize>, BTreeSet<usize>) {
    let mut indices = HashMap::new();
    let mut blacklists = BTreeSet::new();
    // Most rules share their sets: look at each allocation once before comparing contents.
    let mut seen = BTreeMap::new();
    let host = node.host.iter();
    let host = host.flat_map(|host| [&host.inbound, &host.outbound]);
    let ports = node.ports.iter();
    let rules = ports
        .flat_map(|port| {
            let guard = port.guard.as_ref();
            directions(port)
                .map(|(_, policy)| policy)
                .into_iter()
                .chain(guard)
        })
        .chain(host)
        .flat_map(|policy| &policy.rules);
    for rule in rules {
        for set in [&rule.matches.source, &rule.matches.dest]
            .into_iter()
            .flatten()
        {
            let index = *seen.entry(Arc::as_ptr(set)).or_insert_with(|| {
                let next = indices.len();
                *indices.entry(Arc::clone(set)).or_insert(next)
            });
            if rule.reason == Reason::Blacklist {
                blacklists.insert(index);
            }
        }
    }
    (indices, blacklists)
}

/// Distinct memberships and their numbers.
struct Numbers {
    memberships: Vec<Membership>,
    known: HashMap<Membership, u32>,
}

impl Default for Numbers {
    fn default() -> Self {
        let nowhere: Membership = Arc::from([]);
        Self {
            memberships: vec![Arc::clone(&nowhere)],
            known: HashMap::from([(nowhere, 0)]),
        }
    }
}

impl Numbers {
    fn of(&mut self, membership: Vec<u32>) -> u32 {
        if let Some(class) = self.known.get(membership.as_slice()) {
            return *class;
        }
        let class = self.memberships.len() as u32;
        let membership: Membership = membership.into();
        self.memberships.push(Arc::clone(&membership));
        self.known.insert(membership, class);
        class
    }

    /// The classes whose addresses are in a set, as ascending inclusive ranges.
    fn with(&self, set: u32) -> Vec<(u32, u32)> {
        let mut ranges = Vec::new();
        for (class, membership) in self.memberships.iter().enumerate() {
            if membership.binary_search(&set).is_ok() {
                extend(&mut ranges, class as u32);
            }
        }
        ranges
    }
}

/// Gives every prefix its class, in address order. Prefixes that change nothing are left out.
fn walk(mut entries: Vec<Entry>, numbers: &mut Numbers) -> Vec<(u128, u8, u32)> {
    entries.sort_unstable();
    let mut prefixes = Vec::new();
    let mut around: Vec<(u128, u8, u32)> = Vec::new();
    for same in entries.chunk_by(|a, b| (a.address, a.length) == (b.address, b.length)) {
        let Entry {
            address, length, ..
        } = same[0];
        while around
            .last()
            .is_some_and(|(outer, outer_length, _)| !contains(*outer, *outer_length, address))
        {
            around.pop();
        }
        let outer = around.last().map_or(0, |(_, _, class)| *class);
        let mut membership = numbers.memberships[outer as usize].to_vec();
        for entry in same {
            match (membership.binary_search(&entry.set), entry.nomatch) {
                (Ok(position), true) => {
                    membership.remove(position);
                }
                (Err(position), false) => membership.insert(position, entry.set),
                (Ok(_), false) | (Err(_), true) => {}
            }
        }
        let class = numbers.of(membership);
        if class != outer {
            prefixes.push((address, length, class));
            around.push((address, length, class));
        }
    }
    prefixes
}

fn contains(outer: u128, length: u8, address: u128) -> bool {
    length == 0 || (outer ^ address) >> (128 - u32::from(length)) == 0
}

/// Adds a number to ascending inclusive ranges.
fn extend(ranges: &mut Vec<(u32, u32)>, number: u32) {
    match ranges.last_mut() {
        Some((_, end)) if *end + 1 == number => *end = number,
        _ => ranges.push((number, number)),
    }
}
