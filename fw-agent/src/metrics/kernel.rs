//! What the kernel has counted and how full its maps are.
//!
//! Each part is read by itself: one that cannot be read is left out, and the others are told.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{IterableMap, MapInfo};
use fw_common::ban::Ban;
use fw_common::conntrack::State;
use fw_common::half_open;
use fw_common::ledger::LogLimit;
use fw_common::limit::Bucket;
use fw_common::maps::classes::{NO_PREFILTER, PREFILTER_WORDS};
use fw_common::maps::{
    ANY_VLAN, BanKey, ClassKeyV4, ClassKeyV6, Counter, FragmentKey, FragmentValue, NO_VLAN, Port,
    PortKey, RuleKey, Station, VLAN_WORDS, counter, name,
};
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::Address;
use prometheus::{GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

use super::Error;
use crate::datapath::batch::Batch;
use crate::datapath::pins::Pins;
use crate::datapath::{counters, flows};

/// Why a part is not told.
type Cause = Box<dyn std::error::Error>;

/// Puts everything into the registry; answers how many parts could not be read. `counted`: entries of maps that do not change between two
/// generations, as far as they are known.
pub(super) fn gather(
    registry: &Registry,
    pins: &Pins,
    rules: usize,
    counted: &mut BTreeMap<&'static str, u64>,
) -> Result<u32, Error> {
    let fill = Fill::new(registry)?;
    let parts: [(&str, Result<(), Cause>); 6] = [
        ("ports", ports(registry, pins)),
        ("reasons", reasons(registry, pins)),
        ("rules", top_rules(registry, pins, rules)),
        ("flows", flows(registry, pins, &fill)),
        ("maps", maps(pins, &fill)),
        ("policies", policies(pins, &fill, counted)),
    ];
    let mut errors = 0;
    for (part, result) in parts {
        if let Err(error) = result {
            tracing::debug!(part, %error, "cannot read what monitoring asks for");
            errors += 1;
        }
    }
    Ok(errors)
}

fn family(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    let family = IntCounterVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// A value of a label: these are in lower case, as in the log's JSON lines.
fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

/// Verdicts by port.
fn ports(registry: &Registry, pins: &Pins) -> Result<(), Cause> {
    let labels = ["guest", "nic", "direction", "verdict"];
    let help = "Packets of guests' NICs and the host (guest 0), by verdict.";
    let packets = family(registry, "packets_total", help, &labels)?;
    let help = "Bytes of these packets.";
    let bytes = family(registry, "bytes_total", help, &labels)?;
    for (port, counted) in counters::ports(pins)? {
        let (vmid, net) = (port.vmid.to_string(), format!("net{}", port.net));
        for direction in [Direction::In, Direction::Out] {
            for verdict in [Verdict::Accept, Verdict::Drop, Verdict::Reject] {
                let sum = counted.0[direction as usize][verdict as usize];
                let labels = [
                    &vmid,
                    &net,
                    &lower(direction.name()),
                    &lower(verdict.name()),
                ];
                packets.with_label_values(&labels).inc_by(sum.packets);
                bytes.with_label_values(&labels).inc_by(sum.bytes);
            }
        }
    }
    Ok(())
}

/// Counters of the node.
fn reasons(registry: &Registry, pins: &Pins) -> Result<(), Cause> {
    let map = pins.per_cpu::<Counter>(name::COUNTERS)?;
    let help = "Packets by the reason of their verdict.";
    let packets = family(registry, "reason_packets_total", help, &["reason"])?;
    let help = "Bytes of these packets.";
    let bytes = family(registry, "reason_bytes_total", help, &["reason"])?;
    for reason in Reason::ALL {
        let sum = Counter::sum(map.get(&u32::from(*reason as u8), 0)?.iter());
        packets
            .with_label_values(&[reason.name()])
            .inc_by(sum.packets);
        bytes.with_label_values(&[reason.name()]).inc_by(sum.bytes);
    }
    for (index, name, help) in [
        (
            counter::LOST_EVENTS,
            "lost_events_total",
            "Log events that found no room on their way to the agent.",
        ),
        (
            counter::LOGS_LIMITED,
            "suppressed_log_lines_total",
            "Log lines beyond their rule's limit.",
        ),
        (
            counter::FLOWS_REFUSED,
            "refused_flows_total",
            "Times that a flow found no room in its table.",
        ),
        (
            counter::FLOWS_OVER_QUOTA,
            "over_quota_flows_total",
            "Times that a port had as many flows as it may have.",
        ),
        (
            counter::REJECTS_LIMITED,
            "limited_rejects_total",
            "REJECT answers not sent because there were too many.",
        ),
        (
            counter::RULES_UNCOUNTED,
            "uncounted_packets_total",
            "Packets for whose rule's counter there was no room.",
        ),
        (
            counter::EARLY_DROPS,
            "early_dropped_packets_total",
            "Packets dropped at a network card.",
        ),
    ] {
        let counter = IntCounter::new(name, help)?;
        counter.inc_by(Counter::sum(map.get(&index, 0)?.iter()).packets);
        registry.register(Box::new(counter))?;
    }
    Ok(())
}

/// The rules with the most packets.
fn top_rules(registry: &Registry, pins: &Pins, count: usize) -> Result<(), Cause> {
    if count == 0 {
        return Ok(());
    }
    let mut found: Vec<(u64, RuleKey)> = counters::rules(pins)?
        .into_iter()
        .map(|(key, sum)| (sum.packets, key))
        .collect();
    found.sort_unstable_by(|a, b| b.cmp(a));
    found.truncate(count);
    let labels = ["guest", "nic", "direction", "rule"];
    let help = "Packets that a rule decided; the rules with the most.";
    let packets = family(registry, "rule_packets_total", help, &labels)?;
    for (sum, key) in found {
        let (guest, nic) = (key.vmid.to_string(), format!("net{}", key.net));
        let rule = format!("{:08x}", key.rule);
        let direction = lower(Direction::from_u8(key.direction).name());
        packets
            .with_label_values(&[&guest, &nic, &direction, &rule])
            .inc_by(sum);
    }
    Ok(())
}

/// Flows by table and state.
fn flows(registry: &Registry, pins: &Pins, fill: &Fill) -> Result<(), Cause> {
    let help = "Flows that are remembered, by table and state; those that have expired for some seconds too.";
    let family = GaugeVec::new(Opts::new("flows", help), &["table", "state"])?;
    registry.register(Box::new(family.clone()))?;
    let mut states: BTreeMap<(bool, &str), u64> = BTreeMap::new();
    flows::visit(pins, |entry| {
        let state = State::from_u32(entry.flow.state).name();
        *states.entry((entry.settled, state)).or_default() += 1;
    })?;
    let mut sums = [0; 2];
    for ((settled, state), count) in states {
        let table = if settled { "established" } else { "half-open" };
        let labels = [table, &lower(state)];
        family.with_label_values(&labels).set(count as f64);
        sums[usize::from(settled)] += count;
    }
    fill.set(pins, name::FLOWS, sums[1])?;
    fill.set_of(name::HALF_OPEN, sums[0], half_open::ENTRIES);
    Ok(())
}

/// How full maps are.
struct Fill {
    entries: GaugeVec,
    room: GaugeVec,
}

impl Fill {
    fn new(registry: &Registry) -> Result<Self, Error> {
        let help = "Entries of a map.";
        let entries = GaugeVec::new(Opts::new("map_entries", help), &["map"])?;
        let help = "Entries that a map has room for.";
        let room = GaugeVec::new(Opts::new("map_max_entries", help), &["map"])?;
        registry.register(Box::new(entries.clone()))?;
        registry.register(Box::new(room.clone()))?;
        Ok(Self { entries, room })
    }

    fn set(&self, pins: &Pins, map: &'static str, entries: u64) -> Result<(), Cause> {
        let info = MapInfo::from_pin(pins.map(map))?;
        self.set_of(map, entries, info.max_entries());
        Ok(())
    }

    fn set_of(&self, map: &'static str, entries: u64, room: u32) {
        self.entries.with_label_values(&[map]).set(entries as f64);
        let room = f64::from(room);
        self.room.with_label_values(&[map]).set(room);
    }

    fn count<K: Pod, V: Pod>(
        &self,
        pins: &Pins,
        map: &'static str,
        opened: &impl IterableMap<K, V>,
    ) -> Result<(), Cause> {
        self.set(pins, map, count(opened, map)?)
    }
}

fn count<K: Pod, V: Pod>(map: &impl IterableMap<K, V>, name: &'static str) -> Result<u64, Cause> {
    let mut count = 0;
    Batch::of(map, name)?.visit(|keys, _| {
        count += keys.len() as u64;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

/// Maps that may fill and that change with the traffic or by other hands.
fn maps(pins: &Pins, fill: &Fill) -> Result<(), Cause> {
    fill.count(pins, name::PORTS, &pins.hash::<u32, Port>(name::PORTS)?)?;
    fill.count(
        pins,
        name::STATIONS,
        &pins.hash::<u64, Station>(name::STATIONS)?,
    )?;
    fill.count(
        pins,
        name::LOCALS,
        &pins.hash::<Address, u32>(name::LOCALS)?,
    )?;
    fill.count(
        pins,
        name::FLOW_USAGE,
        &pins.hash::<PortKey, u64>(name::FLOW_USAGE)?,
    )?;
    let fragments = pins.hash::<FragmentKey, FragmentValue>(name::FRAGMENTS)?;
    fill.count(pins, name::FRAGMENTS, &fragments)?;
    let limits = pins.hash::<RuleKey, LogLimit>(name::LOG_LIMITS)?;
    fill.count(pins, name::LOG_LIMITS, &limits)?;
    let limits = pins.hash::<Address, Bucket>(name::SYN_LIMITS)?;
    fill.count(pins, name::SYN_LIMITS, &limits)?;
    fill.count(pins, name::BANS, &pins.trie::<BanKey, Ban>(name::BANS)?)?;
    let mut rules = 0;
    let counters = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    for key in counters.keys() {
        key?;
        rules += 1;
    }
    fill.set(pins, name::RULE_COUNTERS, rules)
}

/// Maps that hold the policies: they change with the generation only, and may be large.
fn policies(
    pins: &Pins,
    fill: &Fill,
    counted: &mut BTreeMap<&'static str, u64>,
) -> Result<(), Cause> {
    if counted.is_empty() {
        let classes = pins.trie::<ClassKeyV4, u32>(name::CLASSES_V4)?;
        let v4 = count::<Key<ClassKeyV4>, u32>(&classes, name::CLASSES_V4)?;
        let classes = pins.trie::<ClassKeyV6, u32>(name::CLASSES_V6)?;
        let v6 = count::<Key<ClassKeyV6>, u32>(&classes, name::CLASSES_V6)?;
        let arena = arena(pins)?;
        counted.extend([
            (name::CLASSES_V4, v4),
            (name::CLASSES_V6, v6),
            (name::ARENA, arena),
        ]);
    }
    for (map, entries) in counted {
        fill.set(pins, map, *entries)?;
    }
    Ok(())
}

/// Words of the arena that ports use.
fn arena(pins: &Pins) -> Result<u64, Cause> {
    let mut policies = BTreeSet::new();
    let (mut vlans, mut prefilters) = (BTreeSet::new(), BTreeSet::new());
    for entry in pins.hash::<u32, Port>(name::PORTS)?.iter() {
        let (_, port) = entry?;
        policies.extend(port.policy);
        policies.insert(port.guard);
        vlans.insert(port.vlans);
        prefilters.extend(port.prefilter);
    }
    policies.remove(&0);
    let of = |places: BTreeSet<u32>, none: [u32; 2]| {
        places.iter().filter(|place| !none.contains(place)).count() as u64
    };
    let words = pins.words()?;
    let mut used = of(vlans, [NO_VLAN, ANY_VLAN]) * u64::from(VLAN_WORDS)
        + of(prefilters, [0, NO_PREFILTER]) * u64::from(PREFILTER_WORDS);
    for start in policies {
        // The lower half of a policy's first word is its length.
        used += words.get(start)? & u64::from(u32::MAX);
    }
    Ok(used)
}
