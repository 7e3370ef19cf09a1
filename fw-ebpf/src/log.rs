//! Logged packets go to the agent through the ring buffer, each rule of each port at most as often as the settings say. Neither the limit nor
//! a full buffer changes a verdict: they cost the event, and are counted.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, RingBuf};
use fw_common::event::{Event, HEADER_BYTES};
use fw_common::limit::Bucket;
use fw_common::maps::{LogKey, Port, capacity, counter, port_flag};
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Judgement};
use fw_common::wire::Packet;

use crate::skb::{BARE_LINK, Skb};
use crate::tables::{Maps, count};

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

#[map]
static LOG_LIMITS: LruHashMap<LogKey, Bucket> =
    LruHashMap::with_max_entries(capacity::LOG_LIMITS, 0);

/// Takes a token from the rule's bucket. Two CPUs that take at once may get one token twice: a line too many is no harm.
#[inline(always)]
fn within_limit(port: &Port, direction: Direction, rule: u32) -> bool {
    let settings = Maps.settings();
    if settings.log_interval == 0 {
        return true;
    }
    let key = LogKey {
        vmid: port.vmid,
        rule,
        net: port.net,
        direction: direction as u8,
        reserved: 0,
    };
    let now = Maps.now();
    if let Some(bucket) = LOG_LIMITS.get_ptr_mut(key) {
        // SAFETY: map values stay readable until the program ends; see above for writers at once.
        return unsafe { (*bucket).take(now, settings.log_interval, settings.log_burst) };
    }
    let mut bucket = Bucket::default();
    let taken = bucket.take(now, settings.log_interval, settings.log_burst);
    if LOG_LIMITS.insert(key, bucket, 0).is_err() {
        // Without a bucket the next packet begins a new one: a line too many.
    }
    taken
}

/// Writes one event, if the rule may be logged now.
#[inline(always)]
pub fn emit(skb: &Skb, port: &Port, direction: Direction, judgement: &Judgement) {
    if !within_limit(port, direction, judgement.rule) {
        count(counter::LOGS_LIMITED, skb);
        return;
    }
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
        if port.flags & port_flag::NO_LINK != 0 {
            (*event).captured = skb.copy_bare(header) as u16;
            (*event).length = length + BARE_LINK;
        } else if captured == 0 || !skb.copy_head(header, captured) {
            (*event).captured = 0;
        }
    }
    entry.submit(0);
}
