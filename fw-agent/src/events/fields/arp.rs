//! ARP's fields: addresses, and what is asked or answered.
//!
//! Addresses are shown for IPv4 over Ethernet only, which is what a bridge carries; anything else has no such fields.

use std::net::Ipv4Addr;

use super::{Fields, Short, Span};

const REQUEST: u16 = 1;
const REPLY: u16 = 2;
const NAK: u16 = 10;

pub(super) fn write(fields: &mut Fields<'_>, packet: Span<'_>) -> Result<(), Short> {
    let head = packet.head::<28>()?;
    let hardware = &head[8..14];
    if head[4..6] == [6, 4] {
        let address = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
        fields.value("SRC", address(14));
        fields.value("DST", address(24));
    }
    fields.value("PROTO", "ARP");
    match u16::from_be_bytes([head[6], head[7]]) {
        REQUEST => fields.word("REQUEST"),
        REPLY => {
            fields.word("REPLY");
            fields.hex("MAC", hardware);
        }
        NAK => fields.word("NAK"),
        other => fields.value("CODE", other),
    }
    Ok(())
}
