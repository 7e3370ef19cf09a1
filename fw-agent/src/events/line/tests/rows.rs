//! Each row of the tables of packet fields.

use super::*;

/// `packet` behind an IPv4 header: the fields from `PROTO=` on.
fn check_v4(protocol: u8, payload: &[u8], expect: &str) {
    let fields = fields_of(&event(&ether(0x0800, &ipv4(protocol, payload)), 0));
    let length = payload.len() + 20;
    let head =
        format!("SRC=198.51.100.7 DST=192.0.2.10 LEN={length} TOS=0x00 PREC=0x00 TTL=64 ID=7 DF ");
    assert_eq!(fields.strip_prefix(&head), Some(expect), "{fields}");
}

/// `payload` behind an IPv6 header: the fields behind `HOPLIMIT=`.
fn check_v6(next: u8, payload: &[u8], expect: &str) {
    let fields = fields_of(&event(&ether(0x86dd, &ipv6(next, payload)), 0));
    let length = payload.len();
    let head = format!("SRC=2001:db8::5 DST=2001:db8::10 LEN={length} TC=0 FLOWLBL=0 HOPLIMIT=64 ");
    assert_eq!(fields.strip_prefix(&head), Some(expect), "{fields}");
}

fn tcp(flags: u8) -> Vec<u8> {
    vec![
        0, 1, 0, 2, 0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0x50, flags, 0x10, 0, 0, 0, 0, 9,
    ]
}

const TCP: &str = "PROTO=TCP SPT=1 DPT=2 SEQ=3 ACK=4294967295 WINDOW=4096 ";

#[test]
fn tcp_flags_in_order() {
    let cases = [
        (0x00, ""),
        (0x02, "SYN "),
        (0x12, "ACK SYN "),
        (0x14, "ACK RST "),
        (0x3f, "URG ACK PSH RST SYN FIN URGP=9 "),
        (0xc2, "SYN "),
    ];
    for (flags, words) in cases {
        check_v4(6, &tcp(flags), &format!("{TCP}{words}"));
        check_v6(6, &tcp(flags), &format!("{TCP}{words}"));
    }
}

#[test]
fn transports_of_both_versions() {
    let cases: [(u8, &[u8], &str); 15] = [
        (
            17,
            &[0x14, 0xe9, 0, 53, 0, 37, 0, 0],
            "PROTO=UDP SPT=5353 DPT=53 LEN=37",
        ),
        (
            1,
            &[8, 0, 0, 0, 0, 77, 0, 1],
            "PROTO=ICMP TYPE=8 CODE=0 ID=77 SEQ=1 ",
        ),
        (
            1,
            &[0, 0, 0, 0, 1, 0, 2, 0],
            "PROTO=ICMP TYPE=0 CODE=0 ID=256 SEQ=512 ",
        ),
        (
            1,
            &[12, 0, 0, 0, 20, 0, 0, 0],
            "PROTO=ICMP TYPE=12 CODE=0 PARAMETER=20 ",
        ),
        (
            1,
            &[5, 1, 0, 0, 192, 0, 2, 1],
            "PROTO=ICMP TYPE=5 CODE=1 GATEWAY=192.0.2.1 ",
        ),
        (
            1,
            &[3, 4, 0, 0, 0, 0, 5, 0xdc],
            "PROTO=ICMP TYPE=3 CODE=4 MTU=1500 ",
        ),
        (1, &[3, 1, 0, 0, 0, 0, 5, 0xdc], "PROTO=ICMP TYPE=3 CODE=1 "),
        (
            132,
            &[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            "PROTO=SCTP SPT=1 DPT=2 ",
        ),
        (51, &[0; 8], "PROTO=AH "),
        (50, &[0; 8], "PROTO=ESP "),
        (2, &[0; 8], "PROTO=IGMP "),
        (47, &[0; 4], "PROTO=47 "),
        (33, &[0; 16], "PROTO=33 "),
        (136, &[0; 8], "PROTO=136 "),
        (94, &[0], "PROTO=94 "),
    ];
    for (protocol, payload, expect) in cases {
        check_v4(protocol, payload, expect);
        check_v6(protocol, payload, expect);
    }
    // ICMPv6 is nothing special in IPv4, nor are IPv6's extension headers.
    check_v4(58, &[128, 0, 0, 0, 0, 9, 0, 1], "PROTO=58 ");
    check_v4(44, &[6, 0, 0, 0, 0, 9, 0, 1], "PROTO=44 ");
    check_v6(59, &[], "PROTO=59 ");
}

#[test]
fn the_ipv4_header() {
    let check = |at: usize, byte: u8, expect: &str| {
        let mut packet = ipv4(50, &[0; 4]);
        packet[at] = byte;
        let fields = fields_of(&event(&ether(0x0800, &packet), 0));
        assert!(fields.contains(expect), "{fields}");
    };
    check(1, 0xff, "TOS=0x1E PREC=0xE0 ");
    check(1, 0x04, "TOS=0x04 PREC=0x00 ");
    check(5, 9, "TTL=64 ID=9 DF PROTO=ESP ");
    check(6, 0x00, "ID=7 PROTO=ESP ");
    check(6, 0x20, "ID=7 MF PROTO=ESP ");
    check(6, 0x60, "ID=7 DF MF PROTO=ESP ");
    check(6, 0x3f, "ID=7 FRAG=7936 MF PROTO=ESP ");
    check(8, 1, "TTL=1 ID=7 ");
    // Options are passed over.
    let mut packet = ipv4(17, &[1, 1, 1, 1, 0, 1, 0, 2, 0, 8, 0, 0]);
    packet[0] = 0x46;
    let fields = fields_of(&event(&ether(0x0800, &packet), 0));
    assert!(fields.ends_with("PROTO=UDP SPT=1 DPT=2 LEN=8"), "{fields}");
    // Padding is not payload.
    let mut frame = ether(0x0800, &ipv4(17, &[0, 1, 0, 2, 0, 8, 0]));
    frame.resize(60, 0);
    let fields = fields_of(&event(&frame, 0));
    assert!(fields.ends_with("PROTO=UDP LEN=7 INVALID=LEN "), "{fields}");
}

#[test]
fn the_ipv6_header() {
    let mut packet = ipv6(59, &[]);
    packet[..4].copy_from_slice(&[0x6a, 0xb1, 0x23, 0x45]);
    packet[7] = 255;
    let fields = fields_of(&event(&ether(0x86dd, &packet), 0));
    assert!(
        fields.contains("LEN=0 TC=171 FLOWLBL=74565 HOPLIMIT=255 PROTO=59 "),
        "{fields}"
    );
}

#[test]
fn extension_headers() {
    let chain = |headers: &[&[u8]]| [&headers.concat()[..], &tcp(2)].concat();
    let syn = format!("{TCP}SYN ");
    let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    for (header, name) in [(0, "HOPOPTS"), (60, "DSTOPTS"), (135, "MH")] {
        check_v6(
            header,
            &chain(&[&options(6)]),
            &format!("NEXTHDR={name} {syn}"),
        );
    }
    let all = chain(&[&options(60), &options(44), &[6, 0, 0, 0, 0, 0, 0, 1]]);
    check_v6(
        0,
        &all,
        &format!("NEXTHDR=HOPOPTS NEXTHDR=DSTOPTS FRAG=0 ID=1 {syn}"),
    );
    // Fragments: offset and MF as in the header.
    check_v6(
        44,
        &chain(&[&[6, 0, 0x05, 0xa9, 0, 0, 1, 0]]),
        &format!("FRAG=181 ID=256 MF {syn}"),
    );
    check_v6(
        44,
        &chain(&[&[6, 0, 0x05, 0xa8, 0, 0, 1, 0]]),
        &format!("FRAG=181 ID=256 {syn}"),
    );
    // Routing: type 0 with one address, none, half of one; type 2 with a home address; type 4.
    let route = |units: u8, kind: u8, left: u8| {
        let mut header = vec![6, units, kind, left, 0, 0, 0, 0];
        header.extend((0..units * 8).map(|byte| if byte == 15 { 1 } else { 0 }));
        header
    };
    let cases = [
        (route(2, 0, 1), "TYPE=0 SEGMENTS=1 "),
        (route(0, 0, 0), "TYPE=0 SEGMENTS=0 "),
        (route(1, 0, 0), "TYPE=0 SEGMENTS=0 INVALID=SEGMENTS "),
        (route(2, 0, 2), "TYPE=0 SEGMENTS=2 INVALID=SEGMENTS "),
        (route(2, 2, 1), "TYPE=2 SEGMENTS=1 HOME=::1 "),
        (route(4, 4, 2), "TYPE=4 SEGMENTS=2 "),
    ];
    for (header, expect) in cases {
        check_v6(43, &chain(&[&header]), &format!("{expect}{syn}"));
    }
    // At the end of a line, here of what was captured, the routing header has no space.
    let mut header = route(2, 0, 1);
    header[0] = 60;
    let whole = ether(0x86dd, &ipv6(43, &chain(&[&header, &options(6)])));
    let fields = fields_of(&event(&whole[..14 + 40 + 24], whole.len()));
    assert!(fields.ends_with(" TYPE=0 SEGMENTS=1"), "{fields}");
}

#[test]
fn icmpv6() {
    let plain = |kind: u8, code: u8| vec![kind, code, 0, 0, 0, 0, 5, 0xdc];
    let echo = |kind: u8| vec![kind, 0, 0, 0, 0, 9, 0, 1];
    let mut redirect = plain(137, 0);
    for last in [1, 2] {
        redirect.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    let router = vec![134, 0, 0, 0, 64, 0xc0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2];
    let cases = [
        (echo(128), "TYPE=128 CODE=0 ID=9 SEQ=1 "),
        (echo(129), "TYPE=129 CODE=0 ID=9 SEQ=1 "),
        (
            router,
            "TYPE=134 CODE=0 HOPLIMIT=64 RA=C0 LIFETIME=1800 REACHABLE=1 RETRANSMIT=2 ",
        ),
        (
            vec![136, 0, 0, 0, 0xe0, 0, 0, 0],
            "TYPE=136 CODE=0 NA=E0000000 ",
        ),
        (redirect, "TYPE=137 CODE=0 TARGET=fe80::1 GATEWAY=fe80::2 "),
        (plain(2, 0), "TYPE=2 CODE=0 MTU=1500 "),
        (plain(2, 9), "TYPE=2 CODE=9 MTU=1500 "),
        (plain(4, 0), "TYPE=4 CODE=0 PARAMETER=HEADER "),
        (plain(4, 1), "TYPE=4 CODE=1 PARAMETER=NEXTHEADER "),
        (plain(4, 2), "TYPE=4 CODE=2 PARAMETER=OPTION "),
        (plain(4, 3), "TYPE=4 CODE=3 PARAMETER=3 "),
        (plain(1, 4), "TYPE=1 CODE=4 "),
        (plain(3, 1), "TYPE=3 CODE=1 "),
        (plain(133, 0), "TYPE=133 CODE=0 "),
        (plain(135, 0), "TYPE=135 CODE=0 "),
        (plain(143, 0), "TYPE=143 CODE=0 "),
    ];
    for (message, expect) in cases {
        check_v6(58, &message, &format!("PROTO=ICMPV6 {expect}"));
    }
}

#[test]
fn arp() {
    let check = |operation: u16, expect: &str| {
        let mut packet = vec![0, 1, 8, 0, 6, 4];
        packet.extend(operation.to_be_bytes());
        packet.extend([0x52, 0x54, 0, 0xaa, 0xbb, 0xcc, 192, 0, 2, 60]);
        packet.extend([0, 0, 0, 0, 0, 0, 192, 0, 2, 2]);
        let fields = fields_of(&event(&ether(0x0806, &packet), 0));
        assert_eq!(
            fields,
            format!("SRC=192.0.2.60 DST=192.0.2.2 PROTO=ARP {expect}")
        );
    };
    check(1, "REQUEST ");
    check(2, "REPLY MAC=52:54:00:aa:bb:cc ");
    check(10, "NAK ");
    check(8, "CODE=8 ");
    let strange = ether(0x0806, &[&[0, 6, 8, 0, 8, 4, 0, 1][..], &[0; 20]].concat());
    assert_eq!(fields_of(&event(&strange, 0)), "PROTO=ARP REQUEST ");
}

#[test]
fn vlan_tags_are_in_the_link_header_and_the_inner_packet_is_shown() {
    let check = |frame: &[u8], tci: Option<u16>, mac: &str, fields: &str| {
        let mut event = event(frame, 0);
        event.tagged = u8::from(tci.is_some());
        event.vlan_tci = tci.unwrap_or(0);
        let line = String::from_utf8(format(&event, &context(None), &time())).unwrap();
        let (_, got) = line
            .split_once("MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:")
            .unwrap();
        let (got_mac, got_fields) = got.trim_end_matches('\n').split_once(' ').unwrap();
        assert_eq!(got_mac, mac);
        assert!(
            got_fields.ends_with(fields) && got_fields.is_empty() == fields.is_empty(),
            "{line}"
        );
    };
    let inner = [&[0x08, 0x00][..], &ipv4(2, &[0; 8])].concat();
    let tagged = ether(0x8100, &[&[0x20, 0x64][..], &inner].concat());
    let double = ether(0x88a8, &[&[0, 5, 0x81, 0, 0, 6][..], &inner].concat());
    check(
        &ether(0x0800, &inner[2..]),
        Some(0x2064),
        "81:00:20:64:08:00",
        "PROTO=IGMP ",
    );
    check(&tagged, None, "81:00:20:64:08:00", "PROTO=IGMP ");
    check(
        &double,
        None,
        "88:a8:00:05:81:00:00:06:08:00",
        "PROTO=IGMP ",
    );
    check(
        &tagged,
        Some(7),
        "81:00:00:07:81:00:20:64:08:00",
        "PROTO=IGMP ",
    );
    check(&ether(0x1234, &[1, 2, 3]), None, "12:34", "");
}
