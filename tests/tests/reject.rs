//! The answers that the kernel programs build for rejected packets, byte by byte.
//!
//! In: frames for a guest whose policies reject everything. Out of `BPF_PROG_TEST_RUN`: the frame turned into its answer, which is read with
//! etherparse and an own checksum. RFC 9293 §3.10.7 (resets), RFC 792 and RFC 4443 (errors and what they quote).
//!
//! Frames of a test run carry complete checksums; what the programs do about `CHECKSUM_PARTIAL` shows with real devices only.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::IpAddr;
use std::sync::Arc;

use etherparse::{EtherType, Ethernet2Slice, NetSlice, SlicedPacket, TransportSlice};
use fw_agent::policy::{
    GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy, Rule, Vlans,
};
use fw_common::verdict::{Direction, Reason, Verdict};
use tapwall_tests::frame::{
    Body, Datagram, Extension, Frame, Part, Transport, checksum, pseudo_header,
};
use tapwall_tests::kernel::{REDIRECT, Run, SHOT, TestKernel};

const GUEST: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0];
const OTHER: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
const PORT: PortId = PortId { vmid: 100, net: 0 };
const V4: [&str; 2] = ["203.0.113.5", "192.0.2.10"];
const V6: [&str; 2] = ["2001:db8::5", "2001:db8::10"];

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn kernel() -> TestKernel {
    let everything = Policy {
        rules: vec![Rule {
            matches: Matches::default(),
            verdict: Verdict::Reject,
            reason: Reason::Policy,
            log: None,
            origin: Origin {
                line: None,
                kind: OriginKind::Policy,
                text: "policy: REJECT".into(),
            },
        }],
    };
    let mut kernel = TestKernel::new().unwrap();
    let node = NodePolicy {
        enabled: true,
        ports: vec![Arc::new(PortPolicy {
            port: PORT,
            kind: GuestKind::Vm,
            mac: Some(GUEST),
            macfilter: true,
            macfilter_layer2: true,
            vlans: Vlans::Any,
            dhcp: false,
            inbound: everything.clone(),
            outbound: everything,
            guard: None,
        })],
        ..NodePolicy::default()
    };
    kernel.load(&node).unwrap();
    kernel
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A datagram from the first address to the second.
fn datagram([source, dest]: [&str; 2], protocol: u8, transport: &Transport) -> Datagram {
    let (source, dest) = (address(source), address(dest));
    Datagram::new(
        source,
        dest,
        protocol,
        transport.payload(protocol, source, dest),
    )
}

/// A frame to the guest, or from it.
fn frame(direction: Direction, datagram: Datagram) -> Frame {
    let (dest_mac, source_mac) = match direction {
        Direction::In => (GUEST, OTHER),
        Direction::Out => (OTHER, GUEST),
    };
    Frame {
        dest_mac,
        source_mac,
        tags: Vec::new(),
        body: Body::Ip(datagram),
    }
}

fn tcp(flags: u8, data: usize) -> Transport {
    Transport::Tcp {
        sport: 40000,
        dport: 22,
        sequence: 0xffff_fff0,
        acknowledge: 0x1234_5678,
        flags,
        data: vec![7; data],
    }
}

fn udp(data: usize) -> Transport {
    Transport::Udp {
        sport: 40000,
        dport: 5000,
        data: vec![7; data],
    }
}

/// Sizes with and without data, and with padding in the frame.
const SIZES: [usize; 4] = [0, 1, 33, 1400];

/// Runs a frame that is answered, checks what every answer has, and returns it.
fn answered(kernel: &mut TestKernel, direction: Direction, frame: &Frame) -> Vec<u8> {
    let run = kernel.run(PORT, direction, &frame.bytes()).unwrap();
    assert_eq!(run.action, REDIRECT, "{frame:?}: {run:?}");
    let answer = run.frame;
    let Body::Ip(rejected) = &frame.body else {
        panic!("only IP is rejected");
    };
    assert_eq!(answer[..6], frame.source_mac, "back to the sender");
    assert_eq!(answer[6..12], frame.dest_mac);
    let mut expect = Vec::new();
    for (ethertype, tag) in &frame.tags {
        expect.extend(ethertype.to_be_bytes());
        expect.extend(tag.to_be_bytes());
    }
    expect.extend(if rejected.source.is_ipv4() {
        [0x08, 0x00]
    } else {
        [0x86, 0xdd]
    });
    assert_eq!(answer[12..12 + expect.len()], expect, "tags and EtherType");
    let l3 = 12 + expect.len();
    let (source, dest, protocol, payload) = ip(&answer[l3..]);
    assert_eq!((source, dest), (rejected.dest, rejected.source));
    check_transport(source, dest, protocol, payload);
    answer
}

/// Addresses, protocol and payload of an answer's datagram; its header is minimal and right, and the frame ends with it.
fn ip(bytes: &[u8]) -> (IpAddr, IpAddr, u8, &[u8]) {
    if bytes[0] >> 4 == 4 {
        assert_eq!(bytes[0], 0x45, "no options");
        assert_eq!(checksum(&[&bytes[..20]]), 0, "header checksum");
        let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        assert_eq!(total, bytes.len(), "total length");
        assert_eq!(bytes[6..8], [0, 0], "no fragment");
        let part = |at: usize| <[u8; 4]>::try_from(&bytes[at..at + 4]).unwrap();
        (
            part(12).into(),
            part(16).into(),
            bytes[9],
            &bytes[20..total],
        )
    } else {
        assert_eq!(bytes[..4], [0x60, 0, 0, 0]);
        let length = usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        assert_eq!(length + 40, bytes.len(), "payload length");
        let part = |at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        (part(8).into(), part(24).into(), bytes[6], &bytes[40..])
    }
}

fn check_transport(source: IpAddr, dest: IpAddr, protocol: u8, payload: &[u8]) {
    let pseudo = pseudo_header(source, dest, payload.len(), protocol);
    let sum = match protocol {
        1 => checksum(&[payload]),
        6 | 58 => checksum(&[&pseudo, payload]),
        other => panic!("an answer of protocol {other}"),
    };
    assert_eq!(sum, 0, "checksum of protocol {protocol}: {payload:02x?}");
}

/// Ports, sequence, acknowledgement and flags of a reset, as etherparse reads it.
fn reset(answer: &[u8]) -> (u16, u16, u32, u32, u8) {
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("not TCP: {packet:?}");
    };
    assert_eq!(tcp.data_offset(), 5);
    assert!(tcp.payload().is_empty());
    let flags = tcp.slice()[13];
    (
        tcp.source_port(),
        tcp.destination_port(),
        tcp.sequence_number(),
        tcp.acknowledgment_number(),
        flags,
    )
}

#[test]
fn resets_have_the_numbers_that_the_sender_takes() {
    let mut kernel = kernel();
    let start = 0xffff_fff0_u32;
    for (flags, data, expect) in [
        // Without ACK: sequence 0, and everything of the segment is acknowledged; SYN and FIN count one each.
        (SYN, 0, (0, start + 1, RST | ACK)),
        (SYN, 40, (0, start.wrapping_add(41), RST | ACK)),
        (FIN, 3, (0, start + 4, RST | ACK)),
        (SYN | FIN, 0, (0, start + 2, RST | ACK)),
        (0, 5, (0, start + 5, RST | ACK)),
        // With ACK: the acknowledged number.
        (ACK, 0, (0x1234_5678, 0, RST)),
        (ACK, 1400, (0x1234_5678, 0, RST)),
        (SYN | ACK, 0, (0x1234_5678, 0, RST)),
        (FIN | ACK, 0, (0x1234_5678, 0, RST)),
    ] {
        for direction in [Direction::In, Direction::Out] {
            for addresses in [V4, V6] {
                let packet = datagram(addresses, 6, &tcp(flags, data));
                let answer = answered(&mut kernel, direction, &frame(direction, packet));
                let (sequence, acknowledge, answer_flags) = expect;
                assert_eq!(
                    reset(&answer),
                    (22, 40000, sequence, acknowledge, answer_flags),
                    "flags {flags:#x}, {data} bytes, {addresses:?}"
                );
            }
        }
    }
}

#[test]
fn resets_leave_options_extension_headers_and_data_behind() {
    let mut kernel = kernel();
    for data in SIZES {
        let mut with_options = datagram(V4, 6, &tcp(SYN, data));
        for options in [4, 12, 40] {
            with_options.options = vec![1; options];
            let sent = frame(Direction::In, with_options.clone());
            let answer = answered(&mut kernel, Direction::In, &sent);
            assert_eq!(answer.len(), 14 + 20 + 20);
        }
        let mut extended = datagram(V6, 6, &tcp(SYN, data));
        extended.extensions = vec![Extension::HopByHop, Extension::Destination];
        let sent = frame(Direction::Out, extended);
        let answer = answered(&mut kernel, Direction::Out, &sent);
        assert_eq!(answer.len(), 14 + 40 + 20);
    }
}

/// Type, code and quote of an ICMP or ICMPv6 error.
fn error(answer: &[u8]) -> (u8, u8, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            let bytes = icmp.slice();
            assert_eq!(bytes[4..8], [0; 4], "unused");
            (icmp.type_u8(), icmp.code_u8(), bytes[8..].to_vec())
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let bytes = icmp.slice();
            assert_eq!(bytes[4..8], [0; 4], "unused");
            (icmp.type_u8(), icmp.code_u8(), bytes[8..].to_vec())
        }
        other => panic!("not ICMP: {other:?}"),
    }
}

/// Checks type and code, and that the quote is the rejected packet's header and eight bytes more.
fn check_error(kernel: &mut TestKernel, direction: Direction, sent: &Frame, expect: (u8, u8)) {
    let answer = answered(kernel, direction, sent);
    let (kind, code, quote) = error(&answer);
    assert_eq!((kind, code), expect, "{sent:?}");
    let rejected = sent.unpadded();
    let datagram = &rejected[14 + sent.tags.len() * 4..];
    let Body::Ip(Datagram {
        payload,
        extensions,
        ..
    }) = &sent.body
    else {
        panic!("only IP is rejected");
    };
    assert!(payload.len() >= 8);
    let header = datagram.len() - payload.len();
    assert_eq!(
        quote,
        datagram[..header + 8],
        "the quote, {} extension headers",
        extensions.len()
    );
}

#[test]
fn errors_have_type_code_and_quote() {
    let mut kernel = kernel();
    for direction in [Direction::In, Direction::Out] {
        for data in SIZES {
            let mut check = |packet, expect| {
                check_error(&mut kernel, direction, &frame(direction, packet), expect);
            };
            check(datagram(V4, 17, &udp(data)), (3, 3));
            check(datagram(V6, 17, &udp(data)), (1, 4));
            let opaque = Transport::Bytes(vec![9; data.max(8)]);
            check(datagram(V4, 47, &opaque), (3, 10));
            check(datagram(V6, 47, &opaque), (1, 1));
            let ports = Transport::Ports { sport: 5, dport: 6 };
            check(datagram(V4, 132, &ports), (3, 10));
            check(datagram(V6, 132, &ports), (1, 1));
        }
    }
}

#[test]
fn errors_quote_options_and_extension_headers() {
    let mut kernel = kernel();
    for direction in [Direction::In, Direction::Out] {
        for options in [4, 24, 40] {
            let mut packet = datagram(V4, 17, &udp(100));
            packet.options = vec![1; options];
            check_error(&mut kernel, direction, &frame(direction, packet), (3, 3));
        }
        for extensions in [
            vec![Extension::HopByHop],
            vec![
                Extension::HopByHop,
                Extension::Routing,
                Extension::Destination,
            ],
            vec![Extension::Authentication],
        ] {
            let mut packet = datagram(V6, 17, &udp(100));
            packet.extensions = extensions;
            check_error(&mut kernel, direction, &frame(direction, packet), (1, 4));
        }
    }
}

#[test]
fn first_fragments_are_answered_and_quoted() {
    let mut kernel = kernel();
    for (addresses, expect) in [(V4, (3, 3)), (V6, (1, 4))] {
        let mut packet = datagram(addresses, 17, &udp(56));
        packet.part = Some(Part {
            id: 5,
            offset: 0,
            more: true,
        });
        let sent = frame(Direction::In, packet);
        check_error(&mut kernel, Direction::In, &sent, expect);
    }
}

/// Tags within the frame. A test run never has others; on devices the outermost is not in the frame, so that what holds for errors here
/// holds for packets with two tags there.
#[test]
fn answers_carry_inline_tags() {
    let mut kernel = kernel();
    for tags in [vec![(0x8100, 10)], vec![(0x88a8, 0x6005), (0x8100, 20)]] {
        for direction in [Direction::In, Direction::Out] {
            for addresses in [V4, V6] {
                let mut sent = frame(direction, datagram(addresses, 6, &tcp(SYN, 0)));
                sent.tags = tags.clone();
                let answer = answered(&mut kernel, direction, &sent);
                assert_eq!(reset(&answer).4, RST | ACK);
                let packet = SlicedPacket::from_ethernet(&answer).unwrap();
                assert_eq!(packet.vlan_ids().len(), tags.len());

                for data in SIZES {
                    let mut packet = datagram(addresses, 17, &udp(data));
                    let expect = match packet.source {
                        IpAddr::V4(_) => {
                            packet.options = vec![1; 24];
                            (3, 3)
                        }
                        IpAddr::V6(_) => {
                            packet.extensions = vec![Extension::HopByHop, Extension::Routing];
                            (1, 4)
                        }
                    };
                    let mut sent = frame(direction, packet);
                    sent.tags = tags.clone();
                    check_error(&mut kernel, direction, &sent, expect);
                }
            }
        }
    }
}

/// A rejected frame that is dropped without an answer, and as it came.
fn silent(kernel: &mut TestKernel, direction: Direction, sent: &Frame) {
    let bytes = sent.bytes();
    let run: Run = kernel.run(PORT, direction, &bytes).unwrap();
    assert_eq!(run.action, SHOT, "{sent:?}");
    assert!(!run.limited);
    if let Some((verdict, _)) = run.rule {
        assert_eq!(verdict, Verdict::Reject, "{sent:?}");
        assert_eq!(run.frame, bytes);
    } else {
        assert_eq!(run.reason, Reason::Fragment, "{sent:?}");
    }
}

#[test]
fn what_is_never_answered() {
    let mut kernel = kernel();
    for direction in [Direction::In, Direction::Out] {
        let mut silent = |packet| silent(&mut kernel, direction, &frame(direction, packet));
        for addresses in [V4, V6] {
            // Resets, with and without ACK.
            silent(datagram(addresses, 6, &tcp(RST, 0)));
            silent(datagram(addresses, 6, &tcp(RST | ACK, 0)));
            // Every kind of ICMP.
            for (protocol, kinds) in [(1, [0, 3, 8]), (58, [1, 128, 200])] {
                for kind in kinds {
                    let icmp = Transport::Icmp {
                        kind,
                        code: 0,
                        word: [0; 4],
                        data: vec![0; 40],
                    };
                    silent(datagram(addresses, protocol, &icmp));
                }
            }
            // A later part, of a protocol with ports and of one without.
            for protocol in [17, 47] {
                let mut packet = datagram(addresses, protocol, &Transport::Bytes(vec![0; 64]));
                packet.part = Some(Part {
                    id: 9,
                    offset: 64,
                    more: false,
                });
                silent(packet);
            }
        }
        // To groups.
        for [source, dest] in [
            [V4[0], "224.0.0.251"],
            [V4[0], "255.255.255.255"],
            [V6[0], "ff02::fb"],
        ] {
            silent(datagram([source, dest], 17, &udp(8)));
        }
        // From what is nobody's address.
        for [source, dest] in [
            ["0.0.0.0", V4[1]],
            ["127.0.0.1", V4[1]],
            ["127.9.9.9", V4[1]],
            ["224.0.0.1", V4[1]],
            ["255.255.255.255", V4[1]],
            ["::", V6[1]],
            ["::1", V6[1]],
            ["ff02::1", V6[1]],
        ] {
            silent(datagram([source, dest], 17, &udp(8)));
            silent(datagram([source, dest], 6, &tcp(SYN, 0)));
        }
    }
}

#[test]
fn frames_to_groups_or_to_others_are_not_answered() {
    let mut kernel = kernel();
    for (direction, dest_mac, is_answered) in [
        (Direction::In, GUEST, true),
        // Flooded by a bridge: the answer would teach it a wrong port.
        (Direction::In, [0x02, 0, 0, 0, 0, 77], false),
        (Direction::In, [0xff; 6], false),
        (Direction::In, [0x01, 0, 0x5e, 0, 0, 1], false),
        (Direction::Out, [0x02, 0, 0, 0, 0, 77], true),
        (Direction::Out, [0xff; 6], false),
        (Direction::Out, [0x33, 0x33, 0, 0, 0, 1], false),
    ] {
        for (addresses, protocol, transport) in
            [(V4, 6, tcp(SYN, 0)), (V6, 6, tcp(SYN, 0)), (V4, 17, udp(0))]
        {
            let mut sent = frame(direction, datagram(addresses, protocol, &transport));
            sent.dest_mac = dest_mac;
            if is_answered {
                answered(&mut kernel, direction, &sent);
            } else {
                silent(&mut kernel, direction, &sent);
            }
        }
    }
}

#[test]
fn a_burst_is_not_answered_as_a_whole() {
    let mut kernel = kernel();
    let sent = frame(Direction::In, datagram(V4, 6, &tcp(SYN, 0))).bytes();
    let (mut answers, mut limited) = (0, 0);
    for _ in 0..2000 {
        // The counters' ledger in `run` makes `limited` what REJECTS_LIMITED counted.
        let run = kernel.run(PORT, Direction::In, &sent).unwrap();
        assert_eq!(run.limited, run.action == SHOT);
        answers += usize::from(run.action == REDIRECT);
        limited += usize::from(run.limited);
    }
    assert_eq!(answers + limited, 2000);
    assert!(answers >= 200, "{answers} answers: the burst is 200");
    assert!(limited > 0, "all were answered");
}

#[test]
fn answers_are_what_etherparse_calls_plain() {
    let mut kernel = kernel();
    let sent = frame(Direction::In, datagram(V6, 17, &udp(20)));
    let answer = answered(&mut kernel, Direction::In, &sent);
    let link = Ethernet2Slice::from_slice_without_fcs(&answer).unwrap();
    assert_eq!(link.ether_type(), EtherType::IPV6);
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv6(ip)) = packet.net else {
        panic!("not IPv6");
    };
    assert_eq!(ip.header().hop_limit(), 64);
    assert!(ip.extensions().slice().is_empty());
}
