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

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::image::directions;
use crate::policy::{AddressSet, NodePolicy};

/// Classes of all addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassSpace {
    /// IPv4 prefixes in address order; the longest that holds an address names its class.
    pub v4: Vec<(Ipv4Net, u32)>,
    /// IPv6 prefixes likewise.
    pub v6: Vec<(Ipv6Net, u32)>,
    /// Number of classes, class 0 included.
    pub classes: u32,
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
    let indices = collect(node);
    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for (set, index) in &indices {
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
    let v4 = walk(v4, &mut numbers);
    let v6 = walk(v6, &mut numbers);
    let space = ClassSpace {
        v4: v4
            .into_iter()
            .filter_map(|(address, length, class)| {
                let net = Ipv4Net::new(((address >> 96) as u32).into(), length).ok()?;
                Some((net, class))
            })
            .collect(),
        v6: v6
            .into_iter()
            .filter_map(|(address, length, class)| {
                Some((Ipv6Net::new(address.into(), length).ok()?, class))
            })
            .collect(),
        classes: numbers.memberships.len() as u32,
    };
    let mut ranges = vec![Vec::new(); indices.len()];
    for (class, membership) in numbers.memberships.iter().enumerate() {
        for set in membership.iter() {
            extend(&mut ranges[*set as usize], class as u32);
        }
    }
    (space, Members { indices, ranges })
}

/// Numbers the distinct sets in the order in which the rules mention them.
fn collect(node: &NodePolicy) -> HashMap<Arc<AddressSet>, usize> {
    let mut indices = HashMap::new();
    // Most rules share their sets: look at each allocation once before comparing contents.
    let mut seen = BTreeMap::new();
    let host = node.host.iter();
    let host = host.flat_map(|host| [&host.inbound, &host.outbound]);
    let ports = node.ports.iter();
    let sets = ports
        .flat_map(|port| {
            let guard = port.guard.as_ref();
            directions(port)
                .map(|(_, policy)| policy)
                .into_iter()
                .chain(guard)
        })
        .chain(host)
        .flat_map(|policy| &policy.rules)
        .flat_map(|rule| [&rule.matches.source, &rule.matches.dest])
        .flatten();
    for set in sets {
        if seen.insert(Arc::as_ptr(set), ()).is_none() {
            let next = indices.len();
            indices.entry(Arc::clone(set)).or_insert(next);
        }
    }
    indices
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
