//! Frames that tests of the whole pipeline cannot build: longer than 64 KiB, or with headers in unusual places.

use proptest::prelude::*;

use super::*;

fn parsed(frame: &[u8]) -> Result<Headers, Reason> {
    let mut headers = Headers::default();
    parse(&frame, &mut headers).map(|()| headers)
}

/// A frame that carries `packet` behind tags.
fn frame(tags: &[(u16, u16)], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    for (kind, tag) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tag.to_be_bytes());
    }
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(packet);
    bytes
}

/// An IPv4 header that says `total` and `fragment`, and what follows it.
fn v4(total: u16, fragment: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    bytes.extend(payload);
    bytes
}

/// An IPv6 header that says `length` and `next`, and what follows it.
fn v6(length: u16, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend([0x20; 32]);
    bytes.extend(payload);
    bytes
}

/// A TCP header and data, in all `length` bytes.
fn tcp(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[3] = 22;
    bytes[12] = 5 << 4;
    bytes[13] = 0x10;
    bytes
}

#[test]
fn a_length_of_0_is_a_super_packets_only() {
    let v4 = |bytes| parsed(&frame(&[], ETHERTYPE_IPV4, &v4(0, 0, 6, &tcp(bytes))));
    assert_eq!(v4(65_536).map(|headers| headers.dport), Ok(22));
    assert_eq!(v4(65_535 - 20), Err(Reason::Malformed));
    assert_eq!(v4(100), Err(Reason::Malformed));
    let v6_tcp = |bytes| parsed(&frame(&[], ETHERTYPE_IPV6, &v6(0, 6, &tcp(bytes))));
    assert_eq!(v6_tcp(65_536).map(|headers| headers.dport), Ok(22));
    assert_eq!(v6_tcp(65_535), Err(Reason::Malformed));
    assert_eq!(v6_tcp(100), Err(Reason::Malformed));
    // "No next header" may carry nothing.
    let nothing = parsed(&frame(&[], ETHERTYPE_IPV6, &v6(0, 59, &[0; 6])));
    assert_eq!(nothing.map(|headers| headers.protocol), Ok(59));
    // No part of a datagram is longer than the longest datagram.
    let part = |fragment| {
        parsed(&frame(
            &[],
            ETHERTYPE_IPV4,
            &self::v4(0, fragment, 6, &tcp(70_000)),
        ))
    };
    assert_eq!(part(0x2000), Err(Reason::Malformed));
    assert_eq!(part(0x0001), Err(Reason::Malformed));
}

#[test]
fn parts_tell_where_they_are() {
    let parts = [
        (0x2000, 64, Ok((Fragment::First, 0, 64))),
        (0x2008, 64, Ok((Fragment::Later, 64, 128))),
        (0x0008, 61, Ok((Fragment::Later, 64, 125))),
        (0x1fff, 7, Ok((Fragment::Later, 65_528, 65_535))),
        (0x1fff, 8, Err(Reason::Malformed)),
        (0x2008, 61, Err(Reason::Malformed)),
        (0x0008, 0, Err(Reason::Malformed)),
        (0x0000, 64, Ok((Fragment::Whole, 0, 0))),
    ];
    for (fragment, length, expect) in parts {
        let payload = if length < 20 {
            vec![0; length]
        } else {
            tcp(length)
        };
        let place = |headers: Headers| {
            (
                headers.fragment,
                headers.fragment_start,
                headers.fragment_end,
            )
        };
        let packet = v4(20 + length as u16, fragment, 6, &payload);
        let found = parsed(&frame(&[], ETHERTYPE_IPV4, &packet)).map(place);
        assert_eq!(found, expect, "IPv4 {fragment:#x}, {length} bytes");
        // The same with a fragment header behind a hop-by-hop header.
        let more = u16::from(fragment & 0x2000 != 0);
        let word = ((fragment & 0x1fff) << 3 | more).to_be_bytes();
        let mut headers = vec![44, 0, 1, 4, 0, 0, 0, 0];
        headers.extend([6, 0, word[0], word[1], 0, 0, 0, 9]);
        headers.extend(&payload);
        let packet = v6(headers.len() as u16, 0, &headers);
        let found = parsed(&frame(&[], ETHERTYPE_IPV6, &packet)).map(place);
        assert_eq!(found, expect, "IPv6 {fragment:#x}, {length} bytes");
    }
}

#[test]
fn headers_behind_the_fragment_header_hide_nothing() {
    let advertisement = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    // First part: destination options and the whole message.
    let mut first = vec![60, 0, 0, 1, 0, 0, 0, 9];
    first.extend(options(58));
    first.extend(advertisement);
    let headers = parsed(&frame(
        &[],
        ETHERTYPE_IPV6,
        &v6(first.len() as u16, 44, &first),
    ));
    let headers = headers.map(|headers| (headers.fragment, headers.protocol, headers.sport));
    assert_eq!(headers, Ok((Fragment::First, 58, 134)));
    // First part: destination options only. What they hide comes later.
    let mut short = vec![60, 0, 0, 1, 0, 0, 0, 9];
    short.extend(options(58));
    let headers = parsed(&frame(
        &[],
        ETHERTYPE_IPV6,
        &v6(short.len() as u16, 44, &short),
    ));
    assert_eq!(headers, Err(Reason::Malformed));
    let mut shorter = vec![60, 0, 0, 1, 0, 0, 0, 9];
    shorter.extend([58, 1, 1, 4, 0, 0, 0, 0]);
    let headers = parsed(&frame(
        &[],
        ETHERTYPE_IPV6,
        &v6(shorter.len() as u16, 44, &shorter),
    ));
    assert_eq!(headers, Err(Reason::Malformed));
}

#[test]
fn a_fragment_of_a_fragment_is_refused() {
    for (outer, inner) in [([0, 0], [0, 0x41]), ([0, 1], [0, 0x40]), ([0, 0], [0, 0])] {
        let mut packet = vec![44, 0, outer[0], outer[1], 0, 0, 0, 1];
        packet.extend([17, 0, inner[0], inner[1], 0, 0, 0, 2]);
        packet.extend([0; 16]);
        let packet = v6(packet.len() as u16, 44, &packet);
        let found = parsed(&frame(&[], ETHERTYPE_IPV6, &packet));
        assert_eq!(found, Err(Reason::HeaderChain), "{outer:?} {inner:?}");
    }
}

/// A frame whose outermost tag the NIC took out.
struct Offloaded<'a>(u16, &'a [u8]);

impl Packet for Offloaded<'_> {
    fn length(&self) -> u32 {
        self.1.length()
    }

    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        self.1.load(offset)
    }

    fn offloaded_tag(&self) -> Option<u16> {
        Some(self.0)
    }
}

#[test]
fn the_vlan_is_that_of_the_outermost_tag_that_names_one() {
    type Tags<'a> = &'a [(u16, u16)];
    let packet = v4(40, 0, 6, &tcp(20));
    let cases: [(Option<u16>, Tags<'_>, Result<u16, Reason>); 13] = [
        (None, &[], Ok(0)),
        (None, &[(0x8100, 10)], Ok(10)),
        (None, &[(0x88a8, 10)], Ok(10)),
        (None, &[(0x9100, 10)], Ok(10)),
        (None, &[(0x9200, 10), (0x9300, 11)], Ok(10)),
        (None, &[(0x8100, 0xf00a)], Ok(10)),
        (None, &[(0x8100, 0xe000)], Ok(0)),
        (None, &[(0x8100, 0), (0x8100, 11)], Ok(11)),
        (
            None,
            &[(0x8100, 1), (0x8100, 2), (0x8100, 3)],
            Err(Reason::HeaderChain),
        ),
        (Some(10), &[], Ok(10)),
        (Some(10), &[(0x8100, 11)], Ok(10)),
        (Some(0xe000), &[(0x8100, 11)], Ok(11)),
        (Some(10), &[(0x8100, 11), (0x8100, 12)], Ok(10)),
    ];
    for (offloaded, tags, expect) in cases {
        let bytes = frame(tags, ETHERTYPE_IPV4, &packet);
        let mut headers = Headers::default();
        let found = match offloaded {
            None => parse(&bytes.as_slice(), &mut headers),
            Some(tag) => parse(&Offloaded(tag, &bytes), &mut headers),
        };
        let found = found.map(|()| headers.vlan);
        assert_eq!(found, expect, "{offloaded:?} {tags:x?}");
        if expect.is_ok() {
            assert_eq!(headers.dport, 22, "{offloaded:?} {tags:x?}");
        }
    }
}

/// Frame bytes of which only plain packets are parsed.
struct Plain<'a>(&'a [u8]);

impl Packet for Plain<'_> {
    const PLAIN: bool = true;

    fn length(&self) -> u32 {
        self.0.length()
    }

    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        self.0.load(offset)
    }

    fn offloaded_tag(&self) -> Option<u16> {
        None
    }
}

/// What the limited way makes of a frame, if anything.
fn plain(bytes: &[u8]) -> Option<Headers> {
    let mut headers = Headers::default();
    parse(&Plain(bytes), &mut headers).ok().map(|()| headers)
}

#[test]
fn most_packets_are_plain() {
    let udp = [0, 53, 0, 53, 0, 8, 0, 0];
    let options = [&[0x46][..], &v4(44, 0, 6, &tcp(24))[1..]].concat();
    let cases = [
        (ETHERTYPE_IPV4, v4(40, 0, 6, &tcp(20)), true),
        (ETHERTYPE_IPV4, v4(40, 0x4000, 6, &tcp(20)), true),
        (ETHERTYPE_IPV4, v4(28, 0, 17, &udp), true),
        (ETHERTYPE_IPV6, v6(20, 6, &tcp(20)), true),
        (ETHERTYPE_IPV6, v6(8, 17, &udp), true),
        (ETHERTYPE_IPV4, options, false),
        (ETHERTYPE_IPV4, v4(40, 0x2000, 6, &tcp(20)), false),
        (ETHERTYPE_IPV4, v4(28, 1, 17, &udp), false),
        (ETHERTYPE_IPV4, v4(28, 0, 1, &udp), false),
        (ETHERTYPE_IPV6, v6(16, 0, &[6; 16]), false),
        (ETHERTYPE_ARP, vec![0; 28], false),
        (0x88cc, vec![0; 28], false),
    ];
    for (ethertype, packet, expect) in cases {
        let bytes = frame(&[], ethertype, &packet);
        assert_eq!(plain(&bytes).is_some(), expect, "{packet:x?}");
        let tagged = frame(&[(0x8100, 7)], ethertype, &packet);
        assert_eq!(plain(&tagged), None, "{packet:x?}");
    }
}

proptest! {
    /// Whatever the limited way parses, the other parses to the same headers.
    #[test]
    fn the_limited_way_agrees(
        v6: bool,
        first in prop_oneof![4 => Just(0x45_u8), 4 => Just(0x60), 1 => any::<u8>()],
        next in prop_oneof![Just(6_u8), Just(17), any::<u8>()],
        fragment in prop_oneof![4 => Just(0_u16), 2 => Just(0x4000), 1 => any::<u16>()],
        offset in prop_oneof![4 => Just(0x50_u8), 1 => any::<u8>()],
        length in prop_oneof![4 => Just(None), 1 => any::<u16>().prop_map(Some)],
        rest in prop::collection::vec(any::<u8>(), 0..90),
        padding in 0..20_usize,
    ) {
        let header = if v6 { 40 } else { 20 };
        let mut packet = [vec![first], rest].concat();
        packet.resize(packet.len().max(header), 0);
        let total = packet.len() - if v6 { 40 } else { 0 };
        let total = length.unwrap_or(total as u16).to_be_bytes();
        let at = if v6 { 4 } else { 2 };
        packet[at..at + 2].copy_from_slice(&total);
        packet[if v6 { 6 } else { 9 }] = next;
        if !v6 {
            packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        }
        if let Some(byte) = packet.get_mut(header + 12) {
            *byte = offset;
        }
        packet.extend(vec![0; padding]);
        let ethertype = if v6 { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 };
        let bytes = frame(&[], ethertype, &packet);
        if let Some(headers) = plain(&bytes) {
            prop_assert_eq!(parsed(&bytes), Ok(headers));
        }
    }
}
