//! Address sets become classes: numbers that stand for "in exactly these sets".
//!
//! In: every address set that a rule of the node mentions, and the class spaces that are in force. Out: a [`ClassSpace`] (prefix → class, for the LPM
//! tries) and, per set, the classes whose addresses are in it.
//!
//! 1. `walk`: the prefixes of sets, and of the space in force, and in which sets each is to be. 2. `evolve`: the space in force as it is to be. If that would
//!    cost more than it saves (much changes, much of it says nothing any more, classes are younger than policies can follow), a new space.
//!
//! There are at most as many classes as prefixes, and a set of a million prefixes that nothing else overlaps is one class. Class 0 is "in no set".
//!
//! Big sets (the blacklist, and those of [`BIG_SET`] entries or more) are a space of their own, so that neither a change of another set touches their
//! millions of prefixes, nor do packets that are in none of them. An address's class is then the pair of its small and its big class.
//!
//! Invariant: a function of the sets and the spaces in force. Sets that are in force already change nothing.

mod evolve;
mod members;
mod prefilter;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fw_common::maps::classes::{BASE, BLACKLISTED, MAX_DEPTH, SMALL_CLASSES};
use fw_common::verdict::Reason;
use ipnet::{Ipv4Net, Ipv6Net};

pub(crate) use self::members::{Members, SetClasses};
pub(crate) use self::prefilter::add_bits;

use self::evolve::{Evolved, Walked};
use self::walk::{Memberships, walk};
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

    /// Gives prefixes the values that they have in `other`, and takes over those of `other` that are not here; both in address order.
    fn overwrite(&mut self, other: &Self) {
        fn merge<N: walk::Net>(own: &mut Vec<(N, u32)>, other: &[(N, u32)]) {
            for (net, value) in other {
                match own.binary_search_by_key(&net.key(), |(net, _)| net.key()) {
                    Ok(position) => own[position].1 = *value,
                    Err(position) => own.insert(position, (*net, *value)),
                }
            }
        }
        merge(&mut self.v4, &other.v4);
        merge(&mut self.v6, &other.v6);
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

/// The sets of a node, walked.
pub(super) struct Survey<'n> {
    sets: Sets<'n>,
    halves: [Arc<Half>; 2],
}

/// The small or the big sets of a node.
#[derive(Debug)]
pub(super) struct Half {
    /// The sets with their numbers, and whether they are blacklists.
    sets: Vec<(u32, Arc<AddressSet>, bool)>,
    book: Option<Book>,
    walked: Walked,
    /// No set has anything.
    is_idle: bool,
    /// Big sets overlap in too many ways.
    is_too_many: bool,
}

/// The halves, small and big, that were found as they are to be: not to be walked again.
pub(super) type Settled = [Option<Arc<Half>>; 2];

/// The space of a half that is in force.
#[derive(Debug)]
struct Book {
    classes: Arc<Classes>,
    /// The membership that each class keeps.
    kept: Vec<u32>,
    /// Nothing of it is to be otherwise.
    is_settled: bool,
}

/// What came of a half.
struct Outcome {
    classes: Arc<Classes>,
    step: Option<Arc<Step>>,
    memberships: Vec<u32>,
}

/// What is known only of addresses that move at once.
pub(super) struct Relocation {
    pub(super) space: ClassSpace,
    pub(super) members: Members,
    /// Rules that look at these sets see it.
    pub(super) moved: BTreeSet<u32>,
    /// It is one address.
    pub(super) is_one: bool,
}

impl<'n> Survey<'n> {
    /// Walks all sets of a node.
    pub(super) fn new(node: &'n NodePolicy, books: &Books, settled: &mut Settled) -> Self {
        let sets = Sets::of(node);
        let is_long = |index: &usize| sets.all[*index].entries.len() >= BIG_SET;
        let long = (0..sets.all.len()).filter(is_long);
        let mut big_sets: BTreeSet<usize> = long.chain(sets.blacklists.iter().copied()).collect();
        let [small_known, big_known] = settled.each_mut();
        let mut big = sets.half(books.big.as_ref(), big_known, |set| big_sets.contains(&set));
        if big.is_too_many {
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
    pub(super) fn settle(&self) -> (ClassSpace, Members) {
        let [small, big] = &self.halves;
        self.finish(small.settle(false), big.settle(true))
    }

    /// The classes if addresses move at once between those that there are. None if nothing moves, or not only that.
    pub(super) fn relocate(&self) -> Option<Relocation> {
        let [small, big] = &self.halves;
        let outcomes = [small.relocate()?, big.relocate()?];
        let [(small, small_moves), (big, big_moves)] = outcomes;
        let (moved, is_one) = match (small_moves, big_moves) {
            (Some(moves), None) | (None, Some(moves)) => moves,
            // Two tries are not written at once.
            (Some(_), Some(_)) | (None, None) => return None,
        };
        let (space, members) = self.finish(small, big);
        Some(Relocation {
            space,
            members,
            moved,
            is_one,
        })
    }

    fn finish(&self, small: Outcome, big: Outcome) -> (ClassSpace, Members) {
        let [small_half, big_half] = &self.halves;
        let has_blacklist = big
            .memberships
            .iter()
            .any(|membership| big_half.walked.flagged[*membership as usize]);
        let mut members = Members::new(self.sets.numbers(), self.sets.all.len());
        for (half, outcome, is_big) in [(small_half, &small, false), (big_half, &big, true)] {
            let memberships = outcome.memberships.iter();
            let memberships = memberships.map(|number| half.walked.memberships.sets(*number));
            members.enter(&outcome.classes, memberships, is_big);
        }
        let space = ClassSpace {
            has_blacklist,
            small: small.classes,
            big: big.classes,
            steps: [small.step, big.step],
        };
        (space, members)
    }
}

impl Half {
    /// Big sets overlap in too many ways.
    fn is_too_many(walked: &Walked) -> bool {
        let v4 = walked
            .v4
            .iter()
            .map(|found| (found.says_something, found.membership));
        let v6 = walked
            .v6
            .iter()
            .map(|found| (found.says_something, found.membership));
        let said = v4.chain(v6).filter(|(says_something, _)| *says_something);
        let mut distinct = BTreeSet::from([0]);
        let mut last = 0;
        for (_, membership) in said {
            if membership != last {
                distinct.insert(membership);
                last = membership;
            }
        }
        distinct.len() > MAX_BIG_CLASSES as usize
    }

    fn settle(&self, is_big: bool) -> Outcome {
        // A node without big sets has no space for them.
        let is_over = is_big && self.is_idle;
        let book = self.book.as_ref().filter(|_| !is_over);
        if let Some(book) = book {
            if book.is_settled {
                return book.outcome();
            }
            let evolved = evolve::refine(&self.walked, &book.classes, &book.kept);
            if is_worth_it(&evolved, &book.classes, is_big) {
                return book.step(evolved);
            }
        }
        let begun = evolve::begin(&self.walked);
        Outcome {
            classes: Arc::new(begun.classes),
            step: None,
            memberships: begun.memberships,
        }
    }

    /// What addresses move, if any do: the sets that they come to or leave, and whether it is one address. None: not only that.
    #[expect(clippy::type_complexity, reason = "said in the line above")]
    fn relocate(&self) -> Option<(Outcome, Option<(BTreeSet<u32>, bool)>)> {
        let Some(book) = &self.book else {
            return self.is_idle.then(|| (self.settle(false), None));
        };
        if book.is_settled {
            return Some((book.outcome(), None));
        }
        let evolved = evolve::relocate(&self.walked, &book.classes, &book.kept)?;
        if evolved.edits() > FEW.max(evolved.classes.prefixes.len() / 4) {
            return None;
        }
        let is_one = evolved.edits() == 1
            && evolved
                .writes
                .v4
                .iter()
                .all(|(net, _)| walk::Net::is_host(*net))
            && evolved
                .writes
                .v6
                .iter()
                .all(|(net, _)| walk::Net::is_host(*net));
        let moves = (evolved.edits() > 0).then(|| (evolved.moved.clone(), is_one));
        Some((book.step(evolved), moves))
    }
}

impl Book {
    /// It stays as it is.
    fn outcome(&self) -> Outcome {
        Outcome {
            classes: Arc::clone(&self.classes),
            step: None,
            memberships: self.kept.clone(),
        }
    }

    fn step(&self, evolved: Evolved) -> Outcome {
        let step = Step {
            from: Arc::clone(&self.classes),
            writes: evolved.writes,
            later: evolved.later,
        };
        Outcome {
            classes: Arc::new(evolved.classes),
            step: Some(Arc::new(step)),
            memberships: evolved.memberships,
        }
    }
}

/// Whether a space is better changed than made anew.
fn is_worth_it(evolved: &Evolved, book: &Classes, is_big: bool) -> bool {
    let prefixes = evolved.classes.prefixes.len();
    let edits = evolved.edits() + evolved.later.len();
    let room = match is_big {
        true => MAX_BIG_CLASSES,
        false => (2 * book.base).saturating_add(ROOM).min(SMALL_CLASSES),
    };
    edits <= FEW.max(prefixes / 4)
        && evolved.idle <= FEW.max(prefixes / 2)
        && evolved.classes.count() <= room
        && evolved.is_shallow()
}

/// The distinct sets of a node, in the order in which its rules mention them.
struct Sets<'n> {
    all: Vec<&'n Arc<AddressSet>>,
    /// By allocation: most rules share their sets.
    known: HashMap<*const AddressSet, u32>,
    /// Which of them are blacklists.
    blacklists: BTreeSet<usize>,
}

impl<'n> Sets<'n> {
    fn of(node: &'n NodePolicy) -> Self {
        let mut sets = Self {
            all: Vec::new(),
            known: HashMap::new(),
            blacklists: BTreeSet::new(),
        };
        let mut by_sample: HashMap<_, Vec<u32>> = HashMap::new();
        for rule in policies(node).flat_map(|policy| &policy.rules) {
            let matches = &rule.matches;
            for set in [&matches.source, &matches.dest].into_iter().flatten() {
                let all = &mut sets.all;
                let index = *sets.known.entry(Arc::as_ptr(set)).or_insert_with(|| {
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
        self.known.get(&Arc::as_ptr(set)).copied()
    }

    fn numbers(&self) -> HashMap<*const AddressSet, u32> {
        self.known.clone()
    }

    /// Walks the sets whose index is `chosen`, unless they are known to be as they are to be.
    fn half(
        &self,
        book: Option<&Arc<Classes>>,
        known: &mut Option<Arc<Half>>,
        chosen: impl Fn(usize) -> bool,
    ) -> Arc<Half> {
        let chosen = self
            .all
            .iter()
            .enumerate()
            .filter(|(index, _)| chosen(*index));
        let owned: Vec<(u32, Arc<AddressSet>, bool)> = chosen
            .map(|(index, set)| {
                let is_blacklist = self.blacklists.contains(&index);
                (index as u32, Arc::clone(set), is_blacklist)
            })
            .collect();
        if let (Some(half), Some(book)) = (&*known, book)
            && let Some(of) = &half.book
            && Arc::ptr_eq(&of.classes, book)
            && half.sets == owned
        {
            return Arc::clone(half);
        }
        let sets: Vec<(u32, &AddressSet)> = owned
            .iter()
            .map(|(index, set, _)| (*index, &**set))
            .collect();
        let nothing = Prefixes::default();
        let prefixes = book.map_or(&nothing, |book| &book.prefixes);
        let mut memberships = Memberships::default();
        let v4 = walk(&sets, &prefixes.v4, &mut memberships);
        let v6 = walk(&sets, &prefixes.v6, &mut memberships);
        let is_listed = |sets: &[u32]| {
            let mut sets = sets.iter();
            sets.any(|set| self.blacklists.contains(&(*set as usize)))
        };
        let flagged = memberships.all().map(is_listed).collect();
        let mut walked = Walked {
            v4,
            v6,
            memberships,
            flagged,
        };
        let book = book.map(|classes| {
            let kept = walked.kept(classes);
            Book {
                classes: Arc::clone(classes),
                is_settled: walked.is_settled(&kept),
                kept,
            }
        });
        let is_idle = walked.is_idle();
        let is_too_many = Half::is_too_many(&walked);
        let is_settled = book.as_ref().is_some_and(|book: &Book| book.is_settled);
        if is_settled {
            (walked.v4, walked.v6) = (Vec::new(), Vec::new());
        }
        let half = Arc::new(Half {
            sets: owned,
            book,
            walked,
            is_idle,
            is_too_many,
        });
        *known = is_settled.then(|| Arc::clone(&half));
        half
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
