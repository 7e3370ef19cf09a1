//! What an agent of another version knew, carried over into this version's maps: flows, bans and counters.
//!
//! In: the pinned maps of another ABI version whose layout is known ([`Layout`]). Out: the same contents in this version's maps.
//!
//! 1. [`Carry::begin`], before any program of this version is attached: copy bans and the flows of both tables. 2. The plan swaps the program of each
//!    link, as ever. 3. [`Carry::end`], when no device has an old program any more and none runs: copy the flows that the old programs made or
//!    changed meanwhile, bans that were added, and add the old counters to the new ones. The caller removes the old version's pins then.
//!
//! Flows come over as if their rules had changed: their local address is checked again, and where the agent re-evaluates flows, so are they.
//! Of a version that is not known, or that cannot be read, nothing comes over and the log says so: established connections are picked up by the
//! rules. Nothing here opens anything but flows that the old version had accepted.
//!
//! What remains: a packet of a flow that began while the links were swapped (milliseconds) may meet the new programs before step 3, and is judged by
//! the rules. A counter of which packets are counted in the very moment of its addition may miss these.

mod v3;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, MapData, PerCpuValues};
use fw_common::ban::Ban;
use fw_common::conntrack::SECOND;
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Counter, Port, PortCounters, PortKey, RuleKey, name};

use super::Error;
use super::batch::Batch;
use super::flow_filter::FlowFilter;
use super::half_open::HalfOpen;
use super::kernel::failed;
use super::kernel::resize::{copy_flow, is_full, is_further};
use super::pins::Pins;
use super::sweep::now;

/// The layouts of a version, frozen, and what they are now. Types that convert are of exactly the old sizes.
trait Layout {
    /// Key of both flow tables.
    type FlowKey: Pod + Into<FlowKey>;
    /// Value of both.
    type Flow: Pod + Into<Flow>;
    /// Key of the counters of rules.
    type RuleKey: Pod + Into<RuleKey>;
    /// One counter.
    type Counter: Pod + Into<Counter>;
    /// Counters of a port.
    type PortCounters: Pod + Into<PortCounters>;
    /// A device, of which its name in counters and their place are wanted.
    type Port: Pod + Into<(PortKey, u32)>;
    /// Key of the bans, without the prefix length.
    type BanKey: Pod + Into<fw_common::maps::BanKey>;
    /// A ban.
    type Ban: Pod + Into<Ban>;
    /// Where a counter of the node is now, by its old place.
    fn counter(index: u32) -> Option<u32>;
    /// Number of these counters.
    const COUNTERS: u32;
}

/// An upgrade that has begun.
pub(super) struct Carry {
    from: Pins,
    /// Clock of the flows when the first copy began; 0 if that was not whole.
    copied: u64,
    /// Bans that were there then.
    bans: Bans,
}

type Bans = BTreeMap<(u32, fw_common::maps::BanKey), Ban>;

impl Carry {
    /// The first copy from each other version that has left something. `pins`: those of this version, whose maps exist.
    pub(super) fn begin(pins: &Pins) -> Vec<Self> {
        let mut others = pins.others();
        // Of a flow that two versions know, the newer knows more.
        others.sort_by_key(Pins::version_number);
        others.retain(Pins::exist);
        let begin = |from: Pins| {
            let version = from.version_number();
            let begun = match version {
                3..=5 => first::<v3::V3>(&from, pins),
                _ => {
                    tracing::warn!(
                        version,
                        "the layout of this version's maps is not known: its flows begin again, its counters and bans are lost"
                    );
                    return None;
                }
            };
            match begun {
                Ok((flows, copied, bans)) => {
                    tracing::info!(
                        version,
                        flows,
                        bans = bans.len(),
                        "carried over from another version"
                    );
                    Some(Self { from, copied, bans })
                }
                Err(error) => {
                    tracing::error!(
                        version,
                        "cannot carry over all of another version's flows: {:#}",
                        anyhow::Error::from(error)
                    );
                    // The second copy tries all of it again.
                    Some(Self {
                        from,
                        copied: 0,
                        bans: Bans::new(),
                    })
                }
            }
        };
        others.into_iter().filter_map(begin).collect()
    }

    /// The rest. The caller has seen to it that no program of the old version runs.
    pub(super) fn end(self, pins: &Pins) {
        let version = self.from.version_number();
        let ended = match version {
            3..=5 => self.second::<v3::V3>(pins),
            _ => Ok(()),
        };
        if let Err(error) = ended {
            tracing::error!(
                version,
                "cannot carry over all of another version's counters: {:#}",
                anyhow::Error::from(error)
            );
        }
    }

    fn second<L: Layout>(&self, pins: &Pins) -> Result<(), Error> {
        /// A flow's time is written twice a second at most, its state at once.
        const MARGIN: u64 = SECOND;
        flows::<L>(&self.from, pins, self.copied.saturating_sub(MARGIN))?;
        let mut bans = bans::<L>(&self.from)?;
        bans.retain(|key, ban| self.bans.get(key) != Some(ban));
        add_bans(pins, &bans)?;
        // Each map loses its pin with its contents, so that an agent that comes after an end in between adds nothing twice.
        add_counters::<L>(&self.from, pins)?;
        Pins::remove(self.from.map(name::COUNTERS))?;
        add_port_counters::<L>(&self.from, pins)?;
        Pins::remove(self.from.map(name::PORT_COUNTERS))?;
        add_rule_counters::<L>(&self.from, pins)?;
        Pins::remove(self.from.map(name::RULE_COUNTERS))
    }
}

/// Copies flows and bans; how many flows, since when others may have come, and the bans.
///
/// Once devices are known here, an earlier agent of this version has done that. What came and went here since must not come again, so only the last
/// moments of the old tables count then: longer than it takes to start an agent again, shorter than any timeout that would matter.
fn first<L: Layout>(from: &Pins, to: &Pins) -> Result<(u64, u64, Bans), Error> {
    /// Two minutes.
    const RECENT: u64 = 120 * SECOND;
    let begun = now();
    let bans = bans::<L>(from)?;
    let ports = to.hash::<u32, Port>(name::PORTS)?;
    if ports.keys().next().is_some() {
        return Ok((0, begun.saturating_sub(RECENT), bans));
    }
    add_bans(to, &bans)?;
    let (flows, refused) = flows::<L>(from, to, 0)?;
    Ok((flows, if refused == 0 { begun } else { 0 }, bans))
}

/// Copies the flows of both tables that were seen `since` then; how many, and how many found no room.
fn flows<L: Layout>(from: &Pins, to: &Pins, since: u64) -> Result<(u64, u64), Error> {
    let (mut copied, mut refused) = (0, 0);
    let (filter, half_open) = (FlowFilter::open(to)?, HalfOpen::open(to)?);
    let settled: HashMap<MapData, FlowKey, Flow> = to.hash(name::FLOWS)?;
    let settled = Batch::of(&settled, name::FLOWS)?;
    for table in [name::FLOWS, name::HALF_OPEN] {
        let old: HashMap<MapData, L::FlowKey, L::Flow> = from.hash(table)?;
        let mut result = Ok(());
        Batch::of(&old, table)?.visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let (key, flow): (FlowKey, Flow) = ((*key).into(), (*value).into());
                if flow.seen < since {
                    continue;
                }
                let done = match table {
                    name::FLOWS => copy_flow((&settled, &filter), &key, &flow),
                    // Established meanwhile.
                    _ if matches!(settled.get(&key), Ok(Some(_))) => Ok(()),
                    _ => {
                        copy_half_open(&half_open, &key, &flow);
                        Ok(())
                    }
                };
                match done {
                    Ok(()) => copied += 1,
                    Err(Error::Batch { source, .. }) if is_full(&source) => refused += 1,
                    Err(error) => {
                        result = Err(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        result?;
    }
    if refused > 0 {
        tracing::warn!(
            refused,
            "the flow table is full; flows of another version found no room"
        );
    }
    Ok((copied, refused))
}

/// Copies a half-open flow, unless the one that is there has come further. One that finds no place is judged by the rules.
fn copy_half_open(to: &HalfOpen, key: &FlowKey, flow: &Flow) {
    let there = to.get(key);
    if there.is_none_or(|there| is_further(flow, &there)) && !to.insert(key, flow) {
        tracing::debug!(?key, "a half-open flow of another version found no place");
    }
}

fn bans<L: Layout>(from: &Pins) -> Result<Bans, Error> {
    let mut found = Bans::new();
    let trie = from.trie::<L::BanKey, L::Ban>(name::BANS)?;
    Batch::of(&trie, name::BANS)?.visit(|keys, values| {
        let entries = keys.iter().zip(values);
        found.extend(
            entries.map(|(key, ban)| ((key.prefix_len(), key.data().into()), (*ban).into())),
        );
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

fn add_bans(to: &Pins, bans: &Bans) -> Result<(), Error> {
    if bans.is_empty() {
        return Ok(());
    }
    let trie = to.trie::<fw_common::maps::BanKey, Ban>(name::BANS)?;
    let entries = bans
        .iter()
        .map(|((length, key), ban)| (Key::new(*length, *key), *ban));
    Batch::of(&trie, name::BANS)?.write(entries)?;
    super::Bans::open(to)?.say_some(true)
}

/// Adds the counters of the node.
fn add_counters<L: Layout>(from: &Pins, to: &Pins) -> Result<(), Error> {
    if !from.map(name::COUNTERS).exists() {
        return Ok(());
    }
    let read = failed("read", name::COUNTERS);
    let old = from.per_cpu::<L::Counter>(name::COUNTERS)?;
    let mut new = to.per_cpu::<Counter>(name::COUNTERS)?;
    for index in 0..L::COUNTERS {
        let Some(place) = L::counter(index) else {
            continue;
        };
        let counted = old.get(&index, 0).map_err(&read)?;
        let there = new.get(&place, 0).map_err(&read)?;
        if let Some(sum) = sum(&counted, &there, add)? {
            let written = new.set(place, sum, 0);
            written.map_err(failed("write", name::COUNTERS))?;
        }
    }
    Ok(())
}

/// Adds the counters of ports that are there now.
fn add_port_counters<L: Layout>(from: &Pins, to: &Pins) -> Result<(), Error> {
    if !from.map(name::PORT_COUNTERS).exists() {
        return Ok(());
    }
    let read = failed("read", name::PORT_COUNTERS);
    let mut slots = BTreeMap::new();
    let ports = from.hash::<u32, L::Port>(name::PORTS)?;
    for entry in ports.iter() {
        let (_, port) = entry.map_err(failed("read", name::PORTS))?;
        let (port, slot): (PortKey, u32) = port.into();
        slots.insert(port, slot);
    }
    let old = from.per_cpu::<L::PortCounters>(name::PORT_COUNTERS)?;
    let mut new = to.per_cpu::<PortCounters>(name::PORT_COUNTERS)?;
    // A port's devices share one place.
    let mut places = BTreeMap::new();
    let ports = to.hash::<u32, Port>(name::PORTS)?;
    for entry in ports.iter() {
        let (_, port) = entry.map_err(failed("read", name::PORTS))?;
        let key = PortKey {
            vmid: port.vmid,
            net: port.net,
            reserved: 0,
        };
        places.insert(key, port.counters);
    }
    for (port, place) in places {
        let Some(slot) = slots.get(&port).filter(|slot| **slot < old.len()) else {
            continue;
        };
        if place >= new.len() {
            continue;
        }
        let counted = old.get(slot, 0).map_err(&read)?;
        let there = new.get(&place, 0).map_err(&read)?;
        if let Some(sum) = sum(&counted, &there, add_port)? {
            let written = new.set(place, sum, 0);
            written.map_err(failed("write", name::PORT_COUNTERS))?;
        }
    }
    Ok(())
}

/// Adds the counters of rules. Rules that are gone keep theirs until the agent forgets them.
fn add_rule_counters<L: Layout>(from: &Pins, to: &Pins) -> Result<(), Error> {
    if !from.map(name::RULE_COUNTERS).exists() {
        return Ok(());
    }
    let read = failed("read", name::RULE_COUNTERS);
    let old = from.per_cpu_hash::<L::RuleKey, L::Counter>(name::RULE_COUNTERS)?;
    let mut new = to.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    for entry in old.iter() {
        let (key, counted) = entry.map_err(&read)?;
        let key: RuleKey = key.into();
        let sum = match new.get(&key, 0) {
            Ok(there) => sum(&counted, &there, add)?,
            Err(aya::maps::MapError::KeyNotFound) => {
                let counted = counted.iter().map(|value| (*value).into()).collect();
                Some(per_cpu(counted)?)
            }
            Err(error) => return Err(read(error)),
        };
        if let Some(sum) = sum {
            let written = new.insert(key, sum, 0);
            written.map_err(failed("write", name::RULE_COUNTERS))?;
        }
    }
    Ok(())
}

/// What was counted before and since, by CPU; none if nothing was counted before.
fn sum<O: Pod + Into<N>, N: Pod + PartialEq + Default>(
    before: &PerCpuValues<O>,
    since: &PerCpuValues<N>,
    add: impl Fn(&mut N, &N),
) -> Result<Option<PerCpuValues<N>>, Error> {
    let before: Vec<N> = before.iter().map(|value| (*value).into()).collect();
    if before.iter().all(|value| *value == N::default()) {
        return Ok(None);
    }
    let mut sums: Vec<N> = since.iter().copied().collect();
    for (sum, value) in sums.iter_mut().zip(&before) {
        add(sum, value);
    }
    per_cpu(sums).map(Some)
}

fn per_cpu<V: Pod>(values: Vec<V>) -> Result<PerCpuValues<V>, Error> {
    PerCpuValues::try_from(values).map_err(|source| Error::CountCpus { source })
}

fn add(sum: &mut Counter, value: &Counter) {
    sum.packets = sum.packets.saturating_add(value.packets);
    sum.bytes = sum.bytes.saturating_add(value.bytes);
    sum.last = sum.last.max(value.last);
}

fn add_port(sum: &mut PortCounters, value: &PortCounters) {
    let sums = sum.0.iter_mut().flatten();
    sums.zip(value.0.iter().flatten())
        .for_each(|(sum, value)| add(sum, value));
}
