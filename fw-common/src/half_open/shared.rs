//! The ring in memory that this process shares with others, or has to itself.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{BYTES, CHUNK, ENTRIES, ENTRIES_AT, Entry, INDEX_AT, Ring, SET_BYTES, SETS};
use super::{find, holds, index, position, remove, write, write_flow};
use crate::flow::{Flow, FlowKey};

/// Words of all.
pub const WORDS: usize = BYTES as usize / 8;

/// The ring in these words, of which there are [`WORDS`].
#[derive(Clone, Copy, Debug)]
pub struct Shared<'m>(&'m [AtomicU64]);

/// What [`Shared::remove_if`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There is no such flow (any more).
    Gone,
    /// This flow was removed.
    Removed(Flow),
    /// It was not to be removed after all, and is there as before.
    Kept,
}

impl<'m> Shared<'m> {
    /// The ring in these words; none if they are not as many.
    pub fn new(words: &'m [AtomicU64]) -> Option<Self> {
        (words.len() == WORDS).then_some(Self(words))
    }

    fn at(self, byte: u32) -> *mut u8 {
        debug_assert!(byte < BYTES);
        let first = self.0.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: there are as many bytes. Atomics may be changed through a shared reference.
        unsafe { first.add(byte as usize) }
    }

    /// The flow under a key.
    pub fn get(self, key: &FlowKey) -> Option<Flow> {
        Some(self.read(find(self, key)?)?.1)
    }

    /// Puts a flow there, over the one under its key if there is any; `cursor` is 0 at first and the caller's from then on. False: others were faster several times.
    pub fn insert(self, cursor: &mut u64, key: &FlowKey, flow: &Flow) -> bool {
        let next = &self.0[0];
        let position = position(cursor, next.load(Ordering::SeqCst), || {
            next.fetch_add(CHUNK, Ordering::SeqCst)
        });
        write(self, position, key, flow);
        index(self, key, position)
    }

    /// Writes what is known of a flow that is there; false if it is not.
    pub fn update(self, key: &FlowKey, flow: &Flow) -> bool {
        let Some(number) = find(self, key) else {
            return false;
        };
        // SAFETY: an entry of this ring.
        unsafe { write_flow(self.entry(number), flow) };
        true
    }

    /// Removes the flow under a key; whether there was one, and it was this call that removed it.
    pub fn remove(self, key: &FlowKey) -> bool {
        remove(self, key)
    }

    /// Takes a flow out, and puts it back if `is_over` says that it is not: programs do not change it meanwhile without finding it again.
    pub fn remove_if(self, key: &FlowKey, is_over: impl FnOnce(&Flow) -> bool) -> Removal {
        let Some(number) = find(self, key) else {
            return Removal::Gone;
        };
        let entry = self.entry(number);
        // SAFETY: an entry of this ring.
        let taken = |stamp: &u64| unsafe { self.swap_stamp(entry, *stamp, 0) };
        let stamp = holds(self, number, key).filter(taken);
        let Some(stamp) = stamp else {
            return Removal::Gone;
        };
        // SAFETY: an entry of this ring. Without a stamp nobody begins to write to it but who overwrites it.
        let flow = unsafe { (&raw const (*entry).flow).read_volatile() };
        if is_over(&flow) {
            return Removal::Removed(flow);
        }
        // SAFETY: as above. Unless another flow was written there meanwhile.
        unsafe { self.swap_stamp(entry, 0, stamp) };
        Removal::Kept
    }

    /// Shows `visit` every flow that is there.
    pub fn visit(self, mut visit: impl FnMut(&FlowKey, &Flow)) {
        for number in 0..ENTRIES {
            if let Some((key, flow)) = self.read(number)
                && find(self, &key) == Some(number)
            {
                visit(&key, &flow);
            }
        }
    }

    /// What an entry has, if it has a flow.
    fn read(self, number: u32) -> Option<(FlowKey, Flow)> {
        let entry = self.entry(number);
        // SAFETY: an entry of this ring; of its fields any bits are valid.
        unsafe {
            let stamp = (&raw const (*entry).stamp).read_volatile();
            if stamp == 0 {
                return None;
            }
            let found = (
                (&raw const (*entry).key).read_volatile(),
                (&raw const (*entry).flow).read_volatile(),
            );
            ((&raw const (*entry).stamp).read_volatile() == stamp).then_some(found)
        }
    }
}

// SAFETY: the words are as many as all sets and entries take, aligned to eight bytes, and are only changed here and by the kernel's programs.
unsafe impl Ring for Shared<'_> {
    fn set(self, set: u32) -> *mut u32 {
        self.at(INDEX_AT + set % SETS * SET_BYTES).cast()
    }

    fn entry(self, number: u32) -> *mut Entry {
        let entry = number % ENTRIES * size_of::<Entry>() as u32;
        self.at(ENTRIES_AT + entry).cast()
    }

    unsafe fn swap_slot(self, slot: *mut u32, old: u32, new: u32) -> bool {
        // SAFETY: a slot of this ring.
        let slot = unsafe { AtomicU32::from_ptr(slot) };
        let order = Ordering::SeqCst;
        slot.compare_exchange(old, new, order, order).is_ok()
    }

    unsafe fn swap_stamp(self, entry: *mut Entry, old: u64, new: u64) -> bool {
        // SAFETY: an entry of this ring, whose stamp is aligned.
        let stamp = unsafe { AtomicU64::from_ptr(&raw mut (*entry).stamp) };
        let order = Ordering::SeqCst;
        stamp.compare_exchange(old, new, order, order).is_ok()
    }

    unsafe fn write_stamp(self, entry: *mut Entry, stamp: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*entry).stamp) }.swap(stamp, Ordering::SeqCst);
    }
}
