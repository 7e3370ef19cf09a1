//! The tables of flows of a [`TestKernel`]: filled, read, emptied, and made older.

use std::time::Duration;

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use fw_agent::datapath::half_open::HalfOpen;
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::{flows, monotonic};
use fw_common::flow::{Flow, FlowKey};
use fw_common::limit::Bucket;
use fw_common::maps::{FragmentKey, FragmentValue, name};
use fw_common::wire::Address;

use super::TestKernel;

/// A flow of no port.
const NOBODYS: FlowKey = FlowKey {
    vmid: u32::MAX,
    net: 0,
    protocol: 0,
    version: 0,
    local: Address([0; 4]),
    remote: Address([0; 4]),
    local_port: 0,
    remote_port: 0,
};

/// Nanoseconds that are waited for at the most; longer ones are not to be lived through.
const LONGEST_REST: u64 = 130_000_000_000;

/// Fills the table of established flows with flows of no port; says how many there was room for.
pub fn fill_flows(pins: &Pins) -> Result<usize> {
    let mut flows: Table<FlowKey, Flow> = pins.hash(name::FLOWS)?;
    let mut key = NOBODYS;
    // Not to be swept away.
    let flow = Flow {
        seen: u64::MAX,
        ..Flow::default()
    };
    let mut filled = 0;
    loop {
        key.local.0[3] = filled as u32;
        match flows.insert(key, flow, 0) {
            Ok(()) => filled += 1,
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                return Ok(filled);
            }
            Err(error) => return Err(error).context("filling a table"),
        }
    }
}

impl TestKernel {
    /// As [`fill_flows`].
    pub fn fill_flows(&self) -> Result<usize> {
        fill_flows(&self.directory.pins())
    }

    /// Forgets all flows, fragments and limits.
    pub fn forget_flows(&self) -> Result<()> {
        let pins = self.directory.pins();
        clear::<FlowKey, Flow>(&mut pins.hash(name::FLOWS)?)?;
        let half_open = HalfOpen::open(&pins)?;
        half_open.visit(|key, _| {
            half_open.remove(key);
        });
        clear::<FragmentKey, FragmentValue>(&mut pins.hash(name::FRAGMENTS)?)?;
        clear::<Address, Bucket>(&mut pins.hash(name::SYN_LIMITS)?)
    }

    /// All flows of ports: those that both ends have taken part in, and the half-open ones.
    pub fn flows(&self) -> Result<[Vec<(FlowKey, Flow)>; 2]> {
        let mut found = [Vec::new(), Vec::new()];
        let [settled, half_open] = &mut found;
        flows::visit(&self.directory.pins(), |entry| {
            if entry.key.vmid != NOBODYS.vmid {
                let of = if entry.settled {
                    &mut *settled
                } else {
                    &mut *half_open
                };
                of.push((entry.key, entry.flow));
            }
        })?;
        Ok(found)
    }

    /// Lets time pass for all flows and fragments: they were last seen so much earlier. Nothing was seen before the machine was up, so on one that
    /// has just come up the rest passes as it does.
    pub fn advance(&self, nanoseconds: u64) -> Result<()> {
        let rest = nanoseconds.saturating_sub(monotonic());
        if rest <= LONGEST_REST {
            std::thread::sleep(Duration::from_nanos(rest));
        }
        let pins = self.directory.pins();
        let age = |flow: &mut Flow| {
            flow.seen = flow.seen.saturating_sub(nanoseconds);
            flow.created = flow.created.saturating_sub(nanoseconds);
        };
        change::<FlowKey, Flow>(&mut pins.hash(name::FLOWS)?, age)?;
        let half_open = HalfOpen::open(&pins)?;
        half_open.visit(|key, flow| {
            let mut flow = *flow;
            age(&mut flow);
            half_open.update(key, &flow);
        });
        change::<FragmentKey, FragmentValue>(&mut pins.hash(name::FRAGMENTS)?, |first| {
            first.seen = first.seen.saturating_sub(nanoseconds);
        })?;
        change::<Address, Bucket>(&mut pins.hash(name::SYN_LIMITS)?, |bucket| {
            bucket.empty_at = bucket.empty_at.saturating_sub(nanoseconds);
        })
    }
}

/// A pinned hash table.
type Table<K, V> = HashMap<MapData, K, V>;

fn keys<K: Pod, V: Pod>(table: &Table<K, V>) -> Result<Vec<K>> {
    let keys: Result<Vec<K>, _> = table.keys().collect();
    keys.context("reading a table's keys")
}

fn clear<K: Pod, V: Pod>(table: &mut Table<K, V>) -> Result<()> {
    for key in keys(table)? {
        table.remove(&key).context("clearing a table")?;
    }
    Ok(())
}

fn change<K: Pod, V: Pod>(table: &mut Table<K, V>, how: impl Fn(&mut V)) -> Result<()> {
    for key in keys(table)? {
        let mut value = table.get(&key, 0).context("reading a table")?;
        how(&mut value);
        table.insert(key, value, 0).context("writing a table")?;
    }
    Ok(())
}
