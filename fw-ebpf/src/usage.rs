//! How many established flows each port has: the quota that keeps one guest from filling the table.
//!
//! The kernel counts up when it establishes a flow and down when it removes one; the agent's sweep, which removes what has expired, counts all of
//! them anew each time and corrects the number. Between two sweeps it may be off by the few flows that came or went while it was written.

use core::arch::asm;

use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use fw_common::flow::FlowKey;
use fw_common::maps::{PortKey, capacity};

#[map]
static FLOW_USAGE: HashMap<PortKey, u64> = HashMap::with_max_entries(capacity::FLOW_USAGE, 0);

/// Whether the flow's port may have one more. A port that was never counted has none.
#[inline(always)]
pub fn has_room(key: &FlowKey, quota: u32) -> bool {
    let count = match FLOW_USAGE.get_ptr(PortKey::of_flow(key)) {
        // SAFETY: map values are aligned, and stay readable until the program ends.
        Some(count) => unsafe { count.read_volatile() },
        None => 0,
    };
    count < u64::from(quota)
}

/// Notes that the flow's port has one more (1) or less (-1).
#[inline(always)]
pub fn add(key: &FlowKey, by: i64) {
    let port = PortKey::of_flow(key);
    if let Some(count) = FLOW_USAGE.get_ptr_mut(port) {
        // SAFETY: map values are aligned, and stay writable until the program ends; all CPUs add atomically.
        unsafe {
            asm!("lock *(u64 *)({count} + 0) += {by}", count = in(reg) count, by = in(reg) by)
        }
    } else if by > 0 && FLOW_USAGE.insert(port, by as u64, 0).is_err() {
        // Full of ports that are gone: the next sweep makes room, and counts this one.
    }
}
