//! What the kernel keeps per rule and nobody asks for any more: counters of ports that are gone, and suppressed log lines that no further packet
//! of their rule will tell of.
//!
//! Both are looked for by the sweep (see `reconcile`), and both are safe to stop anywhere.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use aya::maps::MapError;
use fw_common::ledger::LogLimit;
use fw_common::maps::{Counter, Port, PortKey, RuleKey, Settings, name};

use super::Error;
use super::batch::Batch;
use super::pins::Pins;
use super::sweep::now;

/// Removes the rule counters of ports that are neither in `known` nor in the kernel; says how many. A full map takes a while: it ends with the work undone as
/// soon as `goes_on` says no, and may be called again.
///
/// # Errors
/// A map cannot be read or written.
pub fn forget_counters(
    pins: &Pins,
    known: &BTreeSet<PortKey>,
    goes_on: impl Fn() -> bool,
) -> Result<u64, Error> {
    let failed = |verb, map| move |source: MapError| Error::Map { verb, map, source };
    let mut kept = BTreeSet::new();
    let ports = pins.hash::<u32, Port>(name::PORTS)?;
    Batch::of(&ports, name::PORTS)?.visit(|_, ports| {
        kept.extend(ports.iter().map(|port| PortKey {
            vmid: port.vmid,
            net: port.net,
            reserved: 0,
        }));
        ControlFlow::Continue(())
    })?;
    let mut counters = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    let mut gone = Vec::new();
    for key in counters.keys() {
        if !goes_on() {
            return Ok(0);
        }
        let key = key.map_err(failed("read", name::RULE_COUNTERS))?;
        if !known.contains(&key.port()) && !kept.contains(&key.port()) {
            gone.push(key);
        }
    }
    let mut forgotten = 0;
    for key in gone {
        if !goes_on() {
            break;
        }
        counters
            .remove(&key)
            .map_err(failed("remove entries of", name::RULE_COUNTERS))?;
        forgotten += 1;
    }
    Ok(forgotten)
}

/// Log lines that were suppressed and that no packet came for since the rule might be logged again: each is told once.
///
/// # Errors
/// A map cannot be read or written.
pub fn suppressed_lines(pins: &Pins) -> Result<Vec<(RuleKey, u64)>, Error> {
    let settings = pins
        .array::<Settings>(name::SETTINGS)?
        .get(&0, 0)
        .map_err(|source| Error::Map {
            verb: "read",
            map: name::SETTINGS,
            source,
        })?;
    let limits = pins.hash::<RuleKey, LogLimit>(name::LOG_LIMITS)?;
    let limits = Batch::of(&limits, name::LOG_LIMITS)?;
    let (interval, burst) = (settings.log_interval, settings.log_burst);
    let now = now();
    let over = limits.keys(|_, limit| limit.is_over(now, interval, burst))?;
    let mut told = Vec::new();
    for key in over {
        // The number is taken with the entry, so that it is told by this or by an event, never by both.
        let Some(limit) = limits.take(&key)? else {
            continue;
        };
        let settled = LogLimit {
            suppressed: 0,
            ..limit
        };
        limits.insert_new(&key, &settled)?;
        if limit.suppressed > 0 {
            told.push((key, limit.suppressed));
        }
    }
    Ok(told)
}
