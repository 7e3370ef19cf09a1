//! IPv4 (RFC 791) and IPv6 (RFC 8200) with its extension headers.
//!
//! Lengths are checked against the frame: a datagram that claims more bytes than the frame has is malformed. A length of 0 in a frame of more
//! than 64 KiB is a super-packet that the kernel will cut up (BIG TCP); its length is the frame's. In any other frame it is 0. Of a quoted datagram
//! only what is there counts, and never more than the datagram had.
//!
//! A fragment is malformed if it is empty, reaches beyond the longest datagram, or is not the last and ends between units of 8 bytes.

use super::transport;
use super::{Address, Fragment, Headers, IpVersion, NOT_PLAIN, Packet, Span};
use crate::verdict::Reason;

/// IPv6 extension headers that are walked; a longer chain is dropped.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
pub(super) fn parse_v4<P: Packet>(
    packet: &P,
    span: Span,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let offset = span.start;
    let words: [u32; 5] = packet.load(offset).ok_or(Reason::Malformed)?;
    let first = u32::from_be(words[0]);
    let header_bytes = (first >> 24 & 0xf) * 4;
    if first >> 28 != 4 || header_bytes < 20 {
        return Err(Reason::Malformed);
    }
    if P::PLAIN && header_bytes != 20 {
        return Err(NOT_PLAIN);
    }
    let present = span.end.saturating_sub(offset);
    let total = length(first & 0xffff, present, span.is_quote);
    if total > present || total < header_bytes {
        return Err(Reason::Malformed);
    }
    headers.version = IpVersion::V4;
    headers.source = Address::v4(words[3]);
    headers.dest = Address::v4(words[4]);
    headers.protocol = (u32::from_be(words[2]) >> 16) as u8;
    let second = u32::from_be(words[1]);
    headers.fragment_id = second >> 16;
    if P::PLAIN && second & 0x3fff != 0 {
        return Err(NOT_PLAIN);
    }
    let part = Part {
        units: second & 0x1fff,
        more: second & 0x2000 != 0,
        bytes: total - header_bytes,
        is_quote: span.is_quote,
    };
    part.note(headers)?;
    let l4 = match P::PLAIN {
        // A constant, so that what is read there is known to be in reach.
        true => offset + 20,
        false => offset + header_bytes,
    };
    headers.l4 = l4 as u16;
    transport::parse(packet, l4, total - header_bytes, span.is_quote, headers)
}

#[inline(always)]
pub(super) fn parse_v6<P: Packet>(
    packet: &P,
    span: Span,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let offset = span.start;
    let words: [u32; 10] = packet.load(offset).ok_or(Reason::Malformed)?;
    if u32::from_be(words[0]) >> 28 != 6 {
        return Err(Reason::Malformed);
    }
    let second = u32::from_be(words[1]);
    let present = match span.end.checked_sub(offset + 40) {
        Some(present) => present,
        None => return Err(Reason::Malformed),
    };
    let payload = length(second >> 16, present, span.is_quote);
    if payload > present {
        return Err(Reason::Malformed);
    }
    headers.version = IpVersion::V6;
    headers.source = Address([words[2], words[3], words[4], words[5]]);
    headers.dest = Address([words[6], words[7], words[8], words[9]]);
    let start = offset + 40;
    let mut next = (second >> 8) as u8;
    let mut walked = 0_u32;
    let mut part = None;
    if P::PLAIN && is_extension(next) {
        return Err(NOT_PLAIN);
    }
    for _ in 0..MAX_EXTENSIONS {
        if P::PLAIN || !is_extension(next) || headers.fragment == Fragment::Later {
            break;
        }
        let head: [u8; 8] = packet.load(start + walked).ok_or(Reason::Malformed)?;
        let bytes = match next {
            // No stack sends a fragment of a fragment.
            FRAGMENT if part.is_some() => return Err(Reason::HeaderChain),
            FRAGMENT => {
                let word = u32::from(head[2]) << 8 | u32::from(head[3]);
                part = Some((word >> 3, word & 1 != 0, walked + 8));
                headers.fragment = fragment(word >> 3, word & 1 != 0);
                headers.fragment_id = u32::from(head[4]) << 24
                    | u32::from(head[5]) << 16
                    | u32::from(head[6]) << 8
                    | u32::from(head[7]);
                8
            }
            AUTHENTICATION => (u32::from(head[1]) + 2) * 4,
            _ => (u32::from(head[1]) + 1) * 8,
        };
        next = head[0];
        walked += bytes;
        if walked > payload {
            return Err(Reason::Malformed);
        }
    }
    if !P::PLAIN && is_extension(next) && headers.fragment != Fragment::Later {
        return Err(Reason::HeaderChain);
    }
    if let Some((units, more, before)) = part {
        let bytes = payload.wrapping_sub(before);
        let part = Part {
            units,
            more,
            bytes,
            is_quote: span.is_quote,
        };
        part.note(headers)?;
    }
    headers.protocol = next;
    headers.l4 = (start + walked) as u16;
    transport::parse(
        packet,
        start + walked,
        payload - walked,
        span.is_quote,
        headers,
    )
}

const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS
    )
}

/// The length that a length field means in a frame that has `present` bytes for it. Of a quote it may mean more than there is.
const fn length(said: u32, present: u32, is_quote: bool) -> u32 {
    let is_super_packet = said == 0 && present > LONGEST;
    let is_cut = is_quote && (said == 0 || said > present);
    if is_super_packet || is_cut {
        present
    } else {
        said
    }
}

/// Bytes of the longest datagram that a length field can tell of.
const LONGEST: u32 = 65_535;

/// What a datagram says about which part it is of a larger one.
struct Part {
    /// Offset in units of 8 bytes.
    units: u32,
    /// It is not the last.
    more: bool,
    /// Bytes of its payload.
    bytes: u32,
    /// Not all of them need be there.
    is_quote: bool,
}

impl Part {
    #[inline(always)]
    fn note(self, headers: &mut Headers) -> Result<(), Reason> {
        headers.fragment = fragment(self.units, self.more);
        if headers.fragment == Fragment::Whole || self.is_quote {
            return Ok(());
        }
        let start = self.units * 8;
        let end = start.wrapping_add(self.bytes);
        let between_units = self.more && self.bytes & 7 != 0;
        if self.bytes == 0 || self.bytes > LONGEST || end > LONGEST || between_units {
            return Err(Reason::Malformed);
        }
        headers.fragment_start = start as u16;
        headers.fragment_end = end as u16;
        Ok(())
    }
}

/// `offset` in units of 8 bytes.
const fn fragment(offset: u32, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}
