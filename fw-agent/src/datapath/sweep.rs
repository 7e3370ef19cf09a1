//! Expired flows are removed, and flows counted per port.
//!
//! In: the pinned maps. Out: what one pass found and did. The kernel never removes a flow because of its age; a packet that comes late begins a
//! new one by itself, so that a sweep is about room and numbers, not about verdicts.
//!
//! 1. Read the settings and the clock that the programs use. 2. Walk the half-open flows; take out each that has expired, look at what was taken, and put it
//!    back if it had got a packet since the walk saw it. 3. Walk the established flows by batches likewise; count those of each port. 4. Correct
//!    `FLOW_USAGE`: the number that was counted, and what the kernel added meanwhile. 5. Have the programs ask a filter that knows the established
//!    flows that are left ([`super::flow_filter`]).
//!
//! What remains: a flow that expired and came back to life in the moment between the walk and its removal (milliseconds) is out of the
//! table for about a microsecond, in which a packet of it is judged by the rules. A flow that is older than its timeout when it is taken
//! cannot have been in use: the programs go by the same timeout and clock, so they had given it up before.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use aya::maps::{HashMap, MapData};
use fw_common::conntrack::{SECOND, timeout};
use fw_common::event::{FlowChange, FlowEvent, FlowNews};
use fw_common::flow::{Flow, FlowKey};
use fw_common::half_open::Removal;
use fw_common::maps::{PortKey, Settings, name, settings_flag};
use fw_common::verdict::Direction;
use rustix::time::{ClockId, clock_gettime};

use super::Error;
use super::batch::Batch;
use super::flow_filter::{FlowFilter, Rebuild};
use super::half_open::HalfOpen;
use super::pins::Pins;

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Established flows that are left, by port.
    pub flows: BTreeMap<PortKey, u64>,
    /// Half-open flows that are left.
    pub half_open: u64,
    /// Flows of either kind that were removed.
    pub removed: u64,
    /// Flows that got a packet at the last moment and were put back.
    pub returned: u64,
}

/// Goes through both flow tables once.
///
/// # Errors
/// A map cannot be opened, read or written; what was removed stays removed.
pub fn sweep(pins: &Pins) -> Result<Swept, Error> {
    sweep_telling(pins, |_| {})
}

/// The same; `tell` hears of each flow that was removed, if the settings ask for that.
///
/// # Errors
/// As [`sweep`].
pub fn sweep_telling(pins: &Pins, mut tell: impl FnMut(FlowEvent)) -> Result<Swept, Error> {
    let settings = pins
        .array::<Settings>(name::SETTINGS)?
        .get(&0, 0)
        .map_err(|source| Error::Map {
            verb: "read",
            map: name::SETTINGS,
            source,
        })?;
    let mut swept = Swept::default();
    let is_told = settings.flags & settings_flag::LOG_FLOWS != 0;
    let mut removed = |key: &FlowKey, flow: &Flow, settled| {
        if is_told {
            tell(end_of(key, flow, settled));
        }
    };
    sweep_half_open(
        &HalfOpen::open(pins)?,
        &settings,
        &mut swept,
        |key, flow| {
            removed(key, flow, false);
        },
    );

    let filter = FlowFilter::open(pins)?;
    let rebuild = filter.rebuild()?;
    let usage = pins.hash::<PortKey, u64>(name::FLOW_USAGE)?;
    let before = entries(&usage)?;
    let flows = pins.hash(name::FLOWS)?;
    swept.flows = sweep_table(&flows, &settings, &rebuild, &mut swept, |key, flow| {
        removed(key, flow, true);
    })?;
    rebuild.finish();
    correct(&usage, &before, &swept.flows)?;
    Ok(swept)
}

/// The record of a flow that was removed. Its time is that of the records of other kinds, not the programs' coarse clock.
fn end_of(key: &FlowKey, flow: &Flow, settled: bool) -> FlowEvent {
    let news = FlowNews {
        change: FlowChange::Ends,
        state: flow.state,
        origin: Direction::from_u8(flow.origin),
        settled,
    };
    news.event(key, super::monotonic())
}

/// The clock that programs read with `bpf_ktime_get_coarse_ns`.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec.cast_unsigned() * SECOND + now.tv_nsec.cast_unsigned()
}

fn has_expired(key: &FlowKey, flow: &Flow, settings: &Settings, now: u64) -> bool {
    let limit = u64::from(timeout(flow.state, key.protocol, settings)) * SECOND;
    now.saturating_sub(flow.seen) >= limit
}

/// Removes half-open flows that have expired.
fn sweep_half_open(
    ring: &HalfOpen,
    settings: &Settings,
    swept: &mut Swept,
    mut removed: impl FnMut(&FlowKey, &Flow),
) {
    ring.visit(|key, flow| {
        if !has_expired(key, flow, settings, now()) {
            swept.half_open += 1;
            return;
        }
        match ring.remove_if(key, |flow| has_expired(key, flow, settings, now())) {
            Removal::Gone => {}
            Removal::Removed(flow) => {
                swept.removed += 1;
                removed(key, &flow);
            }
            Removal::Kept => {
                swept.returned += 1;
                swept.half_open += 1;
            }
        }
    });
}

/// Removes established flows that have expired; answers how many are left, by port.
fn sweep_table(
    map: &HashMap<MapData, FlowKey, Flow>,
    settings: &Settings,
    filter: &Rebuild<'_>,
    swept: &mut Swept,
    mut removed: impl FnMut(&FlowKey, &Flow),
) -> Result<BTreeMap<PortKey, u64>, Error> {
    let table = Batch::of(map, name::FLOWS)?;
    let mut left = BTreeMap::new();
    let mut failed = None;
    let mut expired = Vec::new();
    table.visit(|keys, flows| {
        let now = now();
        expired.clear();
        // Flows of one port do not come together, but a few ports may have most of them.
        let mut last = (PortKey::default(), 0_u64);
        for (key, flow) in keys.iter().zip(flows) {
            if has_expired(key, flow, settings, now) {
                expired.push(*key);
                continue;
            }
            filter.note(key);
            let port = PortKey::of_flow(key);
            if port != last.0 {
                note(&mut left, last);
                last = (port, 0);
            }
            last.1 += 1;
        }
        note(&mut left, last);
        match remove_expired(&table, &expired, settings, &mut removed) {
            Ok(returned) => {
                swept.removed += (expired.len() - returned.len()) as u64;
                swept.returned += returned.len() as u64;
                for key in returned {
                    filter.note(&key);
                    note(&mut left, (PortKey::of_flow(&key), 1));
                }
            }
            Err(error) => {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(left), Err)
}

fn note(left: &mut BTreeMap<PortKey, u64>, (port, count): (PortKey, u64)) {
    if count > 0 {
        *left.entry(port).or_default() += count;
    }
}

/// Takes flows out that were seen to have expired, and puts those back that have not after all: answers their keys. `removed` hears of the
/// others.
///
/// # Errors
/// The kernel refuses something; the flows before it are done.
pub fn remove_expired(
    table: &Batch<'_, FlowKey, Flow>,
    expired: &[FlowKey],
    settings: &Settings,
    mut removed: impl FnMut(&FlowKey, &Flow),
) -> Result<Vec<FlowKey>, Error> {
    let mut returned = Vec::new();
    for key in expired {
        let Some(flow) = table.take(key)? else {
            continue;
        };
        if !has_expired(key, &flow, settings, now()) {
            // Not over one that a packet has begun meanwhile.
            table.insert_new(key, &flow)?;
            returned.push(*key);
        } else {
            removed(key, &flow);
        }
    }
    Ok(returned)
}

pub(super) fn entries(
    usage: &HashMap<MapData, PortKey, u64>,
) -> Result<BTreeMap<PortKey, u64>, Error> {
    let mut found = BTreeMap::new();
    Batch::of(usage, name::FLOW_USAGE)?.visit(|ports, counts| {
        found.extend(ports.iter().copied().zip(counts.iter().copied()));
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Writes the numbers that differ from what is true: what was counted, and what the kernel added since `before`.
pub(super) fn correct(
    usage: &HashMap<MapData, PortKey, u64>,
    before: &BTreeMap<PortKey, u64>,
    counted: &BTreeMap<PortKey, u64>,
) -> Result<(), Error> {
    let after = entries(usage)?;
    let (mut wrong, mut gone) = (Vec::new(), Vec::new());
    let ports: BTreeSet<&PortKey> = after.keys().chain(counted.keys()).collect();
    for port in ports {
        let number = |of: &BTreeMap<PortKey, u64>| of.get(port).copied().unwrap_or(0);
        // Flows established during the walk may be in both terms: too many rather than too few until the next pass.
        let added = number(&after).saturating_sub(number(before));
        let right = number(counted).saturating_add(added);
        if right == 0 {
            gone.push(*port);
        } else if after.get(port) != Some(&right) {
            wrong.push((*port, right));
        }
    }
    let usage = Batch::of(usage, name::FLOW_USAGE)?;
    usage.remove(&gone)?;
    usage.write(wrong)
}
