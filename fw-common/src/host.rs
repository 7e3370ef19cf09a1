//! What a packet at one of the host's interfaces is to the host: its own, forwarded, or nothing it will ever look at.
//!
//! In: [`Frame`] (what the hook knows beyond the bytes), the parsed headers, and answers about addresses and routes ([`Surroundings`]).
//! Out: [`arrival`] before the frame is parsed, [`passage`] afterwards. Pure: the kernel adapts context fields and helpers, tests make them up.
//!
//! 1. A reply that a hook made itself passes once.
//! 2. What the host's stack will not look at here passes untouched.
//! 3. Everything else is parsed, and is judged as the host's unless it is certain that it is forwarded.
//!
//! Invariant: doubt is judged. Only a route that leads on makes a packet forwarded, and none to one of the host's own addresses.

use crate::maps::HAIRPIN_MARK;
use crate::verdict::Direction;
use crate::wire::{Address, Headers, IpVersion, protocol};

/// Values of `skb->pkt_type` (the kernel's `if_packet.h`).
pub mod pkt_type {
    /// To this host, by its hardware address. Of devices without such addresses everything is.
    pub const HOST: u32 = 0;
    /// To someone else: seen because the device is promiscuous; the stack drops it.
    pub const OTHERHOST: u32 = 3;
    /// A copy of a broadcast or multicast packet that the host itself sends; it has no link header.
    pub const LOOPBACK: u32 = 5;
}

/// What a hook knows of a frame beyond its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// One of [`pkt_type`].
    pub pkt_type: u32,
    /// The mark.
    pub mark: u32,
    /// The VLAN tag (TCI) that the kernel keeps beside the frame.
    pub tag: Option<u16>,
    /// Index of the interface whose hook runs.
    pub ifindex: u32,
    /// Index of the interface that the packet came in at; 0 if this host made it.
    pub ingress_ifindex: u32,
}

/// What a frame is before it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A reply that a hook of this interface made: it passes, and its mark is taken away.
    OwnReply,
    /// Not looked at by the host's stack at this interface.
    Untouched,
    /// To be parsed.
    Parse,
}

/// Bits of a VLAN tag that number the VLAN; 0 is a priority without a VLAN.
const VLAN_ID: u16 = 0xfff;

/// What a frame is before it is parsed.
///
/// The mark counts only where a reply can arrive: one comes back through the interface it was made at, so that interface is also where it
/// "came in". What a local process sends came in nowhere, whatever mark it sets.
///
/// A frame with a VLAN tag belongs to a VLAN interface, where it is judged without the tag, or to nobody. Tags within the frame do not count:
/// the kernel has moved the outer one beside it before this hook, but for what a VLAN interface itself puts back.
#[inline(always)]
pub const fn arrival(direction: Direction, frame: &Frame) -> Arrival {
    if frame.mark == HAIRPIN_MARK && frame.ingress_ifindex == frame.ifindex {
        return Arrival::OwnReply;
    }
    let tagged = match frame.tag {
        Some(tag) => tag & VLAN_ID != 0,
        None => false,
    };
    let elsewhere = match direction {
        Direction::In => matches!(frame.pkt_type, pkt_type::OTHERHOST | pkt_type::LOOPBACK),
        Direction::Out => false,
    };
    match tagged || elsewhere {
        true => Arrival::Untouched,
        false => Arrival::Parse,
    }
}

/// What a parsed packet is to the zone whose hook it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Passage {
    /// To or from the zone: judged. At a guest's port everything is.
    Judged = 0,
    /// Forwarded: passes.
    Forwarded = 1,
    /// Forwarded with the source address replaced by one of the host's own: passes, and its answers come to that address.
    Translated = 2,
    /// To be forwarded for someone who claims one of the host's own addresses: dropped.
    Martian = 3,
}

impl Passage {
    /// The passage of a stored number; unknown ones are judged.
    pub const fn from_u8(number: u8) -> Self {
        match number {
            1 => Self::Forwarded,
            2 => Self::Translated,
            3 => Self::Martian,
            _ => Self::Judged,
        }
    }
}

/// What the host knows of addresses.
pub trait Surroundings {
    /// One of the host's own addresses. May miss one; must not invent any.
    fn is_own(&self, address: &Address) -> bool;

    /// The routes lead the packet on to somewhere else, or nowhere (as opposed to: to this host, or the host does not forward).
    fn is_routed(&self, headers: &Headers) -> bool;

    /// The destination of the packet that an ICMP or ICMPv6 error quotes.
    fn quoted_dest(&self, headers: &Headers) -> Option<Address>;
}

/// Bytes of the headers in front of an ICMP or ICMPv6 error's quote.
pub const ICMP_BYTES: u32 = 8;

/// ICMP and ICMPv6 messages that quote a packet (RFC 792, RFC 4443).
#[inline(always)]
const fn quotes(headers: &Headers) -> bool {
    match (headers.version, headers.protocol) {
        (IpVersion::V4, protocol::ICMP) => matches!(headers.sport, 3 | 4 | 5 | 11 | 12),
        (IpVersion::V6, protocol::ICMPV6) => matches!(headers.sport, 1..=4),
        _ => false,
    }
}

/// What a parsed IP packet is to the host.
///
/// Going out, what came in at some interface is forwarded, and so are the errors that the host sends about it: they quote a packet that was not
/// for the host, whose flow the host's zone does not know. If its source is now an own address, the host has translated it; that it did not
/// come with this address is certain, because such packets are [`Passage::Martian`] where they come in.
#[inline(always)]
pub fn passage<S: Surroundings>(
    direction: Direction,
    frame: &Frame,
    headers: &Headers,
    surroundings: &S,
) -> Passage {
    let forwarded = match direction {
        Direction::In => {
            frame.pkt_type == pkt_type::HOST
                && !headers.to_group()
                && !surroundings.is_own(&headers.dest)
                && surroundings.is_routed(headers)
        }
        Direction::Out if frame.ingress_ifindex == 0 => {
            let quoted = match quotes(headers) {
                true => surroundings.quoted_dest(headers),
                false => None,
            };
            return match quoted {
                Some(dest) if !surroundings.is_own(&dest) => Passage::Forwarded,
                Some(_) | None => Passage::Judged,
            };
        }
        Direction::Out => true,
    };
    if !forwarded {
        return Passage::Judged;
    }
    match (direction, surroundings.is_own(&headers.source)) {
        (Direction::In | Direction::Out, false) => Passage::Forwarded,
        (Direction::In, true) => Passage::Martian,
        (Direction::Out, true) => Passage::Translated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::IpVersion;
    use Direction::{In, Out};

    const OWN: Address = Address([1, 0, 0, 0]);
    const REMOTE: Address = Address([2, 0, 0, 0]);
    const OTHER: Address = Address([3, 0, 0, 0]);

    fn frame(pkt_type: u32, ingress_ifindex: u32) -> Frame {
        Frame {
            pkt_type,
            ifindex: 7,
            ingress_ifindex,
            ..Frame::default()
        }
    }

    #[test]
    fn what_is_parsed() {
        let marked = |mark, ingress_ifindex| Frame {
            mark,
            ..frame(0, ingress_ifindex)
        };
        let tagged = |tag| Frame {
            tag: Some(tag),
            ..frame(0, 7)
        };
        let cases = [
            (In, frame(0, 7), Arrival::Parse),
            (In, frame(1, 7), Arrival::Parse),
            (In, frame(2, 7), Arrival::Parse),
            (In, frame(3, 7), Arrival::Untouched),
            (In, frame(5, 7), Arrival::Untouched),
            (In, frame(6, 7), Arrival::Parse),
            (Out, frame(0, 0), Arrival::Parse),
            // At the way out `pkt_type` says nothing: it may be left from the way in.
            (Out, frame(3, 7), Arrival::Parse),
            (Out, frame(5, 0), Arrival::Parse),
            (In, tagged(100), Arrival::Untouched),
            (Out, tagged(0xe001), Arrival::Untouched),
            (In, tagged(0xe000), Arrival::Parse),
            (Out, tagged(0), Arrival::Parse),
            (In, marked(HAIRPIN_MARK, 7), Arrival::OwnReply),
            (Out, marked(HAIRPIN_MARK, 7), Arrival::OwnReply),
            (Out, marked(HAIRPIN_MARK, 0), Arrival::Parse),
            (Out, marked(HAIRPIN_MARK, 3), Arrival::Parse),
            (In, marked(HAIRPIN_MARK ^ 1, 7), Arrival::Parse),
            (In, marked(HAIRPIN_MARK & 0xffff_0000, 7), Arrival::Parse),
        ];
        for (direction, frame, expect) in cases {
            assert_eq!(
                arrival(direction, &frame),
                expect,
                "{direction:?} {frame:?}"
            );
        }
    }

    struct Answers {
        routed: bool,
        quoted: Option<Address>,
    }

    impl Surroundings for Answers {
        fn is_own(&self, address: &Address) -> bool {
            *address == OWN
        }

        fn is_routed(&self, _headers: &Headers) -> bool {
            self.routed
        }

        fn quoted_dest(&self, _headers: &Headers) -> Option<Address> {
            self.quoted
        }
    }

    #[test]
    fn errors_about_what_is_forwarded_are_forwarded() {
        use IpVersion::{V4, V6};
        use Passage::{Forwarded, Judged};
        let (own, other) = (Some(OWN), Some(OTHER));
        let cases = [
            (V4, protocol::ICMP, 3, other, Forwarded),
            (V4, protocol::ICMP, 11, other, Forwarded),
            (V4, protocol::ICMP, 3, own, Judged),
            (V4, protocol::ICMP, 3, None, Judged),
            (V4, protocol::ICMP, 8, other, Judged),
            (V4, protocol::UDP, 3, other, Judged),
            (V6, protocol::ICMPV6, 2, other, Forwarded),
            (V6, protocol::ICMPV6, 1, own, Judged),
            (V6, protocol::ICMPV6, 128, other, Judged),
            (V6, protocol::ICMPV6, 137, other, Judged),
        ];
        for (version, protocol, sport, quoted, expect) in cases {
            let headers = Headers {
                version,
                protocol,
                sport,
                source: OWN,
                dest: REMOTE,
                ..Headers::default()
            };
            let answers = Answers {
                routed: true,
                quoted,
            };
            let seen = passage(Out, &frame(0, 0), &headers, &answers);
            assert_eq!(seen, expect, "{version:?} {protocol} {sport} {quoted:?}");
            // What arrives is not told by its quote.
            let headers = Headers {
                source: REMOTE,
                dest: OWN,
                ..headers
            };
            assert_eq!(passage(In, &frame(0, 7), &headers, &answers), Judged);
        }
    }

    #[test]
    fn only_what_is_certainly_forwarded_is_not_judged() {
        let group = Address([u32::from_ne_bytes([0xff, 2, 0, 0]), 0, 0, 1]);
        use Passage::{Forwarded, Judged, Martian, Translated};
        let cases = [
            // To the host, whatever a route says.
            (In, 0, 7, REMOTE, OWN, true, Judged),
            (In, 0, 7, REMOTE, OWN, false, Judged),
            // To an address that the host does not know as its own: the route decides.
            (In, 0, 7, REMOTE, OTHER, false, Judged),
            (In, 0, 7, REMOTE, OTHER, true, Forwarded),
            (In, 0, 7, OWN, OTHER, true, Martian),
            (In, 0, 7, OWN, OTHER, false, Judged),
            // Groups, by hardware address and by IP address.
            (In, 1, 7, REMOTE, OTHER, true, Judged),
            (In, 2, 7, REMOTE, OTHER, true, Judged),
            (In, 0, 7, REMOTE, group, true, Judged),
            // Made here, whatever its addresses.
            (Out, 0, 0, OWN, REMOTE, true, Judged),
            (Out, 0, 0, OTHER, REMOTE, true, Judged),
            // Came in somewhere.
            (Out, 0, 7, REMOTE, OTHER, true, Forwarded),
            (Out, 0, 9, REMOTE, OTHER, false, Forwarded),
            (Out, 0, 9, OWN, OTHER, true, Translated),
        ];
        for (direction, kind, ingress, source, dest, routed, expect) in cases {
            let headers = Headers {
                version: IpVersion::V6,
                source,
                dest,
                ..Headers::default()
            };
            let seen = passage(
                direction,
                &frame(kind, ingress),
                &headers,
                &Answers {
                    routed,
                    quoted: None,
                },
            );
            assert_eq!(
                seen, expect,
                "{direction:?} type {kind} from {ingress}: {source:?} to {dest:?}, routed {routed}"
            );
            assert_eq!(Passage::from_u8(seen as u8), seen);
        }
    }
}
