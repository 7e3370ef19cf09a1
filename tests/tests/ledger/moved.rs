//! Counters of kernel and memory as rows: which moved, and which should.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use fw_agent::image::{Counted, MapImage};
use fw_common::maps::{Counter, Port, RuleKey};

use crate::PORT;
use crate::cases::{Case, SOME_RULE};

/// What moved: packets and bytes by which each counter is higher, and the time of the last packet.
pub fn moved(before: &Counted, after: &Counted) -> BTreeMap<String, (u64, u64, u64)> {
    fn rows(counted: &Counted) -> BTreeMap<String, Counter> {
        let mut rows = BTreeMap::new();
        for (entry, counter) in &counted.entries {
            rows.insert(format!("counter {entry}"), *counter);
        }
        for (slot, counters) in &counted.ports {
            for (direction, row) in counters.0.iter().enumerate() {
                for (verdict, counter) in row.iter().enumerate() {
                    rows.insert(format!("port {slot} {direction} {verdict}"), *counter);
                }
            }
        }
        for (key, counter) in &counted.rules {
            rows.insert(format!("rule {key:?}"), *counter);
        }
        rows
    }
    let old = rows(before);
    let differs = |(name, now): (String, Counter)| {
        let old = old.get(&name).copied().unwrap_or_default();
        (now != old).then(|| {
            let by = (now.packets - old.packets, now.bytes - old.bytes, now.last);
            (name, by)
        })
    };
    rows(after).into_iter().filter_map(differs).collect()
}

/// What should move. `decided` is the rule that the pipeline in memory names.
pub fn expected(
    case: &Case,
    image: &MapImage,
    port: &Port,
    decided: u32,
) -> BTreeMap<String, (u64, u64)> {
    let by = (1, case.frame.len() as u64);
    let direction = case.direction as usize;
    let mut rows = BTreeMap::from([
        (format!("counter {}", case.reason as u8), by),
        (
            format!("port {} {direction} {}", port.counters, case.verdict as u8),
            by,
        ),
    ]);
    for entry in case.beside {
        rows.insert(format!("counter {entry}"), by);
    }
    if let Some(text) = case.rule {
        if text == SOME_RULE {
            let key = RuleKey::new(port, case.direction, decided);
            rows.insert(format!("rule {key:?}"), by);
            return rows;
        }
        let policy = &image.policies[image.ports[&PORT].policies[direction]];
        let is_it = |rule: &&u32| &*image.rules.get(**rule).unwrap().text == text;
        let rule = policy.rules.iter().find(is_it);
        let rule = *rule.unwrap_or_else(|| panic!("no rule {text:?}"));
        let key = RuleKey::new(port, case.direction, rule);
        rows.insert(format!("rule {key:?}"), by);
    }
    rows
}

/// Without the times, which must be those of now.
pub fn timeless(
    moved: BTreeMap<String, (u64, u64, u64)>,
    times: RangeInclusive<u64>,
) -> BTreeMap<String, (u64, u64)> {
    let row = |(name, (packets, bytes, last)): (String, (u64, u64, u64))| {
        assert!(times.contains(&last), "{name}: {last} is not in {times:?}");
        (name, (packets, bytes))
    };
    moved.into_iter().map(row).collect()
}
