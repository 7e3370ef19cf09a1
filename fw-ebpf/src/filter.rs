//! The filter in front of the table of established flows as a BPF map. What it is and why nothing is missed: `fw_common::flow_filter`.

use core::arch::asm;

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use fw_common::flow::FlowKey;
use fw_common::flow_filter::{ASKED, Half, WORDS};

use crate::tables::MAPPABLE;

#[map]
static FLOW_FILTER: Array<[u64; WORDS as usize]> = Array::with_max_entries(1, MAPPABLE);

/// Last word of both halves: a mask that the verifier sees.
const LAST: u32 = ASKED - 1;
const _: () = assert!(ASKED.is_power_of_two());

/// Whether an established flow may be there under a key.
#[inline(always)]
pub fn may_know(key: &FlowKey) -> bool {
    let Some(filter) = FLOW_FILTER.get_ptr(0) else {
        return true;
    };
    let filter = filter.cast::<u64>();
    // SAFETY: the word is one of the value's; the agent writes it whole.
    let asked = unsafe { filter.add(ASKED as usize).read_volatile() };
    let Some(half) = Half::from_word(asked) else {
        return true;
    };
    let (index, bit) = half.place(key.digest());
    let word: u64;
    // SAFETY: `index` is one of the halves', which the mask shows the verifier.
    unsafe {
        asm!(
            "{at} &= {last}",
            "{at} <<= 3",
            "{at} += {filter}",
            "{at} = *(u64 *)({at} + 0)",
            at = inout(reg) u64::from(index) => word,
            filter = in(reg) filter,
            last = const LAST,
            options(readonly, nostack),
        );
    }
    word & bit != 0
}

/// Notes that an established flow is there under a key: called after it is.
#[inline(always)]
pub fn note(key: &FlowKey) {
    let Some(filter) = FLOW_FILTER.get_ptr_mut(0) else {
        return;
    };
    let digest = key.digest();
    for half in Half::ALL {
        let (index, bit) = half.place(digest);
        // SAFETY: as in `may_know`; the word is changed at once, whoever else changes it.
        unsafe {
            asm!(
                "{at} &= {last}",
                "{at} <<= 3",
                "{at} += {filter}",
                "lock *(u64 *)({at} + 0) |= {bit}",
                at = inout(reg) u64::from(index) => _,
                filter = in(reg) filter,
                bit = in(reg) bit,
                last = const LAST,
                options(nostack),
            );
        }
    }
}
