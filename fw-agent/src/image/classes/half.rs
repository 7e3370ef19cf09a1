//! The small or the big sets of a node, and what their class space is to be.
//!
//! In: the sets, the class space in force, and the half as it was in the last image. Out: a [`Half`], and from it an [`Outcome`]: the space as it is to
//! be, and how it is reached.
//!
//! 1. Sets that are what they were, in a space that is what came of them, are not walked. 2. Of those that differ in few entries only these are
//!    walked (`super::difference`). 3. Others are walked as a whole.
//!
//! Invariant: what is known from the last image saves time and changes nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use fw_common::maps::classes::{BLACKLISTED, SMALL_CLASSES};

use super::evolve::{self, Evolved, Walked};
use super::walk::{Memberships, Net, walk};
use super::{Classes, FEW, MAX_BIG_CLASSES, Prefixes, ROOM, Step};
use crate::policy::{AddressSet, SetEntry};

/// Sets, and whether they are blacklists.
pub(super) type OwnedSets = Vec<(Arc<AddressSet>, bool)>;

/// The small or the big sets of a node.
#[derive(Debug)]
pub(in crate::image) struct Half {
    pub(super) sets: OwnedSets,
    pub(super) book: Option<Book>,
    pub(super) walked: Walked,
    /// No set has anything.
    pub(super) is_idle: bool,
    /// Big sets overlap in too many ways.
    pub(super) is_too_many: bool,
}

/// The space of a half that is in force.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) classes: Arc<Classes>,
    /// The membership that each class keeps.
    pub(super) kept: Vec<u32>,
    /// Nothing of it is to be otherwise.
    pub(super) is_settled: bool,
    /// Prefixes of it that say nothing.
    pub(super) idle: usize,
}

/// What came of a half.
pub(super) struct Outcome {
    pub(super) half: Arc<Half>,
    pub(super) classes: Arc<Classes>,
    pub(super) step: Option<Arc<Step>>,
    /// The membership of each class.
    pub(super) kept: Vec<u32>,
    /// Prefixes that say nothing.
    idle: usize,
    is_as_it_was: bool,
}

/// Addresses that move at once.
pub(super) struct Moves {
    /// The sets that they come to or leave, by their places in the half.
    pub(super) sets: BTreeSet<u32>,
    /// It is one address.
    pub(super) is_one: bool,
}

impl Half {
    /// Walks sets, as far as they are not known from the last image.
    pub(super) fn of(
        sets: OwnedSets,
        book: Option<&Arc<Classes>>,
        known: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let is_its = |half: &&Arc<Self>| {
            let of = half.book.as_ref().zip(book);
            of.is_some_and(|(of, book)| Arc::ptr_eq(&of.classes, book))
        };
        if let Some(known) = known.filter(is_its) {
            if known.sets == sets {
                return Arc::clone(known);
            }
            if let Some(half) = known.changed(&sets) {
                return Arc::new(half);
            }
        }
        Arc::new(Self::whole(sets, book))
    }

    fn whole(sets: OwnedSets, book: Option<&Arc<Classes>>) -> Self {
        let numbered: Vec<(u32, &[SetEntry])> = (0..)
            .zip(&sets)
            .map(|(number, (set, _))| (number, set.entries.as_slice()))
            .collect();
        let nothing = Prefixes::default();
        let prefixes = book.map_or(&nothing, |book| &book.prefixes);
        let mut memberships = Memberships::default();
        let v4 = walk(&numbered, &prefixes.v4, None, &mut memberships);
        let v6 = walk(&numbered, &prefixes.v6, None, &mut memberships);
        let walked = Walked {
            v4,
            v6,
            flagged: flags(&sets, &memberships),
            memberships: Arc::new(memberships),
            idle_elsewhere: None,
        };
        let is_idle = walked.is_idle();
        let is_too_many = are_too_many(walked.said());
        let book = book.map(|classes| {
            let kept = walked.kept(classes);
            Book {
                classes: Arc::clone(classes),
                is_settled: walked.is_settled(&kept),
                kept,
                idle: walked.idle(),
            }
        });
        let mut half = Self {
            sets,
            book,
            walked,
            is_idle,
            is_too_many,
        };
        half.forget();
        half
    }

    /// Forgets what was found of prefixes if all is as it is to be.
    pub(super) fn forget(&mut self) {
        if let Some(book) = self.book.as_ref().filter(|book| book.is_settled) {
            self.walked.v4 = Vec::new();
            self.walked.v6 = Vec::new();
            self.walked.idle_elsewhere = Some(book.idle);
        }
    }

    /// Big sets overlap in too many ways.
    pub(super) fn is_too_many(&self) -> bool {
        self.is_too_many
    }

    /// The sets of each membership, by their places here.
    pub(super) fn memberships(&self, numbers: &[u32]) -> impl Iterator<Item = &[u32]> {
        let numbers = numbers.iter();
        numbers.map(|number| self.walked.memberships.sets(*number))
    }

    /// Whether a blacklist is among the sets of one of the memberships.
    pub(super) fn is_blacklisted(&self, numbers: &[u32]) -> bool {
        let mut numbers = numbers.iter();
        numbers.any(|number| self.walked.flagged[*number as usize])
    }

    /// What the space is to be, so that no policy in use sees a difference.
    pub(super) fn settle(self: &Arc<Self>, is_big: bool) -> Outcome {
        // A node without big sets has no space for them.
        let is_over = is_big && self.is_idle;
        let book = self.book.as_ref().filter(|_| !is_over);
        if let Some(book) = book {
            if book.is_settled {
                return self.as_it_is(book);
            }
            let evolved = evolve::refine(&self.walked, &book.classes, &book.kept);
            if is_worth_it(&evolved, &book.classes, is_big) {
                return self.step(book, evolved);
            }
        }
        let half = match self.walked.idle_elsewhere {
            None => Arc::clone(self),
            Some(_) => Arc::new(Self::whole(self.sets.clone(), None)),
        };
        let begun = evolve::begin(&half.walked);
        Outcome {
            half,
            classes: Arc::new(begun.classes),
            step: None,
            kept: begun.memberships,
            idle: 0,
            is_as_it_was: false,
        }
    }

    /// What addresses move, if any do. None: not only that.
    pub(super) fn relocate(self: &Arc<Self>) -> Option<(Outcome, Option<Moves>)> {
        let Some(book) = &self.book else {
            return self.is_idle.then(|| (self.settle(false), None));
        };
        if book.is_settled {
            return Some((self.as_it_is(book), None));
        }
        let evolved = evolve::relocate(&self.walked, &book.classes, &book.kept)?;
        if evolved.edits() > FEW.max(evolved.classes.prefixes.len() / 4) {
            return None;
        }
        let writes = &evolved.writes;
        let is_one = evolved.edits() == 1
            && writes.v4.iter().all(|(net, _)| net.is_host())
            && writes.v6.iter().all(|(net, _)| net.is_host());
        let moves = (evolved.edits() > 0).then(|| Moves {
            sets: evolved.moved.clone(),
            is_one,
        });
        Some((self.step(book, evolved), moves))
    }

    fn as_it_is(self: &Arc<Self>, book: &Book) -> Outcome {
        Outcome {
            half: Arc::clone(self),
            classes: Arc::clone(&book.classes),
            step: None,
            kept: book.kept.clone(),
            idle: book.idle,
            is_as_it_was: true,
        }
    }

    fn step(self: &Arc<Self>, book: &Book, evolved: Evolved) -> Outcome {
        let step = Step {
            from: Arc::clone(&book.classes),
            writes: evolved.writes,
            later: evolved.later,
        };
        Outcome {
            half: Arc::clone(self),
            classes: Arc::new(evolved.classes),
            step: Some(Arc::new(step)),
            kept: evolved.memberships,
            idle: evolved.idle,
            is_as_it_was: false,
        }
    }
}

impl Outcome {
    /// The half once the space is in force.
    pub(super) fn settled(&self) -> Option<Arc<Half>> {
        let half = &self.half;
        if self.is_as_it_was {
            return Some(Arc::clone(half));
        }
        let counts = counts(&self.classes).into_iter().enumerate();
        let counts = counts.map(|(class, count)| ((class as u32, self.kept[class]), count));
        let walked = Walked {
            memberships: Arc::clone(&half.walked.memberships),
            flagged: half.walked.flagged.clone(),
            idle_elsewhere: Some(self.idle),
            ..Walked::default()
        };
        Some(Arc::new(Half {
            sets: half.sets.clone(),
            book: Some(Book {
                classes: Arc::clone(&self.classes),
                kept: walked.most(&self.classes, counts),
                is_settled: true,
                idle: self.idle,
            }),
            walked,
            is_idle: half.is_idle,
            is_too_many: half.is_too_many,
        }))
    }
}

/// By membership, whether a blacklist is among its sets.
pub(super) fn flags(sets: &OwnedSets, memberships: &Memberships) -> Vec<bool> {
    let is_listed = |number: &u32| {
        let set = sets.get(*number as usize);
        set.is_some_and(|(_, is_blacklist)| *is_blacklist)
    };
    let all = memberships.all();
    all.map(|numbers| numbers.iter().any(is_listed)).collect()
}

/// Whether there are more memberships than classes of big sets may be.
pub(super) fn are_too_many(memberships: impl Iterator<Item = u32>) -> bool {
    let mut distinct = BTreeSet::from([0]);
    let mut last = 0;
    for membership in memberships {
        if membership != last {
            distinct.insert(membership);
            last = membership;
        }
    }
    distinct.len() > MAX_BIG_CLASSES as usize
}

/// How many prefixes of a space have each class.
pub(super) fn counts(classes: &Classes) -> Vec<usize> {
    let mut counts = vec![0; classes.count() as usize];
    let v4 = classes.prefixes.v4.iter().map(|(_, value)| *value);
    let v6 = classes.prefixes.v6.iter().map(|(_, value)| *value);
    for value in v4.chain(v6) {
        counts[(value & !BLACKLISTED) as usize] += 1;
    }
    counts
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
