//! From the classes that a space has to those that it needs.
//!
//! In: what the walk found of each prefix. Out: the space as it is to be, what has to be written for that, and the sets that each class is in.
//!
//! - [`begin`]: all classes anew. Each distinct membership is one class, numbered as they first appear: addresses inside a prefix have (mostly) consecutive
//!   classes, and the intervals of a policy stay few however many other sets subdivide the prefix.
//! - [`refine`]: prefixes keep their class as long as all prefixes of it are to be in the same sets; where they are not, the most keep it, and the others get new
//!   classes whose parent it is. A new prefix gets a new class whose parent is that of the prefix around it. No policy that is in use sees any of it.
//! - [`relocate`]: addresses move between classes that there are. It is seen at once.
//!
//! Nothing is removed from a space: a prefix that says nothing any more has the same sets as the one around it.
//!
//! Invariant: all prefixes of a class are in the same sets, and class 0 is in none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fw_common::maps::classes::{BLACKLISTED, MAX_DEPTH};
use ipnet::{Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

use super::walk::{Found, Memberships, Net};
use super::{Classes, Prefixes};

/// What the walk found: of every prefix, or only of those whose sets may be others than before.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub(super) v4: Vec<Found<Ipv4Net>>,
    pub(super) v6: Vec<Found<Ipv6Net>>,
    pub(super) memberships: Arc<Memberships>,
    /// By membership, whether a blacklist is among its sets.
    pub(super) flagged: Vec<bool>,
    /// Only a part of the prefixes was walked. The others stay as they are, and so many of them say nothing.
    pub(super) idle_elsewhere: Option<usize>,
}

/// A space as it is to be.
pub(super) struct Evolved {
    pub(super) classes: Classes,
    /// The membership of each class.
    pub(super) memberships: Vec<u32>,
    /// Prefixes whose value is another than before, inner ones before outer ones.
    pub(super) writes: Prefixes,
    /// Those of them that are to be marked as blacklisted only when no policy in use is older.
    pub(super) later: Prefixes,
    /// Prefixes that say nothing.
    pub(super) idle: usize,
    /// Sets that addresses have come to or left.
    pub(super) moved: BTreeSet<u32>,
}

impl Evolved {
    /// Prefixes that are written.
    pub(super) fn edits(&self) -> usize {
        self.writes.len()
    }

    /// Whether policies find the ancestor of every class.
    pub(super) fn is_shallow(&self) -> bool {
        let classes = &self.classes;
        (classes.base..classes.count()).all(|class| {
            let ancestors = std::iter::successors(Some(class), |class| classes.parent(*class));
            ancestors.count() <= MAX_DEPTH as usize + 1
        })
    }
}

/// All classes anew.
pub(super) fn begin(walked: &Walked) -> Evolved {
    let mut numbers = Numbers::new();
    let v4 = numbers.anew(walked, &walked.v4);
    let v6 = numbers.anew(walked, &walked.v6);
    Evolved {
        classes: Classes {
            prefixes: Prefixes { v4, v6 },
            base: numbers.memberships.len() as u32,
            parents: Vec::new(),
        },
        memberships: numbers.memberships,
        writes: Prefixes::default(),
        later: Prefixes::default(),
        idle: 0,
        moved: BTreeSet::new(),
    }
}

struct Numbers {
    memberships: Vec<u32>,
    known: FxHashMap<u32, u32>,
    last: (u32, u32),
}

impl Numbers {
    fn new() -> Self {
        Self {
            memberships: vec![0],
            known: FxHashMap::from_iter([(0, 0)]),
            last: (0, 0),
        }
    }

    fn anew<N: Net>(&mut self, walked: &Walked, found: &[Found<N>]) -> Vec<(N, u32)> {
        let found = found.iter().filter(|found| found.says_something);
        let values = found.map(|found| {
            let class = self.of(found.membership);
            (found.net, walked.value(class, found.membership))
        });
        values.collect()
    }

    fn of(&mut self, membership: u32) -> u32 {
        if self.last.0 != membership {
            let next = self.memberships.len() as u32;
            let class = *self.known.entry(membership).or_insert(next);
            if class == next {
                self.memberships.push(membership);
            }
            self.last = (membership, class);
        }
        self.last.1
    }
}

/// Addresses that have to be told apart get new classes.
pub(super) fn refine(walked: &Walked, book: &Classes, kept: &[u32]) -> Evolved {
    let mut fresh: FxHashMap<(u32, u32), u32> = FxHashMap::default();
    let mut classes = Classes {
        prefixes: Prefixes::default(),
        ..book.clone_lineage()
    };
    let mut memberships = kept.to_vec();
    let mut last = ((0, 0), 0);
    let assign = |parent: u32, membership: u32| {
        if last.0 != (parent, membership) {
            let class = *fresh.entry((parent, membership)).or_insert_with(|| {
                classes.parents.push(parent);
                memberships.push(membership);
                memberships.len() as u32 - 1
            });
            last = ((parent, membership), class);
        }
        Some(last.1)
    };
    let mut assigned = Assigned::default();
    let complete = assigned.all(walked, book, kept, assign);
    debug_assert!(complete, "there is a class for everything");
    classes.prefixes = assigned.prefixes;
    Evolved {
        classes,
        memberships,
        writes: assigned.writes.reversed(),
        later: assigned.later.reversed(),
        idle: assigned.idle,
        moved: BTreeSet::new(),
    }
}

/// Addresses move to classes that there are; none if one of them finds none.
pub(super) fn relocate(walked: &Walked, book: &Classes, kept: &[u32]) -> Option<Evolved> {
    let mut by_membership = FxHashMap::default();
    for (class, membership) in kept.iter().enumerate() {
        by_membership.entry(*membership).or_insert(class as u32);
    }
    let mut moves = BTreeSet::new();
    let assign = |from: u32, membership: u32| {
        moves.insert((kept[from as usize], membership));
        by_membership.get(&membership).copied()
    };
    let mut assigned = Assigned::default();
    if !assigned.all(walked, book, kept, assign) {
        return None;
    }
    let mut moved = BTreeSet::new();
    for (from, to) in moves {
        let [from, to] = [from, to].map(|membership| {
            let sets = walked.memberships.sets(membership).iter();
            sets.copied().collect::<BTreeSet<u32>>()
        });
        moved.extend(from.symmetric_difference(&to));
    }
    let writes = assigned.writes.overwritten(&assigned.later);
    Some(Evolved {
        classes: Classes {
            prefixes: assigned.prefixes,
            ..book.clone_lineage()
        },
        memberships: kept.to_vec(),
        writes: writes.reversed(),
        later: Prefixes::default(),
        idle: assigned.idle,
        moved,
    })
}

impl Walked {
    /// What a class is in the trie.
    fn value(&self, class: u32, membership: u32) -> u32 {
        match self.flagged[membership as usize] {
            true => class | BLACKLISTED,
            false => class,
        }
    }

    /// Every prefix of the space has the value that it is to have, and none is missing.
    pub(super) fn is_settled(&self, kept: &[u32]) -> bool {
        let settled = |is_there: bool, old: u32, membership: u32| {
            let class = old & !BLACKLISTED;
            is_there && kept[class as usize] == membership && self.value(class, membership) == old
        };
        let mut v4 = self.v4.iter();
        let mut v6 = self.v6.iter();
        v4.all(|found| settled(found.is_there, found.old, found.membership))
            && v6.all(|found| settled(found.is_there, found.old, found.membership))
    }

    /// The memberships of prefixes that say something.
    pub(super) fn said(&self) -> impl Iterator<Item = u32> {
        let v4 = self.v4.iter();
        let v6 = self.v6.iter();
        let v4 = v4.map(|found| (found.says_something, found.membership));
        let v6 = v6.map(|found| (found.says_something, found.membership));
        let said = v4.chain(v6).filter(|(says_something, _)| *says_something);
        said.map(|(_, membership)| membership)
    }

    /// How many prefixes of the space say nothing.
    pub(super) fn idle(&self) -> usize {
        let v4 = self.v4.iter().filter(|found| !found.says_something);
        let v6 = self.v6.iter().filter(|found| !found.says_something);
        v4.count() + v6.count() + self.idle_elsewhere.unwrap_or(0)
    }

    /// No set has anything.
    pub(super) fn is_idle(&self) -> bool {
        !self.v4.iter().any(|found| found.says_something)
            && !self.v6.iter().any(|found| found.says_something)
    }

    /// The membership that each class of a space keeps: that of the most of its prefixes.
    pub(super) fn kept(&self, book: &Classes) -> Vec<u32> {
        self.most(book, self.counts())
    }

    /// How many prefixes of the space that were walked have each class and are to have each membership.
    pub(super) fn counts(&self) -> BTreeMap<(u32, u32), usize> {
        let mut counts: BTreeMap<(u32, u32), usize> = BTreeMap::new();
        let mut run = ((0, 0), 0);
        let v4 = self
            .v4
            .iter()
            .map(|found| (found.is_there, found.old, found.membership));
        let v6 = self
            .v6
            .iter()
            .map(|found| (found.is_there, found.old, found.membership));
        for (_, old, membership) in v4.chain(v6).filter(|(is_there, ..)| *is_there) {
            let pair = (old & !BLACKLISTED, membership);
            if run.0 != pair {
                *counts.entry(run.0).or_default() += run.1;
                run = (pair, 0);
            }
            run.1 += 1;
        }
        *counts.entry(run.0).or_default() += run.1;
        counts
    }

    /// The membership that each class of a space keeps, by the numbers of prefixes that have the class and are to have the membership.
    pub(super) fn most(
        &self,
        book: &Classes,
        counts: impl IntoIterator<Item = ((u32, u32), usize)>,
    ) -> Vec<u32> {
        let mut most: Vec<Option<(usize, u32)>> = vec![None; book.count() as usize];
        for ((class, membership), count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let most = &mut most[class as usize];
            // Of as many that of the later sets: "in no set" is the first.
            let rank = |count: usize, membership| (count, self.memberships.sets(membership));
            if most.is_none_or(|(most, known)| rank(most, known) <= rank(count, membership)) {
                *most = Some((count, membership));
            }
        }
        // All that is in no prefix is of class 0.
        most[0] = Some((0, 0));
        let mut kept = Vec::with_capacity(most.len());
        for (class, most) in most.into_iter().enumerate() {
            let parent = book.parent(class as u32);
            let inherited = parent.map_or(0, |parent| kept[parent as usize]);
            kept.push(most.map_or(inherited, |(_, membership)| membership));
        }
        kept
    }
}

/// Prefixes with their new values.
#[derive(Default)]
struct Assigned {
    prefixes: Prefixes,
    writes: Prefixes,
    later: Prefixes,
    idle: usize,
}

impl Assigned {
    /// Gives every prefix its value; `assign` answers the class for addresses that had another and are to have this membership. False: there is none.
    fn all(
        &mut self,
        walked: &Walked,
        book: &Classes,
        kept: &[u32],
        mut assign: impl FnMut(u32, u32) -> Option<u32>,
    ) -> bool {
        let (mut v4, mut v6) = (Lists::new(walked.v4.len()), Lists::new(walked.v6.len()));
        let complete = v4.fill(walked, &walked.v4, kept, &mut assign)
            && v6.fill(walked, &walked.v6, kept, &mut assign);
        self.idle = v4.idle + v6.idle + walked.idle_elsewhere.unwrap_or(0);
        self.prefixes = Prefixes {
            v4: v4.prefixes,
            v6: v6.prefixes,
        };
        if walked.idle_elsewhere.is_some() {
            self.prefixes = book.prefixes.overwritten(&self.prefixes);
        }
        self.writes = Prefixes {
            v4: v4.writes,
            v6: v6.writes,
        };
        self.later = Prefixes {
            v4: v4.later,
            v6: v6.later,
        };
        complete
    }
}

struct Lists<N> {
    prefixes: Vec<(N, u32)>,
    writes: Vec<(N, u32)>,
    later: Vec<(N, u32)>,
    idle: usize,
}

impl<N: Net> Lists<N> {
    fn new(count: usize) -> Self {
        Self {
            prefixes: Vec::with_capacity(count),
            writes: Vec::new(),
            later: Vec::new(),
            idle: 0,
        }
    }

    fn fill(
        &mut self,
        walked: &Walked,
        found: &[Found<N>],
        kept: &[u32],
        assign: &mut impl FnMut(u32, u32) -> Option<u32>,
    ) -> bool {
        for found in found {
            let old = found.old & !BLACKLISTED;
            let membership = found.membership;
            let class = match found.is_there && kept[old as usize] == membership {
                true => Some(old),
                false => assign(old, membership),
            };
            let Some(class) = class else {
                return false;
            };
            let value = walked.value(class, membership);
            self.prefixes.push((found.net, value));
            self.idle += usize::from(!found.says_something);
            if found.is_there && value == found.old {
                continue;
            }
            // Who is blacklisted now is so only when the policies know.
            let first = value & (found.old | !BLACKLISTED);
            if !found.is_there || first != found.old {
                self.writes.push((found.net, first));
            }
            if first != value {
                self.later.push((found.net, value));
            }
        }
        true
    }
}
