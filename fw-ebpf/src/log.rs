//! Logged packets go to the agent through the ring buffer. A full buffer costs the event, never the verdict.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::RingBuf;
use fw_common::event::{Event, HEADER_BYTES};
use fw_common::maps::{Port, capacity, counter};
use fw_common::verdict::{Direction, Judgement};
use fw_common::wire::Packet;

use crate::skb::Skb;
use crate::tables::count;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

/// Writes one event.
#[inline(always)]
pub fn emit(skb: &Skb, port: &Port, direction: Direction, judgement: &Judgement) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(counter::LOST_EVENTS, skb);
        return;
    };
    let event = entry.as_mut_ptr();
    let length = skb.length();
    let captured = core::cmp::min(length, HEADER_BYTES as u32);
    let tag = skb.offloaded_tag();
    // SAFETY: `event` is reserved memory for one `Event`; every field is written, `header` by zeroing and then by the copy.
    unsafe {
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).ifindex = skb.ifindex();
        (*event).vmid = port.vmid;
        (*event).rule = judgement.rule;
        (*event).length = length;
        (*event).mark = skb.mark();
        (*event).captured = captured as u16;
        (*event).net = port.net;
        (*event).vlan_tci = tag.unwrap_or(0);
        (*event).tagged = u8::from(tag.is_some());
        (*event).direction = direction as u8;
        (*event).verdict = judgement.verdict as u8;
        (*event).reason = judgement.reason as u8;
        (*event).level = judgement.log;
        (*event).reserved = 0;
        let header = (&raw mut (*event).header).cast::<u8>();
        let words = header.cast::<u64>();
        for index in 0..HEADER_BYTES / 8 {
            words.add(index).write(0);
        }
        if captured == 0 || !skb.copy_head(header, captured) {
            (*event).captured = 0;
        }
    }
    entry.submit(0);
}
