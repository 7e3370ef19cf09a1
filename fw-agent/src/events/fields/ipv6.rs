//! IPv6's fields: the fixed header, the walk over extension headers, ICMPv6.
//!
//! Every extension header is at least eight bytes long, so that the walk over what was captured ends. Of a redirect, `TARGET` and `GATEWAY` are the
//! target and the destination address, in the packet's order.

use std::net::Ipv6Addr;

use super::{Fields, Short, Span, transport};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

pub(super) fn write(fields: &mut Fields<'_>, packet: Span<'_>) -> Result<(), Short> {
    let head = packet.head::<40>()?;
    let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let length = u16::from_be_bytes([head[4], head[5]]);
    fields.value("SRC", address(head, 8));
    fields.value("DST", address(head, 24));
    fields.value("LEN", length);
    fields.value("TC", (word >> 20) & 0xff);
    fields.value("FLOWLBL", word & 0xf_ffff);
    fields.value("HOPLIMIT", head[7]);
    let packet = match length {
        // A super-packet of more than 64 KiB.
        0 if packet.length() > 40 + usize::from(u16::MAX) => packet,
        length => packet.at_most(40 + usize::from(length)),
    };
    let rest = packet.skip(40).ok_or(Short::Packet(packet.length()))?;
    walk(fields, head[6], rest)
}

fn walk(fields: &mut Fields<'_>, mut next: u8, mut rest: Span<'_>) -> Result<(), Short> {
    loop {
        let name = match next {
            HOP_BY_HOP => Some("HOPOPTS"),
            DESTINATION => Some("DSTOPTS"),
            MOBILITY => Some("MH"),
            ROUTING | FRAGMENT => None,
            ICMPV6 => return icmp(fields, rest),
            protocol => return transport::write(fields, protocol, rest),
        };
        let head = rest.head::<8>()?;
        let length = match next {
            FRAGMENT => 8,
            _ => (usize::from(head[1]) + 1) * 8,
        };
        let after = rest.skip(length).ok_or(Short::Packet(rest.length()))?;
        match (name, next) {
            (Some(name), _) => fields.value("NEXTHDR", name),
            (None, ROUTING) => routing(fields, head, rest)?,
            (None, _) => {
                let offset = u16::from_be_bytes([head[2], head[3]]);
                let id = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
                fields.value("FRAG", offset >> 3);
                fields.value("ID", id);
                if offset & 1 != 0 {
                    fields.word("MF");
                }
            }
        }
        (next, rest) = (head[0], after);
    }
}

fn routing(fields: &mut Fields<'_>, head: &[u8; 8], header: Span<'_>) -> Result<(), Short> {
    let [_, units, kind, left, ..] = *head;
    fields.value("TYPE", kind);
    fields.tight("SEGMENTS", left);
    match kind {
        // Two units per address, and no more segments left than addresses.
        0 if units % 2 != 0 || left > units / 2 => fields.word("INVALID=SEGMENTS"),
        2 => fields.value("HOME", address(header.head::<24>()?, 8)),
        _ => {}
    }
    Ok(())
}

fn icmp(fields: &mut Fields<'_>, message: Span<'_>) -> Result<(), Short> {
    fields.value("PROTO", "ICMPV6");
    let head = message.head::<8>()?;
    let [kind, code, ..] = *head;
    let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let word = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    fields.value("TYPE", kind);
    fields.value("CODE", code);
    match kind {
        2 => fields.value("MTU", word),
        4 => match code {
            0 => fields.value("PARAMETER", "HEADER"),
            1 => fields.value("PARAMETER", "NEXTHEADER"),
            2 => fields.value("PARAMETER", "OPTION"),
            other => fields.value("PARAMETER", other),
        },
        128 | 129 => {
            fields.value("ID", half(4));
            fields.value("SEQ", half(6));
        }
        134 => {
            let head = message.head::<16>()?;
            let word = |at: usize| {
                u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            fields.value("HOPLIMIT", head[4]);
            fields.value("RA", format_args!("{:02X}", head[5]));
            fields.value("LIFETIME", half(6));
            fields.value("REACHABLE", word(8));
            fields.value("RETRANSMIT", word(12));
        }
        136 => fields.value("NA", format_args!("{word:08X}")),
        137 => {
            let head = message.head::<40>()?;
            fields.value("TARGET", address(head, 8));
            fields.value("GATEWAY", address(head, 24));
        }
        _ => {}
    }
    Ok(())
}

fn address(bytes: &[u8], at: usize) -> Ipv6Addr {
    let octets = bytes.get(at..at + 16).and_then(|bytes| bytes.first_chunk());
    octets.map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets))
}
