//! The counters as BPF maps. What is counted where: `fw_common::ledger`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, PerCpuHashMap};
use fw_common::ledger::{Frame, Ledger};
use fw_common::maps::{Counter, PortCounters, RuleKey, capacity, counter};
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Verdict};
use fw_common::wire::Packet;

use crate::skb::Skb;
use crate::tables::Maps;

/// `BPF_F_NO_PREALLOC` of the kernel's `bpf.h`: memory is taken for entries that there are.
const ON_DEMAND: u32 = 1;

#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(counter::ENTRIES, 0);
#[map]
static PORT_COUNTERS: PerCpuArray<PortCounters> =
    PerCpuArray::with_max_entries(capacity::PORT_COUNTERS, 0);
#[map]
static RULE_COUNTERS: PerCpuHashMap<RuleKey, Counter> =
    PerCpuHashMap::with_max_entries(capacity::RULE_COUNTERS, ON_DEMAND);

/// Counts a frame under a reason (or another entry of [`counter`]).
#[inline(always)]
pub fn count(entry: u32, skb: &Skb) {
    Maps.add(entry, frame(skb));
}

/// Counts something that is no frame.
#[inline(always)]
pub fn count_once(entry: u32) {
    Maps.add(entry, Frame::event(Maps.now()));
}

/// What a frame adds to counters.
#[inline(always)]
pub fn frame(skb: &Skb) -> Frame {
    Frame {
        packets: skb.segments(),
        bytes: skb.length(),
        now: Maps.now(),
    }
}

impl Ledger for Maps {
    #[inline(always)]
    fn add(&self, entry: u32, frame: Frame) {
        if let Some(counter) = COUNTERS.get_ptr_mut(entry) {
            // SAFETY: this CPU's own entry; programs at these hooks do not interrupt each other.
            unsafe { (*counter).add(frame) }
        }
    }

    #[inline(always)]
    fn add_port(&self, slot: u32, direction: Direction, verdict: Verdict, frame: Frame) {
        let Some(counters) = PORT_COUNTERS.get_ptr_mut(slot) else {
            return;
        };
        let rows = counters.cast::<[Counter; 3]>();
        let row = match direction {
            Direction::In => rows,
            // SAFETY: there are two rows.
            Direction::Out => unsafe { rows.add(1) },
        };
        let first = row.cast::<Counter>();
        let entry = match verdict {
            Verdict::Accept => first,
            // SAFETY: there are three verdicts in a row.
            Verdict::Drop => unsafe { first.add(1) },
            // SAFETY: as above.
            Verdict::Reject => unsafe { first.add(2) },
        };
        // SAFETY: as in `add`.
        unsafe { (*entry).add(frame) }
    }

    #[inline(always)]
    fn add_rule(&self, key: &RuleKey, frame: Frame) -> bool {
        if let Some(counter) = RULE_COUNTERS.get_ptr_mut(key) {
            // SAFETY: as in `add`.
            unsafe { (*counter).add(frame) }
            return true;
        }
        let mut counter = Counter::default();
        counter.add(frame);
        // Another CPU may have made the entry meanwhile: only this CPU's part is written.
        RULE_COUNTERS.insert(key, counter, 0).is_ok()
    }
}
