//! The datagram that an ICMP or ICMPv6 error quotes.
//!
//! In: the packet and the error's own headers. Out: [`Headers`] of the quoted datagram, as far as eight bytes of its transport header tell
//! (RFC 792, RFC 4443): addresses, protocol, ports or identifier. Flags and sequence numbers of TCP are not among them.
//!
//! Invariant: nothing behind the error's own end is read as part of the quote, be it padding of the frame or of the error (RFC 4884).

use super::{Headers, IpVersion, Packet, Span, ip};
use crate::verdict::Reason;

/// Bytes of the error's own header: type, code, checksum, and a word that depends on the type.
const ERROR_BYTES: u32 = 8;

/// Parses what the error with `headers` quotes into `quoted`, which must be [`Headers::default`].
///
/// # Errors
/// As [`super::parse`]: the quote ends too early, or is none.
#[inline(always)]
pub fn parse_quoted<P: Packet>(
    packet: &P,
    headers: &Headers,
    quoted: &mut Headers,
) -> Result<(), Reason> {
    let l3 = u32::from(headers.l3);
    let (field, fixed) = match headers.version {
        IpVersion::V4 => (2, 0),
        IpVersion::V6 => (4, 40),
        IpVersion::None => return Err(Reason::Malformed),
    };
    let length: u16 = packet.load(l3 + field).ok_or(Reason::Malformed)?;
    let end = match u32::from(u16::from_be(length)) {
        0 => packet.length(),
        length => l3 + fixed + length,
    };
    let span = Span {
        start: u32::from(headers.l4) + ERROR_BYTES,
        end,
        is_quote: true,
    };
    match headers.version {
        IpVersion::V4 => ip::parse_v4(packet, span, quoted),
        IpVersion::V6 => ip::parse_v6(packet, span, quoted),
        IpVersion::None => Err(Reason::Malformed),
    }
}
