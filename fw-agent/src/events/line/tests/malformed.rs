//! Packets that end too early, and packets of which too little was captured.

use super::*;

/// The fields end like this.
fn check(kind: u16, packet: &[u8], expect: &str) {
    let fields = fields_of(&event(&ether(kind, packet), 0));
    assert!(
        fields.ends_with(expect),
        "{packet:02x?}: {fields:?}, not {expect:?}"
    );
}

/// The fields are exactly this.
fn check_whole(kind: u16, packet: &[u8], expect: &str) {
    assert_eq!(
        fields_of(&event(&ether(kind, packet), 0)),
        expect,
        "{packet:02x?}"
    );
}

#[test]
fn network_headers_that_end_early() {
    check_whole(0x0800, &[], "LEN=0 INVALID=LEN ");
    check_whole(0x0800, &ipv4(6, &[])[..19], "LEN=19 INVALID=LEN ");
    check_whole(0x86dd, &ipv6(6, &[])[..39], "LEN=39 INVALID=LEN ");
    check_whole(0x0806, &[0; 27], "LEN=27 INVALID=LEN ");
}

#[test]
fn ipv4_without_payload_or_with_a_wrong_header_length() {
    check_whole(0x0800, &ipv4(6, &[]), "INVALID=IHL ");
    let with = |at: usize, byte: u8| {
        let mut packet = ipv4(6, &[0; 20]);
        packet[at] = byte;
        packet
    };
    check_whole(0x0800, &with(0, 0x4f), "INVALID=IHL ");
    check_whole(0x0800, &with(0, 0x4a), "INVALID=IHL ");
    check_whole(0x0800, &with(0, 0x44), "INVALID=IHL ");
    check_whole(0x0800, &with(0, 0x40), "INVALID=IHL ");
    check_whole(0x0800, &with(3, 20), "INVALID=IHL ");
    check_whole(0x0800, &with(3, 0), "INVALID=IHL ");
}

#[test]
fn transport_headers_that_end_early() {
    let cases = [
        (6, 19, "TCP"),
        (17, 7, "UDP"),
        (1, 7, "ICMP"),
        (132, 11, "SCTP"),
    ];
    for (protocol, length, name) in cases {
        let expect = format!("PROTO={name} LEN={length} INVALID=LEN ");
        check(0x0800, &ipv4(protocol, &vec![0; length]), &expect);
        check(0x86dd, &ipv6(protocol, &vec![0; length]), &expect);
        let expect = format!("PROTO={name} LEN=0 INVALID=LEN ");
        check(0x86dd, &ipv6(protocol, &[]), &expect);
    }
    check(
        0x86dd,
        &ipv6(58, &[0; 7]),
        "PROTO=ICMPV6 LEN=7 INVALID=LEN ",
    );
    // The part of an ICMPv6 message that its type promises.
    let advertisement = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    check(
        0x86dd,
        &ipv6(58, &advertisement),
        "TYPE=134 CODE=0 LEN=10 INVALID=LEN ",
    );
    check(
        0x86dd,
        &ipv6(58, &[137, 0, 0, 0, 0, 0, 0, 0]),
        "TYPE=137 CODE=0 LEN=8 INVALID=LEN ",
    );
}

#[test]
fn extension_headers_that_end_early() {
    for next in [0, 43, 44, 60, 135] {
        check(
            0x86dd,
            &ipv6(next, &[6, 0, 0, 0, 0, 0, 0]),
            "HOPLIMIT=64 LEN=7 INVALID=LEN ",
        );
    }
    // A length beyond the packet, and a header without what its type promises.
    check(
        0x86dd,
        &ipv6(0, &[6, 1, 0, 0, 0, 0, 0, 0]),
        "HOPLIMIT=64 LEN=8 INVALID=LEN ",
    );
    let home = [6, 0, 2, 0, 0, 0, 0, 0];
    check(
        0x86dd,
        &ipv6(43, &home),
        "TYPE=2 SEGMENTS=0 LEN=8 INVALID=LEN ",
    );
}

#[test]
fn what_was_not_captured_is_not_invalid() {
    let whole = ether(0x0800, &ipv4(6, &[0; 40]));
    for captured in 34..54 {
        let fields = fields_of(&event(&whole[..captured], whole.len()));
        assert!(fields.ends_with("PROTO=TCP "), "{captured}: {fields}");
    }
    assert_eq!(fields_of(&event(&whole[..33], whole.len())), "");
    let whole = ether(0x86dd, &ipv6(0, &[&[6, 20][..], &[0; 300]].concat()));
    let fields = fields_of(&event(&whole, whole.len()));
    assert!(fields.ends_with("NEXTHDR=HOPOPTS PROTO=TCP "), "{fields}");
}

#[test]
fn a_length_below_what_was_captured_counts() {
    let whole = ether(0x0800, &ipv4(17, &[0; 8]));
    let fields = fields_of(&event(&whole, whole.len() - 1));
    assert!(fields.ends_with("PROTO=UDP LEN=7 INVALID=LEN "), "{fields}");
}

#[test]
fn super_packets_have_no_length_of_their_own() {
    let mut packet = ipv4(17, &[0, 1, 0, 2, 0, 0, 0, 0]);
    packet[2..4].copy_from_slice(&[0, 0]);
    let fields = fields_of(&event(&ether(0x0800, &packet), 100_000));
    assert!(
        fields.contains(" LEN=0 ") && fields.ends_with("PROTO=UDP SPT=1 DPT=2 LEN=0"),
        "{fields}"
    );
    let mut packet = ipv6(17, &[0, 1, 0, 2, 0, 0, 0, 0]);
    packet[4..6].copy_from_slice(&[0, 0]);
    let fields = fields_of(&event(&ether(0x86dd, &packet), 100_000));
    assert!(fields.ends_with("PROTO=UDP SPT=1 DPT=2 LEN=0"), "{fields}");
}

#[test]
fn frames_shorter_than_a_link_header() {
    let tail = |frame: &[u8]| {
        let line = String::from_utf8(format(&event(frame, 0), &context(None), &time())).unwrap();
        line.split_once("DROP: ").unwrap().1.to_owned()
    };
    assert_eq!(tail(&[]), "\n");
    assert_eq!(tail(&MAC[..3]), "MAC=0e:0b:38 \n");
    assert_eq!(tail(&MAC), "MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc \n");
    let tag_only = ether(0x8100, &[0, 5]);
    assert_eq!(
        tail(&tag_only),
        "MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:81:00:00:05 \n"
    );
    assert_eq!(
        tail(&tag_only[..14]),
        "MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:81:00 \n"
    );
}
