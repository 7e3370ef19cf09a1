//! Whole configurations and the policies they mean.

mod arbitrary;
mod files;
mod host;
mod options;
mod whole;

use std::sync::Arc;

use fw_common::verdict::Direction;

use super::*;
use crate::config::{Config, Sources, parse};
use crate::diagnostic::Diagnostic;
use crate::image::MapImage;
use crate::inventory::facts::HostFacts;

const NOW: u64 = 1_700_000_000;

fn sources(files: &[(&str, &str)]) -> Sources {
    Sources {
        node: "n".into(),
        files: files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec().into()))
            .collect(),
        ..Sources::default()
    }
}

fn resolved(files: &[(&str, &str)]) -> (NodePolicy, Vec<String>) {
    let (config, mut found) = parse(&sources(files));
    let (policy, more) = resolve(&config, &HostFacts::default(), NOW);
    found.extend(more);
    (policy, found.iter().map(Diagnostic::to_string).collect())
}

/// A VM 100 with one NIC and these files.
fn vm(cluster: &str, guest: &str) -> (PortPolicy, Vec<String>) {
    let (policy, found) = resolved(&[
        ("firewall/cluster.fw", cluster),
        ("firewall/100.fw", guest),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
    ]);
    (policy.ports[0].as_ref().clone(), found)
}

/// The rules that lines of files caused, without their origin.
fn written(policy: &Policy) -> Vec<String> {
    let rules = policy
        .rules
        .iter()
        .filter(|rule| rule.reason == Reason::Rule);
    rules
        .map(|rule| {
            format!("{} {}", rule.verdict.name(), rule.matches)
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// Rules of `[RULES]` of a guest with some names around, and what is reported.
fn check(rules: &str, inbound: &[&str], reports: &[&str]) {
    let cluster = "[OPTIONS]\nenable: 1\n[ALIASES]\nboth 10.0.0.1\nsix fd00::/8\nv4net 192.0.2.77/24\n[IPSET cset]\n10.1.0.0/16\n!10.1.2.0/24\nfd00::1\n[IPSET empty]\n[group gg]\nIN DROP -source +cset\nOUT ACCEPT\nIN ACCEPT -dest both\n[group bad]\nIN ACCEPT -source guest/mine\nIN REJECT -source +mine\nIN DROP -p sctp\n";
    let guest = format!(
        "[OPTIONS]\nenable: 1\n[RULES]\n{rules}\n[ALIASES]\nboth 10.9.9.9\nmine 10.7.0.0/16\n[IPSET mine]\nmine\n!both\n"
    );
    let (port, found) = vm(cluster, &guest);
    let found: Vec<_> = found
        .iter()
        .filter(|found| found.starts_with("firewall/100.fw"))
        .collect();
    assert_eq!(written(&port.inbound), inbound, "{rules}");
    assert_eq!(found, reports, "{rules}");
}

#[test]
fn names_are_looked_up_in_their_scope() {
    check(
        "IN ACCEPT -source both",
        &["ACCEPT ipv4 source={10.9.9.9}"],
        &[],
    );
    check(
        "IN ACCEPT -source DC/Both",
        &["ACCEPT ipv4 source={10.0.0.1}"],
        &[],
    );
    check(
        "IN ACCEPT -source guest/both",
        &["ACCEPT ipv4 source={10.9.9.9}"],
        &[],
    );
    check(
        "IN ACCEPT -source six",
        &["ACCEPT ipv6 source={fd00::/8}"],
        &[],
    );
    check(
        "IN ACCEPT -source v4net",
        &["ACCEPT ipv4 source={192.0.2.0/24}"],
        &[],
    );
    check(
        "IN ACCEPT -dest +cset",
        &["ACCEPT dest={10.1.0.0/16,!10.1.2.0/24,fd00::1}"],
        &[],
    );
    check(
        "IN ACCEPT -dest +mine",
        &["ACCEPT dest={10.7.0.0/16,!10.9.9.9}"],
        &[],
    );
    check("IN ACCEPT -dest +empty", &["ACCEPT dest={}"], &[]);
    check("IN ACCEPT -dest +management", &["ACCEPT dest={}"], &[]);
    for (rules, report) in [
        (
            "IN ACCEPT -source guest/six",
            "4:19: error: there is no alias `six` in the guest's file",
        ),
        (
            "IN ACCEPT -source cset",
            "4:19: error: there is no alias `cset`",
        ),
        (
            "IN ACCEPT -source +dc/mine",
            "4:19: error: there is no set `mine` in the cluster's file",
        ),
        (
            "IN ACCEPT -source +sdn/zone",
            "4:19: error: there is no set `zone` of SDN",
        ),
        ("GROUP web", "4:7: error: there is no security group `web`"),
    ] {
        check(
            rules,
            &[],
            &[&format!(
                "firewall/100.fw:{report}; the rule is not enforced"
            )],
        );
    }
}

#[test]
fn families_must_agree() {
    check(
        "IN ACCEPT -source both -dest +cset",
        &["ACCEPT ipv4 source={10.9.9.9} dest={10.1.0.0/16,!10.1.2.0/24,fd00::1}"],
        &[],
    );
    check(
        "IN Ping(DROP) -source six",
        &["DROP ipv6 proto=icmpv6 source={fd00::/8} type=128"],
        &[],
    );
    check(
        "IN ACCEPT -p 58 -source both",
        &["ACCEPT ipv4 proto=icmpv6 source={10.9.9.9}"],
        &[],
    );
    check(
        "IN DROP -source 0.0.0.0/0",
        &["DROP ipv4 source={0.0.0.0/0}"],
        &[],
    );
    for (rules, report) in [
        (
            "IN ACCEPT -source both -dest six",
            "4:30: error: source and destination are of different IP versions",
        ),
        (
            "IN ACCEPT -source both -p icmpv6",
            "4:19: error: the address and the protocol are of different IP versions",
        ),
        (
            "IN DHCPv6(ACCEPT) -dest both",
            "4:25: error: the address and the protocol are of different IP versions",
        ),
    ] {
        check(
            rules,
            &[],
            &[&format!(
                "firewall/100.fw:{report}; the rule is not enforced"
            )],
        );
    }
}

#[test]
fn groups_stand_in_place_and_bad_members_stay_out() {
    check(
        "IN ACCEPT -p tcp\nGROUP gg\nIN DROP -p udp",
        &[
            "ACCEPT proto=tcp",
            "DROP source={10.1.0.0/16,!10.1.2.0/24,fd00::1}",
            "ACCEPT ipv4 dest={10.0.0.1}",
            "DROP proto=udp",
        ],
        &[],
    );
    check("GROUP bad", &["DROP proto=132"], &[]);
    check(
        "|GROUP gg\n|IN DROP\nGROUP gg -i net0\nOUT DROP",
        &[
            "DROP source={10.1.0.0/16,!10.1.2.0/24,fd00::1}",
            "ACCEPT ipv4 dest={10.0.0.1}",
        ],
        &[],
    );
    let nowhere = "firewall/100.fw:4:13: warning: the guest has no firewalled NIC `net1`; the rule matches nothing";
    check("GROUP gg -i net1", &[], &[nowhere]);
}

#[test]
fn equal_sets_are_shared() {
    let (port, _) = vm(
        "",
        "[OPTIONS]\nenable: 1\n[IPSET a1]\n10.0.0.1\n[RULES]\nIN ACCEPT -source +a1\nIN DROP -source 10.0.0.1\nOUT DROP -dest 10.0.0.1\n",
    );
    let sets: Vec<_> = [&port.inbound, &port.outbound]
        .into_iter()
        .flat_map(|policy| {
            policy
                .rules
                .iter()
                .filter(|rule| rule.reason == Reason::Rule)
        })
        .filter_map(|rule| rule.matches.source.as_ref().or(rule.matches.dest.as_ref()))
        .collect();
    assert_eq!(sets.len(), 3);
    assert!(sets.windows(2).all(|pair| Arc::ptr_eq(pair[0], pair[1])));
}

#[test]
fn the_order_of_definitions_does_not_matter() {
    let [names, set, rules] = [
        "[ALIASES]\nab 10.0.0.1\n",
        "[IPSET s1]\nab\n",
        "[RULES]\nIN ACCEPT -source +s1\n",
    ];
    let head = "[OPTIONS]\nenable: 1\n";
    for order in [
        [names, set, rules],
        [rules, set, names],
        [set, names, rules],
    ] {
        let (port, found) = vm("", &format!("{head}{}", order.concat()));
        assert_eq!(written(&port.inbound), ["ACCEPT source={10.0.0.1}"]);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn enable_as_a_time() {
    for (enable, expect) in [
        (0, false),
        (1, true),
        (2, false),
        (NOW - 61, false),
        (NOW - 60, true),
        (NOW, true),
        (u64::MAX, true),
    ] {
        assert_eq!(is_enabled(enable, NOW), expect, "{enable}");
    }
}

#[test]
fn a_guest_that_is_off_gets_the_node_wide_checks_only() {
    let (port, _) = vm(
        "[IPSET blacklist]\n10.0.0.1",
        "[OPTIONS]\nipfilter: 1\n[RULES]\nIN DROP\nOUT DROP\n",
    );
    let reasons = |policy: &Policy| {
        policy
            .rules
            .iter()
            .map(|rule| rule.reason)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        reasons(&port.inbound),
        [
            Reason::Invalid,
            Reason::Blacklist,
            Reason::Smurf,
            Reason::GuestOff
        ]
    );
    assert_eq!(reasons(&port.outbound), [Reason::Invalid, Reason::GuestOff]);
    assert!(!port.macfilter);
}

#[test]
fn nics_without_firewall_have_no_policy() {
    let (policy, _) = resolved(&[
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01\nnet1: virtio=02:00:00:00:00:02,firewall=1",
        ),
        ("nodes/n/lxc/99.conf", "net3: name=a,firewall=1"),
        ("nodes/other/lxc/98.conf", "net3: name=a,firewall=1"),
    ]);
    let devices: Vec<_> = policy.ports.iter().map(|port| port.device()).collect();
    assert_eq!(devices, ["veth99i3", "tap100i1"]);
}

#[test]
fn what_cannot_be_read_stays_closed() {
    let files = [
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1"),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
    ];
    for path in ["firewall/cluster.fw", "firewall/100.fw", "firewall"] {
        let mut sources = sources(&files);
        sources.files.remove(path);
        sources
            .unreadable
            .insert(path.into(), "input/output error".into());
        let (config, found) = parse(&sources);
        assert_eq!(
            found[0].to_string(),
            format!(
                "{path}: error: cannot be read: input/output error; what depends on it stays closed"
            )
        );
        let (policy, _) = resolve(&config, &HostFacts::default(), NOW);
        assert!(policy.enabled, "{path}");
        for list in [&policy.ports[0].inbound, &policy.ports[0].outbound] {
            let [rule] = list.rules.as_slice() else {
                panic!("{path}")
            };
            assert_eq!(
                (rule.verdict, &rule.matches),
                (Verdict::Drop, &Matches::default()),
                "{path}"
            );
        }
    }
}

#[test]
fn a_policy_that_is_too_long_cannot_be_built() {
    let many = |count| {
        format!(
            "[OPTIONS]\nenable: 1\n[group gg]\n{}",
            "IN ACCEPT\n".repeat(count)
        )
    };
    let guest = format!(
        "[OPTIONS]\nenable: 1\n[RULES]\n{}",
        "GROUP gg\n".repeat(100)
    );
    let (port, found) = vm(&many(200), &guest);
    assert_eq!(
        found,
        [
            "firewall/100.fw: error: net0 of guest 100 has more than 16384 rules in one direction; its last policy stays, or it is closed"
        ]
    );
    let id = port.port;
    let image = MapImage::build(&NodePolicy {
        ports: vec![port.into()],
        ..NodePolicy::default()
    });
    let failed = image.failures.iter();
    let failed: Vec<_> = failed.map(|(port, way, _)| (*port, *way)).collect();
    assert_eq!(failed, [(id, Direction::In)]);
    assert!(!image.ports.contains_key(&id));
    assert_eq!(vm(&many(100), &guest).1, [""; 0]);
}

#[test]
fn local_network_is_known_from_outside() {
    let (mut config, _): (Config, _) = parse(&sources(&[
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1"),
        (
            "firewall/100.fw",
            "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -source +management -dest local_network",
        ),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
    ]));
    assert_eq!(resolve(&config, &HostFacts::default(), NOW).1.len(), 1);
    config.local_network = Some("10.2.0.3/16".parse().unwrap());
    let (policy, found) = resolve(&config, &HostFacts::default(), NOW);
    assert!(found.is_empty());
    assert_eq!(
        written(&policy.ports[0].inbound),
        ["ACCEPT ipv4 source={10.2.0.0/16} dest={10.2.0.0/16}"]
    );
}
