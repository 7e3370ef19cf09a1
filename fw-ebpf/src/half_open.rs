//! The ring of half-open flows as a BPF map. What it is and why nothing is mixed up: `fw_common::half_open`.

use core::arch::asm;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use fw_common::flow::{Flow, FlowKey};
use fw_common::half_open::{
    self, BYTES, CHUNK, ENTRIES, ENTRIES_AT, Entry, INDEX_AT, Ring, SET_BYTES, SETS,
};

use crate::tables::MAPPABLE;

#[map]
static HALF_OPEN: Array<[u64; BYTES as usize / 8]> = Array::with_max_entries(1, MAPPABLE);

/// The position that this CPU uses next.
#[map]
static CURSOR: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The memory, by its first byte.
#[derive(Clone, Copy)]
struct Memory(*mut u64);

fn memory() -> Option<Memory> {
    let first = HALF_OPEN.get_ptr_mut(0)?;
    Some(Memory(first.cast()))
}

/// The number of the entry that has a key.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<u32> {
    half_open::find(memory()?, key)
}

/// What is known of the flow in an entry.
#[inline(always)]
pub fn flow(number: u32) -> Option<*mut Flow> {
    let entry = memory()?.entry(number);
    // SAFETY: an entry of the ring.
    Some(unsafe { &raw mut (*entry).flow })
}

/// Puts a flow there, over the one under its key if there is any; false if it is not there.
#[inline(always)]
pub fn insert(key: &FlowKey, flow: &Flow) -> bool {
    let (Some(memory), Some(cursor)) = (memory(), CURSOR.get_ptr_mut(0)) else {
        return false;
    };
    // SAFETY: the first word; and this CPU's own value, as programs at these hooks do not interrupt each other.
    let (next, cursor) = unsafe { (memory.0.read_volatile(), &mut *cursor) };
    let position = half_open::position(cursor, next, || memory.take_chunk());
    half_open::write(memory, position, key, flow);
    half_open::index(memory, key, position)
}

/// Removes the flow under a key; whether it was this call that did.
#[inline(always)]
pub fn remove(key: &FlowKey) -> bool {
    memory().is_some_and(|memory| half_open::remove(memory, key))
}

impl Memory {
    #[inline(always)]
    fn take_chunk(self) -> u64 {
        let before: u64;
        // SAFETY: the first word, which all CPUs change at once.
        unsafe {
            asm!(
                "{by} = atomic_fetch_add((u64 *)({next} + 0), {by})",
                by = inout(reg) CHUNK => before,
                next = in(reg) self.0,
                options(nostack),
            );
        }
        before
    }

    /// One of `COUNT` items of so many bytes, which begin at `FIRST`. The mask is what the kernel's verifier sees of that it is one of them.
    #[expect(
        clippy::pointers_in_nomem_asm_block,
        reason = "an address is computed, and nothing is read or written"
    )]
    #[inline(always)]
    fn item<const COUNT: u32, const BYTES: u32, const FIRST: u32>(self, number: u32) -> *mut u8 {
        const { assert!(COUNT.is_power_of_two()) };
        let at: *mut u8;
        // SAFETY: only computes.
        unsafe {
            asm!(
                "{at} &= {last}",
                "{at} *= {bytes}",
                "{at} += {memory}",
                "{at} += {first}",
                at = inout(reg) u64::from(number) => at,
                memory = in(reg) self.0,
                last = const COUNT - 1,
                bytes = const BYTES,
                first = const FIRST,
                options(pure, nomem, nostack),
            );
        }
        at
    }
}

// SAFETY: what is pointed to is a map's value, which stays until the program ends; the layout is the ring's.
unsafe impl Ring for Memory {
    #[inline(always)]
    fn set(self, set: u32) -> *mut u32 {
        self.item::<SETS, SET_BYTES, INDEX_AT>(set).cast()
    }

    #[inline(always)]
    fn entry(self, number: u32) -> *mut Entry {
        const BYTES: u32 = size_of::<Entry>() as u32;
        self.item::<ENTRIES, BYTES, ENTRIES_AT>(number).cast()
    }

    #[inline(always)]
    unsafe fn swap_slot(self, slot: *mut u32, old: u32, new: u32) -> bool {
        let found: u64;
        // SAFETY: a slot of the ring.
        unsafe {
            asm!(
                "w0 = cmpxchg32_32({slot} + 0, w0, {new})",
                slot = in(reg) slot,
                new = in(wreg) new,
                inout("r0") u64::from(old) => found,
                options(nostack),
            );
        }
        found as u32 == old
    }

    #[inline(always)]
    unsafe fn swap_stamp(self, entry: *mut Entry, old: u64, new: u64) -> bool {
        let found: u64;
        // SAFETY: an entry of the ring, which begins with its stamp.
        unsafe {
            asm!(
                "r0 = cmpxchg_64({entry} + 0, r0, {new})",
                entry = in(reg) entry,
                new = in(reg) new,
                inout("r0") old => found,
                options(nostack),
            );
        }
        found == old
    }

    #[inline(always)]
    unsafe fn write_stamp(self, entry: *mut Entry, stamp: u64) {
        // SAFETY: as above. An exchange, as it keeps what is written before and after it in its place.
        unsafe {
            asm!(
                "{stamp} = xchg_64({entry} + 0, {stamp})",
                entry = in(reg) entry,
                stamp = inout(reg) stamp => _,
                options(nostack),
            );
        }
    }
}
