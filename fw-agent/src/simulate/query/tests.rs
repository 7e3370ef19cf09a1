//! Lines and what becomes of them.

use super::*;
use crate::policy::{GuestKind, PortId};

fn parse(fields: &str) -> Result<Query, QueryError> {
    Query::parse(format!(r#"{{"from": "outside", "to": "vm100", {fields}}}"#).as_bytes())
}

fn minimal() -> Query {
    Query::parse(br#"{"from": "outside", "to": "vm100"}"#).unwrap()
}

#[test]
fn defaults() {
    let port = PortId { vmid: 100, net: 0 };
    let expect = Query {
        from: Endpoint::Outside,
        to: Endpoint::Guest {
            kind: GuestKind::Vm,
            port,
        },
        family: Family::V4,
        source: None,
        dest: None,
        protocol: TCP,
        sport: None,
        dport: None,
        icmp_type: None,
        icmp_code: None,
        tcp_flags: SYN,
        mac_source: None,
        dsttype: None,
        vlan: None,
        state: State::New,
    };
    assert_eq!(minimal(), expect);
}

#[test]
fn fields_as_written() {
    let check = |fields: &str, change: fn(&mut Query)| {
        let mut expect = minimal();
        change(&mut expect);
        assert_eq!(parse(fields), Ok(expect), "{fields}");
    };
    check(r#""proto": "udp", "sport": 0, "dport": 65535"#, |q| {
        (q.protocol, q.sport, q.dport) = (17, Some(0), Some(65535));
    });
    check(r#""sport": "53""#, |q| q.sport = Some(53));
    check(r#""proto": 94"#, |q| q.protocol = 94);
    check(r#""proto": "94""#, |q| q.protocol = 94);
    check(
        r#""proto": "ICMP", "icmp_type": 3, "icmp_code": 255"#,
        |q| {
            (q.protocol, q.icmp_type, q.icmp_code) = (1, Some(3), Some(255));
        },
    );
    check(r#""proto": "ipv6-icmp""#, |q| {
        (q.protocol, q.family) = (58, Family::V6)
    });
    check(r#""source": "2001:db8::1""#, |q| {
        (q.source, q.family) = ("2001:db8::1".parse().ok(), Family::V6);
    });
    check(r#""dest": "192.0.2.1""#, |q| {
        q.dest = "192.0.2.1".parse().ok()
    });
    for (flags, bits) in [
        ("SYN", 0x02),
        ("syn,ack", 0x12),
        ("FIN PSH URG", 0x29),
        ("FIN,SYN,RST,PSH,ACK,URG", 0x3f),
        ("ECE,CWR", 0xc0),
        ("ALL", 0x3f),
        ("NONE", 0),
    ] {
        let query = parse(&format!(r#""tcp_flags": "{flags}""#)).unwrap();
        assert_eq!(query.tcp_flags, bits, "{flags}");
    }
    let mac = |q: &mut Query| q.mac_source = Some([0xbc, 0x24, 0x11, 0, 1, 0xaf]);
    check(r#""mac_source": "BC:24:11:00:01:af""#, mac);
    check(r#""mac_source": "bc-24-11-00-01-af""#, mac);
    check(r#""dsttype": "broadcast""#, |q| {
        q.dsttype = Some(DestType::Broadcast)
    });
    check(r#""vlan": 4094, "state": "established""#, |q| {
        (q.vlan, q.state) = (Some(4094), State::Established);
    });
    check(
        r#""sport": null, "expect": "DROP", "cat": [1, {"a": 2}], "ct": "NEW""#,
        |_| {},
    );
    check(r#""proto": "\u0075dp""#, |q| q.protocol = 17);
}

#[test]
fn errors_name_the_field() {
    let cases = [
        (
            r#""proto": "nonsense""#,
            r#"`proto`: expected a protocol's name or number (0 to 255), found "nonsense""#,
        ),
        (
            r#""proto": 256"#,
            "`proto`: expected a protocol's name or number (0 to 255), found 256",
        ),
        (
            r#""sport": 65536"#,
            "`sport`: expected a port (0 to 65535), found 65536",
        ),
        (
            r#""dport": -1"#,
            "`dport`: expected a port (0 to 65535), found -1",
        ),
        (
            r#""dport": 1.5"#,
            "`dport`: expected a port (0 to 65535), found a number with a fraction",
        ),
        (
            r#""dport": """#,
            r#"`dport`: expected a port (0 to 65535), found """#,
        ),
        (
            r#""dport": [22]"#,
            "`dport`: expected a port (0 to 65535), found a list",
        ),
        (
            r#""dport": {"a": 1}"#,
            "`dport`: expected a port (0 to 65535), found an object",
        ),
        (
            r#""dport": true"#,
            "`dport`: expected a port (0 to 65535), found a truth value",
        ),
        (
            r#""source": "10.0.0.0/8""#,
            r#"`source`: expected an IP address, found "10.0.0.0/8""#,
        ),
        (
            r#""proto": "icmp", "icmp_type": 256"#,
            "`icmp_type`: expected a number from 0 to 255, found 256",
        ),
        (
            r#""tcp_flags": "SYN,XXX""#,
            r#"`tcp_flags`: expected flags such as SYN,ACK (FIN SYN RST PSH ACK URG ECE CWR), ALL or NONE, found "SYN,XXX""#,
        ),
        (
            r#""mac_source": "bc:24:11:0:1:2""#,
            r#"`mac_source`: expected a hardware address such as bc:24:11:00:00:01, found "bc:24:11:0:1:2""#,
        ),
        (
            r#""mac_source": "bc:24:11:00:01:02:03""#,
            r#"`mac_source`: expected a hardware address such as bc:24:11:00:00:01, found "bc:24:11:00:01:02:03""#,
        ),
        (
            r#""dsttype": "LOCAL""#,
            r#"`dsttype`: expected UNICAST, BROADCAST or MULTICAST, found "LOCAL""#,
        ),
        (
            r#""vlan": 4095"#,
            "`vlan`: expected a VLAN's number (0 to 4094), found 4095",
        ),
        (
            r#""state": "OLD""#,
            r#"`state`: expected NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED, found "OLD""#,
        ),
        (
            r#""source": "10.0.0.1", "dest": "::1""#,
            "`source` 10.0.0.1 and `dest` ::1 are not of the same IP version",
        ),
        (
            r#""proto": "igmp", "sport": 1"#,
            "`sport` is for tcp, udp, sctp, dccp and udplite, the packet's protocol is igmp",
        ),
        (
            r#""proto": 253, "dport": 1"#,
            "`dport` is for tcp, udp, sctp, dccp and udplite, the packet's protocol is 253",
        ),
        (
            r#""icmp_type": 1"#,
            "`icmp_type` is for icmp and icmpv6, the packet's protocol is tcp",
        ),
        (
            r#""proto": "udp", "tcp_flags": "SYN""#,
            "`tcp_flags` is for tcp, the packet's protocol is udp",
        ),
        (
            r#""dport": 1, "dport": 2"#,
            "duplicate field `dport` (column 54)",
        ),
        (r#""dport": 1,"#, "trailing comma (column 47)"),
    ];
    for (fields, expect) in cases {
        let error = parse(fields).unwrap_err();
        assert_eq!(error.to_string(), expect, "{fields}");
    }
}

#[test]
fn errors_about_the_whole_line() {
    let place = "expected host, outside, vm<ID>, ct<ID>, vm<ID>i<N>, ct<ID>i<N> or <bridge>/<port>";
    let cases = [
        (r#"{"to": "host"}"#, "`from` is missing".to_owned()),
        (
            r#"{"from": "host", "to": null}"#,
            "`to` is missing".to_owned(),
        ),
        (
            r#"{"from": "vmx", "to": "host"}"#,
            format!(r#"`from`: {place}, found "vmx""#),
        ),
        (
            r#"{"from": "host", "to": 100}"#,
            format!("`to`: {place}, found 100"),
        ),
        (
            r#"{"from": "vm100", "to": "vm100i0"}"#,
            "`from` and `to` are the same place: vm100".to_owned(),
        ),
        (
            r#"{"from": "outside", "to": "vmbr0/eth0"}"#,
            "`from` and `to` are the same place: outside".to_owned(),
        ),
    ];
    for (line, expect) in cases {
        assert_eq!(
            Query::parse(line.as_bytes()).unwrap_err().to_string(),
            expect,
            "{line}"
        );
    }
    for line in [
        &b""[..],
        b"x",
        b"[]",
        b"1",
        b"{\"from\": \"h\xff\"}",
        b"{} {}",
    ] {
        let error = Query::parse(line).unwrap_err();
        let json = matches!(error, QueryError::Json { .. } | QueryError::Missing { .. });
        assert!(json, "{line:?}: {error}");
        assert!(!error.to_string().contains(" at line "), "{error}");
    }
    let long = format!(r#"{{"from": "{}", "to": "host"}}"#, "x".repeat(1000));
    let error = Query::parse(long.as_bytes()).unwrap_err().to_string();
    assert!(error.ends_with("xx\"…") && error.len() < 300, "{error}");
}

#[test]
fn a_query_is_read_by_any_deserializer_and_from_options() {
    let line = r#"{"from": "outside", "to": "vm100", "dport": 22}"#;
    let query: Query = serde_json::from_reader(line.as_bytes()).unwrap();
    let fields = Fields {
        from: Some("outside".into()),
        to: Some("vm100".into()),
        dport: Some("22".into()),
        ..Fields::default()
    };
    assert_eq!(Query::try_from(fields), Ok(query));
}

#[test]
fn default_addresses() {
    let check = |line: &str, expect: &str| {
        let mut query = Query::parse(line.as_bytes()).unwrap();
        let before = query.addresses();
        query.set_host_addresses("172.16.1.2".parse().ok(), "fd00:1::2".parse().ok());
        let show = |addresses| match addresses {
            Addresses::V4(source, dest) => format!("{source} {dest}"),
            Addresses::V6(source, dest) => format!("{source} {dest}"),
        };
        assert_eq!(
            format!("{} | {}", show(before), show(query.addresses())),
            expect,
            "{line}"
        );
    };
    check(
        r#"{"from": "outside", "to": "vm1"}"#,
        "100.100.1.2 100.200.3.4 | 100.100.1.2 100.200.3.4",
    );
    check(
        r#"{"from": "host", "to": "vm1"}"#,
        "100.100.1.2 100.200.3.4 | 172.16.1.2 100.200.3.4",
    );
    check(
        r#"{"from": "vm1", "to": "host"}"#,
        "100.100.1.2 100.200.3.4 | 100.100.1.2 172.16.1.2",
    );
    check(
        r#"{"from": "vm1", "to": "host", "dest": "10.0.0.1"}"#,
        "100.100.1.2 10.0.0.1 | 100.100.1.2 10.0.0.1",
    );
    check(
        r#"{"from": "vm1", "to": "host", "source": "fe80::1"}"#,
        "fe80::1 2001:db8:200:3::4 | fe80::1 fd00:1::2",
    );
}
