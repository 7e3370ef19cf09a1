//! Tables of conditions and packets.

use std::sync::Arc;

use fw_agent::policy::{Origin, OriginKind, Rule, SetEntry};
use fw_common::maps::traits;
use fw_common::verdict::{Reason, Verdict};

use super::*;

/// `!` before a prefix means `nomatch`.
fn set(entries: &[&str]) -> AddressSet {
    let entry = |text: &&str| SetEntry {
        net: text.trim_start_matches('!').parse().unwrap(),
        nomatch: text.starts_with('!'),
    };
    AddressSet {
        entries: entries.iter().map(entry).collect(),
    }
}

fn packet() -> Packet {
    Packet {
        family: Family::V4,
        protocol: 6,
        source: "10.1.2.3".parse().unwrap(),
        dest: "192.0.2.10".parse().unwrap(),
        sport: Some(40000),
        dport: Some(22),
        traits: traits::NEW,
    }
}

#[test]
fn the_longest_prefix_decides() {
    let nested = ["10.0.0.0/8", "!10.1.0.0/16", "10.1.2.0/24", "!10.1.2.3/32"];
    let holes = ["!0.0.0.0/0", "192.0.2.0/24"];
    let both = ["!10.0.0.0/8", "::/0", "!fe80::/10", "fe80::1/128"];
    let cases: [(&[&str], &str, bool); 18] = [
        (&[], "10.0.0.1", false),
        (&["0.0.0.0/0"], "255.255.255.255", true),
        (&["0.0.0.0/0"], "::1", false),
        (&["::/0"], "10.0.0.1", false),
        (&nested, "9.255.255.255", false),
        (&nested, "10.0.0.0", true),
        (&nested, "10.255.255.255", true),
        (&nested, "10.1.0.0", false),
        (&nested, "10.1.255.255", false),
        (&nested, "10.1.2.2", true),
        (&nested, "10.1.2.3", false),
        (&nested, "10.1.2.4", true),
        (&holes, "192.0.2.1", true),
        (&holes, "192.0.3.0", false),
        (&both, "10.0.0.1", false),
        (&both, "2001:db8::1", true),
        (&both, "fe80::2", false),
        (&both, "fe80::1", true),
    ];
    for (entries, address, expect) in cases {
        let got = contains(&set(entries), address.parse().unwrap());
        assert_eq!(got, expect, "{address} in {entries:?}");
        let backwards: Vec<&str> = entries.iter().rev().copied().collect();
        let got = contains(&set(&backwards), address.parse().unwrap());
        assert_eq!(got, expect, "{address} in {backwards:?}");
    }
}

#[test]
fn each_condition() {
    let check = |change: &dyn Fn(&mut Matches), expect: bool| {
        let mut matches = Matches::default();
        change(&mut matches);
        assert_eq!(holds(&matches, &packet()), expect, "{matches:?}");
    };
    check(&|_| {}, true);
    check(&|m| m.family = Some(Family::V4), true);
    check(&|m| m.family = Some(Family::V6), false);
    check(&|m| m.protocol = Some(6), true);
    check(&|m| m.protocol = Some(17), false);
    check(&|m| m.source = Some(Arc::new(set(&["10.0.0.0/8"]))), true);
    check(
        &|m| m.source = Some(Arc::new(set(&["192.0.2.0/24"]))),
        false,
    );
    check(&|m| m.source = Some(Arc::new(set(&[]))), false);
    check(&|m| m.dest = Some(Arc::new(set(&["192.0.2.0/24"]))), true);
    check(&|m| m.dest = Some(Arc::new(set(&["10.0.0.0/8"]))), false);
    check(&|m| m.dport = vec![(22, 22)], true);
    check(&|m| m.dport = vec![(23, 65535)], false);
    check(&|m| m.dport = vec![(0, 21)], false);
    check(&|m| m.dport = vec![(80, 80), (20, 22)], true);
    check(&|m| m.sport = vec![(40000, 65535)], true);
    check(&|m| m.sport = vec![(22, 22)], false);
    check(
        &|m| (m.traits_mask, m.traits_value) = (traits::NEW, traits::NEW),
        true,
    );
    check(&|m| m.traits_mask = traits::NEW, false);
    check(&|m| m.traits_mask = traits::INVALID, true);
    let broadcast = traits::NEW | traits::TO_GROUP;
    check(
        &|m| (m.traits_mask, m.traits_value) = (broadcast, broadcast),
        false,
    );
    check(
        &|m| (m.traits_mask, m.traits_value) = (broadcast, traits::NEW),
        true,
    );
    check(&|m| (m.protocol, m.dport) = (Some(6), vec![(22, 22)]), true);
    check(
        &|m| (m.protocol, m.dport) = (Some(17), vec![(22, 22)]),
        false,
    );
    check(
        &|m| (m.sport, m.dport) = (vec![(22, 22)], vec![(22, 22)]),
        false,
    );
}

#[test]
fn packets_without_ports_meet_no_rule_with_ports() {
    let mut packet = packet();
    (packet.sport, packet.dport) = (None, None);
    let all = vec![(0, u16::MAX)];
    let cases = [
        (
            Matches {
                dport: all.clone(),
                ..Matches::default()
            },
            false,
        ),
        (
            Matches {
                sport: all,
                ..Matches::default()
            },
            false,
        ),
        (
            Matches {
                protocol: Some(6),
                ..Matches::default()
            },
            true,
        ),
    ];
    for (matches, expect) in cases {
        assert_eq!(holds(&matches, &packet), expect, "{matches:?}");
    }
}

#[test]
fn the_first_rule_that_holds() {
    let rule = |matches| Rule {
        matches,
        verdict: Verdict::Drop,
        reason: Reason::Rule,
        log: None,
        origin: Origin {
            line: None,
            kind: OriginKind::Rule,
            text: "".into(),
        },
    };
    let echo = Matches {
        protocol: Some(1),
        sport: vec![(8, 8)],
        dport: vec![(0, 0)],
        ..Matches::default()
    };
    let ssh = Matches {
        protocol: Some(6),
        dport: vec![(22, 22)],
        ..Matches::default()
    };
    let v4 = Matches {
        family: Some(Family::V4),
        ..Matches::default()
    };
    let rules = [echo, ssh.clone(), v4, ssh, Matches::default()];
    let policy = Policy {
        rules: rules.map(rule).to_vec(),
    };
    let check = |change: &dyn Fn(&mut Packet), expect: usize| {
        let mut packet = packet();
        change(&mut packet);
        assert_eq!(judge(&policy, &packet), expect, "{packet:?}");
    };
    check(&|_| {}, 1);
    check(&|p| p.dport = Some(23), 2);
    check(
        &|p| (p.protocol, p.sport, p.dport) = (1, Some(8), Some(0)),
        0,
    );
    check(
        &|p| (p.protocol, p.sport, p.dport) = (1, Some(8), Some(1)),
        2,
    );
    let v6 = |p: &mut Packet| {
        p.family = Family::V6;
        p.source = "2001:db8::1".parse().unwrap();
        p.dest = "2001:db8::2".parse().unwrap();
    };
    check(&|p| v6(p), 1);
    check(&|p| (v6(p), p.protocol = 17).0, 4);
    assert_eq!(judge(&Policy::default(), &packet()), 0);
}
