//! What each option of a guest, and each option of the host that concerns guests, adds to a guest's policies.

use super::*;

/// The names of the built-in rules of a guest with these options, by direction.
fn built_in(host: &str, options: &str) -> [Vec<String>; 2] {
    let guest = format!("[OPTIONS]\nenable: 1\n{options}\n");
    let host = format!("[OPTIONS]\n{host}\n");
    let (policy, found) = resolved(&[
        ("firewall/cluster.fw", "[OPTIONS]\nenable: 1"),
        ("nodes/n/host.fw", &host),
        ("firewall/100.fw", &guest),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
    ]);
    assert!(
        found.iter().all(|found| !found.contains("error")),
        "{found:?}"
    );
    let port = &policy.ports[0];
    [&port.inbound, &port.outbound].map(|policy| {
        let rules = policy.rules.iter();
        let text = |rule: &Rule| format!("{} {}", rule.verdict.name(), rule.origin.text);
        rules.map(text).collect()
    })
}

/// Which built-in rules an option adds to (`+`) or takes from (`-`) the default policies.
fn check(host: &str, options: &str, expect: &[&str]) {
    let mut changes = Vec::new();
    let (default, found) = (built_in("", ""), built_in(host, options));
    for (direction, (default, found)) in ["in", "out"].into_iter().zip(default.iter().zip(&found)) {
        let mut lost: Vec<_> = default
            .iter()
            .filter(|text| !found.contains(text))
            .collect();
        let mut new: Vec<_> = found
            .iter()
            .filter(|text| !default.contains(text))
            .collect();
        lost.dedup();
        new.dedup();
        changes.extend(lost.iter().map(|text| format!("-{direction} {text}")));
        changes.extend(new.iter().map(|text| format!("+{direction} {text}")));
    }
    assert_eq!(changes, expect, "{host} {options}");
}

#[test]
fn each_option_of_a_guest() {
    check("", "enable: 1", &[]);
    check(
        "",
        "dhcp: 0",
        &["-in ACCEPT standard: DHCP", "-out ACCEPT standard: DHCP"],
    );
    check(
        "",
        "ndp: 0",
        &["-in ACCEPT standard: NDP", "-out ACCEPT standard: NDP"],
    );
    check("", "radv: 1", &["-out DROP standard: router advertisement"]);
    check(
        "",
        "ipfilter: 1",
        &[
            "+out ACCEPT standard: duplicate address detection",
            "+out ACCEPT standard: MLD report without an address",
            "+out DROP standard: source is not the NIC's own",
        ],
    );
    check(
        "",
        "ipfilter: 1\nndp: 0",
        &[
            "-in ACCEPT standard: NDP",
            "-out ACCEPT standard: NDP",
            "+out ACCEPT standard: MLD report without an address",
            "+out DROP standard: source is not the NIC's own",
        ],
    );
}

#[test]
fn policies_and_their_noise() {
    let noise = [
        "DROP standard: broadcast or multicast",
        "ACCEPT standard: critical ICMP",
        "DROP standard: UPnP",
        "DROP standard: TCP without connection",
        "DROP standard: late DNS reply",
    ];
    for (options, index, verdict) in [
        ("policy_in: DROP", 0, "DROP"),
        ("policy_in: REJECT", 0, "REJECT"),
        ("policy_out: DROP", 1, "DROP"),
        ("policy_out: REJECT", 1, "REJECT"),
    ] {
        let rules = &built_in("", options)[index];
        for text in noise {
            assert!(rules.iter().any(|rule| rule == text), "{options}: {text}");
        }
        let smb = format!("{verdict} standard: SMB");
        assert_eq!(
            rules.iter().filter(|rule| **rule == smb).count(),
            3,
            "{options}"
        );
        let last = rules.last().map(String::as_str);
        assert!(
            last.is_some_and(|last| last.starts_with(verdict)),
            "{options}"
        );
    }
    for (options, index) in [("policy_in: ACCEPT", 0), ("policy_out: ACCEPT", 1)] {
        let rules = &built_in("", options)[index];
        assert!(
            !rules.iter().any(|rule| noise.contains(&rule.as_str())),
            "{options}"
        );
    }
}

#[test]
fn options_of_the_host_that_concern_guests() {
    check("nosmurfs: 1", "", &[]);
    check("nosmurfs: 0", "", &["-in DROP standard: smurf"]);
    check("tcpflags: 1", "", &["+in DROP standard: TCP flags"]);
    let count = |host: &str| {
        let [inbound, outbound] = built_in(host, "");
        let invalid = |rules: &[String]| {
            rules
                .iter()
                .filter(|rule| *rule == "DROP standard: invalid")
                .count()
        };
        (invalid(&inbound), invalid(&outbound))
    };
    // The DROP policy's own noise list has one more.
    assert_eq!(count(""), (2, 1));
    assert_eq!(count("nf_conntrack_allow_invalid: 1"), (1, 0));
}

#[test]
fn the_mac_filter_needs_an_address() {
    for (options, nic, expect) in [
        ("", "virtio=02:00:00:00:00:01", true),
        ("macfilter: 0", "virtio=02:00:00:00:00:01", false),
        ("macfilter: 1", "model=virtio", false),
        ("enable: 0", "virtio=02:00:00:00:00:01", false),
    ] {
        let guest = format!("[OPTIONS]\nenable: 1\n{options}");
        let nic = format!("net0: {nic},firewall=1");
        let (policy, _) = resolved(&[
            ("firewall/100.fw", &guest),
            ("nodes/n/qemu-server/100.conf", &nic),
        ]);
        assert_eq!(policy.ports[0].macfilter, expect, "{options} {nic}");
    }
}

#[test]
fn log_levels_reach_their_rules() {
    let (policy, _) = resolved(&[
        ("firewall/cluster.fw", "[IPSET blacklist]\n10.0.0.1"),
        (
            "nodes/n/host.fw",
            "[OPTIONS]\ntcpflags: 1\nlog_level_in: emerg\nsmurf_log_level: alert\ntcp_flags_log_level: crit",
        ),
        (
            "firewall/100.fw",
            "[OPTIONS]\nenable: 1\npolicy_out: REJECT\nlog_level_in: err\nlog_level_out: warning\n[RULES]\nIN ACCEPT -log debug\nIN ACCEPT -p tcp -log nolog",
        ),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=02:00:00:00:00:01,firewall=1",
        ),
    ]);
    let port = &policy.ports[0];
    let rules = port.inbound.rules.iter().chain(&port.outbound.rules);
    let logged: Vec<_> = rules
        .filter_map(|rule| Some((rule.reason, rule.log?)))
        .collect();
    assert_eq!(
        logged,
        [
            (Reason::Blacklist, 0),
            (Reason::Smurf, 1),
            (Reason::TcpFlags, 2),
            (Reason::Rule, 7),
            (Reason::Policy, 3),
            (Reason::Policy, 4),
        ]
    );
}
