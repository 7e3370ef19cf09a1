//! The counters as rows: by reason, by port, by rule, and the limits of log lines.

use std::collections::BTreeMap;

use anyhow::Result;
use fw_common::ledger::LogLimit;
use fw_common::limit::EPOCH;
use fw_common::maps::{Counter, Port, PortCounters, PortKey, RuleKey, counter, name};
use fw_common::verdict::{Direction, Reason, Verdict};
use serde_json::{Value, json};

use super::Rows;
use crate::datapath::pins::Pins;
use crate::datapath::sweep::now;

/// By reason, and what is counted beside.
pub(super) fn entries(pins: &Pins) -> Result<Rows> {
    let map = pins.per_cpu::<Counter>(name::COUNTERS)?;
    let now = now();
    let mut cells = Vec::new();
    for index in 0..counter::ENTRIES {
        let sum = Counter::sum(map.get(&index, 0)?.iter());
        let name = match (index, Reason::from_u8(index as u8)) {
            (counter::LOST_EVENTS, _) => "lost-events",
            (counter::FLOWS_REFUSED, _) => "flows-refused",
            (counter::REJECTS_LIMITED, _) => "rejects-limited",
            (counter::LOGS_LIMITED, _) => "logs-limited",
            (counter::FLOWS_OVER_QUOTA, _) => "flows-over-quota",
            (counter::RULES_UNCOUNTED, _) => "rules-uncounted",
            (counter::EARLY_DROPS, _) => "early-drops",
            (_, Some(reason)) => reason.name(),
            (_, None) => "unknown",
        };
        let mut row = vec![json!(name)];
        row.extend(columns(&sum, now));
        cells.push(row);
    }
    let header = &["counter", "packets", "bytes", "seconds_ago"];
    Ok(Rows::new(header, cells))
}

/// By port: those that are in the kernel now, a guest's once.
pub(super) fn ports(pins: &Pins) -> Result<Rows> {
    let mut slots = BTreeMap::new();
    for entry in pins.hash::<u32, Port>(name::PORTS)?.iter() {
        let (_, port) = entry?;
        slots.insert((port.vmid, port.net), port.counters);
    }
    let map = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS)?;
    let now = now();
    let mut cells = Vec::new();
    for ((vmid, net), slot) in slots {
        let Ok(values) = map.get(&slot, 0) else {
            continue;
        };
        for direction in [Direction::In, Direction::Out] {
            for verdict in [Verdict::Accept, Verdict::Drop, Verdict::Reject] {
                let counters = values.iter();
                let counters = counters.map(|value| &value.0[direction as usize][verdict as usize]);
                let mut row = vec![
                    json!(vmid),
                    json!(format!("net{net}")),
                    json!(direction.name()),
                    json!(verdict.name()),
                ];
                row.extend(columns(&Counter::sum(counters), now));
                cells.push(row);
            }
        }
    }
    let header = &[
        "guest",
        "nic",
        "direction",
        "verdict",
        "packets",
        "bytes",
        "seconds_ago",
    ];
    Ok(Rows::new(header, cells))
}

/// By rule: those that have decided something.
pub(super) fn rules(pins: &Pins) -> Result<Rows> {
    let map = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    let now = now();
    let mut rows = BTreeMap::new();
    for entry in map.iter() {
        let (key, values) = entry?;
        rows.insert(
            (key.port(), key.direction, key.rule),
            Counter::sum(values.iter()),
        );
    }
    let cells = rows.into_iter().map(|((port, direction, rule), sum)| {
        let mut row = rule_columns(port, direction, rule);
        row.extend(columns(&sum, now));
        row
    });
    let header = &[
        "guest",
        "nic",
        "direction",
        "rule",
        "packets",
        "bytes",
        "seconds_ago",
    ];
    Ok(Rows::new(header, cells.collect()))
}

/// Limits of log lines.
pub(super) fn log_limits(pins: &Pins) -> Result<Rows> {
    let mut cells = Vec::new();
    for entry in pins.hash::<RuleKey, LogLimit>(name::LOG_LIMITS)?.iter() {
        let (key, limit) = entry?;
        let mut row = rule_columns(key.port(), key.direction, key.rule);
        row.push(json!(limit.bucket.empty_at.saturating_sub(EPOCH)));
        row.push(json!(limit.suppressed));
        cells.push(row);
    }
    let header = &[
        "guest",
        "nic",
        "direction",
        "rule",
        "empty_at_ns",
        "suppressed",
    ];
    Ok(Rows::new(header, cells))
}

fn rule_columns(port: PortKey, direction: u8, rule: u32) -> Vec<Value> {
    vec![
        json!(port.vmid),
        json!(format!("net{}", port.net)),
        json!(Direction::from_u8(direction).name()),
        json!(format!("{rule:08x}")),
    ]
}

/// Packets, bytes, and the seconds since the last one (null: never).
fn columns(counter: &Counter, now: u64) -> [Value; 3] {
    let ago = match counter.last {
        0 => Value::Null,
        last => json!(now.saturating_sub(last) / 1_000_000_000),
    };
    [json!(counter.packets), json!(counter.bytes), ago]
}
