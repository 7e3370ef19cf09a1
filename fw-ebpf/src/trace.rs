//! Every verdict as a line of the agent's own log: for who works on the programs (feature `debug-log`), never in what is shipped.
//!
//! The names of the numbers are in `fw_common::verdict`.

use aya_ebpf::programs::TcContext;
use fw_common::maps::Port;
use fw_common::verdict::{Direction, Judgement};
use fw_common::wire::Packet;

use crate::skb::Skb;

/// Tells what became of a frame.
#[inline(always)]
pub fn verdict(skb: &Skb, port: &Port, direction: Direction, judgement: &Judgement) {
    let context = TcContext::new(skb.raw());
    aya_log_ebpf::debug!(
        &context,
        "guest {} net{} direction {}: {} bytes, verdict {}, reason {}, rule {:x}",
        port.vmid,
        port.net,
        direction as u8,
        skb.length(),
        judgement.verdict as u8,
        judgement.reason as u8,
        judgement.rule
    );
}
