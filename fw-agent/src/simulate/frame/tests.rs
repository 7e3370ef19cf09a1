//! Frames read back by a parser that knows nothing of how they were made.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;

const LINK: Link = Link {
    source: [2, 0, 0, 0, 0, 1],
    dest: [2, 0, 0, 0, 0, 2],
};

fn frame(fields: &str) -> Vec<u8> {
    let line = format!(r#"{{"from": "outside", "to": "vm100", {fields}}}"#);
    Query::parse(line.as_bytes()).unwrap().frame(LINK)
}

/// Source, destination, protocol, hop limit and payload of the network header, whose lengths must be right.
fn network(frame: &[u8]) -> (String, u8, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (text, number, hops, payload) = match packet.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let head = ip.header();
            assert_eq!(
                usize::from(head.total_len()),
                20 + ip.payload().payload.len()
            );
            assert_eq!(
                head.header_checksum(),
                head.to_header().calc_header_checksum()
            );
            let text = format!("{} {}", head.source_addr(), head.destination_addr());
            (text, head.protocol(), head.ttl(), ip.payload().payload)
        }
        NetSlice::Ipv6(ip) => {
            let head = ip.header();
            let at = frame.len() - usize::from(head.payload_length());
            let text = format!("{} {}", head.source_addr(), head.destination_addr());
            (text, head.next_header(), head.hop_limit(), &frame[at..])
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    (text, number.0, hops, payload.to_vec())
}

#[test]
fn tcp() {
    for addresses in [
        ("192.0.2.1", "198.51.100.2"),
        ("2001:db8::1", "2001:db8::2"),
    ] {
        let (source, dest) = addresses;
        let frame = frame(&format!(
            r#""source": "{source}", "dest": "{dest}", "sport": 5, "dport": 22, "tcp_flags": "SYN,ACK,URG""#
        ));
        let (text, number, hops, payload) = network(&frame);
        assert_eq!((text, number, hops), (format!("{source} {dest}"), 6, 64));
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("no TCP");
        };
        assert_eq!((tcp.source_port(), tcp.destination_port()), (5, 22));
        assert_eq!(
            (
                tcp.syn(),
                tcp.ack(),
                tcp.urg(),
                tcp.fin(),
                tcp.rst(),
                tcp.psh()
            ),
            (true, true, true, false, false, false)
        );
        let expect = match packet.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
            }
            NetSlice::Ipv6(ip) => {
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
            }
            NetSlice::Arp(_) => panic!("ARP"),
        };
        assert_eq!(Ok(tcp.checksum()), expect);
        assert_eq!(payload.len(), 20);
    }
}

#[test]
fn flags_and_default_ports() {
    for (flags, byte) in [
        ("SYN", 2),
        ("NONE", 0),
        ("ALL", 0x3f),
        ("RST", 4),
        ("ECE", 0x40),
    ] {
        let (.., payload) = network(&frame(&format!(r#""tcp_flags": "{flags}""#)));
        assert_eq!(payload[13], byte, "{flags}");
    }
    let (.., payload) = network(&frame(r#""state": "NEW""#));
    assert_eq!(payload[..4], [0x9c, 0x40, 0, 0]);
    assert_eq!(payload[13], 2);
}

/// The ones' complement sum of a payload with its pseudo header is zero if its checksum is right.
fn sums_up(frame: &[u8], number: u8, pseudo: bool, payload: &[u8]) -> bool {
    let addresses = match frame[12] {
        0x08 => &frame[26..34],
        _ => &frame[22..54],
    };
    let head = [
        addresses,
        &[0, number],
        &(payload.len() as u32).to_be_bytes(),
    ]
    .concat();
    let bytes = [if pseudo { &head[..] } else { &[] }, payload].concat();
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[test]
fn checksums_and_ports_of_other_transports() {
    for (proto, number, length) in [
        ("udp", 17, 8),
        ("udplite", 136, 8),
        ("dccp", 33, 20),
        ("sctp", 132, 32),
    ] {
        for v6 in [false, true] {
            let dest = if v6 { "2001:db8::9" } else { "192.0.2.9" };
            let frame = frame(&format!(
                r#""proto": "{proto}", "dest": "{dest}", "sport": 258, "dport": 772"#
            ));
            let (_, got, _, payload) = network(&frame);
            assert_eq!((got, payload.len()), (number, length), "{proto}");
            assert_eq!(payload[..4], [1, 2, 3, 4], "{proto}");
            if proto != "sctp" {
                assert!(
                    sums_up(&frame, number, true, &payload),
                    "{proto} {payload:02x?}"
                );
            }
        }
    }
}

#[test]
fn icmp_messages() {
    // Type, code, length of the message.
    let v4 = [
        (8, 0, 8),
        (0, 0, 8),
        (3, 1, 36),
        (3, 4, 36),
        (11, 0, 36),
        (12, 0, 36),
        (4, 0, 36),
        (5, 1, 36),
        (13, 0, 20),
        (17, 0, 12),
        (9, 0, 8),
        (255, 9, 8),
    ];
    for (kind, code, length) in v4 {
        let frame = frame(&format!(
            r#""proto": "icmp", "icmp_type": {kind}, "icmp_code": {code}, "source": "192.0.2.1", "dest": "198.51.100.2""#
        ));
        let (_, number, _, payload) = network(&frame);
        assert_eq!(
            (number, payload[0], payload[1], payload.len()),
            (1, kind, code, length),
            "type {kind}"
        );
        assert!(sums_up(&frame, 1, false, &payload), "type {kind}");
        if length == 36 {
            // What is quoted was sent by the receiver.
            assert_eq!(payload[8 + 12..8 + 20], [198, 51, 100, 2, 192, 0, 2, 1]);
        }
    }
    let v6 = [
        (128, 64, 8),
        (129, 64, 8),
        (1, 64, 56),
        (2, 64, 56),
        (3, 64, 56),
        (4, 64, 56),
        (133, 255, 8),
        (134, 255, 16),
        (135, 255, 24),
        (136, 255, 24),
        (137, 255, 40),
        (130, 1, 24),
        (143, 1, 8),
        (139, 64, 8),
    ];
    for (kind, hops, length) in v6 {
        let frame = frame(&format!(
            r#""proto": "icmpv6", "icmp_type": {kind}, "dest": "2001:db8::2""#
        ));
        let (_, number, got, payload) = network(&frame);
        assert_eq!(
            (number, payload[0], payload.len(), got),
            (58, kind, length, hops),
            "type {kind}"
        );
        assert!(sums_up(&frame, 58, true, &payload), "type {kind}");
    }
    let (.., payload) = network(&frame(r#""proto": "icmp""#));
    assert_eq!((payload[0], payload[1]), (8, 0));
    let (.., payload) = network(&frame(r#""proto": "icmpv6""#));
    assert_eq!((payload[0], payload[1]), (128, 0));
}

#[test]
fn every_protocol_has_a_frame_of_either_family() {
    for number in 0..=255_u8 {
        for dest in ["192.0.2.9", "2001:db8::9"] {
            let frame = frame(&format!(r#""proto": {number}, "dest": "{dest}""#));
            let header = if dest.contains(':') {
                frame[20]
            } else {
                frame[23]
            };
            assert_eq!(header, number);
            assert!(frame.len() < 128, "{number}: {}", frame.len());
            // Headers that IPv6 walks over must not end in the middle.
            SlicedPacket::from_ethernet(&frame)
                .unwrap_or_else(|error| panic!("{number} {dest}: {error}"));
        }
    }
}

#[test]
fn hardware_addresses() {
    let check = |fields: &str, dest: [u8; 6]| {
        let frame = frame(fields);
        assert_eq!(frame[..6], dest, "{fields}");
    };
    check(r#""dest": "192.0.2.1""#, LINK.dest);
    check(r#""dest": "255.255.255.255""#, BROADCAST);
    check(r#""dest": "239.129.2.3""#, [1, 0, 0x5e, 1, 2, 3]);
    check(r#""dest": "ff02::1:ff01:203""#, [0x33, 0x33, 0xff, 1, 2, 3]);
    check(r#""dest": "ff02::1", "dsttype": "UNICAST""#, LINK.dest);
    check(
        r#""dest": "192.0.2.255", "dsttype": "BROADCAST""#,
        BROADCAST,
    );
    check(
        r#""dest": "192.0.2.255", "dsttype": "MULTICAST""#,
        [1, 0, 0x5e, 0, 0, 1],
    );
    check(
        r#""dest": "2001:db8::1", "dsttype": "MULTICAST""#,
        [0x33, 0x33, 0, 0, 0, 1],
    );
    check(
        r#""dest": "224.0.0.5", "dsttype": "MULTICAST""#,
        [1, 0, 0x5e, 0, 0, 5],
    );
    assert_eq!(frame(r#""dport": 1"#)[6..12], LINK.source);
    let spoofed = frame(r#""mac_source": "bc:24:11:99:99:99""#);
    assert_eq!(spoofed[6..12], [0xbc, 0x24, 0x11, 0x99, 0x99, 0x99]);
}

#[test]
fn a_vlan_tag_is_inline() {
    let frame = frame(r#""vlan": 100, "dest": "2001:db8::1""#);
    assert_eq!(frame[12..18], [0x81, 0x00, 0, 100, 0x86, 0xdd]);
    let packet = SlicedPacket::from_ethernet(&frame).unwrap();
    assert_eq!(
        packet
            .vlan_ids()
            .iter()
            .map(|id| id.value())
            .collect::<Vec<_>>(),
        [100]
    );
    assert!(packet.transport.is_some());
}
