//! The fields of what IP carries; the same for both versions of IP. ICMPv6 is with IPv6.

use std::net::Ipv4Addr;

use super::{Fields, Short, Span};

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;
const SCTP: u8 = 132;

/// Flag words in the order of the line, with their bit in the 14th byte of the header.
const TCP_FLAGS: [(u8, &str); 6] = [
    (0x20, "URG"),
    (0x10, "ACK"),
    (0x08, "PSH"),
    (0x04, "RST"),
    (0x02, "SYN"),
    (0x01, "FIN"),
];

pub(super) fn write(fields: &mut Fields<'_>, protocol: u8, rest: Span<'_>) -> Result<(), Short> {
    match protocol {
        TCP => tcp(fields, rest),
        UDP => {
            fields.value("PROTO", "UDP");
            let head = rest.head::<8>()?;
            ports(fields, head);
            fields.tight("LEN", half(head, 4));
            Ok(())
        }
        ICMP => icmp(fields, rest),
        SCTP => {
            fields.value("PROTO", "SCTP");
            ports(fields, rest.head::<12>()?);
            Ok(())
        }
        AH => named(fields, "AH"),
        ESP => named(fields, "ESP"),
        IGMP => named(fields, "IGMP"),
        number => {
            fields.value("PROTO", number);
            Ok(())
        }
    }
}

fn named(fields: &mut Fields<'_>, name: &str) -> Result<(), Short> {
    fields.value("PROTO", name);
    Ok(())
}

fn tcp(fields: &mut Fields<'_>, rest: Span<'_>) -> Result<(), Short> {
    fields.value("PROTO", "TCP");
    let head = rest.head::<20>()?;
    ports(fields, head);
    fields.value("SEQ", word(head, 4));
    fields.value("ACK", word(head, 8));
    fields.value("WINDOW", half(head, 14));
    for (bit, name) in TCP_FLAGS {
        if head[13] & bit != 0 {
            fields.word(name);
        }
    }
    if head[13] & 0x20 != 0 {
        fields.value("URGP", half(head, 18));
    }
    Ok(())
}

fn icmp(fields: &mut Fields<'_>, rest: Span<'_>) -> Result<(), Short> {
    fields.value("PROTO", "ICMP");
    let head = rest.head::<8>()?;
    let [kind, code, ..] = *head;
    fields.value("TYPE", kind);
    fields.value("CODE", code);
    match (kind, code) {
        (0 | 8, _) => {
            fields.value("ID", half(head, 4));
            fields.value("SEQ", half(head, 6));
        }
        (3, 4) => fields.value("MTU", half(head, 6)),
        (5, _) => fields.value("GATEWAY", Ipv4Addr::from(word(head, 4))),
        (12, _) => fields.value("PARAMETER", head[4]),
        _ => {}
    }
    Ok(())
}

fn ports<const N: usize>(fields: &mut Fields<'_>, head: &[u8; N]) {
    fields.value("SPT", half(head, 0));
    fields.value("DPT", half(head, 2));
}

fn half<const N: usize>(head: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([head[at], head[at + 1]])
}

fn word<const N: usize>(head: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}
