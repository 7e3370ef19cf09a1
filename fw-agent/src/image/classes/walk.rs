//! Prefixes of sets and of a class space in address order, and what sets each is to be in.
//!
//! In: the entries of some sets, and the prefixes that a class space has already. Out: every prefix of either with its *membership* (the sets that
//! hold its addresses, but for those of longer prefixes), the value that its addresses have in the space until now, and whether it says anything.
//!
//! Prefixes are walked in address order, the innermost last. An entry changes the membership of its addresses from that of the prefix around it: the
//! sets that list it gain or (with `!`) lose them. Lists that are sorted already are merged and not sorted again, and what an entry changes is remembered,
//! so that a million entries cost some nanoseconds each.

use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use crate::policy::SetEntry;

/// A prefix as a number, or two: in address order, shorter before longer.
pub(super) trait Key: Copy + Ord {
    /// Whether the addresses of `inner`, which is not before this, are of this.
    fn contains(self, inner: Self) -> bool;
}

/// A prefix of one of the IP versions.
pub(super) trait Net: Copy {
    type Key: Key;
    /// As a number.
    fn key(self) -> Self::Key;
    /// Of any version, if it is of this.
    fn of(net: IpNet) -> Option<Self>;
    /// One address.
    fn is_host(self) -> bool;
    /// The next larger prefix around this.
    fn around(self) -> Option<Self>;
    /// Those of a set's entries that are of this version.
    fn entries(set: &[SetEntry]) -> &[SetEntry];
}

impl Key for u64 {
    fn contains(self, inner: Self) -> bool {
        (self ^ inner) >> (40 - (self & 0xff)) == 0
    }
}

impl Net for Ipv4Net {
    type Key = u64;

    fn key(self) -> u64 {
        u64::from(u32::from(self.network())) << 8 | u64::from(self.prefix_len())
    }

    fn of(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        }
    }

    fn is_host(self) -> bool {
        self.prefix_len() == 32
    }

    fn around(self) -> Option<Self> {
        self.supernet()
    }

    fn entries(set: &[SetEntry]) -> &[SetEntry] {
        &set[..set.partition_point(|entry| matches!(entry.net, IpNet::V4(_)))]
    }
}

impl Key for (u128, u8) {
    fn contains(self, inner: Self) -> bool {
        self.1 == 0 || (self.0 ^ inner.0) >> (128 - u32::from(self.1)) == 0
    }
}

impl Net for Ipv6Net {
    type Key = (u128, u8);

    fn key(self) -> (u128, u8) {
        (u128::from(self.network()), self.prefix_len())
    }

    fn of(net: IpNet) -> Option<Self> {
        match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net),
        }
    }

    fn is_host(self) -> bool {
        self.prefix_len() == 128
    }

    fn around(self) -> Option<Self> {
        self.supernet()
    }

    fn entries(set: &[SetEntry]) -> &[SetEntry] {
        &set[set.partition_point(|entry| matches!(entry.net, IpNet::V4(_)))..]
    }
}

/// The sets that hold some addresses, ascending.
pub(super) type Membership = Arc<[u32]>;

/// Distinct memberships by number; 0 is "in no set".
#[derive(Clone, Debug)]
pub(super) struct Memberships {
    all: Vec<Membership>,
    known: FxHashMap<Membership, u32>,
    /// What one entry of a set makes of a membership.
    steps: FxHashMap<(u32, u32, bool), u32>,
    last: ((u32, u32, bool), u32),
}

impl Default for Memberships {
    fn default() -> Self {
        let nowhere: Membership = Arc::from([]);
        Self {
            all: vec![Arc::clone(&nowhere)],
            known: FxHashMap::from_iter([(nowhere, 0)]),
            steps: FxHashMap::default(),
            last: ((0, u32::MAX, true), 0),
        }
    }
}

impl Memberships {
    /// The sets of a membership.
    pub(super) fn sets(&self, membership: u32) -> &[u32] {
        &self.all[membership as usize]
    }

    /// All of them, by number.
    pub(super) fn all(&self) -> impl Iterator<Item = &[u32]> {
        self.all.iter().map(|sets| &**sets)
    }

    fn number(&mut self, sets: Vec<u32>) -> u32 {
        if let Some(number) = self.known.get(sets.as_slice()) {
            return *number;
        }
        let number = self.all.len() as u32;
        let sets: Membership = sets.into();
        self.all.push(Arc::clone(&sets));
        self.known.insert(sets, number);
        number
    }

    /// The membership of a prefix that these entries list, within that of the prefix around it.
    fn within<K>(&mut self, outer: u32, entries: &[Entry<K>]) -> u32 {
        match entries {
            [] => outer,
            [entry] => {
                let step = (outer, entry.set, entry.nomatch);
                if self.last.0 == step {
                    return self.last.1;
                }
                let number = match self.steps.get(&step) {
                    Some(number) => *number,
                    None => {
                        let number = self.changed(outer, entries);
                        self.steps.insert(step, number);
                        number
                    }
                };
                self.last = (step, number);
                number
            }
            _ => self.changed(outer, entries),
        }
    }

    fn changed<K>(&mut self, outer: u32, entries: &[Entry<K>]) -> u32 {
        let mut sets = self.sets(outer).to_vec();
        for entry in entries {
            match (sets.binary_search(&entry.set), entry.nomatch) {
                (Ok(position), true) => {
                    sets.remove(position);
                }
                (Err(position), false) => sets.insert(position, entry.set),
                (Ok(_), false) | (Err(_), true) => {}
            }
        }
        self.number(sets)
    }
}

/// One prefix of one set.
#[derive(Clone, Copy)]
struct Entry<K> {
    key: K,
    set: u32,
    nomatch: bool,
}

/// What the walk found of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<N> {
    pub(super) net: N,
    /// The sets that its addresses are to be in.
    pub(super) membership: u32,
    /// The value that its addresses have until now: its own in the space, or that of the prefix around it there.
    pub(super) old: u32,
    /// The space has it.
    pub(super) is_there: bool,
    /// Its addresses are to be in other sets than those around it.
    pub(super) says_something: bool,
}

/// What is around everything that is walked: a prefix with its membership and its value in the space.
pub(super) type Around<N> = Option<(<N as Net>::Key, u32, u32)>;

/// Walks the prefixes of sets, given with their numbers, and of a class space. Left out are those of sets that the space does not have, and that say nothing.
pub(super) fn walk<N: Net>(
    sets: &[(u32, &[SetEntry])],
    space: &[(N, u32)],
    around: Around<N>,
    memberships: &mut Memberships,
) -> Vec<Found<N>> {
    let entries = entries::<N>(sets);
    let mut found = Vec::with_capacity(space.len().max(entries.len()));
    let mut around: Vec<(N::Key, u32, u32)> = around.into_iter().collect();
    let (mut entries, mut space) = (entries.as_slice(), space);
    loop {
        let listed = entries.first().map(|(_, entry)| entry.key);
        let there = space.first().map(|(net, _)| net.key());
        let key = match (listed, there) {
            (Some(listed), Some(there)) => listed.min(there),
            (Some(key), None) | (None, Some(key)) => key,
            (None, None) => return found,
        };
        while around
            .last()
            .is_some_and(|(outer, ..)| !outer.contains(key))
        {
            around.pop();
        }
        let (outer, outer_value) = around
            .last()
            .map_or((0, 0), |(_, outer, old)| (*outer, *old));
        let mut net = None;
        let mut membership = outer;
        if listed == Some(key) {
            let same = entries.iter().take_while(|(_, entry)| entry.key == key);
            let (same, rest) = entries.split_at(same.count());
            net = same.first().map(|(net, _)| *net);
            membership = match same {
                [(_, entry)] => memberships.within(outer, &[*entry]),
                _ => {
                    let same: Vec<Entry<N::Key>> = same.iter().map(|(_, entry)| *entry).collect();
                    memberships.within(outer, &same)
                }
            };
            entries = rest;
        }
        let mut own = None;
        if there == Some(key)
            && let [(there, value), rest @ ..] = space
        {
            net = Some(*there);
            own = Some(*value);
            space = rest;
        }
        let Some(net) = net else {
            continue;
        };
        let says_something = membership != outer;
        if own.is_none() && !says_something {
            continue;
        }
        let old = own.unwrap_or(outer_value);
        found.push(Found {
            net,
            membership,
            old,
            is_there: own.is_some(),
            says_something,
        });
        if !net.is_host() {
            around.push((key, membership, old));
        }
    }
}

/// The entries of sets that are of one IP version, in address order.
fn entries<N: Net>(sets: &[(u32, &[SetEntry])]) -> Vec<(N, Entry<N::Key>)> {
    let mut entries = Vec::with_capacity(sets.iter().map(|(_, set)| set.len()).sum());
    for (number, set) in sets {
        entries.extend(set.iter().filter_map(|entry| {
            let net = N::of(entry.net)?;
            let key = net.key();
            Some((
                net,
                Entry {
                    key,
                    set: *number,
                    nomatch: entry.nomatch,
                },
            ))
        }));
    }
    // Stable sorting finds the lists that are sorted already and merges them. Sets come in the order of their numbers.
    entries.sort_by_key(|(_, entry)| entry.key);
    entries
}
