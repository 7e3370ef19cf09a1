use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::events::line::tests::{event, time};
use crate::policy::{OriginKind, SourceLine};

fn origin() -> Origin {
    Origin {
        line: Some(SourceLine {
            file: "firewall/100.fw".into(),
            line: 7,
        }),
        kind: OriginKind::Rule,
        text: "IN DROP -p tcp -dport \"80\"".into(),
    }
}

fn written(event: &Event, origin: Option<&Origin>) -> String {
    let kind = OriginKind::Rule;
    let context = LogContext::of(event, &kind, "tap100i0", Some("vmbr0"));
    let mut out = b"before\n".to_vec();
    packet_into(
        &mut out,
        event,
        &context,
        ("tap100i0", Some("vmbr0")),
        origin,
        &time(),
    );
    let text = String::from_utf8(out).unwrap();
    let line = text.strip_prefix("before\n").unwrap();
    let line = line.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.to_owned()
}

fn parsed(event: &Event, origin: Option<&Origin>) -> Value {
    serde_json::from_str(&written(event, origin)).unwrap()
}

const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn ipv4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&MACS[..], &[8, 0]].concat();
    let length = (20 + payload.len()) as u16;
    frame.extend([0x45, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([0, 7]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10]);
    frame.extend(payload);
    frame
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![0x9c, 0xb0, 0, 80];
    segment.extend([0; 8]);
    segment.extend([0x50, 0x12, 1, 0, 0, 0, 0, 0]);
    segment
}

#[test]
fn a_packet_with_everything() {
    let expect = concat!(
        r#"{"time":"2026-03-05T09:12:44.000000+01:00","level":6,"guest":100,"nic":0,"device":"tap100i0","bridge":"vmbr0","#,
        r#""direction":"in","verdict":"drop","reason":"rule","chain":"tap100i0-IN","#,
        r#""rule":{"text":"IN DROP -p tcp -dport \"80\"","file":"firewall/100.fw","line":7},"#,
        r#""length":54,"mark":null,"vlan":null,"mac_source":"02:00:00:00:00:02","mac_dest":"02:00:00:00:00:01","ethertype":2048,"#,
        r#""source":"198.51.100.7","dest":"192.0.2.10","protocol":6,"protocol_name":"tcp","sport":40112,"dport":80,"#,
        r#""tcp_flags":["SYN","ACK"],"icmp_type":null,"icmp_code":null,"fragment":null,"undecoded":null}"#,
    );
    let mut event = event(&ipv4(6, 0, &tcp()), 0);
    event.reason = Reason::Rule as u8;
    assert_eq!(written(&event, Some(&origin())), expect);
}

/// What is not named is null; what is always there is not compared.
#[test]
fn kinds_of_packets() {
    let ipv6 = {
        let mut frame = [&MACS[..], &[0x81, 0, 0x20, 42, 0x86, 0xdd]].concat();
        frame.extend([0x60, 0, 0, 0, 0, 8, 58, 64]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
        frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16]);
        frame.extend([128, 0, 0, 0, 0, 9, 0, 1]);
        frame
    };
    let arp = {
        let mut frame = [&MACS[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
        frame.extend([
            2, 0, 0, 0, 0, 2, 192, 0, 2, 60, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2,
        ]);
        frame
    };
    let cases = [
        (
            ipv4(17, 0, &[0x14, 0xe9, 0, 53, 0, 8, 0, 0]),
            json!({"ethertype": 0x800, "source": "198.51.100.7", "dest": "192.0.2.10", "protocol": 17, "protocol_name": "udp", "sport": 5353, "dport": 53}),
        ),
        (
            ipv4(1, 0, &[8, 0, 0, 0, 0, 77, 0, 1]),
            json!({"ethertype": 0x800, "source": "198.51.100.7", "dest": "192.0.2.10", "protocol": 1, "protocol_name": "icmp", "icmp_type": 8, "icmp_code": 0}),
        ),
        (
            ipv4(17, 185, &[0; 16]),
            json!({"ethertype": 0x800, "source": "198.51.100.7", "dest": "192.0.2.10", "protocol": 17, "protocol_name": "udp", "fragment": "later"}),
        ),
        (
            ipv6,
            json!({"ethertype": 0x86dd, "vlan": 42, "source": "2001:db8::5", "dest": "2001:db8::10", "protocol": 58, "protocol_name": "icmpv6", "icmp_type": 128, "icmp_code": 0}),
        ),
        (
            arp,
            json!({"ethertype": 0x806, "source": "192.0.2.60", "dest": "192.0.2.2"}),
        ),
        (
            [&MACS[..], &[0x88, 0xcc, 2, 7]].concat(),
            json!({"ethertype": 0x88cc}),
        ),
        (
            ipv4(6, 0, &tcp())[..30].to_vec(),
            json!({"ethertype": 0x800, "undecoded": "malformed"}),
        ),
    ];
    let always = [
        "time",
        "level",
        "guest",
        "nic",
        "device",
        "bridge",
        "direction",
        "verdict",
        "reason",
        "chain",
        "length",
        "mac_source",
        "mac_dest",
    ];
    for (frame, expect) in cases {
        let found = parsed(&event(&frame, 0), None);
        for (key, value) in found.as_object().unwrap() {
            if !always.contains(&key.as_str()) {
                assert_eq!(*value, expect[key], "{key} of {found}");
            }
        }
    }
}

#[test]
fn the_hosts_packets_have_no_guest() {
    let mut event = event(&ipv4(6, 0, &tcp()), 0);
    event.vmid = 0;
    event.mark = 3;
    (event.tagged, event.vlan_tci) = (1, 0x2007);
    let found = parsed(&event, None);
    let of = |key: &str| &found[key];
    assert_eq!((of("guest"), of("nic")), (&Value::Null, &Value::Null));
    assert_eq!((of("mark"), of("vlan")), (&json!(3), &json!(7)));
}

#[test]
fn lines_of_the_log_about_itself() {
    let mut out = Vec::new();
    status_into(&mut out, &Status::Lost(2, "disk \"full\"\n"), &time());
    let expect = r#"{"time":"2026-03-05T09:12:44.000000+01:00","level":3,"status":"lost 2 log entries: disk \"full\"\n"}"#;
    assert_eq!(String::from_utf8(out).unwrap(), format!("{expect}\n"));
}

proptest! {
    #[test]
    fn any_bytes_make_one_object_with_the_same_keys(
        frame in proptest::collection::vec(any::<u8>(), 0..160),
        length in 0_usize..70_000,
        numbers in any::<[u8; 6]>(),
    ) {
        let mut made = event(&frame, length);
        [made.direction, made.verdict, made.reason, made.level, made.tagged, _] = numbers;
        let keys = |value: &Value| -> Vec<String> {
            value.as_object().unwrap().keys().cloned().collect()
        };
        let usual = parsed(&event(&ipv4(6, 0, &tcp()), 0), None);
        prop_assert_eq!(keys(&parsed(&made, None)), keys(&usual));
    }
}
