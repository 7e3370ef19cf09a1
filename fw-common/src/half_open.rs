//! Flows that only one end knows of so far: a ring in which each new one takes the place of the oldest, and an index of it.
//!
//! In: a flow's key. Out: the entry that has it. Programs of all CPUs and the agent use the same memory at the same time ([`Ring`]).
//!
//! ```text
//! NEXT      positions that were handed out so far: their number modulo ENTRIES is that of the entry
//! INDEX     SETS sets of WAYS slots: position % 2^18 | tag << 18; 0 is a free one
//! ENTRIES   stamp, key, flow
//! ```
//!
//! 1. A new flow gets the next position, of which a CPU takes [`CHUNK`] at a time, and is written to its entry: no stamp, the key, the flow, the stamp. 2. A slot
//!    of the key's set comes to name the entry: that of the same key, a free one, or the one whose entry is the oldest. 3. A flow is there if a
//!    slot names its entry, and the entry has a stamp and the key.
//!
//! So a new flow costs memory that is written in order, and one line of the index, and the flow that gives way is not looked at: a flood of new flows
//! overwrites the oldest ones, whatever they are, and nothing else.
//!
//! Invariants: a stamp stands for one flow only, so who finds the key between two looks at the same stamp has found its flow. Of several who remove a flow, one
//! has. What is written to a flow whose entry is being overwritten at that moment is lost or is the new flow's, as with a hash map of the kernel whose
//! entries are evicted. Who stops in the middle of writing an entry while all others go round the ring may mix two flows in it; under a key that is neither's the
//! index, of which one set and a tag of 13 bits name the entry, would find that once in a hundred million such cases.

#[cfg(feature = "user")]
mod shared;

use core::hint::black_box;

use crate::flow::{Flow, FlowKey};
use crate::maps::capacity;

#[cfg(feature = "user")]
pub use self::shared::{Removal, Shared, WORDS};

/// Entries.
pub const ENTRIES: u32 = capacity::HALF_OPEN;
/// Positions that a CPU takes at a time.
pub const CHUNK: u64 = 64;
/// Slots of a set.
pub const WAYS: u32 = 8;
/// Sets: twice as many slots as entries, so that few sets are full before the ring is.
pub const SETS: u32 = ENTRIES * 2 / WAYS;
/// Bytes of a set.
pub const SET_BYTES: u32 = WAYS * 4;
/// Bytes before the index: the number of positions has a cache line to itself.
pub const INDEX_AT: u32 = 64;
/// Bytes before the entries.
pub const ENTRIES_AT: u32 = INDEX_AT + SETS * SET_BYTES;
/// Bytes of all.
pub const BYTES: u32 = ENTRIES_AT + ENTRIES * size_of::<Entry>() as u32;

/// Bits of a position in a slot: four times as many as there are entries, so that slots whose entries were written over are told from those of new flows. The
/// tag is above them.
const POSITION_BITS: u32 = 18;
/// Positions that a slot tells apart.
const POSITIONS: u32 = 1 << POSITION_BITS;
const _: () = assert!(POSITIONS == 4 * ENTRIES);

/// A flow with its key.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Entry {
    /// What stands for this flow in this entry; 0: there is none, or it is being written.
    pub stamp: u64,
    /// Its key.
    pub key: FlowKey,
    /// Zero.
    pub reserved: u32,
    /// What is known of it.
    pub flow: Flow,
}

const _: () = assert!(size_of::<Entry>() == 104);

/// The memory.
///
/// # Safety
/// Every pointer is aligned and valid for reads and writes as long as the value is used, and others change what it points to only as this module does.
pub unsafe trait Ring: Copy {
    /// The first slot of a set, of [`SETS`].
    fn set(self, set: u32) -> *mut u32;

    /// An entry, of as many as there are.
    fn entry(self, number: u32) -> *mut Entry;

    /// Writes `new` to a slot that has `old`, at once; false if it has something else.
    ///
    /// # Safety
    /// The slot is of a set of this ring.
    unsafe fn swap_slot(self, slot: *mut u32, old: u32, new: u32) -> bool;

    /// Likewise for an entry's stamp.
    ///
    /// # Safety
    /// The entry is of this ring.
    unsafe fn swap_stamp(self, entry: *mut Entry, old: u64, new: u64) -> bool;

    /// Writes an entry's stamp: after all that was written before, and before all that is written afterwards.
    ///
    /// # Safety
    /// The entry is of this ring.
    unsafe fn write_stamp(self, entry: *mut Entry, stamp: u64);
}

/// Positions that a CPU may be behind the others.
const LAG: u32 = ENTRIES / 4;

/// Which position a CPU (or the agent) uses next. `cursor` is its own, 0 at first; `next` is the number that were handed out, of which `take` takes
/// [`CHUNK`] more and answers how many there were.
#[inline(always)]
pub fn position(cursor: &mut u64, next: u64, take: impl FnOnce() -> u64) -> u64 {
    // Of a chunk that was begun so long ago that the others may have come round to it the rest is left.
    if cursor.is_multiple_of(CHUNK) || next.wrapping_sub(*cursor) > LAG as u64 {
        *cursor = take();
    }
    let position = *cursor;
    *cursor = position + 1;
    position
}

/// Writes a flow to the entry of a position.
#[inline(always)]
pub fn write<R: Ring>(ring: R, position: u64, key: &FlowKey, flow: &Flow) {
    let entry = ring.entry(position as u32 % ENTRIES);
    // SAFETY: an entry of the ring, and two values of as many words. One at a time: of a copy the kernel's compiler would make a loop over bytes.
    unsafe {
        ring.write_stamp(entry, 0);
        let (to, from) = (&raw mut (*entry).key, core::ptr::from_ref(key));
        for word in 0..KEY_WORDS {
            let word_of_key = from.cast::<u32>().add(word).read();
            to.cast::<u32>().add(word).write_volatile(word_of_key);
        }
        write_flow(entry, flow);
        ring.write_stamp(entry, position + 1);
    }
}

/// Writes what is known of a flow to its entry.
///
/// # Safety
/// `entry` is one of a ring.
#[inline(always)]
unsafe fn write_flow(entry: *mut Entry, flow: &Flow) {
    // SAFETY: both have as many words.
    unsafe {
        let (to, from) = (&raw mut (*entry).flow, core::ptr::from_ref(flow));
        for word in 0..size_of::<Flow>() / 8 {
            let word_of_flow = from.cast::<u64>().add(word).read();
            to.cast::<u64>().add(word).write_volatile(word_of_flow);
        }
    }
}

const KEY_WORDS: usize = size_of::<FlowKey>() / 4;

/// Has the index name the entry of a position for this key; false if others were faster several times.
#[inline(always)]
pub fn index<R: Ring>(ring: R, key: &FlowKey, position: u64) -> bool {
    const TRIES: u32 = 3;
    let place = Place::of(key);
    let set = ring.set(place.set);
    let mut tries = 0;
    while tries < TRIES {
        let mut best = 0;
        let mut way = 0;
        while way < WAYS {
            // SAFETY: a slot of the set.
            let slot = unsafe { set.add(way as usize).read_volatile() };
            let candidate = u64::from(way) << 32 | u64::from(slot);
            if place.means(slot) && holds(ring, slot % ENTRIES, key).is_some() {
                best = candidate;
                break;
            }
            best = greater(best, rank(slot, position as u32) << RANK_SHIFT | candidate);
            way = black_box(way) + 1;
        }
        // SAFETY: as above; the mask is what the kernel sees.
        let done = unsafe {
            let slot = set.add((best >> 32) as usize % WAYS as usize);
            ring.swap_slot(slot, best as u32, place.slot(position as u32))
        };
        if done {
            return true;
        }
        tries = black_box(tries) + 1;
    }
    false
}

/// Bits of a way are below.
const RANK_SHIFT: u32 = 35;
const _: () = assert!(WAYS == 1 << (RANK_SHIFT - 32));

/// How much a slot is one to take: a free one, or else by how much older its position is. Without a branch, which would double the ways that the kernel's
/// verifier goes.
#[inline(always)]
fn rank(slot: u32, position: u32) -> u64 {
    let is_free = u64::from(slot).wrapping_sub(1) >> 63;
    // Other CPUs may be ahead.
    let age = position.wrapping_add(LAG).wrapping_sub(slot) % POSITIONS;
    is_free << POSITION_BITS | u64::from(age)
}

/// The greater of two numbers below 2⁶³, likewise.
#[inline(always)]
fn greater(one: u64, other: u64) -> u64 {
    // The compiler, which does not know the difference, makes no comparison of it.
    let is_less = (black_box(one.wrapping_sub(other)) as i64 >> 63) as u64;
    one ^ ((one ^ other) & is_less)
}

/// The number of the entry that has a key.
#[inline(always)]
pub fn find<R: Ring>(ring: R, key: &FlowKey) -> Option<u32> {
    let place = Place::of(key);
    let set = ring.set(place.set);
    let mut way = 0;
    while way < WAYS {
        // SAFETY: a slot of the set.
        let slot = unsafe { set.add(way as usize).read_volatile() };
        if place.means(slot) && holds(ring, slot % ENTRIES, key).is_some() {
            return Some(slot % ENTRIES);
        }
        way = black_box(way) + 1;
    }
    None
}

/// Removes the flow under a key; whether it was this call that did.
#[inline(always)]
pub fn remove<R: Ring>(ring: R, key: &FlowKey) -> bool {
    let place = Place::of(key);
    let set = ring.set(place.set);
    let mut way = 0;
    while way < WAYS {
        // SAFETY: a slot of the set.
        let at = unsafe { set.add(way as usize) };
        // SAFETY: likewise.
        let slot = unsafe { at.read_volatile() };
        if place.means(slot)
            && let Some(stamp) = holds(ring, slot % ENTRIES, key)
        {
            // SAFETY: an entry of the ring and a slot of the set, which stays if it names something else by now.
            return unsafe {
                let removed = ring.swap_stamp(ring.entry(slot % ENTRIES), stamp, 0);
                ring.swap_slot(at, slot, 0);
                removed
            };
        }
        way = black_box(way) + 1;
    }
    false
}

/// The entry's stamp, if it has the key.
#[inline(always)]
fn holds<R: Ring>(ring: R, number: u32, key: &FlowKey) -> Option<u64> {
    let entry = ring.entry(number);
    // SAFETY: an entry of the ring, and two keys of as many words.
    unsafe {
        let stamp = (&raw const (*entry).stamp).read_volatile();
        let (has, wanted) = (&raw const (*entry).key, core::ptr::from_ref(key));
        for word in 0..KEY_WORDS {
            // Both read anew each time: of words kept for later the stack would be full, of which old kernels give little.
            let word_of_key = wanted.cast::<u32>().add(word).read_volatile();
            if has.cast::<u32>().add(word).read_volatile() != word_of_key {
                return None;
            }
        }
        let again = (&raw const (*entry).stamp).read_volatile();
        (stamp != 0 && stamp == again).then_some(stamp)
    }
}

/// Where the index has a key.
struct Place {
    set: u32,
    /// Not 0, so that no slot in use is 0.
    tag: u32,
}

impl Place {
    #[inline(always)]
    fn of(key: &FlowKey) -> Self {
        let digest = key.digest();
        Self {
            set: digest as u32 % SETS,
            tag: (digest >> (32 + POSITION_BITS)) as u32 | 1,
        }
    }

    #[inline(always)]
    const fn means(&self, slot: u32) -> bool {
        slot >> POSITION_BITS == self.tag
    }

    #[inline(always)]
    const fn slot(&self, position: u32) -> u32 {
        (position % POSITIONS) | (self.tag << POSITION_BITS)
    }
}

#[cfg(all(test, feature = "user"))]
mod tests;
