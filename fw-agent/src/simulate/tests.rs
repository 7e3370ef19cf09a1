//! Walks over two firewalled guests (100, a VM with two NICs, and 200, a container) and one that is not.

use std::sync::Arc;

use fw_common::conntrack::CtState;
use fw_common::verdict::Reason;

use super::text::print;
use super::*;
use crate::policy::{Matches, Origin, OriginKind, PortId, Rule, SourceLine, Vlans};

fn policy(file: &str) -> Policy {
    let rule = |line, text: &str| Rule {
        matches: Matches::default(),
        verdict: Verdict::Accept,
        reason: Reason::Rule,
        log: None,
        origin: Origin {
            line,
            kind: OriginKind::Rule,
            text: text.into(),
        },
    };
    let file: Arc<str> = file.into();
    let line = SourceLine { file, line: 7 };
    Policy {
        rules: vec![
            rule(Some(line), "IN ACCEPT -p tcp"),
            rule(None, "standard: DHCP"),
        ],
    }
}

fn port_of(vmid: u32, net: u16, kind: GuestKind) -> PortPolicy {
    PortPolicy {
        port: PortId { vmid, net },
        kind,
        mac: (vmid == 100).then_some([0xbc, 0x24, 0x11, 0, 0, net as u8]),
        macfilter: true,
        macfilter_layer2: true,
        vlans: Vlans::None,
        dhcp: true,
        inbound: policy(&format!("{vmid}-{net}-in.fw")),
        outbound: policy(&format!("{vmid}-{net}-out.fw")),
        guard: None,
    }
}

pub fn node() -> NodePolicy {
    NodePolicy {
        enabled: true,
        ports: vec![
            port_of(100, 0, GuestKind::Vm).into(),
            port_of(100, 1, GuestKind::Vm).into(),
            port_of(200, 0, GuestKind::Container).into(),
        ],
        ..NodePolicy::default()
    }
}

fn query(from: &str, to: &str) -> Query {
    let line = format!(r#"{{"from": "{from}", "to": "{to}", "dport": 22, "state": "RELATED"}}"#);
    Query::parse(line.as_bytes()).unwrap()
}

/// A judge that drops at `closed` (device and direction) and else accepts, by the first rule.
fn judge(zone: Zone<'_>, direction: Direction, closed: &str) -> Judged {
    let place = format!("{} {}", zone.name(), direction.name());
    let verdict = match place == closed {
        true => Verdict::Drop,
        false => Verdict::Accept,
    };
    Judged {
        judgement: Judgement::new(verdict, Reason::Rule),
        tracked: Some(CtState::New),
        rule: Some(0),
    }
}

#[test]
fn hops() {
    let check = |from: &str, to: &str, closed: &str, expect: &str| {
        let node = node();
        let query = query(from, to);
        let outcome = run(&query, &node, &mut |zone, direction, _, state| {
            assert_eq!(state, State::Related);
            judge(zone, direction, closed)
        })
        .unwrap();
        let path: Vec<String> = outcome
            .path
            .iter()
            .map(|hop| format!("{} {}", hop.port, hop.direction.name()))
            .collect();
        let file = outcome.rule.map_or("-", |rule| rule.file);
        let got = format!(
            "{} {} {file} [{}]",
            outcome.verdict.name(),
            outcome.reason,
            path.join(", ")
        );
        assert_eq!(got, expect, "{from} {to}");
    };
    check(
        "outside",
        "vm100",
        "",
        "ACCEPT rule 100-0-in.fw [tap100i0 IN]",
    );
    check(
        "outside",
        "vm100i1",
        "tap100i1 IN",
        "DROP rule 100-1-in.fw [tap100i1 IN]",
    );
    check(
        "host",
        "ct200",
        "",
        "ACCEPT rule 200-0-in.fw [veth200i0 IN]",
    );
    check(
        "vm100",
        "outside",
        "",
        "ACCEPT rule 100-0-out.fw [tap100i0 OUT]",
    );
    check(
        "vm100",
        "host",
        "tap100i0 OUT",
        "DROP rule 100-0-out.fw [tap100i0 OUT]",
    );
    check(
        "vm100",
        "ct200",
        "",
        "ACCEPT rule 200-0-in.fw [tap100i0 OUT, veth200i0 IN]",
    );
    check(
        "vm100",
        "ct200",
        "tap100i0 OUT",
        "DROP rule 100-0-out.fw [tap100i0 OUT]",
    );
    check(
        "vm100",
        "ct200",
        "veth200i0 IN",
        "DROP rule 200-0-in.fw [tap100i0 OUT, veth200i0 IN]",
    );
    check(
        "vm100",
        "vm100i1",
        "",
        "ACCEPT rule 100-1-in.fw [tap100i0 OUT, tap100i1 IN]",
    );
    check(
        "vm300",
        "vm100",
        "",
        "ACCEPT rule 100-0-in.fw [tap100i0 IN]",
    );
    check(
        "vm100",
        "vm300",
        "",
        "ACCEPT rule 100-0-out.fw [tap100i0 OUT]",
    );
    check("vm300", "vm100i7", "", "ACCEPT unfiltered - []");
    check("outside", "host", "", "ACCEPT unfiltered - []");
    check("outside", "vmbr1/eth1", "", "ACCEPT unfiltered - []");
}

#[test]
fn hardware_addresses_of_the_ends() {
    let check = |from: &str, to: &str, source: [u8; 6], dest: [u8; 6]| {
        let node = node();
        run(&query(from, to), &node, &mut |zone, direction, frame, _| {
            assert_eq!(
                (&frame[..6], &frame[6..12]),
                (&dest[..], &source[..]),
                "{from} {to}"
            );
            judge(zone, direction, "")
        })
        .unwrap();
    };
    let guest = |net| [0xbc, 0x24, 0x11, 0, 0, net];
    check("outside", "vm100", OUTSIDE_MAC, guest(0));
    check("vm100i1", "host", guest(1), HOST_MAC);
    check("vm100", "vm100i1", guest(0), guest(1));
    check("vm300", "vm100", NO_MAC, guest(0));
    check("ct200", "outside", NO_MAC, OUTSIDE_MAC);
}

#[test]
fn hops_of_the_host() {
    let rule = |interface: Option<&str>, text: &str| {
        let mut rule = policy("host.fw").rules.remove(0);
        rule.matches.interface = interface.map(Arc::from);
        rule.origin.text = text.into();
        rule
    };
    let rules = || Policy {
        rules: vec![
            rule(Some("vmbr1"), "one"),
            rule(None, "two"),
            rule(None, "three"),
        ],
    };
    let node = NodePolicy {
        host: Some(HostPolicy {
            inbound: rules(),
            outbound: rules(),
        }),
        bridges: [((100, 0), "vmbr1"), ((300, 0), "vmbr2")]
            .map(|((vmid, net), bridge)| (PortId { vmid, net }, bridge.into()))
            .into(),
        ..node()
    };
    let check = |from: &str, to: &str, closed: &str, expect: &str| {
        let query = query(from, to);
        let outcome = run(&query, &node, &mut |zone, direction, _, _| Judged {
            rule: Some(1),
            ..judge(zone, direction, closed)
        })
        .unwrap();
        let path: Vec<String> = outcome
            .path
            .iter()
            .map(|hop| {
                let met = hop.steps().len();
                let interface = hop.interface.unwrap_or("-");
                format!("{} {} {interface} {met}", hop.port, hop.direction.name())
            })
            .collect();
        let got = format!("{} [{}]", outcome.verdict.name(), path.join(", "));
        assert_eq!(got, expect, "{from} {to}");
    };
    check("outside", "host", "", "ACCEPT [host IN vmbr0 1]");
    check("host", "outside", "", "ACCEPT [host OUT vmbr0 1]");
    check("vmbr1/eth1", "host", "", "ACCEPT [host IN vmbr1 2]");
    check("vm300", "host", "", "ACCEPT [host IN vmbr2 1]");
    check("vm7", "host", "", "ACCEPT [host IN vmbr0 1]");
    check(
        "vm100",
        "host",
        "",
        "ACCEPT [tap100i0 OUT - 2, host IN vmbr1 2]",
    );
    check("vm100", "host", "tap100i0 OUT", "DROP [tap100i0 OUT - 2]");
    check(
        "host",
        "vm100",
        "tap100i0 IN",
        "DROP [host OUT vmbr1 2, tap100i0 IN - 2]",
    );
    check("host", "vm100", "host OUT", "DROP [host OUT vmbr1 2]");
    check("outside", "vmbr1/eth1", "", "ACCEPT []");
}

#[test]
fn a_reject_without_an_answer_is_a_drop() {
    let node = node();
    for (packet, expect) in [
        (r#""proto": "tcp""#, "REJECT"),
        (r#""proto": "icmp""#, "DROP"),
        (r#""proto": "icmpv6""#, "DROP"),
        (r#""proto": "udp", "dest": "255.255.255.255""#, "DROP"),
        (r#""proto": "udp", "dsttype": "BROADCAST""#, "DROP"),
        (r#""proto": "udp", "source": "224.0.0.5""#, "DROP"),
        (r#""proto": "58", "source": "10.0.0.1""#, "REJECT"),
    ] {
        let line = format!(r#"{{"from": "outside", "to": "vm100", {packet}}}"#);
        let query = Query::parse(line.as_bytes()).unwrap();
        let outcome = run(&query, &node, &mut |_, _, _, _| Judged {
            judgement: Judgement::new(Verdict::Reject, Reason::Rule),
            tracked: None,
            rule: None,
        })
        .unwrap();
        assert_eq!(outcome.verdict.name(), expect, "{packet}");
    }
}

#[test]
fn a_node_that_is_off_accepts_everything() {
    let node = NodePolicy {
        enabled: false,
        ..node()
    };
    let query = query("outside", "vm100");
    let outcome = run(&query, &node, &mut |zone, direction, _, _| {
        judge(zone, direction, "tap100i0 IN")
    })
    .unwrap();
    let json = serde_json::to_string(&outcome).unwrap();
    assert_eq!(
        json,
        r#"{"verdict":"ACCEPT","reason":"off","rule":null,"path":[]}"#
    );
}

#[test]
fn a_guest_of_the_other_kind_is_an_error() {
    let node = node();
    let error = |from: &str, to: &str| {
        let query = query(from, to);
        let result = run(&query, &node, &mut |zone, direction, _, _| {
            judge(zone, direction, "")
        });
        result.unwrap_err().to_string()
    };
    assert_eq!(
        error("outside", "ct100"),
        "guest 100 is a virtual machine: write vm100"
    );
    assert_eq!(
        error("vm200", "outside"),
        "guest 200 is a container: write ct200"
    );
}

#[test]
fn rules_without_a_line_are_text_only() {
    let node = node();
    for (rule, text) in [
        (Some(1), Some("standard: DHCP")),
        (Some(99), None),
        (None, None),
    ] {
        let query = query("outside", "vm100");
        let outcome = run(&query, &node, &mut |_, _, _, _| Judged {
            judgement: Judgement::accept(Reason::Standard),
            tracked: None,
            rule,
        })
        .unwrap();
        assert_eq!((outcome.rule, outcome.path[0].text), (None, text));
    }
}

#[test]
fn output_for_machines_and_people() {
    let node = node();
    let query = query("vm100", "ct200");
    let outcome = run(&query, &node, &mut |zone, direction, _, _| {
        judge(zone, direction, "veth200i0 IN")
    })
    .unwrap();
    let rule = |file: &str| format!(r#"{{"file":"{file}","line":7,"text":"IN ACCEPT -p tcp"}}"#);
    let (out, inn) = (rule("100-0-out.fw"), rule("200-0-in.fw"));
    let json = format!(
        r#"{{"verdict":"DROP","reason":"rule","rule":{inn},"path":[{{"port":"tap100i0","direction":"OUT","verdict":"ACCEPT","reason":"rule","rule":{out},"text":"IN ACCEPT -p tcp"}},{{"port":"veth200i0","direction":"IN","verdict":"DROP","reason":"rule","rule":{inn},"text":"IN ACCEPT -p tcp"}}]}}"#
    );
    assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
    let text = "\
Test packet:
  from    : vm100
  to      : ct200
  proto   : tcp
  source  : 100.100.1.2
  dest    : 100.200.3.4
  dport   : 22
ACTION: DROP
  reason  : rule
  rule    : 200-0-in.fw:7: IN ACCEPT -p tcp
  path    : tap100i0 OUT ACCEPT (rule) 100-0-out.fw:7
  path    : veth200i0 IN DROP (rule) 200-0-in.fw:7
";
    assert_eq!(print(&query, &outcome, false), text);
    let steps = "\
  path    : tap100i0 OUT ACCEPT (rule) 100-0-out.fw:7
  step    : MAC filter passes
  step    : tracking finds NEW
  step    : yes ACCEPT -- rule: 100-0-out.fw:7: IN ACCEPT -p tcp
";
    assert!(print(&query, &outcome, true).contains(steps));
}
