//! Address sets become classes: numbers that stand for "in exactly these sets".
//!
//! In: every address set that a rule of the node mentions, and the class spaces that are in force. Out: a [`ClassSpace`] (prefix → class, for the LPM
//! tries) and, per set, the classes whose addresses are in it.
//!
//! 1. `walk`: the prefixes of sets, and of the space in force, and in which sets each is to be; where sets were walked before, only what is within the
//!    entries that changed (`difference`). 2. `evolve`: the space in force as it is to be. If that would
//!    cost more than it saves (much changes, much of it says nothing any more, classes are younger than policies can follow), a new space.
//!
//! There are at most as many classes as prefixes, and a set of a million prefixes that nothing else overlaps is one class. Class 0 is "in no set".
//!
//! Big sets (the blacklist, and those of [`BIG_SET`] entries or more) are a space of their own, so that neither a change of another set touches their
//! millions of prefixes, nor do packets that are in none of them. An address's class is then the pair of its small and its big class.
//!
//! Invariant: a function of the sets and the spaces in force. Sets that are in force already change nothing.

mod difference;
mod evolve;
mod half;
mod members;
mod prefilter;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fw_common::maps::classes::{BASE, BLACKLISTED, MAX_DEPTH, SMALL_CLASSES};
use fw_common::verdict::Reason;
use ipnet::{Ipv4Net, Ipv6Net};
use rustc_hash::FxHashMap;

pub(crate) use self::members::{Members, SetClasses};
pub(crate) use self::prefilter::add_bits;

use self::half::{Half, Outcome};
use crate::image::directions;
use crate::policy::{AddressSet, NodePolicy, Policy};

/// Entries from which on a set is a big one: below, its prefixes fit in a core's cache beside those of all other small sets.
const BIG_SET: usize = 4096;

/// Classes of big sets at the most: what a rule says of a small set has to be said once for each. If there were more (large sets that overlap in
/// many ways), only the blacklist is a big set.
const MAX_BIG_CLASSES: u32 = 64;

/// Prefixes of a space that may always be written, or say nothing, before the space is made anew.
const FEW: usize = 64;

/// Classes that may always come to a space of small sets before it is made anew.
const ROOM: u32 = 4096;

/// Prefixes and their values; the longest prefix that holds an address has its value, and 0 stands for none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// IPv4 prefixes.
    pub v4: Vec<(Ipv4Net, u32)>,
    /// IPv6 prefixes.
    pub v6: Vec<(Ipv6Net, u32)>,
}

impl Prefixes {
    /// Whether every address has value 0.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn reversed(mut self) -> Self {
        self.v4.reverse();
        self.v6.reverse();
        self
    }

    /// With the values of `other` where it has a prefix too, and with those that are only there; all in address order.
    fn overwritten(&self, other: &Self) -> Self {
        fn merge<N: walk::Net>(own: &[(N, u32)], other: &[(N, u32)]) -> Vec<(N, u32)> {
            let mut merged = Vec::with_capacity(own.len() + other.len());
            let mut rest = own;
            for (net, value) in other {
                let key = net.key();
                let (before, behind) =
                    rest.split_at(rest.partition_point(|(net, _)| net.key() < key));
                merged.extend_from_slice(before);
                merged.push((*net, *value));
                rest = match behind.split_first() {
                    Some(((same, _), behind)) if same.key() == key => behind,
                    Some(_) | None => behind,
                };
            }
            merged.extend_from_slice(rest);
            merged
        }
        Self {
            v4: merge(&self.v4, &other.v4),
            v6: merge(&self.v6, &other.v6),
        }
    }
}

/// The contents of a class space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// The class of each prefix, with [`BLACKLISTED`] where the blacklist holds it: in address order, shorter before longer.
    pub prefixes: Prefixes,
    /// Classes that the space was begun with, class 0 included. They have no parents.
    pub base: u32,
    /// The parents of the classes behind them, each an older class (see [`fw_common::lineage`]).
    pub parents: Vec<u32>,
}

impl Default for Classes {
    /// Every address is of class 0.
    fn default() -> Self {
        Self {
            prefixes: Prefixes::default(),
            base: 1,
            parents: Vec::new(),
        }
    }
}

impl Classes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Number of classes, class 0 included.
    pub fn count(&self) -> u32 {
        self.base + self.parents.len() as u32
    }

    /// The class that a class's addresses had before; none for those that the space was begun with.
    pub fn parent(&self, class: u32) -> Option<u32> {
        let index = class.checked_sub(self.base)?;
        self.parents.get(index as usize).copied()
    }

    /// What stands for the classes in the space of parents (see [`fw_common::lineage`]), but for what stands there for those of an older state.
    pub fn lineage_since(&self, from: &Self) -> Vec<(u32, u32)> {
        let begun = (from.is_empty() && !self.is_empty()).then_some((BASE, self.base + 1));
        let parents = (self.base..).zip(self.parents.iter().map(|parent| parent + 1));
        let new = parents.skip(from.parents.len());
        begun.into_iter().chain(new).collect()
    }

    /// The lineage from what stands in the space of parents; none if it is not whole.
    pub fn with_lineage(prefixes: Prefixes, entries: &BTreeMap<u32, u32>) -> Option<Self> {
        let base = entries.get(&BASE)?.checked_sub(1)?;
        let classes = Self {
            prefixes,
            base: Some(base).filter(|base| *base <= SMALL_CLASSES)?,
            parents: entries
                .range(..BASE)
                .map(|(_, parent)| parent.checked_sub(1))
                .collect::<Option<_>>()?,
        };
        let numbers = entries.range(..BASE).map(|(class, _)| *class);
        let is_whole = numbers.eq((classes.base..).take(classes.parents.len()));
        (is_whole && classes.is_sound()).then_some(classes)
    }

    /// Whether everything refers to what there is; what is read from maps may not.
    fn is_sound(&self) -> bool {
        let count = self.base.saturating_add(self.parents.len() as u32);
        let v4 = self.prefixes.v4.iter().map(|(_, value)| value);
        let v6 = self.prefixes.v6.iter().map(|(_, value)| value);
        let mut depths: Vec<u32> = Vec::with_capacity(self.parents.len());
        for (class, parent) in (self.base..).zip(&self.parents) {
            if *parent >= class {
                return false;
            }
            let above = parent.checked_sub(self.base);
            let depth = above.map_or(0, |above| depths[above as usize]) + 1;
            if depth > MAX_DEPTH {
                return false;
            }
            depths.push(depth);
        }
        self.base > 0
            && count <= SMALL_CLASSES
            && v4.chain(v6).all(|value| value & !BLACKLISTED < count)
    }

    fn clone_lineage(&self) -> Self {
        Self {
            prefixes: Prefixes::default(),
            base: self.base,
            parents: self.parents.clone(),
        }
    }
}

/// Classes of all addresses of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassSpace {
    /// The small sets.
    pub small: Arc<Classes>,
    /// The big sets.
    pub big: Arc<Classes>,
    /// How each of them, small and big, is reached from what was in force; none: it is as it was, or new.
    pub steps: [Option<Arc<Step>>; 2],
    /// The blacklist holds some address.
    pub has_blacklist: bool,
}

/// How a class space in force becomes another: what is written, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it was.
    pub from: Arc<Classes>,
    /// Prefixes to write once the parents of their classes are, in this order: inner ones before outer ones.
    pub writes: Prefixes,
    /// Prefixes to write when all ports are switched.
    pub later: Prefixes,
}

/// The class spaces in force, as far as new classes can be added to them.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// That of the small sets.
    pub small: Option<Arc<Classes>>,
    /// That of the big sets.
    pub big: Option<Arc<Classes>>,
}

impl Books {
    /// Whether the spaces in force are those of an image.
    pub(super) fn are_of(&self, image: &ClassSpace) -> bool {
        let is_of = |book: &Option<Arc<Classes>>, classes: &Arc<Classes>| match book {
            Some(book) => Arc::ptr_eq(book, classes),
            None => classes.is_empty(),
        };
        is_of(&self.small, &image.small) && is_of(&self.big, &image.big)
    }
}

/// The sets of a node, walked.
pub(super) struct Survey<'n> {
    sets: Sets<'n>,
    halves: [Chosen; 2],
}

/// The small or the big sets of a node.
struct Chosen {
    half: Arc<Half>,
    /// Their numbers among all sets of the node.
    numbers: Vec<u32>,
}

/// The class spaces as they are to be.
pub(super) struct Settlement {
    pub(super) space: ClassSpace,
    pub(super) members: Members,
    /// The halves as they are once the spaces are in force.
    pub(super) settled: Settled,
}

/// The halves, small and big, that were found as they are to be: not to be walked again.
pub(super) type Settled = [Option<Arc<Half>>; 2];

/// What is known only of addresses that move at once.
pub(super) struct Relocation {
    pub(super) settlement: Settlement,
    /// Rules that look at these sets see it.
    pub(super) moved: BTreeSet<u32>,
    /// It is one address.
    pub(super) is_one: bool,
}

impl<'n> Survey<'n> {
    /// Walks all sets of a node.
    pub(super) fn new(node: &'n NodePolicy, books: &Books, settled: &Settled) -> Self {
        let sets = Sets::of(node);
        let is_long = |index: &usize| sets.all[*index].entries.len() >= BIG_SET;
        let long = (0..sets.all.len()).filter(is_long);
        let mut big_sets: BTreeSet<usize> = long.chain(sets.blacklists.iter().copied()).collect();
        let [small_known, big_known] = settled.each_ref().map(Option::as_ref);
        let mut big = sets.half(books.big.as_ref(), big_known, |set| big_sets.contains(&set));
        if big.half.is_too_many() {
            big_sets.clone_from(&sets.blacklists);
            big = sets.half(books.big.as_ref(), big_known, |set| big_sets.contains(&set));
        }
        let small = sets.half(books.small.as_ref(), small_known, |set| {
            !big_sets.contains(&set)
        });
        Self {
            halves: [small, big],
            sets,
        }
    }

    /// The number of a set that the node's rules mention.
    pub(super) fn number(&self, set: &Arc<AddressSet>) -> Option<u32> {
        self.sets.number(set)
    }

    /// The classes, so that no policy in use sees a difference.
    pub(super) fn settle(&self) -> Settlement {
        let [small, big] = &self.halves;
        self.finish(small.half.settle(false), big.half.settle(true))
    }

    /// The classes if addresses move at once between those that there are. None if nothing moves, or not only that.
    pub(super) fn relocate(&self) -> Option<Relocation> {
        let [small, big] = &self.halves;
        let [(small_space, small_moves), (big_space, big_moves)] =
            [small.half.relocate()?, big.half.relocate()?];
        let (chosen, moves) = match (small_moves, big_moves) {
            (Some(moves), None) => (small, moves),
            (None, Some(moves)) => (big, moves),
            // Two tries are not written at once.
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let numbers = moves.sets.iter();
        Some(Relocation {
            moved: numbers.map(|set| chosen.numbers[*set as usize]).collect(),
            is_one: moves.is_one,
            settlement: self.finish(small_space, big_space),
        })
    }

    fn finish(&self, small: Outcome, big: Outcome) -> Settlement {
        let [small_half, big_half] = &self.halves;
        let mut members = Members::new(self.sets.numbers(), self.sets.all.len());
        for (chosen, outcome, is_big) in [(small_half, &small, false), (big_half, &big, true)] {
            let memberships = outcome.half.memberships(&outcome.kept);
            members.enter(&outcome.classes, memberships, &chosen.numbers, is_big);
        }
        let has_blacklist = big.half.is_blacklisted(&big.kept);
        let settled = [&small, &big].map(Outcome::settled);
        let space = ClassSpace {
            has_blacklist,
            small: small.classes,
            big: big.classes,
            steps: [small.step, big.step],
        };
        Settlement {
            space,
            members,
            settled,
        }
    }
}

/// The distinct sets of a node, in the order in which its rules mention them.
struct Sets<'n> {
    all: Vec<&'n Arc<AddressSet>>,
    /// By allocation: most rules share their sets.
    known: FxHashMap<usize, u32>,
    /// Which of them are blacklists.
    blacklists: BTreeSet<usize>,
}

impl<'n> Sets<'n> {
    fn of(node: &'n NodePolicy) -> Self {
        let mut sets = Self {
            all: Vec::new(),
            known: FxHashMap::default(),
            blacklists: BTreeSet::new(),
        };
        let mut by_sample: FxHashMap<_, Vec<u32>> = FxHashMap::default();
        for rule in policies(node).flat_map(|policy| &policy.rules) {
            let matches = &rule.matches;
            for set in [&matches.source, &matches.dest].into_iter().flatten() {
                let all = &mut sets.all;
                let index = *sets
                    .known
                    .entry(Arc::as_ptr(set).addr())
                    .or_insert_with(|| {
                        // Few sets share a sample, so that few are compared.
                        let entries = &set.entries;
                        let sample = (entries.len(), entries.first(), entries.last());
                        let alike = by_sample.entry(sample).or_default();
                        let same = alike.iter().find(|index| all[**index as usize] == set);
                        same.copied().unwrap_or_else(|| {
                            let next = all.len() as u32;
                            all.push(set);
                            alike.push(next);
                            next
                        })
                    });
                if rule.reason == Reason::Blacklist {
                    sets.blacklists.insert(index as usize);
                }
            }
        }
        sets
    }

    fn number(&self, set: &Arc<AddressSet>) -> Option<u32> {
        self.known.get(&Arc::as_ptr(set).addr()).copied()
    }

    fn numbers(&self) -> FxHashMap<usize, u32> {
        self.known.clone()
    }

    /// The sets whose index is `chosen`.
    fn half(
        &self,
        book: Option<&Arc<Classes>>,
        known: Option<&Arc<Half>>,
        chosen: impl Fn(usize) -> bool,
    ) -> Chosen {
        let indices: Vec<usize> = (0..self.all.len()).filter(|index| chosen(*index)).collect();
        let sets = indices.iter().map(|index| {
            let is_blacklist = self.blacklists.contains(index);
            (Arc::clone(self.all[*index]), is_blacklist)
        });
        Chosen {
            half: Half::of(sets.collect(), book, known),
            numbers: indices.iter().map(|index| *index as u32).collect(),
        }
    }
}

/// All policies of a node.
fn policies(node: &NodePolicy) -> impl Iterator<Item = &Policy> {
    let host = node.host.iter();
    let host = host.flat_map(|host| [&host.inbound, &host.outbound]);
    let ports = node.ports.iter().flat_map(|port| {
        let both = directions(port).map(|(_, policy)| policy);
        both.into_iter().chain(&port.guard)
    });
    ports.chain(host)
}
