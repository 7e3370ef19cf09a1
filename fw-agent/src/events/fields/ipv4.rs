//! IPv4's fields.
//!
//! Bytes behind the header's total length are link padding and do not count. A total length of 0 on something longer than 65,535 bytes is
//! how the kernel marks a super-packet. A packet without payload, or whose header is longer than it or than five words long at least is
//! `INVALID=IHL`. Later fragments are decoded like first ones, as in the reference.

use std::net::Ipv4Addr;

use super::{Fields, Short, Span, transport};

pub(super) fn write(fields: &mut Fields<'_>, packet: Span<'_>) -> Result<(), Short> {
    let head = packet.head::<20>()?;
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    let total = half(2);
    let packet = match total {
        0 if packet.length() > usize::from(u16::MAX) => packet,
        total => packet.at_most(usize::from(total)),
    };
    let header = usize::from(head[0] & 15) * 4;
    let payload = match packet.skip(header) {
        Some(payload) if header >= 20 && payload.length() > 0 => payload,
        Some(_) | None => {
            fields.word("INVALID=IHL");
            return Ok(());
        }
    };
    fields.value("SRC", address(12));
    fields.value("DST", address(16));
    fields.value("LEN", total);
    fields.value("TOS", format_args!("0x{:02X}", head[1] & 0x1e));
    fields.value("PREC", format_args!("0x{:02X}", head[1] & 0xe0));
    fields.value("TTL", head[8]);
    fields.value("ID", half(4));
    let fragment = half(6);
    if fragment & 0x1fff != 0 {
        fields.value("FRAG", fragment & 0x1fff);
    }
    if fragment & 0x4000 != 0 {
        fields.word("DF");
    }
    if fragment & 0x2000 != 0 {
        fields.word("MF");
    }
    transport::write(fields, head[9], payload)
}
