//! One configuration per lint, and ones that must stay quiet.

mod lockout;

use super::*;
use crate::config::{Sources, parse};
use crate::inventory::facts::HostFacts;
use crate::policy::resolve;

const NIC: &str = "net0: virtio=02:00:00:00:00:01,firewall=1\n";

fn linted(files: &[(&str, &str)]) -> Vec<String> {
    let mut sources = Sources {
        node: "n".into(),
        ..Sources::default()
    };
    for (path, text) in files {
        sources
            .files
            .insert((*path).into(), (*text).to_owned().into());
    }
    let (mut config, _) = parse(&sources);
    config.local_network = Some("192.0.2.0/24".parse().unwrap());
    let (policy, _) = resolve(&config, &HostFacts::default(), 1_700_000_000);
    run(&config, &policy)
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Lints of a guest with one NIC and these rules, its names and the cluster's.
fn check(rules: &str, names: &str, cluster: &str, expect: &[&str]) {
    let guest = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}\n{names}");
    let cluster = format!("[OPTIONS]\nenable: 1\n{cluster}");
    let found = linted(&[
        ("firewall/cluster.fw", &cluster),
        ("firewall/100.fw", &guest),
        ("nodes/n/qemu-server/100.conf", NIC),
    ]);
    assert_eq!(found, expect, "{rules}");
}

/// Rules of which one is reported: its line (the first is 4) and message with effect.
fn shadow(rules: &str, expect: Option<(u32, &str)>) {
    let expect = expect.map(|(line, text)| format!("firewall/100.fw:{line}:1: warning: {text}"));
    let expect: Vec<_> = expect.iter().map(String::as_str).collect();
    check(rules, "", "", &expect);
}

#[test]
fn shadowed_rules() {
    let before = "line 4 decides every packet of this rule before; the rule is never reached";
    for later in [
        "IN DROP -p tcp -dport 80",
        "IN DROP -p tcp -dport 70:80,90 -source 10.0.0.1",
        "IN REJECT -p tcp -dport 80 -dest fd00::1",
    ] {
        shadow(
            &format!("IN ACCEPT -p tcp -dport 60:95\n{later}"),
            Some((5, before)),
        );
    }
    for later in [
        "IN DROP -p tcp",
        "IN DROP -p tcp -dport 50:60",
        "IN DROP -p udp -dport 80",
        "IN DROP -p tcp -sport 80",
        "OUT DROP -p tcp -dport 80",
        "IN DROP",
        "|IN DROP -p tcp -dport 80",
    ] {
        shadow(&format!("IN ACCEPT -p tcp -dport 60:95\n{later}"), None);
    }
    for (first, later, is_shadowed) in [
        ("-source 10.0.0.0/8", "-source 10.1.0.0/16", true),
        (
            "-source 10.0.0.0/8",
            "-source 10.1.0.0/16 -dest 10.0.0.1",
            true,
        ),
        ("-source 10.0.0.0/8", "-source 10.1.0.0/16,11.0.0.1", false),
        (
            "-source 10.0.0.0/9,10.128.0.0/9",
            "-source 10.0.0.0/8",
            true,
        ),
        ("-source 10.0.0.0/8", "-dest 10.1.0.0/16", false),
        ("-source 0.0.0.0/0", "-source 10.0.0.1", true),
        ("-source 0.0.0.0/0", "-p tcp", false),
        ("-p icmp", "-p icmp -icmp-type echo-request", true),
        ("-p icmp -icmp-type echo-request", "-p icmp", false),
        ("-p icmp -dport 3", "-p icmp -dport port-unreachable", true),
    ] {
        shadow(
            &format!("IN ACCEPT {first}\nIN DROP {later}"),
            is_shadowed.then_some((5, before)),
        );
    }
    shadow(
        "IN DNS(ACCEPT)\nIN DROP -p udp -dport 53",
        Some((5, before)),
    );
    // Only one of the two alternatives is unreachable.
    shadow("IN ACCEPT -p udp -dport 53\nIN DNS(DROP)", None);
    shadow(
        "IN ACCEPT -p icmpv6 -icmp-type neighbor-solicitation",
        Some((
            4,
            "`standard: NDP` decides every packet of this rule before; the rule is never reached",
        )),
    );
}

#[test]
fn repeated_rules() {
    let repeats = "this rule repeats line 4; it decides nothing";
    shadow(
        "IN SSH(ACCEPT)\nIN ACCEPT -p tcp -dport ssh",
        Some((5, repeats)),
    );
    shadow(
        "IN DROP -source 10.0.0.5/24\nOUT DROP\nIN DROP -source 10.0.0.0/24",
        Some((6, repeats)),
    );
    shadow("OUT DROP\nOUT DROP -log info", Some((5, repeats)));
}

#[test]
fn a_line_counts_where_it_decides_anything() {
    let rules = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -i net0\nIN DROP\nIN ACCEPT -i net1\n";
    let found = linted(&[
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1"),
        ("firewall/100.fw", rules),
        (
            "nodes/n/qemu-server/100.conf",
            &format!("{NIC}net1: virtio=02:00:00:00:00:02,firewall=1"),
        ),
    ]);
    assert_eq!(
        found,
        [
            "firewall/100.fw:6:1: warning: line 5 decides every packet of this rule before; the rule is never reached"
        ]
    );
}

#[test]
fn groups_are_compared_in_place() {
    let group = "[group web]\nIN ACCEPT -p tcp -dport 80\nIN ACCEPT -p tcp -dport 80:81\n";
    check(
        "GROUP web\nIN DROP -p tcp -dport 80",
        "",
        group,
        &[
            "firewall/100.fw:5:1: warning: firewall/cluster.fw:4 decides every packet of this rule before; the rule is never reached",
        ],
    );
    check(
        "IN DROP -p tcp\nGROUP web",
        "",
        group,
        &[
            "firewall/cluster.fw:4:1: warning: firewall/100.fw:4 decides every packet of this rule before; the rule is never reached",
            "firewall/cluster.fw:5:1: warning: firewall/100.fw:4 decides every packet of this rule before; the rule is never reached",
        ],
    );
    check("GROUP web\nGROUP web", "", group, &[]);
}

#[test]
fn rules_that_no_packet_matches() {
    let sets = "[IPSET none]\n[IPSET four]\n10.0.0.0/8\n[IPSET six]\nfd00::/8\n[IPSET holes]\n10.0.0.0/31\n!10.0.0.0\n!10.0.0.1\n";
    for (rule, why) in [
        ("IN ACCEPT -source +none", "its set of sources is empty"),
        ("IN ACCEPT -dest +holes", "its set of destinations is empty"),
        (
            "IN ACCEPT -source +four -dest +six",
            "source and destination have no IP version in common",
        ),
        (
            "IN ACCEPT -source +four -p icmpv6",
            "the set has no address of the protocol's IP version",
        ),
        (
            "IN ACCEPT -source +four -dest fd00::1",
            "source and destination have no IP version in common",
        ),
    ] {
        let rules = format!(
            "{rule}\n|IN DROP -source +none -dest +four\n|IN DROP -source +six -dest +holes"
        );
        let report = format!(
            "firewall/100.fw:4:1: warning: no packet can match this rule: {why}; the rule is never used"
        );
        check(&rules, "", sets, &[&report]);
    }
}

#[test]
fn unused_names() {
    let unused = |file: &str, line: u32, what: &str| {
        format!("firewall/{file}.fw:{line}:1: warning: nothing uses the {what}; it has no effect")
    };
    let names = "[ALIASES]\nin-set 10.0.0.1\nno-use 10.0.0.2\n[IPSET s1]\nin-set\n[IPSET s2]\n[group g1]\n[IPSET management]\n[IPSET blacklist]\n";
    check(
        "IN ACCEPT -source +s1",
        "",
        names,
        &[
            &unused("cluster", 5, "alias `no-use`"),
            &unused("cluster", 8, "set `s2`"),
            &unused("cluster", 9, "security group `g1`"),
        ],
    );
    // A guest's own names hide the cluster's, unless the scope says otherwise.
    let own = "[ALIASES]\nab 10.0.0.1\n";
    let ignored = "firewall/100.fw:4:19: warning: `ab` is defined further down, in line 6; pve-firewall ignores this line, Tapwall enforces it";
    check("IN ACCEPT -source ab", own, "", &[ignored]);
    check(
        "IN ACCEPT -source ab",
        own,
        own,
        &[&unused("cluster", 4, "alias `ab`")],
    );
    check(
        "IN ACCEPT -source dc/ab",
        own,
        own,
        &[&unused("100", 6, "alias `ab`")],
    );
    // Guests of other nodes and VNets count.
    let elsewhere = linted(&[
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\n[IPSET far]\n[IPSET vnet]\n[group rare]\n",
        ),
        (
            "firewall/999.fw",
            "[RULES]\nIN ACCEPT -source +dc/FAR\nGROUP rare\n",
        ),
        (
            "sdn/firewall/v1.fw",
            "[RULES]\nFORWARD DROP -source +vnet\n",
        ),
    ]);
    assert_eq!(elsewhere, [""; 0]);
}

#[test]
fn names_before_their_definition() {
    let found = linted(&[(
        "firewall/cluster.fw",
        "[OPTIONS]\nenable: 1\n[IPSET s1]\nab\n[RULES]\nIN ACCEPT -source ab -dest +s2\nGROUP gg\n|IN DROP -source +s2\n[ALIASES]\nab 10.0.0.1\n[IPSET s2]\n10.0.0.2\n[group gg]\nIN ACCEPT -source +s1,\nIN ACCEPT -source +s1\n",
    )]);
    let further = |place: &str, name: &str, line: u32| {
        format!(
            "firewall/cluster.fw:{place}: warning: `{name}` is defined further down, in line {line}; pve-firewall ignores this line, Tapwall enforces it"
        )
    };
    assert_eq!(
        found,
        [
            further("4:1", "ab", 10),
            further("6:19", "ab", 10),
            further("6:28", "s2", 11)
        ]
    );
}

/// Files and what is reported about them.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn switches_that_are_off() {
    let rules = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT\n";
    let on = ("firewall/cluster.fw", "[OPTIONS]\nenable: 1");
    let nic = ("nodes/n/qemu-server/100.conf", NIC);
    let open = "net0: virtio=02:00:00:00:00:01\nnet1: virtio=02:00:00:00:00:02,firewall=0\n";
    let cases: [Case<'_>; 7] = [
        (&[on, ("firewall/100.fw", rules), nic], &[]),
        (
            &[
                on,
                ("firewall/100.fw", rules),
                ("nodes/n/qemu-server/100.conf", open),
            ],
            &[
                "nodes/n/qemu-server/100.conf:1: warning: net0 has no firewall=1, but the guest has rules and its firewall is on; this NIC is not filtered",
                "nodes/n/qemu-server/100.conf:2: warning: net1 has no firewall=1, but the guest has rules and its firewall is on; this NIC is not filtered",
            ],
        ),
        (
            &[on, ("firewall/100.fw", "[RULES]\n IN ACCEPT"), nic],
            &[
                "firewall/100.fw:2:2: warning: the guest has rules, but its firewall is off; no rule of the guest is enforced",
            ],
        ),
        (
            &[
                on,
                (
                    "firewall/100.fw",
                    "[OPTIONS]\nenable: 0\n[RULES]\nIN ACCEPT",
                ),
                nic,
            ],
            &[],
        ),
        (
            &[("firewall/100.fw", rules), nic],
            &[
                "firewall/cluster.fw: warning: the datacenter's firewall is off, but guests have theirs on: 100; nothing is filtered",
            ],
        ),
        (
            &[("firewall/cluster.fw", "[OPTIONS]\nenable: 1700000000")],
            &[
                "firewall/cluster.fw:2: warning: `enable` is a time (UNIX 1700000000), not a switch; the firewall turns itself off a minute after that time",
            ],
        ),
        (
            &[("firewall/cluster.fw", "[OPTIONS]\nenable: 1600000000")],
            &[
                "firewall/cluster.fw:2: warning: the time in `enable` (UNIX 1600000000) has passed; nothing is filtered",
            ],
        ),
    ];
    for (files, expect) in cases {
        assert_eq!(linted(files), expect);
    }
}

#[test]
fn options_that_nothing_enforces() {
    let found = linted(&[
        (
            "firewall/cluster.fw",
            "[OPTIONS]\nenable: 1\npolicy_forward: DROP",
        ),
        (
            "nodes/n/host.fw",
            "[OPTIONS]\nnf_conntrack_helpers: ftp\nlog_nf_conntrack: 1\nnftables: 1",
        ),
        ("firewall/100.fw", "[OPTIONS]\npolicy_forward: DROP"),
        ("nodes/n/qemu-server/100.conf", NIC),
    ]);
    assert_eq!(
        found,
        [
            "firewall/100.fw:2: warning: the option `policy_forward` is read, but not enforced; a guest forwards nothing",
            "firewall/cluster.fw:3: warning: the option `policy_forward` is read, but not enforced; what is forwarded is not filtered",
            "nodes/n/host.fw:2: warning: the option `nf_conntrack_helpers` is read, but not enforced; secondary connections need rules of their own",
            "nodes/n/host.fw:4: warning: the option `nftables` is read, but not enforced; Tapwall enforces the rules in either case",
        ]
    );
}

#[test]
fn an_ip_filter_of_no_nic() {
    check(
        "IN ACCEPT",
        "[IPSET ipfilter-net0]\n10.0.0.1\n[IPSET ipfilter-net1]\n",
        "",
        &[
            "firewall/100.fw:7:1: warning: the guest has no firewalled NIC `net1`; the set filters nothing",
        ],
    );
}
