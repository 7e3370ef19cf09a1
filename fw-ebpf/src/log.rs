//! Logged packets go to the agent through the ring buffer, each rule of each port at most as often as the settings say. Neither the limit nor
//! a full buffer changes a verdict: they cost the event, and are counted. Flows that begin and that are replaced go the same way, if the
//! settings ask for them, and without a limit.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, RingBuf};
use fw_common::event::{Event, FlowEvent, FlowNews, HEADER_BYTES};
use fw_common::flow::FlowKey;
use fw_common::ledger::LogLimit;
use fw_common::maps::{Port, RuleKey, capacity, counter, port_flag};
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Judgement};
use fw_common::wire::Packet;

use crate::ledger::{count, count_once};
use crate::skb::{BARE_LINK, Skb};
use crate::tables::Maps;

#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

#[map]
static LOG_LIMITS: LruHashMap<RuleKey, LogLimit> =
    LruHashMap::with_max_entries(capacity::LOG_LIMITS, 0);

/// Asks the rule's limit: how many packets were suppressed before this one; none if it is too. Two CPUs that ask at once may get one token
/// twice, or lose one of two suppressed packets: a line too many, or a number too small by one, is no harm.
#[inline(always)]
fn within_limit(key: &RuleKey) -> Option<u64> {
    let settings = Maps.settings();
    if settings.log_interval == 0 {
        return Some(0);
    }
    let now = Maps.now();
    if let Some(limit) = LOG_LIMITS.get_ptr_mut(key) {
        // SAFETY: map values stay readable until the program ends; see above for writers at once.
        return unsafe { (*limit).take(now, settings.log_interval, settings.log_burst) };
    }
    let mut limit = LogLimit::default();
    let taken = limit.take(now, settings.log_interval, settings.log_burst);
    if LOG_LIMITS.insert(key, limit, 0).is_err() {
        // Without a limit of its own the next packet begins a new one: a line too many.
    }
    taken
}

/// Notes for the next event of the rule that the one that would have told of `suppressed` packets was lost.
#[inline(always)]
fn give_back(key: &RuleKey, suppressed: u64) {
    if let Some(limit) = LOG_LIMITS.get_ptr_mut(key) {
        // SAFETY: as in `within_limit`.
        unsafe { (*limit).suppressed += suppressed }
    }
}

/// Writes one event, if the rule may be logged now.
#[inline(always)]
pub fn emit(skb: &Skb, port: &Port, direction: Direction, judgement: &Judgement) {
    let key = RuleKey::new(port, direction, judgement.rule);
    let Some(suppressed) = within_limit(&key) else {
        count(counter::LOGS_LIMITED, skb);
        return;
    };
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(counter::LOST_EVENTS, skb);
        give_back(&key, suppressed);
        return;
    };
    let event = entry.as_mut_ptr();
    let length = skb.length();
    let captured = core::cmp::min(length, HEADER_BYTES as u32);
    let tag = skb.offloaded_tag();
    // SAFETY: `event` is reserved memory for one `Event`; every field is written, `header` by zeroing and then by the copy.
    unsafe {
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).suppressed = suppressed;
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

/// Writes what became of a flow.
#[inline(always)]
pub fn tell_flow(key: &FlowKey, news: FlowNews) {
    let Some(mut entry) = EVENTS.reserve::<FlowEvent>(0) else {
        count_once(counter::LOST_EVENTS);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: `event` is reserved memory for one `FlowEvent`, and all of it is written. The helper has no arguments.
    unsafe { event.write(news.event(key, bpf_ktime_get_ns())) };
    entry.submit(0);
}
