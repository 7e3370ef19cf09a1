//! A flow table of another size, without losing a flow.
//!
//! A map's size is fixed when it is made. [`Kernel::begin_resize`]: 1. make a map of the new size, 2. copy the flows, 3. load the programs anew, with
//! this map in place of the old one, 4. put its pin in the place of the old pin. The plan then attaches the programs to every device again, each
//! swap being atomic, and waits until no old program runs. [`Kernel::end_resize`]: 5. copy what the old programs established or changed
//! meanwhile.
//!
//! Wherever this stops, each program finds its flows in the map it has; the next agent attaches programs with the pinned one. What
//! remains: a packet whose flow was established while the programs were swapped (some milliseconds) may meet a program with the other map,
//! and is judged by the rules. A table that has more flows than the new one would hold is not changed.

use std::ops::ControlFlow;

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData};
use fw_common::conntrack::{ANSWERED, SECOND};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{capacity, name};

use super::Kernel;
use crate::datapath::batch::Batch;
use crate::datapath::flow_filter::FlowFilter;
use crate::datapath::pins::Pins;
use crate::datapath::sweep::now;
use crate::datapath::{Error, OBJECT};

/// A flow table as the agent opens it.
type Table = HashMap<MapData, FlowKey, Flow>;

/// A table whose flows have still to be fetched.
pub(super) struct OldFlows {
    table: Table,
    /// When the first copy began.
    copied: u64,
}

/// Name of the new map's pin until the flows are in it.
const NEXT: &str = "FLOWS_NEXT";

impl Kernel {
    /// Flows that the table is made for.
    ///
    /// # Errors
    /// The map cannot be asked.
    pub fn flow_capacity(&self) -> Result<u32, Error> {
        let info = aya::maps::MapInfo::from_pin(self.pins.map(name::FLOWS));
        let info = info.map_err(super::failed("open", name::FLOWS))?;
        let entries = info.max_entries();
        let fewer = entries.saturating_sub(1);
        Ok(match capacity::entries(fewer) == entries {
            true => fewer,
            false => entries,
        })
    }

    /// Whether [`Kernel::end_resize`] is still to come.
    pub fn is_resizing(&self) -> bool {
        self.old_flows.is_some()
    }

    pub(super) fn begin_resize(&mut self, room: u32) -> Result<(), Error> {
        let entries = capacity::entries(room);
        self.end_resize()?;
        let next = self.pins.map(NEXT);
        Pins::remove(next.clone())?;
        let table: Table = self.pins.hash(name::FLOWS)?;
        let copied = now();
        let flows = count(&table)?;
        if flows > u64::from(entries) {
            return Err(Error::TooManyFlows { flows, entries });
        }
        let mut loader = EbpfLoader::new();
        super::pin_all(&mut loader, &self.pins);
        loader.map_pin_path(name::FLOWS, &next);
        loader.map_max_entries(name::FLOWS, entries);
        let ebpf = super::load_programs(loader, OBJECT)?;
        let new: Table = self.pins.hash_at(NEXT, name::FLOWS)?;
        let filter = FlowFilter::open(&self.pins)?;
        filter.pause();
        if let Err(error) = self.switch(&table, &new, entries) {
            filter.resume();
            return Err(error);
        }
        self.programs.replace(ebpf);
        self.old_flows = Some(OldFlows { table, copied });
        Ok(())
    }

    /// Copies all flows, and puts the new table in the place of the old one.
    fn switch(&self, table: &Table, new: &Table, entries: u32) -> Result<(), Error> {
        if self.copy(table, new, 0)? > 0 {
            let flows = count(table)?;
            return Err(Error::TooManyFlows { flows, entries });
        }
        self.pins.replace(NEXT, name::FLOWS)
    }

    pub(super) fn end_resize(&mut self) -> Result<(), Error> {
        /// A flow's time is written twice a second at most, its state at once.
        const MARGIN: u64 = SECOND;
        let Some(old) = &self.old_flows else {
            return Ok(());
        };
        let new: Table = self.pins.hash(name::FLOWS)?;
        let lost = self.copy(&old.table, &new, old.copied.saturating_sub(MARGIN))?;
        if lost > 0 {
            tracing::warn!(
                lost,
                "the flow table is full; flows of the last moments found no room"
            );
        }
        self.old_flows = None;
        FlowFilter::open(&self.pins)?.resume();
        Ok(())
    }

    /// Copies the flows that were seen `since` then; those that both tables have stay as they are where they have come further. Answers how
    /// many found no room.
    fn copy(&self, from: &Table, to: &Table, since: u64) -> Result<u64, Error> {
        let filter = FlowFilter::open(&self.pins)?;
        let to = Batch::of(to, name::FLOWS)?;
        let mut refused = 0;
        let mut result = Ok(());
        Batch::of(from, name::FLOWS)?.visit(|keys, flows| {
            let entries = keys.iter().zip(flows);
            for (key, flow) in entries.filter(|(_, flow)| flow.seen >= since) {
                match copy_flow((&to, &filter), key, flow) {
                    Ok(()) => {}
                    Err(Error::Batch { source, .. }) if is_full(&source) => refused += 1,
                    Err(error) => {
                        result = Err(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        result.map(|()| refused)
    }
}

fn count(table: &Table) -> Result<u64, Error> {
    let mut flows = 0;
    Batch::of(table, name::FLOWS)?.visit(|keys, _| {
        flows += keys.len() as u64;
        ControlFlow::Continue(())
    })?;
    Ok(flows)
}

/// The map has no room.
pub(in crate::datapath) fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::E2BIG)
}

/// Copies a flow, unless the one that is there has come further.
pub(in crate::datapath) fn copy_flow(
    (to, filter): (&Batch<'_, FlowKey, Flow>, &FlowFilter),
    key: &FlowKey,
    flow: &Flow,
) -> Result<(), Error> {
    if to.insert_new(key, flow)? {
        filter.note(key);
        return Ok(());
    }
    let there = to.get(key)?;
    if there.is_some_and(|there| is_further(flow, &there)) {
        to.write([(*key, *flow)])?;
    }
    Ok(())
}

/// Of two records of one flow: the one that began or was seen later, or else whose connection is nearer its end (states are numbered so).
pub(in crate::datapath) fn is_further(this: &Flow, other: &Flow) -> bool {
    let place = |flow: &Flow| (flow.created, flow.seen, flow.state & !ANSWERED);
    place(this) > place(other)
}
