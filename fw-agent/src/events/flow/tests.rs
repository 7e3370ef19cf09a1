//! Lines of flows, as tables.

use fw_common::flow::FlowKey;
use fw_common::wire::Address;

use super::*;

/// A flow between 192.0.2.10 (or 2001:db8::10), port 51234, of guest 100 and 198.51.100.7 (or 2001:db8:1::7), port 443.
pub(crate) fn event(change: FlowChange, version: u8, number: u8, state: u32) -> FlowEvent {
    let v6 = |words: [u32; 4]| Address(words.map(u32::to_be));
    let (local, remote) = match version {
        6 => (
            v6([0x2001_0db8, 0, 0, 0x10]),
            v6([0x2001_0db8, 0x0001_0000, 0, 7]),
        ),
        _ => (
            Address::v4(u32::from_ne_bytes([192, 0, 2, 10])),
            Address::v4(u32::from_ne_bytes([198, 51, 100, 7])),
        ),
    };
    FlowEvent {
        time_ns: 0,
        key: FlowKey {
            vmid: 100,
            net: 0,
            protocol: number,
            version,
            local,
            remote,
            local_port: 51_234,
            remote_port: 443,
        },
        state,
        change: change as u8,
        origin: Direction::Out as u8,
        settled: 0,
        reserved: [0; 5],
    }
}

fn line(event: &FlowEvent) -> String {
    let mut out = Vec::new();
    format_into(&mut out, event, &Settings::default());
    String::from_utf8(out).unwrap()
}

use FlowChange::{Begins, Ends};

const SYN_SENT: u32 = State::SynSent as u32;
const ESTABLISHED: u32 = State::Established as u32;

#[test]
fn tcp_as_the_reference_writes_it() {
    let new = event(Begins, 4, protocol::TCP, SYN_SENT);
    assert_eq!(
        line(&new),
        "    [NEW] ipv4     2 tcp      6 120 SYN_SENT src=192.0.2.10 dst=198.51.100.7 sport=51234 dport=443 [UNREPLIED] src=198.51.100.7 dst=192.0.2.10 sport=443 dport=51234 mark=100\n"
    );
    let end = FlowEvent {
        settled: 1,
        ..event(Ends, 4, protocol::TCP, ESTABLISHED | ANSWERED)
    };
    assert_eq!(
        line(&end),
        "[DESTROY] ipv4     2 tcp      6 src=192.0.2.10 dst=198.51.100.7 sport=51234 dport=443 src=198.51.100.7 dst=192.0.2.10 sport=443 dport=51234 [ASSURED] mark=100\n"
    );
}

#[test]
fn addresses_follow_the_first_packet() {
    let mut new = event(Begins, 4, protocol::TCP, SYN_SENT);
    new.origin = Direction::In as u8;
    assert!(
        line(&new).contains(
            "SYN_SENT src=198.51.100.7 dst=192.0.2.10 sport=443 dport=51234 [UNREPLIED] src=192.0.2.10 dst=198.51.100.7 sport=51234 dport=443 mark=100\n"
        ),
        "{}",
        line(&new)
    );
}

#[test]
fn other_protocols_and_ipv6() {
    let stream = State::Stream as u32 | ANSWERED;
    let answered = State::Answered as u32 | ANSWERED;
    let cases = [
        (
            event(Begins, 4, protocol::UDP, 0),
            "    [NEW] ipv4     2 udp      17 30 src=192.0.2.10 dst=198.51.100.7 sport=51234 dport=443 [UNREPLIED] src=198.51.100.7 dst=192.0.2.10 sport=443 dport=51234 mark=100\n",
        ),
        (
            event(Ends, 6, protocol::UDP, stream),
            "[DESTROY] ipv6     10 udp      17 src=2001:db8::10 dst=2001:db8:1::7 sport=51234 dport=443 src=2001:db8:1::7 dst=2001:db8::10 sport=443 dport=51234 [ASSURED] mark=100\n",
        ),
        (
            event(Ends, 4, protocol::UDP, answered),
            "[DESTROY] ipv4     2 udp      17 src=192.0.2.10 dst=198.51.100.7 sport=51234 dport=443 src=198.51.100.7 dst=192.0.2.10 sport=443 dport=51234 mark=100\n",
        ),
        (
            event(Begins, 4, 47, 0),
            "    [NEW] ipv4     2 gre      47 600 src=192.0.2.10 dst=198.51.100.7 [UNREPLIED] src=198.51.100.7 dst=192.0.2.10 mark=100\n",
        ),
        (
            event(Begins, 6, 89, 0),
            "    [NEW] ipv6     10 unknown  89 600 src=2001:db8::10 dst=2001:db8:1::7 [UNREPLIED] src=2001:db8:1::7 dst=2001:db8::10 mark=100\n",
        ),
    ];
    for (event, expect) in cases {
        assert_eq!(line(&event), expect);
    }
}

#[test]
fn questions_of_icmp() {
    for (number, version, remote_port, question, answer) in [
        (protocol::ICMP, 4, 1, 8, 0),
        (protocol::ICMP, 4, 13 << 8 | 1, 13, 14),
        (protocol::ICMPV6, 6, 1, 128, 129),
        (protocol::ICMPV6, 6, 139 << 8 | 1, 139, 140),
    ] {
        let mut new = event(Begins, version, number, 0);
        (new.key.local_port, new.key.remote_port) = (77, remote_port);
        let line = line(&new);
        let there = format!(" type={question} code=0 id=77 [UNREPLIED] ");
        let back = format!(" type={answer} code=0 id=77 mark=100\n");
        assert!(line.contains(&there) && line.ends_with(&back), "{line}");
    }
}

#[test]
fn assured_is_what_got_through_its_handshake() {
    let cases = [
        (SYN_SENT | ANSWERED, 0, false),
        (State::SynRecv as u32 | ANSWERED, 0, false),
        (State::Close as u32 | ANSWERED, 0, false),
        (State::Close as u32 | ANSWERED, 1, true),
        (ESTABLISHED, 0, false),
        (ESTABLISHED | ANSWERED, 0, true),
        (State::TimeWait as u32 | ANSWERED, 1, true),
    ];
    for (state, settled, expect) in cases {
        let end = FlowEvent {
            settled,
            ..event(Ends, 4, protocol::TCP, state)
        };
        assert_eq!(line(&end).contains("[ASSURED]"), expect, "{state:x}");
    }
}

#[test]
fn the_host_s_flows_have_no_mark_and_any_bytes_give_one_line() {
    let mut host = event(Begins, 4, protocol::TCP, SYN_SENT);
    host.key.vmid = 0;
    assert!(line(&host).ends_with("dport=51234\n"), "{}", line(&host));
    for byte in 0..=255_u8 {
        let mut any = event(Ends, byte, byte, u32::from_ne_bytes([byte; 4]));
        any.key.remote_port = u16::from_ne_bytes([byte; 2]);
        (any.change, any.origin) = (byte, byte);
        let line = line(&any);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
    }
}
