//! Sets of which few entries differ from those that a class space is made of: only what is within these entries is walked.
//!
//! In: a [`Half`] that is as it is to be, and its sets as they are now. Out: the half as walking everything would find it, or none if that is better.
//!
//! 1. Old and new entries are compared in order. 2. The outermost prefixes that differ are windows on the address space: nothing outside of them can
//!    come to another membership. What is around a window says the prefixes of the space, for each of them has the membership of its class.
//! 3. The windows are walked. 4. The membership that each class keeps follows from the numbers of its prefixes; if a class with prefixes outside of
//!    the windows were to keep another, everything is walked.
//!
//! Invariant: what comes of the windows is what comes of walking everything.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use fw_common::maps::classes::BLACKLISTED;
use ipnet::IpNet;

use super::FEW;
use super::evolve::Walked;
use super::half::{Book, Half, OwnedSets, are_too_many, counts, flags};
use super::walk::{Around, Found, Key, Memberships, Net, walk};
use crate::policy::SetEntry;

/// Prefixes, and sets looked at, from which on everything is walked as fast.
const MANY: usize = 1 << 16;

/// The walk of the windows of one IP version.
struct Windows<N> {
    now: Vec<Found<N>>,
    /// Prefixes of the space that said nothing.
    idle: usize,
}

impl Half {
    /// The half with other contents of its sets.
    pub(super) fn changed(&self, sets: &OwnedSets) -> Option<Self> {
        let book = self.book.as_ref().filter(|book| book.is_settled)?;
        let edits = differences(&self.sets, sets)?;
        if edits.len().saturating_mul(sets.len()) > MANY {
            return None;
        }
        let mut memberships = Memberships::clone(&self.walked.memberships);
        let prefixes = &book.classes.prefixes;
        let of = [&self.sets, sets];
        let v4 = windows(&edits, of, &prefixes.v4, &book.kept, &mut memberships)?;
        let v6 = windows(&edits, of, &prefixes.v6, &book.kept, &mut memberships)?;
        let walked = Walked {
            v4: v4.now,
            v6: v6.now,
            flagged: flags(sets, &memberships),
            memberships: Arc::new(memberships),
            idle_elsewhere: Some(book.idle.checked_sub(v4.idle + v6.idle)?),
        };

        let within = walked.counts();
        let mut outside = counts(&book.classes);
        for ((class, _), count) in &within {
            let outside = &mut outside[*class as usize];
            *outside = outside.checked_sub(*count)?;
        }
        let mut all: BTreeMap<(u32, u32), usize> = within;
        for (class, count) in outside.iter().enumerate() {
            *all.entry((class as u32, book.kept[class])).or_default() += count;
        }
        let kept = walked.most(&book.classes, all);
        let mut elsewhere = outside.iter().zip(book.kept.iter().zip(&kept));
        if elsewhere.any(|(count, (before, now))| *count > 0 && before != now) {
            return None;
        }

        let elsewhere = outside.iter().zip(&kept).filter(|(count, _)| **count > 0);
        let elsewhere = elsewhere.map(|(_, membership)| *membership);
        let mut half = Self {
            sets: sets.clone(),
            is_idle: walked.is_idle() && elsewhere.clone().all(|membership| membership == 0),
            is_too_many: are_too_many(elsewhere.chain(walked.said())),
            book: Some(Book {
                classes: Arc::clone(&book.classes),
                is_settled: walked.is_settled(&kept),
                kept,
                idle: walked.idle(),
            }),
            walked,
        };
        half.forget();
        Some(half)
    }
}

/// The networks whose entries differ, in order; none if there are others than contents that differ, or too many.
fn differences(old: &OwnedSets, new: &OwnedSets) -> Option<Vec<IpNet>> {
    if old.len() != new.len() {
        return None;
    }
    let mut found = Vec::new();
    for ((old, was_blacklist), (new, is_blacklist)) in old.iter().zip(new) {
        if was_blacklist != is_blacklist {
            return None;
        }
        if !Arc::ptr_eq(old, new) {
            compare(&old.entries, &new.entries, &mut found)?;
        }
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

fn compare(mut old: &[SetEntry], mut new: &[SetEntry], found: &mut Vec<IpNet>) -> Option<()> {
    loop {
        let pairs = old.iter().zip(new);
        let same = pairs.take_while(|(old, new)| old == new).count();
        (old, new) = (&old[same..], &new[same..]);
        let order = match (old.first(), new.first()) {
            (None, None) => return Some(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.net.cmp(&new.net),
        };
        if found.len() == FEW {
            return None;
        }
        let side = match order {
            Ordering::Less | Ordering::Equal => old,
            Ordering::Greater => new,
        };
        found.extend(side.first().map(|entry| entry.net));
        if order != Ordering::Greater {
            old = &old[1..];
        }
        if order != Ordering::Less {
            new = &new[1..];
        }
    }
}

/// Walks what is within the edited networks; none if that is much.
fn windows<N: Net>(
    edits: &[IpNet],
    [before, now]: [&OwnedSets; 2],
    space: &[(N, u32)],
    kept: &[u32],
    memberships: &mut Memberships,
) -> Option<Windows<N>> {
    let mut found = Windows {
        now: Vec::new(),
        idle: 0,
    };
    let mut size = 0;
    let mut last: Option<N> = None;
    for window in edits.iter().filter_map(|net| N::of(*net)) {
        if last.is_some_and(|last| last.key().contains(window.key())) {
            continue;
        }
        last = Some(window);
        let there = within(space, window, |(net, _)| Some(*net));
        let [before, now] = [before, now].map(|sets| listed(sets, window));
        let entries = before.iter().chain(&now).map(|(_, entries)| entries.len());
        size += there.len() + entries.sum::<usize>();
        if size > MANY {
            return None;
        }
        let around = around(space, window, kept);
        let before = walk(&before, there, around, memberships);
        let idle = before
            .iter()
            .filter(|found| found.is_there && !found.says_something);
        found.idle += idle.count();
        found.now.extend(walk(&now, there, around, memberships));
    }
    Some(found)
}

/// What is around a network in the space.
fn around<N: Net>(space: &[(N, u32)], window: N, kept: &[u32]) -> Around<N> {
    let mut outer = std::iter::successors(window.around(), |net| net.around());
    outer.find_map(|net| {
        let key = net.key();
        let place = space
            .binary_search_by_key(&key, |(net, _)| net.key())
            .ok()?;
        let (_, value) = space.get(place)?;
        Some((key, kept[(value & !BLACKLISTED) as usize], *value))
    })
}

/// The entries of sets that are within a network, with the sets' numbers.
fn listed<N: Net>(sets: &OwnedSets, window: N) -> Vec<(u32, &[SetEntry])> {
    let all = (0..).zip(sets).map(|(number, (set, _))| {
        let entries = within(N::entries(&set.entries), window, |entry| N::of(entry.net));
        (number, entries)
    });
    all.filter(|(_, entries)| !entries.is_empty()).collect()
}

/// Those of ordered networks that are within one: they follow each other.
fn within<T, N: Net>(all: &[T], window: N, net: impl Fn(&T) -> Option<N>) -> &[T] {
    let key = window.key();
    let is_before = |item: &T| net(item).is_some_and(|net| net.key() < key);
    let all = &all[all.partition_point(is_before)..];
    let is_within = |item: &T| net(item).is_some_and(|net| key.contains(net.key()));
    &all[..all.partition_point(is_within)]
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;
    use crate::image::Classes;
    use crate::image::classes::Step;
    use crate::image::classes::half::Outcome;
    use crate::policy::AddressSet;

    const NETS: [&str; 14] = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/30",
        "10.0.0.0/31",
        "10.0.0.0/32",
        "10.0.0.1/32",
        "10.0.0.2/32",
        "10.1.0.0/16",
        "192.0.2.1/32",
        "::/0",
        "fd00::/8",
        "fd00::/127",
        "fd00::1/128",
        "fd00::2/128",
    ];

    type Contents = BTreeMap<IpNet, bool>;

    fn net() -> impl Strategy<Value = IpNet> {
        select(&NETS[..]).prop_map(|net| net.parse().unwrap())
    }

    fn contents() -> impl Strategy<Value = Contents> {
        btree_map(net(), proptest::bool::weighted(0.25), 0..8)
    }

    fn owned(sets: &[Contents], blacklist: bool) -> OwnedSets {
        let sets = sets.iter().enumerate().map(|(number, set)| {
            let entries = set.iter().map(|(net, nomatch)| SetEntry {
                net: *net,
                nomatch: *nomatch,
            });
            let set = AddressSet {
                entries: entries.collect(),
            };
            (Arc::new(set), blacklist && number == 0)
        });
        sets.collect()
    }

    /// What others see of an outcome.
    type Seen = (Arc<Classes>, Option<Arc<Step>>, Vec<(Vec<u32>, bool)>);

    fn seen(outcome: &Outcome) -> Seen {
        let sets = outcome.half.memberships(&outcome.kept);
        let flags = outcome.kept.iter();
        let flags = flags.map(|number| outcome.half.is_blacklisted(&[*number]));
        (
            Arc::clone(&outcome.classes),
            outcome.step.clone(),
            sets.map(<[u32]>::to_vec).zip(flags).collect(),
        )
    }

    proptest! {
        #[test]
        fn a_difference_means_what_walking_everything_means(
            mut sets in vec(contents(), 1..4),
            edits in vec(
                (vec((any::<Index>(), net(), proptest::option::of(any::<bool>())), 0..3), any::<bool>()),
                1..10,
            ),
            is_big in any::<bool>(),
        ) {
            let mut known: Option<Arc<Half>> = None;
            let mut book: Option<Arc<Classes>> = None;
            for (edits, moves) in edits {
                let now = owned(&sets, is_big);
                let half = Half::of(now.clone(), book.as_ref(), known.as_ref());
                let whole = Half::of(now, book.as_ref(), None);
                prop_assert_eq!(half.is_idle, whole.is_idle);
                prop_assert_eq!(half.is_too_many, whole.is_too_many);
                let settled = half.settle(is_big);
                prop_assert_eq!(seen(&settled), seen(&whole.settle(is_big)));
                let (moved, expect) = (half.relocate(), whole.relocate());
                prop_assert_eq!(moved.is_some(), expect.is_some());
                let mut next = settled;
                if let (Some((moved, moves_of)), Some((expect, expect_of))) = (moved, expect) {
                    prop_assert_eq!(seen(&moved), seen(&expect));
                    let of = |moves: super::super::half::Moves| (moves.sets, moves.is_one);
                    prop_assert_eq!(moves_of.map(of), expect_of.map(of));
                    if moves {
                        next = moved;
                    }
                }
                known = next.settled();
                book = Some(Arc::clone(&next.classes));
                for (set, net, entry) in edits {
                    let at = set.index(sets.len());
                    match entry {
                        Some(nomatch) => sets[at].insert(net, nomatch),
                        None => sets[at].remove(&net),
                    };
                }
            }
        }
    }

    #[test]
    fn only_what_is_within_the_edits_is_walked() {
        let mut contents: Contents = (0..5000_u32)
            .map(|number| {
                (
                    IpNet::V4(std::net::Ipv4Addr::from(number << 8).into()),
                    false,
                )
            })
            .collect();
        let first = Half::of(owned(std::slice::from_ref(&contents), true), None, None).settle(true);
        let known = first.settled().unwrap();
        contents.insert("198.51.100.7/32".parse().unwrap(), false);
        let sets = owned(std::slice::from_ref(&contents), true);
        let changed = known.changed(&sets).unwrap();
        assert_eq!(changed.walked.v4.len(), 1);
        let (outcome, moves) = Arc::new(changed).relocate().unwrap();
        assert!(moves.unwrap().is_one);
        assert_eq!(outcome.classes.prefixes.len(), 5001);
        // One of each of many addresses is too much.
        let others = contents.keys().copied().step_by(50).map(|net| (net, false));
        assert!(known.changed(&owned(&[others.collect()], true)).is_none());
    }
}
