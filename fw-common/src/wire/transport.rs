//! Ports of TCP, UDP and their relatives; type and code of ICMP and ICMPv6.
//!
//! A first fragment that is too short for its transport header is malformed: the ports a rule matched would be the next fragment's to
//! choose. Protocols without ports have none: `has_ports` stays 0. Of a quoted header the first eight bytes must be there (RFC 792): ports,
//! type, code and identifier are among them.

use super::{Fragment, Headers, NOT_PLAIN, Packet, protocol};
use crate::verdict::Reason;

/// ICMP type of an echo reply (RFC 792).
pub const ICMP_ECHO_REPLY: u16 = 0;
/// ICMP type of an echo request.
pub const ICMP_ECHO_REQUEST: u16 = 8;
/// ICMPv6 type of an echo request (RFC 4443).
pub const ICMPV6_ECHO_REQUEST: u16 = 128;
/// ICMPv6 type of an echo reply.
pub const ICMPV6_ECHO_REPLY: u16 = 129;

/// Bits of the TCP flags byte (RFC 9293).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Push.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// Protocols whose first four bytes are source and destination port.
pub const fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::DCCP | protocol::UDPLITE
    )
}

/// Bytes of a transport header that an ICMP error quotes at the least.
const QUOTED: u32 = 8;
/// Protocols that have ports, or a type and a code in their place.
pub const fn tells_ports(number: u8) -> bool {
    has_ports(number) || matches!(number, protocol::ICMP | protocol::ICMPV6)
}

/// Bytes that the header of a protocol has at the least.
const fn header_bytes(number: u8) -> u32 {
    match number {
        protocol::TCP => 20,
        protocol::SCTP | protocol::DCCP => 12,
        protocol::UDP | protocol::UDPLITE | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => 0,
    }
}

/// `length`: bytes from `offset` to the end of the datagram (or of this part of it); of a quoted one to the end of the quote.
#[inline(always)]
pub(super) fn parse<P: Packet>(
    packet: &P,
    offset: u32,
    length: u32,
    is_quote: bool,
    headers: &mut Headers,
) -> Result<(), Reason> {
    if matches!(headers.fragment, Fragment::Later) {
        return Ok(());
    }
    let number = headers.protocol;
    if P::PLAIN && !matches!(number, protocol::TCP | protocol::UDP) {
        return Err(NOT_PLAIN);
    }
    let needed = header_bytes(number);
    if needed == 0 {
        return Ok(());
    }
    if length < if is_quote { QUOTED } else { needed } {
        return Err(Reason::Malformed);
    }
    headers.has_ports = 1;
    if number == protocol::TCP && !is_quote {
        let words: [u32; 4] = packet.load(offset).ok_or(Reason::Malformed)?;
        set_ports(headers, u32::from_be(words[0]));
        let fourth = u32::from_be(words[3]);
        let tcp_bytes = (fourth >> 28) * 4;
        if tcp_bytes < 20 || tcp_bytes > length {
            return Err(Reason::Malformed);
        }
        headers.tcp_flags = (fourth >> 16) as u8;
        headers.sequence = u32::from_be(words[1]);
        headers.acknowledge = u32::from_be(words[2]);
        return Ok(());
    }
    let words: [u32; 2] = packet.load(offset).ok_or(Reason::Malformed)?;
    let first = u32::from_be(words[0]);
    if has_ports(number) {
        set_ports(headers, first);
    } else {
        headers.sport = (first >> 24) as u16;
        headers.dport = (first >> 16 & 0xff) as u16;
        headers.echo_id = (u32::from_be(words[1]) >> 16) as u16;
    }
    Ok(())
}

fn set_ports(headers: &mut Headers, both: u32) {
    headers.sport = (both >> 16) as u16;
    headers.dport = both as u16;
}
