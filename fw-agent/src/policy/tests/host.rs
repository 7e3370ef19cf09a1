//! The host's policies: what turns them off, what holds on which interface, and files that cannot be read.

use fw_common::verdict::Direction;

use super::*;

fn host(cluster: &str, host: &str) -> HostPolicy {
    let files = [("firewall/cluster.fw", cluster), ("nodes/n/host.fw", host)];
    resolved(&files).0.host.unwrap()
}

/// Rules of host and cluster that apply on an interface.
fn check(interface: &str, expect: [&[&str]; 2]) {
    let policy = host(
        "[OPTIONS]\nenable: 1\n[group gg]\nIN DROP -p udp\nOUT DROP -p udp\n[RULES]\nIN ACCEPT -p gre\nGROUP gg -i vmbr1\n",
        "[RULES]\nIN ACCEPT -p tcp -i vmbr0\nOUT REJECT -p tcp\nIN DROP -p esp -i Vmbr0\n",
    );
    let (inbound, outbound) = policy.on(interface);
    assert_eq!(
        [written(&inbound), written(&outbound)],
        expect,
        "{interface}"
    );
    for (direction, rules) in [
        (Direction::In, inbound.rules),
        (Direction::Out, outbound.rules),
    ] {
        assert!(rules.iter().all(|rule| rule.matches.interface.is_none()));
        let places = policy.applying(interface, direction);
        for ((place, of_all), rule) in places.zip(&rules) {
            assert_eq!(&policy.of(direction).rules[place], of_all);
            assert_eq!(of_all.origin, rule.origin);
        }
    }
}

#[test]
fn rules_of_an_interface() {
    let gre = "ACCEPT proto=47";
    let out = "REJECT proto=tcp";
    check("", [&[gre], &[out]]);
    check("eth7", [&[gre], &[out]]);
    check("vmbr0", [&["ACCEPT proto=tcp", gre], &[out]]);
    check("Vmbr0", [&["DROP proto=50", gre], &[out]]);
    check(
        "vmbr1",
        [&[gre, "DROP proto=udp"], &[out, "DROP proto=udp"]],
    );
}

#[test]
fn loopback_is_accepted_first() {
    let policy = host("", "");
    let (inbound, outbound) = policy.on("lo");
    for policy in [inbound, outbound] {
        let first = &policy.rules[0];
        assert_eq!(
            (first.verdict, &first.matches),
            (Verdict::Accept, &Matches::default())
        );
    }
}

#[test]
fn a_host_that_is_off_has_no_policy() {
    for (options, expect) in [
        ("enable: 0", false),
        ("enable: 1", true),
        ("enable: maybe", true),
    ] {
        let text = format!("[OPTIONS]\n{options}\n");
        let (policy, _) = resolved(&[("nodes/n/host.fw", &text)]);
        assert_eq!(policy.host.is_some(), expect, "{options}");
    }
}

#[test]
fn management_is_reachable_even_if_a_file_cannot_be_read() {
    for path in ["firewall/cluster.fw", "nodes/n/host.fw"] {
        let mut sources = sources(&[
            (
                "firewall/cluster.fw",
                "[OPTIONS]\npolicy_in: ACCEPT\n[RULES]\nIN ACCEPT\n",
            ),
            ("nodes/n/host.fw", "[RULES]\nOUT ACCEPT\n"),
        ]);
        sources.files.remove(path);
        sources.unreadable.insert(path.into(), "gone".into());
        let (config, _) = parse(&sources);
        let policy = resolve(&config, &HostFacts::default(), NOW).0.host.unwrap();
        for list in [&policy.inbound, &policy.outbound] {
            assert_eq!(written(list), [""; 0], "{path}");
            let last = list.rules.last().unwrap();
            assert_eq!(
                (last.verdict, &last.matches),
                (Verdict::Drop, &Matches::default())
            );
        }
        let texts: Vec<&str> = policy
            .inbound
            .rules
            .iter()
            .map(|rule| &*rule.origin.text)
            .collect();
        assert!(texts.contains(&"standard: management"));
    }
}

#[test]
fn too_many_rules_leave_the_standard_steps() {
    let many = "IN ACCEPT\n".repeat(200);
    let groups = "GROUP gg\n".repeat(100);
    let cluster = format!(
        "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n[IPSET management]\n192.0.2.1\n[group gg]\n{many}"
    );
    let rules = format!("[RULES]\n{groups}OUT DROP\n");
    let files = [
        ("firewall/cluster.fw", cluster.as_str()),
        ("nodes/n/host.fw", rules.as_str()),
    ];
    let (policy, found) = resolved(&files);
    let said: Vec<String> = found.iter().map(ToString::to_string).collect();
    let expect = "nodes/n/host.fw: error: the host has more than 16384 rules in one direction; what the standard rules do not accept in \
                  that direction is dropped";
    assert!(said.iter().any(|line| line == expect), "{said:?}");
    let host = policy.host.unwrap();
    let texts: Vec<&str> = host
        .inbound
        .rules
        .iter()
        .map(|rule| &*rule.origin.text)
        .collect();
    assert_eq!(texts.first(), Some(&"standard: loopback"));
    assert!(texts.contains(&"standard: management"), "{texts:?}");
    assert_eq!(texts.last(), Some(&"standard: too many rules"));
    let last = host.inbound.rules.last().unwrap();
    assert_eq!(
        (last.verdict, &last.matches),
        (Verdict::Drop, &Matches::default())
    );
    assert!(!texts.contains(&"IN ACCEPT"));
    let written = |rule: &Rule| &*rule.origin.text == "OUT DROP";
    assert!(host.outbound.rules.iter().any(written));
}
