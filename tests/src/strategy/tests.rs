//! What the generators promise.

use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::model::judge;

proptest! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn policies_are_well_formed_and_decide((policy, packets) in policy_and_packets(20)) {
        prop_assert!((1..=MAX_RULES).contains(&policy.rules.len()));
        let last = policy.rules.last().unwrap();
        prop_assert_eq!(&last.matches, &Matches::default());
        for rule in &policy.rules {
            let m = &rule.matches;
            prop_assert_eq!(m.traits_value & !m.traits_mask, 0);
            prop_assert!(m.sport.iter().chain(&m.dport).all(|(first, last)| first <= last));
            for set in [&m.source, &m.dest].into_iter().flatten() {
                prop_assert!(set.entries.is_sorted_by(|a, b| a.net < b.net));
                prop_assert!(set.entries.iter().all(|entry| entry.net == entry.net.trunc()));
            }
        }
        for packet in &packets {
            prop_assert!(judge(&policy, packet) < policy.rules.len());
            let v4 = packet.family == Family::V4;
            prop_assert_eq!((packet.source.is_ipv4(), packet.dest.is_ipv4()), (v4, v4));
            if matches!(packet.protocol, 1 | 58) {
                prop_assert!(packet.sport.is_none_or(|kind| kind < 256));
            }
        }
    }
}

#[test]
fn packets_reach_rules_behind_the_first_and_before_the_last() {
    let mut runner = TestRunner::deterministic();
    let (mut between, mut total) = (0, 0);
    for _ in 0..100 {
        let tree = policy_and_packets(50).new_tree(&mut runner).unwrap();
        let (policy, packets) = tree.current();
        let last = policy.rules.len() - 1;
        for packet in packets.iter().filter(|_| last > 2) {
            let index = judge(&policy, packet);
            between += usize::from(index > 0 && index < last);
            total += 1;
        }
    }
    assert!(between * 3 > total, "{between} of {total}");
}
