//! What the kernel programs remember of their search among many rules is never another policy's.
//!
//! In: policies of many rules that are alike in all but which rule a port belongs to, so that a packet has the same references in each of them; on two
//! ports at once, and one after the other on one port. Out: the rule by which each packet is judged, asked for twice, as the second answer is remembered.
//!
//! That remembered answers are the search's is what `equivalence` shows, one of whose guests has many rules.
//!
//! Needs root.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use fw_agent::policy::{
    GuestKind, Matches, NodePolicy, Origin, OriginKind, Policy, PortId, PortPolicy, Rule, Vlans,
};
use fw_common::verdict::{Direction, Reason, Verdict};
use tapwall_tests::frame::Frame;
use tapwall_tests::kernel::TestKernel;

const UDP: u8 = 17;
/// Rules on a port each, and one behind them for all others.
const RULES: u16 = 300;
/// Port of the first of them.
const FIRST: u16 = 2000;

fn verdict(rule: u16) -> Verdict {
    match rule % 2 {
        0 => Verdict::Accept,
        _ => Verdict::Drop,
    }
}

/// Rules of which number `n` is about the port `FIRST + (n ^ turn)`, where `turn` is less than 4.
fn policy(turn: u16) -> Policy {
    let rule = |number: u16| Rule {
        matches: Matches {
            protocol: (number < RULES).then_some(UDP),
            dport: match number < RULES {
                true => vec![(FIRST + (number ^ turn), FIRST + (number ^ turn))],
                false => Vec::new(),
            },
            ..Matches::default()
        },
        verdict: verdict(number),
        reason: Reason::Rule,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Rule,
            text: format!("rule {number}").into(),
        },
    };
    Policy {
        rules: (0..=RULES).map(rule).collect(),
    }
}

fn port(net: u16, turn: u16) -> PortPolicy {
    PortPolicy {
        port: PortId { vmid: 100, net },
        kind: GuestKind::Vm,
        mac: None,
        macfilter: false,
        macfilter_layer2: false,
        vlans: Vlans::None,
        dhcp: false,
        inbound: policy(turn),
        outbound: policy(0),
        guard: None,
    }
}

fn node(turns: [u16; 2]) -> NodePolicy {
    let ports = (0..).zip(turns).map(|(net, turn)| port(net, turn));
    NodePolicy {
        enabled: true,
        ports: ports.map(Arc::new).collect(),
        ..NodePolicy::default()
    }
}

fn frame(dport: u16) -> Vec<u8> {
    let [source, dest] =
        [[198, 51, 100, 8], [192, 0, 2, 10]].map(|a| IpAddr::V4(Ipv4Addr::from(a)));
    let macs = [[0xbc, 0x24, 0x11, 0, 0, 0x64], [0x02, 0, 0, 0, 0, 0xc8]];
    Frame::udp(macs, [source, dest], [40_000, dport]).bytes()
}

/// Asks for the verdict on each port's packets, twice, and expects that of the rule which names the port.
fn judge_all(kernel: &mut TestKernel, turns: [u16; 2]) {
    // The step takes in all that the turns tell apart.
    for number in (0..RULES).step_by(9) {
        for (net, turn) in (0..).zip(turns) {
            for asked in ["first", "again"] {
                kernel.forget_flows().unwrap();
                let id = PortId { vmid: 100, net };
                let run = kernel
                    .run(id, Direction::In, &frame(FIRST + number))
                    .unwrap();
                let by = number ^ turn;
                let found = run.rule.map(|(verdict, _)| verdict);
                let port = FIRST + number;
                assert_eq!(
                    found,
                    Some(verdict(by)),
                    "port {port}, turn {turn}, asked {asked}"
                );
            }
        }
    }
}

#[test]
fn policies_that_differ_only_in_the_order_of_their_rules_are_kept_apart() {
    let mut kernel = TestKernel::new().unwrap();
    // The old policies' places are taken by new ones of the same size sooner or later.
    for turns in [[0, 1], [1, 0], [3, 2], [0, 3], [2, 1], [1, 1]] {
        kernel.load(&node(turns)).unwrap();
        judge_all(&mut kernel, turns);
    }
}
