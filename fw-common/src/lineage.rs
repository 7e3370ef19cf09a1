//! What a policy makes of a class that is younger than it.
//!
//! In: a class space, a class, and how many classes of the space a policy knows. Out: the class that the policy knows the same addresses by.
//!
//! When a set changes, addresses that have to be told apart from others get a new class at the end of their space. Its *parent* is the class that
//! they had until then. A policy that was built before knows classes up to some number, and takes a younger one for its nearest ancestor that it
//! knows. So new classes can be written while policies are in use, without any of them judging anything otherwise.
//!
//! Parents are in the trie of IPv4, in a class space of their own: that of the classes with [`LINEAGE`] set, and class numbers in the place of
//! addresses. So they come, go and are read back with their space.
//!
//! Invariant: a class without a parent has no ancestor, and callers close.

use crate::maps::classes::{LINEAGE, MAX_DEPTH};
use crate::tables::Tables;
use crate::wire::{Address, IpVersion};

/// The nearest ancestor of a class, or the class itself, below `known`.
#[inline(always)]
pub fn ancestor<T: Tables>(tables: T, space: u32, class: u32, known: u32) -> Option<u32> {
    let mut class = class;
    for _ in 0..MAX_DEPTH {
        if class < known {
            return Some(class);
        }
        class = parent(tables, space, class)?;
    }
    (class < known).then_some(class)
}

/// The parent of a class. Stored plus one: 0 is that there is none.
#[inline(always)]
fn parent<T: Tables>(tables: T, space: u32, class: u32) -> Option<u32> {
    let key = Address([0, 0, 0, class.to_be()]);
    let stored = tables.longest_prefix(space | LINEAGE, IpVersion::V4, &key);
    stored.checked_sub(1)
}
