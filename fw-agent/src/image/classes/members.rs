//! Which classes a set consists of, as policies are told.
//!
//! In: the classes of a space, each with the sets that it is in. Out: per set its [`SetClasses`].
//!
//! A policy need not know classes that no set of it tells from their parents: such classes could as well not be there. So it is built from the classes up to the
//! youngest that some set of it does tell apart, and is the same words however many classes come for other policies.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Classes;
use crate::policy::AddressSet;

/// The classes that a set consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SetClasses {
    /// They are classes of big sets.
    pub(crate) is_big: bool,
    /// As ascending inclusive ranges.
    pub(crate) ranges: Vec<(u32, u32)>,
    /// How many classes one must know to tell which addresses are in the set.
    pub(crate) known: u32,
}

/// Per address set the classes it consists of.
#[derive(Debug)]
pub(crate) struct Members {
    /// By the address of the allocation: whoever asks holds it.
    numbers: FxHashMap<usize, u32>,
    sets: Vec<SetClasses>,
}

impl Members {
    pub(super) fn new(numbers: FxHashMap<usize, u32>, count: usize) -> Self {
        Self {
            numbers,
            sets: vec![SetClasses::default(); count],
        }
    }

    /// Enters the classes of one of the spaces; `memberships`: for each, the sets that it is in, as places in `numbers`.
    pub(super) fn enter<'m>(
        &mut self,
        classes: &Classes,
        memberships: impl Iterator<Item = &'m [u32]>,
        numbers: &[u32],
        is_big: bool,
    ) {
        let memberships: Vec<&[u32]> = memberships.collect();
        for (class, sets) in (0..).zip(&memberships) {
            for set in *sets {
                let entry = &mut self.sets[numbers[*set as usize] as usize];
                entry.is_big = is_big;
                entry.known = classes.base;
                extend(&mut entry.ranges, class);
            }
        }
        for (class, parent) in (classes.base..).zip(&classes.parents) {
            let (own, above) = (memberships[class as usize], memberships[*parent as usize]);
            if own == above {
                continue;
            }
            let gained = own.iter().filter(|set| above.binary_search(set).is_err());
            let lost = above.iter().filter(|set| own.binary_search(set).is_err());
            for set in gained.chain(lost) {
                self.sets[numbers[*set as usize] as usize].known = class + 1;
            }
        }
    }

    /// Every set of the node, by number.
    pub(crate) fn all(&self) -> impl Iterator<Item = &SetClasses> {
        self.sets.iter()
    }

    /// Every set by the address of its allocation, with its number.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = (usize, u32)> {
        self.numbers.iter().map(|(set, number)| (*set, *number))
    }

    /// The number of a set.
    pub(crate) fn number(&self, set: &Arc<AddressSet>) -> Option<u32> {
        self.numbers.get(&Arc::as_ptr(set).addr()).copied()
    }

    /// Classes whose addresses are in `set`; none for a set that no rule of the node mentions.
    pub(crate) fn of(&self, set: &Arc<AddressSet>) -> Option<&SetClasses> {
        let number = self.numbers.get(&Arc::as_ptr(set).addr())?;
        self.sets.get(*number as usize)
    }
}

/// Adds a number to ascending inclusive ranges.
fn extend(ranges: &mut Vec<(u32, u32)>, number: u32) {
    match ranges.last_mut() {
        Some((_, end)) if *end + 1 == number => *end = number,
        _ => ranges.push((number, number)),
    }
}
