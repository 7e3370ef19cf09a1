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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Fragment, has_ports};

    /// An error whose own header ends at `start`, quoting `quote`, in a frame with some bytes behind it.
    fn frame(v6: bool, quote: &[u8], padding: &[u8]) -> (Vec<u8>, Headers) {
        let ip: usize = if v6 { 40 } else { 20 };
        let mut bytes = vec![0; 14 + ip + 8];
        let length = quote.len() + 8 + if v6 { 0 } else { ip };
        let at = if v6 { 18 } else { 16 };
        bytes[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
        bytes.extend(quote);
        bytes.extend(padding);
        let headers = Headers {
            version: if v6 { IpVersion::V6 } else { IpVersion::V4 },
            l3: 14,
            l4: 14 + ip as u16,
            ..Headers::default()
        };
        (bytes, headers)
    }

    proptest! {
        #[test]
        fn nothing_behind_the_quote_is_part_of_it(
            v6: bool,
            first in prop_oneof![Just(0x45_u8), Just(0x46), Just(0x4f), Just(0x60), any::<u8>()],
            next in prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(0), Just(44), any::<u8>()],
            rest in prop::collection::vec(any::<u8>(), 0..120),
            padding in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut quote = [&[first], &rest[..]].concat();
            if let Some(byte) = quote.get_mut(if v6 { 6 } else { 9 }) {
                *byte = next;
            }
            let parse = |padding: &[u8]| {
                let (bytes, headers) = frame(v6, &quote, padding);
                let mut quoted = Headers::default();
                let result = parse_quoted(&&bytes[..], &headers, &mut quoted);
                (result, quoted, bytes.len() - padding.len())
            };
            let (alone, quoted, end) = parse(&[]);
            let (padded, _, _) = parse(&padding);
            prop_assert_eq!(alone, padded);
            if alone.is_ok() && quoted.fragment != Fragment::Later && has_ports(quoted.protocol) {
                prop_assert!(usize::from(quoted.l4) + 8 <= end);
            }
        }
    }
}
