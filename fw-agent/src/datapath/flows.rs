//! Flows of the pinned tables as a whole: read, removed, and put there, thousands at once.
//!
//! In: pins. Out: [`Entry`]s of both tables. Works with or without an agent.
//!
//! A flow that is removed is judged by the rules at its next packet. One that is put there is taken as answered for by whoever does it, but not as
//! accepted by today's rules: its epoch is no port's, so that a port that judges flows of older rules again judges it, and its local address is
//! checked at the next packet from there. Invariant: a flow that is there is never overwritten; no port gets more than its quota.
//!
//! Numbers of flows per port are corrected afterwards as the sweep does it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use aya::maps::{HashMap, MapData, MapInfo};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{PortKey, Settings, name};

use super::Error;
use super::batch::Batch;
use super::flow_filter::FlowFilter;
use super::half_open::HalfOpen;
use super::kernel::failed;
use super::pins::Pins;
use super::sweep::{correct, entries};

/// A flow and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: FlowKey,
    /// What is known of it.
    pub flow: Flow,
    /// It is among those that both ends have taken part in.
    pub settled: bool,
}

/// What [`insert`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Flows that are there now.
    pub inserted: usize,
    /// Flows that were there already and stay as they are.
    pub known: usize,
    /// Flows beyond the quota of their port, or for which the table has no room.
    pub refused: usize,
}

type Table = HashMap<MapData, FlowKey, Flow>;

/// Shows `visit` every flow of both tables.
///
/// # Errors
/// A table cannot be read.
pub fn visit(pins: &Pins, mut visit: impl FnMut(Entry)) -> Result<(), Error> {
    visit_settled(pins, |key, flow| visit(entry(key, flow, true)))?;
    HalfOpen::open(pins)?.visit(|key, flow| visit(entry(key, flow, false)));
    Ok(())
}

fn visit_settled(pins: &Pins, mut visit: impl FnMut(&FlowKey, &Flow)) -> Result<(), Error> {
    let table: Table = pins.hash(name::FLOWS)?;
    Batch::of(&table, name::FLOWS)?.visit(|keys, flows| {
        for (key, flow) in keys.iter().zip(flows) {
            visit(key, flow);
        }
        ControlFlow::Continue(())
    })
}

const fn entry(key: &FlowKey, flow: &Flow, settled: bool) -> Entry {
    Entry {
        key: *key,
        flow: *flow,
        settled,
    }
}

/// The flows that are wanted.
///
/// # Errors
/// A table cannot be read.
pub fn list(pins: &Pins, mut wanted: impl FnMut(&Entry) -> bool) -> Result<Vec<Entry>, Error> {
    let mut found = Vec::new();
    visit(pins, |entry| {
        if wanted(&entry) {
            found.push(entry);
        }
    })?;
    Ok(found)
}

/// Removes the flows that are wanted, and answers how many there were.
///
/// # Errors
/// A table cannot be read or written; what was removed stays removed.
pub fn remove(pins: &Pins, mut wanted: impl FnMut(&Entry) -> bool) -> Result<usize, Error> {
    counting(pins, |changed| {
        let table: Table = pins.hash(name::FLOWS)?;
        let batch = Batch::of(&table, name::FLOWS)?;
        let keys = batch.keys(|key, flow| wanted(&entry(key, flow, true)))?;
        changed.extend(keys.iter().map(PortKey::of_flow));
        let mut removed = batch.remove(&keys)?;
        let half_open = HalfOpen::open(pins)?;
        half_open.visit(|key, flow| {
            if wanted(&entry(key, flow, false)) {
                removed += usize::from(half_open.remove(key));
            }
        });
        Ok(removed)
    })
}

/// Puts flows there.
///
/// # Errors
/// A table cannot be read or written; what was put there stays.
pub fn insert(pins: &Pins, flows: &[Entry]) -> Result<Inserted, Error> {
    let settings = pins
        .array::<Settings>(name::SETTINGS)?
        .get(&0, 0)
        .map_err(failed("read", name::SETTINGS))?;
    let quota = u64::from(settings.flow_quota);
    let filter = FlowFilter::open(pins)?;
    counting(pins, |changed| {
        let ports: BTreeSet<PortKey> = flows
            .iter()
            .map(|flow| PortKey::of_flow(&flow.key))
            .collect();
        let mut there = HashSet::new();
        let mut total = 0;
        let mut used: BTreeMap<PortKey, u64> = BTreeMap::new();
        visit(pins, |entry| {
            let port = PortKey::of_flow(&entry.key);
            total += u64::from(entry.settled);
            if ports.contains(&port) {
                there.insert(entry.key);
                if entry.settled {
                    *used.entry(port).or_default() += 1;
                }
            }
        })?;
        let info = MapInfo::from_pin(pins.map(name::FLOWS));
        let info = info.map_err(failed("read the layout of", name::FLOWS))?;
        let capacity = u64::from(info.max_entries());
        let mut done = Inserted::default();
        let half_open = HalfOpen::open(pins)?;
        let mut settled = Vec::new();
        for entry in flows {
            if !there.insert(entry.key) {
                done.known += 1;
                continue;
            }
            if entry.settled {
                let port = PortKey::of_flow(&entry.key);
                let used = used.entry(port).or_default();
                if *used >= quota || total >= capacity {
                    done.refused += 1;
                    continue;
                }
                *used += 1;
                total += 1;
                changed.insert(port);
                settled.push((entry.key, entry.flow));
            } else {
                match half_open.insert(&entry.key, &entry.flow) {
                    true => done.inserted += 1,
                    false => done.refused += 1,
                }
            }
        }
        done.inserted += settled.len();
        let table: Table = pins.hash(name::FLOWS)?;
        let keys: Vec<FlowKey> = settled.iter().map(|(key, _)| *key).collect();
        let written = Batch::of(&table, name::FLOWS)?.write(settled);
        // Some are there even if others found no room.
        keys.iter().for_each(|key| filter.note(key));
        written?;
        Ok(done)
    })
}

/// Has `change` change the table of settled flows, then corrects the numbers of those ports whose flows it has changed, whether it ended well or not.
fn counting<T>(
    pins: &Pins,
    change: impl FnOnce(&mut BTreeSet<PortKey>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut changed = BTreeSet::new();
    let done = change(&mut changed);
    if !changed.is_empty() {
        let usage = pins.hash::<PortKey, u64>(name::FLOW_USAGE)?;
        let before = entries(&usage)?;
        let mut counted = BTreeMap::new();
        visit_settled(pins, |key, _| {
            *counted.entry(PortKey::of_flow(key)).or_default() += 1;
        })?;
        correct(&usage, &before, &counted)?;
    }
    done
}
