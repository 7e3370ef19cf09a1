//! Tapwall's kernel programs: the two TC hooks of a guest's tap or veth device, (in [`host`]) those of the host's interfaces, and (in
//! [`uplink`]) the XDP hook of network cards.
//!
//! What a guest sends comes in at the device (hook ingress, direction Out); what it is to receive goes out of it (hook egress, direction
//! In). Both hooks run the pipeline of `fw-common` on BPF maps, then
//!
//! 1. count the packet under its reason, port and rule, 2. write an event if the judgement says so, 3. turn the verdict into a TC action.
//!
//! Invariant: a packet passes only by [`Verdict::Accept`] or as a reply that [`hairpin`] made itself. An accept lets later programs and
//! filters run (`TC_ACT_UNSPEC`, which is also `TCX_NEXT`).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the macro `classifier` makes functions without"
)]

mod decisions;
mod filter;
mod hairpin;
mod half_open;
mod host;
mod ledger;
mod linear;
mod log;
mod skb;
mod stage;
mod tables;
#[cfg(feature = "debug-log")]
mod trace;
mod uplink;
mod usage;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use fw_common::ledger::Outcome;
use fw_common::maps::{HAIRPIN_MARK, Port, RuleWord};
use fw_common::pipeline;
use fw_common::tables::Tables;
use fw_common::verdict::{Direction, Judgement, Reason, Verdict};
use fw_common::wire::Packet;

use crate::ledger::count;
use crate::skb::Skb;
use crate::tables::Maps;

/// What a guest sends.
#[classifier]
pub fn tapwall_ingress(ctx: TcContext) -> i32 {
    handle(Skb::of(ctx.skb.skb), Direction::Out)
}

/// What a guest is to receive.
#[classifier]
pub fn tapwall_egress(ctx: TcContext) -> i32 {
    handle(Skb::of(ctx.skb.skb), Direction::In)
}

#[inline(always)]
fn handle(skb: Skb, direction: Direction) -> i32 {
    if skb.mark() == HAIRPIN_MARK {
        skb.set_mark(0);
        count(Reason::Hairpin as u32, &skb);
        return TC_ACT_UNSPEC;
    }
    let Some(port) = Maps.port(skb.ifindex()) else {
        count(Reason::NoPolicy as u32, &skb);
        return TC_ACT_SHOT;
    };
    enforce(&skb, &skb, port, direction)
}

/// Judges a packet and does what the verdict says. `skb` is what `packet` is made of.
#[inline(always)]
fn enforce<P: Packet>(packet: &P, skb: &Skb, port: &Port, direction: Direction) -> i32 {
    let Some(headers) = tables::headers() else {
        count(Reason::BadPolicy as u32, skb);
        return TC_ACT_SHOT;
    };
    let judgement: Judgement = pipeline::judge(packet, Maps, port, direction, headers);
    let outcome = Outcome {
        verdict: judgement.verdict,
        reason: judgement.reason,
        rule: judgement.rule,
    };
    fw_common::ledger::enter(&Maps, port, direction, outcome, ledger::frame(skb));
    stage::judged(skb.raw(), port, direction as u32, outcome.to_bits());
    #[cfg(feature = "debug-log")]
    trace::verdict(skb, port, direction, &judgement);
    if judgement.log != fw_common::verdict::NO_LOG {
        let word = RuleWord::new(
            judgement.rule,
            judgement.verdict,
            judgement.reason,
            judgement.log,
        );
        stage::emit(skb.raw(), port, direction as u32, word.0);
    }
    match judgement.verdict {
        Verdict::Accept => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
        Verdict::Reject => match stage::reject(skb.raw(), headers, port, direction as u32) {
            action @ 0.. => action,
            _ => TC_ACT_SHOT,
        },
    }
}

/// A panic would be an endless loop, which the verifier refuses: a program that can panic does not load.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The programs call helpers that the kernel reserves for GPL-compatible ones.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
