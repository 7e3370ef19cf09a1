//! What a query's packet carries behind its network header.
//!
//! In: the query, its addresses, a buffer that ends with the room for the network header. Out: the buffer with the payload, checksums filled in.
//! A body is there where a receiver, or connection tracking, expects one: ICMP errors quote a packet that the receiver could have sent,
//! neighbour messages have a target, SCTP begins with INIT and DCCP with a request. Protocols that are extension headers in IPv6 are followed by
//! "no next header".

use std::net::Ipv6Addr;

use etherparse::checksum::Sum16BitWords;
use etherparse::{IpNumber, Ipv4Header, Ipv6Header};

use crate::simulate::protocol::{
    AH, DCCP, ESP, GRE, ICMP, ICMPV6, IGMP, IPIP, IPV6, SCTP, TCP, UDP, UDPLITE,
};
use crate::simulate::query::{Addresses, Query, SOURCE_PORT};

const NO_NEXT_HEADER: u8 = 59;
/// Destination port of the quoted packet: where traceroute begins.
const QUOTED_PORT: u16 = 33434;
const PATH_MTU: u16 = 1400;

pub(super) fn write(query: &Query, addresses: Addresses, out: &mut Vec<u8>) {
    let start = out.len();
    let sport = query.sport.unwrap_or(SOURCE_PORT).to_be_bytes();
    let dport = query.dport.unwrap_or(0).to_be_bytes();
    if matches!(query.protocol, TCP | UDP | UDPLITE | SCTP | DCCP) {
        out.extend_from_slice(&sport);
        out.extend_from_slice(&dport);
    }
    // Where the checksum goes, from the start of the payload, and whether the addresses count.
    let (checksum, pseudo) = match query.protocol {
        TCP => {
            tcp(query.tcp_flags, out);
            (Some(16), true)
        }
        UDP | UDPLITE => {
            // Length, or for UDP-Lite the bytes that the checksum covers: all eight.
            out.extend_from_slice(&[0, 8, 0, 0]);
            (Some(6), true)
        }
        SCTP => {
            sctp_init(start, out);
            (None, false)
        }
        DCCP => {
            // Five words, type REQUEST with a long sequence number, service code 0.
            out.extend_from_slice(&[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
            (Some(6), true)
        }
        ICMP => {
            icmp(query, addresses, out);
            (Some(2), false)
        }
        ICMPV6 => {
            icmpv6(query, addresses, out);
            (Some(2), true)
        }
        IGMP => {
            // A version 2 report.
            out.extend_from_slice(&[0x16, 0, 0, 0]);
            match addresses {
                Addresses::V4(_, group) => out.extend_from_slice(&group.octets()),
                Addresses::V6(..) => out.extend_from_slice(&[0; 4]),
            }
            (Some(2), false)
        }
        protocol => {
            other(protocol, addresses, out);
            (None, false)
        }
    };
    if let Some(at) = checksum {
        seal(
            query.protocol,
            pseudo.then_some(addresses),
            &mut out[start..],
            at,
        );
    }
}

fn tcp(flags: u8, out: &mut Vec<u8>) {
    const ACK: u8 = 0x10;
    const URG: u8 = 0x20;
    let acknowledged = u32::from(flags & ACK != 0);
    let urgent = u16::from(flags & URG != 0);
    out.extend_from_slice(&1_u32.to_be_bytes());
    out.extend_from_slice(&acknowledged.to_be_bytes());
    out.extend_from_slice(&[5 << 4, flags]);
    out.extend_from_slice(&64240_u16.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&urgent.to_be_bytes());
}

fn sctp_init(start: usize, out: &mut Vec<u8>) {
    // Verification tag 0, as an INIT's must be, and room for the checksum.
    out.extend_from_slice(&[0; 8]);
    // INIT of 20 bytes: tag 1, window 65536, one stream each way, sequence number 1.
    out.extend_from_slice(&[1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let crc = crc32c(&out[start..]);
    out[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

fn icmp(query: &Query, addresses: Addresses, out: &mut Vec<u8>) {
    let kind = query.icmp_type();
    let code = query.icmp_code.unwrap_or(0);
    out.extend_from_slice(&[kind, code, 0, 0]);
    match (kind, code) {
        // Echo: id and sequence number.
        (0 | 8, _) => out.extend_from_slice(&[0, 77, 0, 1]),
        (3, 4) => {
            out.extend_from_slice(&[0, 0]);
            out.extend_from_slice(&PATH_MTU.to_be_bytes());
        }
        (5, _) => out.extend_from_slice(&[192, 0, 2, 1]),
        // Timestamps: id, sequence number, three times.
        (13 | 14, _) => {
            out.extend_from_slice(&[0, 77, 0, 1]);
            out.extend_from_slice(&[0; 12]);
        }
        // Address mask: id, sequence number, mask.
        (17 | 18, _) => out.extend_from_slice(&[0, 77, 0, 1, 0, 0, 0, 0]),
        _ => out.extend_from_slice(&[0; 4]),
    }
    if matches!(kind, 3 | 4 | 5 | 11 | 12) {
        quote(addresses, out);
    }
}

fn icmpv6(query: &Query, addresses: Addresses, out: &mut Vec<u8>) {
    let kind = query.icmp_type();
    out.extend_from_slice(&[kind, query.icmp_code.unwrap_or(0), 0, 0]);
    let target = match addresses {
        // Who advertises, advertises its own address.
        Addresses::V6(source, _) if kind == 136 && !source.is_unspecified() => source,
        Addresses::V6(_, dest) if !dest.is_multicast() => dest,
        Addresses::V6(source, _) if !source.is_unspecified() => source,
        Addresses::V6(..) | Addresses::V4(..) => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    };
    let target = target.octets();
    match kind {
        1 | 3 | 4 => {
            out.extend_from_slice(&[0; 4]);
            quote(addresses, out);
        }
        2 => {
            out.extend_from_slice(&u32::from(PATH_MTU).to_be_bytes());
            quote(addresses, out);
        }
        128 | 129 => out.extend_from_slice(&[0, 77, 0, 1]),
        // Group query, report, done: delay, group.
        130..=132 => {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&match addresses {
                Addresses::V6(_, group) => group.octets(),
                Addresses::V4(..) => [0; 16],
            });
        }
        // Router advertisement: hop limit 64, lifetime 1800 s, the receiver's own timers.
        134 => out.extend_from_slice(&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]),
        // Neighbour solicitation and (solicited, override) advertisement.
        135 | 136 => {
            out.extend_from_slice(&[if kind == 136 { 0x60 } else { 0 }, 0, 0, 0]);
            out.extend_from_slice(&target);
        }
        // Redirect: better hop, destination.
        137 => {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&target);
            out.extend_from_slice(&target);
        }
        _ => out.extend_from_slice(&[0; 4]),
    }
}

/// The start of a UDP packet that the receiver could have sent to the sender.
fn quote(addresses: Addresses, out: &mut Vec<u8>) {
    inner(addresses, UDP, 8, out);
    out.extend_from_slice(&SOURCE_PORT.to_be_bytes());
    out.extend_from_slice(&QUOTED_PORT.to_be_bytes());
    out.extend_from_slice(&[0, 8, 0, 0]);
}

/// A network header the other way round, in front of `length` bytes.
fn inner(addresses: Addresses, protocol: u8, length: u16, out: &mut Vec<u8>) {
    match addresses {
        Addresses::V4(source, dest) => {
            let mut header = Ipv4Header {
                total_len: Ipv4Header::MIN_LEN_U16 + length,
                identification: 2,
                time_to_live: 64,
                protocol: IpNumber(protocol),
                source: dest.octets(),
                destination: source.octets(),
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            out.extend_from_slice(&header.to_bytes());
        }
        Addresses::V6(source, dest) => {
            let header = Ipv6Header {
                payload_length: length,
                next_header: IpNumber(protocol),
                hop_limit: 64,
                source: dest.octets(),
                destination: source.octets(),
                ..Ipv6Header::default()
            };
            out.extend_from_slice(&header.to_bytes());
        }
    }
}

fn other(protocol: u8, addresses: Addresses, out: &mut Vec<u8>) {
    let v6 = matches!(addresses, Addresses::V6(..));
    match protocol {
        IPIP => {
            // IPv4 documentation addresses; the outer ones may be of the other family.
            let (a, b) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
            inner(Addresses::V4(a, b), UDP, 8, out);
            out.extend_from_slice(&[0, 9, 0, 9, 0, 8, 0, 0]);
        }
        IPV6 => {
            let address = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            inner(
                Addresses::V6(address(1), address(2)),
                NO_NEXT_HEADER,
                0,
                out,
            );
        }
        // No options, carrying IPv4 without a packet.
        GRE => out.extend_from_slice(&[0, 0, 8, 0]),
        // Security parameters 1, sequence number 1, opaque bytes.
        ESP => {
            out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
            out.extend_from_slice(&[0; 16]);
        }
        // 24 bytes: security parameters 1, sequence number 1, 12 bytes of check value.
        AH => {
            out.extend_from_slice(&[NO_NEXT_HEADER, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
            out.extend_from_slice(&[0; 12]);
        }
        // Hop-by-hop and destination options (padding), an empty routing header, mobility.
        0 | 43 | 60 | 135 if v6 => {
            out.extend_from_slice(&[NO_NEXT_HEADER, 0, 1, 4, 0, 0, 0, 0]);
        }
        // A fragment that is the whole packet.
        44 if v6 => out.extend_from_slice(&[NO_NEXT_HEADER, 0, 0, 0, 0, 0, 0, 1]),
        NO_NEXT_HEADER if v6 => {}
        _ => out.extend_from_slice(&[0; 20]),
    }
}

/// Fills in the Internet checksum at `at`; over the addresses too if there are any.
fn seal(protocol: u8, pseudo: Option<Addresses>, payload: &mut [u8], at: usize) {
    let length = (payload.len() as u32).to_be_bytes();
    let mut sum = match pseudo {
        None => Sum16BitWords::new(),
        Some(Addresses::V4(source, dest)) => Sum16BitWords::new()
            .add_4bytes(source.octets())
            .add_4bytes(dest.octets()),
        Some(Addresses::V6(source, dest)) => Sum16BitWords::new()
            .add_16bytes(source.octets())
            .add_16bytes(dest.octets()),
    };
    if pseudo.is_some() {
        sum = sum.add_2bytes([0, protocol]).add_4bytes(length);
    }
    let sum = sum.add_slice(payload);
    let checksum = match protocol {
        // 0 would mean that there is none.
        UDP | UDPLITE => sum.to_ones_complement_with_no_zero(),
        _ => sum.ones_complement(),
    };
    payload[at..at + 2].copy_from_slice(&checksum.to_be().to_be_bytes());
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_of_the_standard_check() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
