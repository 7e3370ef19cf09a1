//! What the kernel programs have counted, in the form in which memory counts.

use anyhow::Result;
use fw_agent::datapath::pins::Pins;
use fw_agent::image::Counted;
use fw_common::maps::{Counter, PortCounters, RuleKey, counter, name};

/// Reads all counters that are not zero; of ports those in these entries.
pub fn read(pins: &Pins, slots: &[u32]) -> Result<Counted> {
    let mut counted = Counted::default();
    let entries = pins.per_cpu::<Counter>(name::COUNTERS)?;
    for entry in 0..counter::ENTRIES {
        let sum = Counter::sum(entries.get(&entry, 0)?.iter());
        if sum != Counter::default() {
            counted.entries.insert(entry, sum);
        }
    }
    let ports = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS)?;
    for slot in slots {
        let values = ports.get(slot, 0)?;
        let mut sum = PortCounters::default();
        for (direction, row) in sum.0.iter_mut().enumerate() {
            for (verdict, counter) in row.iter_mut().enumerate() {
                *counter = Counter::sum(values.iter().map(|value| &value.0[direction][verdict]));
            }
        }
        if sum != PortCounters::default() {
            counted.ports.insert(*slot, sum);
        }
    }
    let rules = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    for entry in rules.iter() {
        let (key, values) = entry?;
        counted.rules.insert(key, Counter::sum(values.iter()));
    }
    Ok(counted)
}
