//! Whole configurations and the policies they mean.

mod arbitrary;
mod options;

use std::sync::Arc;

use super::*;
use crate::config::{Config, Sources, parse};
use crate::diagnostic::Diagnostic;

const NOW: u64 = 1_700_000_000;

fn sources(files: &[(&str, &str)]) -> Sources {
    Sources {
        node: "n".into(),
        files: files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec()))
            .collect(),
        ..Sources::default()
    }
}

fn resolved(files: &[(&str, &str)]) -> (NodePolicy, Vec<String>) {
    let (config, mut found) = parse(&sources(files));
    let (policy, more) = resolve(&config, NOW);
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
    (policy.ports.into_iter().next().unwrap(), found)
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
    let devices: Vec<_> = policy.ports.iter().map(PortPolicy::device).collect();
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
        let (policy, _) = resolve(&config, NOW);
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
fn a_policy_that_is_too_long_closes_its_direction_only() {
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
            "firewall/100.fw: error: net0 of guest 100 has more than 16384 rules in one direction; the NIC is closed in that direction"
        ]
    );
    assert_eq!(
        (port.inbound.rules.len(), port.inbound.rules[0].verdict),
        (1, Verdict::Drop)
    );
    assert!(port.outbound.rules.len() > 1);
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
    assert_eq!(resolve(&config, NOW).1.len(), 1);
    config.local_network = Some("10.2.0.3/16".parse().unwrap());
    let (policy, found) = resolve(&config, NOW);
    assert!(found.is_empty());
    assert_eq!(
        written(&policy.ports[0].inbound),
        ["ACCEPT ipv4 source={10.2.0.0/16} dest={10.2.0.0/16}"]
    );
}

#[test]
fn only_guests_that_the_list_has_on_this_node_count() {
    let nic = "net0: virtio=02:00:00:00:00:01,firewall=1";
    let files = |list: &str| {
        [
            (".vmlist".to_owned(), list.to_owned()),
            ("nodes/n/qemu-server/100.conf".to_owned(), nic.to_owned()),
            ("nodes/n/qemu-server/101.conf".to_owned(), nic.to_owned()),
        ]
    };
    let check = |list: &str, expect: &[u32], reports: &[&str]| {
        let files = files(list);
        let files = files
            .each_ref()
            .map(|(path, text)| (path.as_str(), text.as_str()));
        let (policy, found) = resolved(&files);
        let guests: Vec<_> = policy.ports.iter().map(|port| port.port.vmid).collect();
        assert_eq!(guests, expect, "{list}");
        assert_eq!(found, reports, "{list}");
    };
    let not_ours = |vmid: u32, why: &str| {
        format!(
            "nodes/n/qemu-server/{vmid}.conf: warning: .vmlist has {why}; the guest is not this node's"
        )
    };
    check(
        r#"{"version":1,"ids":{"100":{"node":"n","type":"qemu","version":2},"101":{"node":"m","type":"qemu"}}}"#,
        &[100],
        &[&not_ours(101, "guest 101 on node `m`")],
    );
    check(
        r#"{"version":1,"ids":{"100":{"node":"n","type":"lxc"}}}"#,
        &[],
        &[
            &not_ours(100, "guest 100 as `lxc`"),
            &not_ours(101, "no guest 101"),
        ],
    );
    check("", &[100, 101], &[]);
    check(
        "{",
        &[100, 101],
        &[
            ".vmlist:1:1: error: the file is not JSON: EOF while parsing an object at line 1 column 1; the file counts as empty",
        ],
    );
}

#[test]
fn sets_of_sdn_are_found_last() {
    let (policy, found) = resolved(&[
        (
            "firewall/100.fw",
            "[OPTIONS]\nenable: 1\n[IPSET v1-gateway]\n10.9.9.9\n[RULES]\nIN ACCEPT -source +sdn/v1-no-gateway\nIN ACCEPT -source +v1-all\nIN DROP -source +v1-gateway\nIN DROP -source +sdn/v1-gateway -dest +SDN/guest-ipam-100\n",
        ),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
        (
            "sdn/.running-config",
            r#"{"vnets":{"ids":{"v1":{"zone":"z1"}}},"subnets":{"ids":{"z1-10.0.0.0-24":{"vnet":"v1","gateway":"10.0.0.1"}}}}"#,
        ),
        (
            "sdn/pve-ipam-state.json",
            r#"{"zones":{"z1":{"subnets":{"10.0.0.0/24":{"ips":{"10.0.0.5":{"vmid":"100"}}}}}}}"#,
        ),
    ]);
    assert_eq!(found, [""; 0]);
    assert_eq!(
        written(&policy.ports[0].inbound),
        [
            "ACCEPT source={10.0.0.0/24,!10.0.0.1}",
            "ACCEPT source={10.0.0.0/24}",
            "DROP source={10.9.9.9}",
            "DROP source={10.0.0.1} dest={10.0.0.5}",
        ]
    );
}

#[test]
fn rules_of_vnets_are_read_but_not_enforced() {
    let (_, found) = resolved(&[
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\n[group gg]\nIN DROP",
        ),
        (
            "sdn/firewall/v1.fw",
            "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nFORWARD DROP\nGROUP gg\nGROUP no\nFORWARD DROP -source +no\nIN DROP\n[ALIASES]\nab 10.0.0.1",
        ),
    ]);
    let skipped = "the rule is not enforced";
    assert_eq!(
        found,
        [
            "sdn/firewall/v1.fw:3:1: error: `policy_in` is not an option of this file; the line is ignored",
            &format!("sdn/firewall/v1.fw:9:1: error: a VNet has only FORWARD rules; {skipped}"),
            "sdn/firewall/v1.fw:10:1: error: `[ALIASES]` is not a section of this kind of file; the lines up to the next section are ignored",
            &format!("sdn/firewall/v1.fw:5: warning: FORWARD rules are not supported; {skipped}"),
            &format!("sdn/firewall/v1.fw:7:7: error: there is no security group `no`; {skipped}"),
            &format!("sdn/firewall/v1.fw:8:22: error: there is no set `no`; {skipped}"),
        ]
    );
}

#[test]
fn a_rich_guest() {
    let (policy, found) = resolved(&[
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\n[IPSET blacklist]\n198.51.100.0/24\n[group web]\nIN HTTPS(ACCEPT) -log info # public\n[RULES]\nFORWARD DROP\n",
        ),
        (
            "nodes/n/host.fw",
            "[OPTIONS]\ntcpflags: 1\nsmurf_log_level: info\nlog_level_in: err\n",
        ),
        (
            "firewall/200.fw",
            "[OPTIONS]\nenable: 1\npolicy_in: REJECT\npolicy_out: DROP\nlog_level_in: warning\n[IPSET ipfilter-net0]\n10.0.0.0/24\n!10.0.0.1\n[RULES]\nGROUP web\nIN SSH(ACCEPT) -i net1\n|IN DROP\nIN ACCEPT -p icmp -icmp-type echo-request -source 10.0.0.0/8 -log nolog\nOUT DNS(ACCEPT) -dest 10.0.0.53\n",
        ),
        (
            "nodes/n/lxc/200.conf",
            "net0: name=eth0,hwaddr=BC:24:11:00:00:C8,ip=10.1.0.5/24,ip6=fd00::5/64,firewall=1,bridge=vmbr0\nnet1: name=eth1,hwaddr=BC:24:11:00:01:C8,firewall=1\n",
        ),
    ]);
    assert_eq!(
        found,
        [
            "firewall/cluster.fw:8: warning: FORWARD rules are not supported; the rule is not enforced"
        ]
    );
    insta::assert_snapshot!(print(&policy));
}
