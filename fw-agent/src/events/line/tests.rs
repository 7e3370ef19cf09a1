//! Lines of hand-made frames: the examples and every row of the tables of the log format, then arbitrary bytes.

use fw_common::verdict::{Direction, NO_RULE, Reason, Verdict};
use jiff::{Timestamp, tz};
use proptest::prelude::*;

use super::*;
use crate::policy::OriginKind;

mod malformed;
mod rows;

/// 5 March 2026, 09:12:44, an hour east of Greenwich.
pub fn time() -> Zoned {
    let stamp = Timestamp::from_second(1_772_698_364).unwrap();
    stamp.to_zoned(tz::TimeZone::fixed(tz::offset(1)))
}

/// A dropped packet to net0 of guest 100 that starts with `frame`; `length` 0 means that the frame is no longer than that.
pub fn event(frame: &[u8], length: usize) -> Event {
    let captured = frame.len().min(HEADER_BYTES);
    let mut header = [0; HEADER_BYTES];
    header[..captured].copy_from_slice(&frame[..captured]);
    Event {
        suppressed: 0,
        time_ns: 0,
        ifindex: 9,
        vmid: 100,
        rule: NO_RULE,
        length: if length == 0 { frame.len() } else { length } as u32,
        mark: 0,
        captured: captured as u16,
        net: 0,
        vlan_tci: 0,
        tagged: 0,
        direction: Direction::In as u8,
        verdict: Verdict::Drop as u8,
        reason: Reason::Policy as u8,
        level: 6,
        reserved: 0,
        header,
    }
}

const MAC: [u8; 12] = [
    0x0e, 0x0b, 0x38, 0xb8, 0xb3, 0x21, 0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc,
];

fn ether(kind: u16, packet: &[u8]) -> Vec<u8> {
    [&MAC[..], &kind.to_be_bytes(), packet].concat()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([198, 51, 100, 7, 192, 0, 2, 10]);
    packet.extend(payload);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    for last in [5, 0x10] {
        packet.extend([
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last,
        ]);
    }
    packet.extend(payload);
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet
}

fn context(input: Option<&str>) -> LogContext<'_> {
    LogContext {
        vmid: 100,
        chain: "tap100i0-IN".into(),
        message: "DROP: ",
        input,
        output: None,
        physin: None,
        physout: None,
    }
}

/// The fields behind `MAC=…`, without the newline.
fn fields_of(event: &Event) -> String {
    let line = String::from_utf8(format(event, &context(None), &time())).unwrap();
    let (_, rest) = line.split_once("MAC=").expect("a MAC field");
    let (_, rest) = rest.split_once(' ').expect("a space");
    rest.strip_suffix('\n').expect("a newline").to_owned()
}

fn examples() -> Vec<(Event, OriginKind, &'static str, &'static str)> {
    let tcp = |sport: u16, dport: u16, seq: u32, flags: u8, window: u16| {
        let mut head = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
        head.extend(seq.to_be_bytes());
        head.extend([0, 0, 0, 0, 0x50, flags]);
        head.extend(window.to_be_bytes());
        head.extend([0, 0, 0, 0]);
        head
    };
    let v4 = |mut packet: Vec<u8>, length: u16, ttl: u8, id: u16, fragment: u16| {
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[6..8].copy_from_slice(&fragment.to_be_bytes());
        packet[8] = ttl;
        event(&ether(0x0800, &packet), usize::from(length) + 14)
    };
    let with = |mut event: Event, level, direction: Direction, verdict: Verdict| {
        event.level = level;
        event.direction = direction as u8;
        event.verdict = verdict as u8;
        event
    };
    use Direction::{In, Out};
    let syn = v4(
        ipv4(6, &tcp(40112, 8080, 1_234_567, 2, 64240)),
        60,
        57,
        4711,
        0x4000,
    );
    let xmas = v4(ipv4(6, &tcp(1, 22, 0, 0x29, 1024)), 40, 44, 9, 0);
    let udp = v4(
        ipv4(17, &[0x14, 0xe9, 0, 53, 0, 37, 0, 0]),
        57,
        64,
        0,
        0x4000,
    );
    let ping = v4(ipv4(1, &[8, 0, 0, 0, 0, 77, 0, 1]), 84, 64, 100, 0x4000);
    let ping6 = event(
        &ether(
            0x86dd,
            &ipv6(58, &[&[128, 0, 0, 0, 0, 9, 0, 1][..], &[0; 56]].concat()),
        ),
        0,
    );
    let fragment = v4(ipv4(17, &[0; 8]), 1500, 57, 5, 0x2000 | 185);
    vec![
        (
            with(syn, 6, In, Verdict::Drop),
            OriginKind::Policy,
            "tap100i0",
            "100 6 tap100i0-IN 05/Mar/2026:09:12:44 +0100 policy DROP: IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:08:00 SRC=198.51.100.7 DST=192.0.2.10 LEN=60 TOS=0x00 PREC=0x00 TTL=57 ID=4711 DF PROTO=TCP SPT=40112 DPT=8080 SEQ=1234567 ACK=0 WINDOW=64240 SYN \n",
        ),
        (
            with(xmas, 4, In, Verdict::Drop),
            OriginKind::TcpFlags,
            "tap100i0",
            "0 4 PVEFW-logflags 05/Mar/2026:09:12:44 +0100 DROP: IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:08:00 SRC=198.51.100.7 DST=192.0.2.10 LEN=40 TOS=0x00 PREC=0x00 TTL=44 ID=9 PROTO=TCP SPT=1 DPT=22 SEQ=0 ACK=0 WINDOW=1024 URG PSH FIN URGP=0 \n",
        ),
        (
            with(udp, 5, Out, Verdict::Reject),
            OriginKind::Rule,
            "tap100i0",
            "100 5 tap100i0-OUT 05/Mar/2026:09:12:44 +0100 REJECT: IN=vmbr0 OUT=vmbr0 PHYSIN=tap100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:08:00 SRC=198.51.100.7 DST=192.0.2.10 LEN=57 TOS=0x00 PREC=0x00 TTL=64 ID=0 DF PROTO=UDP SPT=5353 DPT=53 LEN=37\n",
        ),
        (
            with(ping, 6, In, Verdict::Accept),
            OriginKind::Rule,
            "tap100i0",
            "100 6 tap100i0-IN 05/Mar/2026:09:12:44 +0100 ACCEPT: IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:08:00 SRC=198.51.100.7 DST=192.0.2.10 LEN=84 TOS=0x00 PREC=0x00 TTL=64 ID=100 DF PROTO=ICMP TYPE=8 CODE=0 ID=77 SEQ=1 \n",
        ),
        (
            with(ping6, 6, In, Verdict::Reject),
            OriginKind::Policy,
            "veth100i0",
            "100 6 veth100i0-IN 05/Mar/2026:09:12:44 +0100 policy REJECT: IN=vmbr0 OUT=vmbr0 PHYSOUT=veth100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:86:dd SRC=2001:db8::5 DST=2001:db8::10 LEN=64 TC=0 FLOWLBL=0 HOPLIMIT=64 PROTO=ICMPV6 TYPE=128 CODE=0 ID=9 SEQ=1 \n",
        ),
        (
            with(fragment, 6, In, Verdict::Drop),
            OriginKind::Group("web".into()),
            "tap100i0",
            "100 6 GROUP-web-IN 05/Mar/2026:09:12:44 +0100 DROP: IN=vmbr0 OUT=vmbr0 PHYSOUT=tap100i0 MAC=0e:0b:38:b8:b3:21:52:54:00:aa:bb:cc:08:00 SRC=198.51.100.7 DST=192.0.2.10 LEN=1500 TOS=0x00 PREC=0x00 TTL=57 ID=5 FRAG=185 MF PROTO=UDP SPT=0 DPT=0 LEN=0\n",
        ),
    ]
}

#[test]
fn whole_lines() {
    for (event, origin, device, expect) in examples() {
        let context = LogContext::of(&event, &origin, device, Some("vmbr0"));
        let line = format(&event, &context, &time());
        assert_eq!(String::from_utf8_lossy(&line), expect);
    }
}

#[test]
fn a_mark_follows_after_a_space() {
    let udp = ether(0x0800, &ipv4(17, &[0, 1, 0, 2, 0, 8, 0, 0]));
    let mut event = event(&udp, 0);
    event.mark = 2_147_483_648;
    let fields = fields_of(&event);
    assert!(
        fields.ends_with("PROTO=UDP SPT=1 DPT=2 LEN=8 mark=2147483648 "),
        "{fields}"
    );
    event.header[23] = 94;
    let fields = fields_of(&event);
    assert!(fields.ends_with("PROTO=94 mark=2147483648 "), "{fields}");
}

#[test]
fn a_packet_without_input_has_no_link_header() {
    let event = event(&ether(0x0800, &ipv4(50, &[0; 8])), 0);
    let context = LogContext {
        output: Some("vmbr0"),
        ..context(None)
    };
    let line = String::from_utf8(format(&event, &context, &time())).unwrap();
    assert!(
        line.contains(" DROP: OUT=vmbr0 SRC=198.51.100.7 "),
        "{line}"
    );
}

#[test]
fn columns_and_names_survive_nonsense() {
    let mut event = event(&[], 0);
    event.level = 9;
    let mut context = context(Some("a b\n\u{e9}"));
    context.chain = String::new();
    context.message = "x\ny ";
    let line = String::from_utf8(format(&event, &context, &time())).unwrap();
    assert_eq!(line, "100 6 - 05/Mar/2026:09:12:44 +0100 x?y IN=a?b??? \n");
}

proptest! {
    #[test]
    fn any_record_gives_one_bounded_line(
        bytes in proptest::collection::vec(any::<u8>(), 0..=HEADER_BYTES),
        kind in proptest::sample::select(vec![0x0800_u16, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x1234]),
        inner in proptest::sample::select(vec![0_u8, 1, 2, 6, 17, 43, 44, 51, 58, 60, 132, 135, 200]),
        length in prop_oneof![Just(0_u32), 0..200_u32, any::<u32>()],
        captured in prop_oneof![Just(HEADER_BYTES as u16), any::<u16>()],
        names in proptest::collection::vec(".{0,100}", 6),
        (level, mark, tagged) in (any::<u8>(), any::<u32>(), any::<u8>()),
    ) {
        let mut event = event(&bytes, 0);
        event.header[12..14].copy_from_slice(&kind.to_be_bytes());
        event.header[if kind == 0x0800 { 23 } else { 20 }] = inner;
        (event.length, event.captured, event.level) = (length, captured, level);
        (event.mark, event.tagged) = (mark, tagged);
        let context = LogContext {
            vmid: 100,
            chain: names[0].clone(),
            message: &names[1],
            input: Some(&names[2]),
            output: Some(&names[3]),
            physin: Some(&names[4]),
            physout: Some(&names[5]),
        };
        let line = format(&event, &context, &time());
        prop_assert!(line.len() <= LINE_LIMIT, "{}", line.len());
        let (last, rest) = line.split_last().unwrap();
        prop_assert_eq!(*last, b'\n');
        prop_assert!(rest.iter().all(|&byte| byte == b' ' || byte.is_ascii_graphic()));
    }
}
