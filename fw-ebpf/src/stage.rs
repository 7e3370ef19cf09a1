//! The pipeline's stages as functions that the verifier goes through one at a time.
//!
//! A global function is verified once, for any arguments, and a caller sees only what it returns; so the states of one stage do not multiply
//! with those of the next, and their stack frames are not alive together. The price: arguments are at most five scalars or pointers, and
//! pointers may be null as far as the verifier knows. A null (which no caller passes) is closed.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use fw_common::address;
use fw_common::ban;
use fw_common::classify::{self, Values};
use fw_common::conntrack::{self, CtState, Tracked};
use fw_common::decision::References;
use fw_common::event::FlowNews;
use fw_common::flow::{Flow, FlowKey};
use fw_common::fragment;
use fw_common::host::Passage;
use fw_common::lineage;
use fw_common::maps::policy::FIELDS;
use fw_common::maps::{Port, RuleWord};
use fw_common::pipeline::{self, Sought};
use fw_common::reevaluate;
use fw_common::syn_limit;
use fw_common::verdict::{Direction, NO_RULE, Reason};
use fw_common::wire::{self, Address, Headers};

use crate::decisions;
use crate::filter;
use crate::hairpin;
use crate::half_open;
use crate::host;
use crate::log;
use crate::skb::Skb;
use crate::tables::{self, Maps};
use crate::uplink::XdpFrame;

/// What a stage returns that went well; else the number of the reason why not.
const DONE: u32 = u32::MAX;

/// What [`classify`] returns if the arena is inconsistent; no rule word has all bits set.
pub const NO_RULE_WORD: u64 = u64::MAX;

/// What [`ancestor`] returns if there is none; no policy knows so many classes.
pub const NO_CLASS: u32 = u32::MAX;

/// What [`first_of_group`] returns if the arena is inconsistent; no policy has so many rules.
pub const NO_GROUP: u32 = u32::MAX - 1;

/// What [`find_half_open`] returns if there is none; the ring has not so many entries.
pub const NO_ENTRY: u32 = u32::MAX;

/// The result of a stage from what its function returned.
#[inline(always)]
pub fn result(returned: u32) -> Result<(), Reason> {
    match returned {
        DONE => Ok(()),
        reason => Err(Reason::from_u8(reason as u8).unwrap_or(Reason::Malformed)),
    }
}

#[inline(always)]
fn returned(result: Result<(), Reason>) -> u32 {
    match result {
        Ok(()) => DONE,
        Err(reason) => reason as u32,
    }
}

/// A stage's argument, or return from the stage.
macro_rules! argument {
    ($pointer:ident . $as:ident or $closed:expr) => {
        // SAFETY: the verifier passes null or a whole value, and only this call uses those that are mutable.
        match unsafe { $pointer.$as() } {
            Some(argument) => argument,
            None => return $closed,
        }
    };
}

/// [`wire::parse`], after another attempt at it.
#[unsafe(no_mangle)]
pub extern "C" fn parse(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    let headers = argument!(headers.as_mut or Reason::Malformed as u32);
    tables::clear(headers);
    returned(wire::parse(&Skb::of(skb), headers))
}

/// [`wire::parse_network`], for a frame without a link header.
#[unsafe(no_mangle)]
pub extern "C" fn parse_bare(skb: *mut __sk_buff, headers: *mut Headers) -> u32 {
    let headers = argument!(headers.as_mut or Reason::Malformed as u32);
    let skb = Skb::of(skb);
    let ethertype = skb.protocol();
    returned(wire::parse_network(&skb.bare(), ethertype, 0, headers))
}

/// [`host::passage`].
#[unsafe(no_mangle)]
pub extern "C" fn passage(
    skb: *mut __sk_buff,
    headers: *const Headers,
    direction: u32,
    bare: u32,
) -> u32 {
    let headers = argument!(headers.as_ref or Passage::Judged as u32);
    let direction = Direction::from_u8(direction as u8);
    host::passage(&Skb::of(skb), headers, direction, bare != 0) as u32
}

/// [`wire::parse`] at an uplink.
#[unsafe(no_mangle)]
pub extern "C" fn parse_early(frame: *mut xdp_md, headers: *mut Headers) -> u32 {
    let headers = argument!(headers.as_mut or Reason::Malformed as u32);
    tables::clear(headers);
    returned(wire::parse(&XdpFrame::of(frame), headers))
}

/// [`fragment::complete_fragment`].
#[unsafe(no_mangle)]
pub extern "C" fn complete_fragment(
    port: *const Port,
    direction: u32,
    headers: *mut Headers,
) -> u32 {
    let port = argument!(port.as_ref or Reason::Fragment as u32);
    let headers = argument!(headers.as_mut or Reason::Fragment as u32);
    let direction = Direction::from_u8(direction as u8);
    returned(fragment::complete_fragment(Maps, port, direction, headers))
}

/// [`pipeline::track_in_full`].
#[unsafe(no_mangle)]
pub extern "C" fn track(
    port: *const Port,
    direction: u32,
    headers: *const Headers,
    sought: u32,
) -> u32 {
    const CLOSED: u32 = Tracked::plain(CtState::Invalid).to_bits();
    let port = argument!(port.as_ref or CLOSED);
    let headers = argument!(headers.as_ref or CLOSED);
    let direction = Direction::from_u8(direction as u8);
    let sought = Sought::from_u32(sought);
    pipeline::track_in_full(Maps, port, direction, headers, sought).to_bits()
}

/// [`conntrack::related`]; 1 if the error is about a known flow. Of a frame that is `bare` offsets count from the network header.
#[unsafe(no_mangle)]
pub extern "C" fn related(
    skb: *mut __sk_buff,
    port: *const Port,
    direction: u32,
    headers: *const Headers,
    bare: u32,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let headers = argument!(headers.as_ref or 0);
    let direction = Direction::from_u8(direction as u8);
    let skb = Skb::of(skb);
    let found = match bare {
        0 => conntrack::related(&skb, Maps, port, direction, headers),
        _ => conntrack::related(&skb.bare(), Maps, port, direction, headers),
    };
    u32::from(found)
}

/// [`ban::is_banned`] for the source: 1 if it is.
#[unsafe(no_mangle)]
pub extern "C" fn is_banned(headers: *const Headers) -> u32 {
    let headers = argument!(headers.as_ref or 1);
    u32::from(ban::is_banned(Maps, headers.version, &headers.source))
}

/// [`address::is_blacklisted`] for the source: 1 if it is.
#[unsafe(no_mangle)]
pub extern "C" fn is_blacklisted(port: *const Port, headers: *const Headers) -> u32 {
    let port = argument!(port.as_ref or 1);
    let headers = argument!(headers.as_ref or 1);
    let found = address::is_blacklisted(Maps, port, headers.version, &headers.source);
    u32::from(found)
}

/// [`syn_limit::exceeds`]; 0 is no.
#[unsafe(no_mangle)]
pub extern "C" fn exceeds_syn_limit(headers: *const Headers) -> u32 {
    let headers = argument!(headers.as_ref or 1);
    u32::from(syn_limit::exceeds(Maps, headers))
}

/// [`pipeline::fill_values`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
pub extern "C" fn fill_values(
    port: *const Port,
    headers: *const Headers,
    state: u32,
    policy: u32,
    values: *mut Values,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let headers = argument!(headers.as_ref or 0);
    let values = argument!(values.as_mut or 0);
    let state = CtState::from_u8(state as u8);
    pipeline::fill_values(Maps, port, headers, state, policy, values);
    0
}

/// [`pipeline::fill_claim`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
pub extern "C" fn fill_claim(
    port: *const Port,
    target: *const Address,
    values: *mut Values,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let target = argument!(target.as_ref or 0);
    let values = argument!(values.as_mut or 0);
    pipeline::fill_claim(Maps, port, target, values);
    0
}

/// [`pipeline::note_checked`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
pub extern "C" fn note_checked(port: *const Port, headers: *const Headers) -> u32 {
    let port = argument!(port.as_ref or 0);
    let headers = argument!(headers.as_ref or 0);
    pipeline::note_checked(Maps, port, headers);
    0
}

/// [`reevaluate::fill_opening`]. Returns 0.
#[unsafe(no_mangle)]
pub extern "C" fn fill_opening(
    port: *const Port,
    headers: *const Headers,
    is_reply: u32,
    policy: u32,
    values: *mut Values,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let headers = argument!(headers.as_ref or 0);
    let values = argument!(values.as_mut or 0);
    reevaluate::fill_opening(Maps, port, headers, is_reply != 0, policy, values);
    0
}

/// [`lineage::ancestor`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ancestor(space: u32, class: u32, known: u32) -> u32 {
    lineage::ancestor(Maps, space, class, known).unwrap_or(NO_CLASS)
}

/// [`classify::classify`].
#[unsafe(no_mangle)]
pub extern "C" fn classify(policy: u32, values: *const Values) -> u64 {
    let values = argument!(values.as_ref or NO_RULE_WORD);
    classify::classify(Maps, policy, values).map_or(NO_RULE_WORD, |word| word.0)
}

/// [`classify::first_of_group`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first_of_group(policy: u32, references: *const [u64; FIELDS], group: u32) -> u32 {
    let references = argument!(references.as_ref or NO_GROUP);
    classify::first_of_group(Maps, policy, references, group).unwrap_or(NO_GROUP)
}

/// [`decisions::find`], or [`NO_RULE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn decided(identity: u64, references: *const References) -> u32 {
    let references = argument!(references.as_ref or NO_RULE);
    decisions::find(identity, references).unwrap_or(NO_RULE)
}

/// [`decisions::note`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remember(identity: u64, references: *const References, rule: u32) -> u32 {
    let references = argument!(references.as_ref or 0);
    decisions::note(identity, references, rule);
    0
}

/// [`pipeline::commit_flow`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
pub extern "C" fn commit(
    port: *const Port,
    direction: u32,
    headers: *const Headers,
    tracked: u32,
    rule: u32,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let headers = argument!(headers.as_ref or 0);
    let direction = Direction::from_u8(direction as u8);
    let tracked = Tracked::from_bits(tracked);
    pipeline::commit_flow(Maps, port, direction, headers, tracked, rule);
    0
}

/// [`filter::may_know`]: 1 if it may.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn may_know_flow(key: *const FlowKey) -> u32 {
    let key = argument!(key.as_ref or 1);
    u32::from(filter::may_know(key))
}

/// [`filter::note`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn note_flow(key: *const FlowKey) -> u32 {
    let key = argument!(key.as_ref or 0);
    filter::note(key);
    0
}

/// [`half_open::find`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_half_open(key: *const FlowKey) -> u32 {
    let key = argument!(key.as_ref or NO_ENTRY);
    half_open::find(key).unwrap_or(NO_ENTRY)
}

/// [`half_open::insert`]: 1 if it is there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn insert_half_open(key: *const FlowKey, flow: *const Flow) -> u32 {
    let key = argument!(key.as_ref or 0);
    let flow = argument!(flow.as_ref or 0);
    u32::from(half_open::insert(key, flow))
}

/// [`half_open::remove`]: 1 if it did.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn remove_half_open(key: *const FlowKey) -> u32 {
    let key = argument!(key.as_ref or 0);
    u32::from(half_open::remove(key))
}

/// [`log::tell_flow`]. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_flow(key: *const FlowKey, news: u64) -> u32 {
    let key = argument!(key.as_ref or 0);
    log::tell_flow(key, FlowNews::from_bits(news));
    0
}

/// [`log::emit`]; the judgement as a rule word. Returns 0: global functions return a number.
#[unsafe(no_mangle)]
pub extern "C" fn emit(
    skb: *mut __sk_buff,
    port: *const Port,
    direction: u32,
    judgement: u64,
) -> u32 {
    let port = argument!(port.as_ref or 0);
    let direction = Direction::from_u8(direction as u8);
    let judgement = RuleWord(judgement).judgement();
    log::emit(&Skb::of(skb), port, direction, &judgement);
    0
}

/// [`hairpin::move_back`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn move_back(skb: *mut __sk_buff, from: u32, bytes: u32, gap: u32) -> u32 {
    returned(hairpin::move_back(&Skb::of(skb), from, bytes, gap).ok_or(Reason::Malformed))
}

/// [`hairpin::answer`]; returns the TC action, or a negative number if the frame is not answered.
#[unsafe(no_mangle)]
pub extern "C" fn reject(
    skb: *mut __sk_buff,
    headers: *const Headers,
    port: *const Port,
    direction: u32,
) -> i32 {
    let headers = argument!(headers.as_ref or -1);
    let port = argument!(port.as_ref or -1);
    let direction = Direction::from_u8(direction as u8);
    hairpin::answer(&Skb::of(skb), port, direction, headers).unwrap_or(-1)
}

/// Does nothing: here is where those who look on put their probe (`fw-agent/src/datapath/watch.rs`). Every packet that is judged passes it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judged(
    skb: *mut __sk_buff,
    port: *const Port,
    direction: u32,
    outcome: u64,
) -> u32 {
    // SAFETY: no instruction. To the compiler it is one that uses the arguments, so that callers pass them.
    unsafe {
        core::arch::asm!(
            "",
            in("r1") skb,
            in("r2") port,
            in("r3") u64::from(direction),
            in("r4") outcome,
        );
    }
    0
}
