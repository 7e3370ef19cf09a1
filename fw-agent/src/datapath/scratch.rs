//! The programs in force, run on single frames without changing anything: on scratch copies of what they change.
//!
//! In: pins, and the flows that a frame may belong to. Out: what a program did with a frame, and what it would have changed.
//!
//! 1. The object is loaded a second time. What programs only read (ports, policies, classes, bans, settings, addresses) are the pinned maps themselves;
//!    what they write (flows, fragments, counters, limits, events) are new small maps that go with this process. 2. The flows are copied there, and
//!    the buckets of the source's connection requests. 3. A frame runs through a program by `BPF_PROG_TEST_RUN`, in which nothing is sent.
//!    4. What moved in the scratch maps says what the program decided and would have kept.
//!
//! That the second copy is what runs on the devices is asked of the kernel: the tag of a program is a checksum of its instructions in which maps do
//! not count ([`Scratch::is_in_force`]).
//!
//! Invariant: no pinned map is written, and none is made: all that are read must be there.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuHashMap};
use aya::programs::{TestRun, TestRunOptions, loaded_programs};
use aya::{Ebpf, EbpfLoader};
use fw_common::flow::{Flow, FlowKey};
use fw_common::limit::Bucket;
use fw_common::maps::{Counter, Port, PortKey, RuleKey, name};
use fw_common::verdict::{Reason, Verdict};
use fw_common::wire::Address;

use super::attach::{self, Hook, Role};
use super::batch::Batch;
use super::flows::Entry;
use super::half_open::HalfOpen;
use super::kernel::{data, failed};
use super::pins::Pins;
use super::{Error, OBJECT, TestPlace};

/// Maps that programs read and never write.
const READ: [&str; 9] = [
    name::PORTS,
    name::ARENA,
    name::CLASSES_V4,
    name::CLASSES_V6,
    name::BANS,
    name::HAS_BANS,
    name::SETTINGS,
    name::STATIONS,
    name::LOCALS,
];

/// Entries of the scratch maps that only have to be there. The ring buffer has a page.
const SMALL: [(&str, u32); 7] = [
    (name::FLOW_USAGE, 64),
    (name::FRAGMENTS, 64),
    (name::PORT_COUNTERS, 1),
    (name::RULE_COUNTERS, 64),
    (name::LOG_LIMITS, 64),
    (name::SYN_LIMITS, 1024),
    (name::EVENTS, 4096),
];

/// Entries of the scratch table of flows beyond those that are copied.
const ROOM: u32 = 1024;

/// The programs on scratch maps.
pub struct Scratch {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, Counter>,
    rules: PerCpuHashMap<MapData, RuleKey, Counter>,
    half_open: HalfOpen,
    /// Stays open until programs that refer to it are loaded.
    _ring: MapData,
    flows: HashMap<MapData, FlowKey, Flow>,
    usage: HashMap<MapData, PortKey, u64>,
    syn_limits: HashMap<MapData, Address, Bucket>,
    /// Number of the map of ports.
    ports: u32,
    loaded: BTreeSet<&'static str>,
}

/// What a program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Option<Reason>,
    /// The rule that decided.
    pub rule: Option<RuleKey>,
    /// A flow that would have begun.
    pub begun: Option<FlowKey>,
}

impl Scratch {
    /// Loads the programs beside those in force, with copies of these flows.
    ///
    /// # Errors
    /// The kernel refuses something, or a pinned map is missing.
    pub fn open(pins: &Pins, flows: &[Entry], source: &Address) -> Result<Self, Error> {
        let mut loader = EbpfLoader::new();
        for map in READ {
            MapInfo::from_pin(pins.map(map)).map_err(failed("open", map))?;
            loader.map_pin_path(map, pins.map(map));
        }
        for (map, entries) in SMALL {
            loader.map_max_entries(map, entries);
        }
        let count = u32::try_from(flows.len()).unwrap_or(u32::MAX);
        loader.map_max_entries(name::FLOWS, count.saturating_add(ROOM));
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|source| Error::Load { source })?;
        let ring = data(&mut ebpf, name::HALF_OPEN)?;
        let mut scratch = Self {
            counters: taken(&mut ebpf, name::COUNTERS)?,
            rules: taken(&mut ebpf, name::RULE_COUNTERS)?,
            half_open: HalfOpen::of(&ring)?,
            _ring: ring,
            flows: taken(&mut ebpf, name::FLOWS)?,
            // Maps stay open, filled or not: programs are loaded later.
            usage: taken(&mut ebpf, name::FLOW_USAGE)?,
            syn_limits: taken(&mut ebpf, name::SYN_LIMITS)?,
            ports: MapInfo::from_pin(pins.map(name::PORTS))
                .map_err(failed("open", name::PORTS))?
                .id(),
            loaded: BTreeSet::new(),
            ebpf,
        };
        scratch.fill(pins, flows, source)?;
        Ok(scratch)
    }

    fn fill(&mut self, pins: &Pins, flows: &[Entry], source: &Address) -> Result<(), Error> {
        let mut ports = BTreeSet::new();
        for entry in flows {
            ports.insert(PortKey::of_flow(&entry.key));
            if entry.settled {
                let written = self.flows.insert(entry.key, entry.flow, 0);
                written.map_err(failed("write", name::FLOWS))?;
            } else {
                // Nobody else uses this ring, so that there is a place.
                self.half_open.insert(&entry.key, &entry.flow);
            }
        }
        let usage = pins.hash::<PortKey, u64>(name::FLOW_USAGE)?;
        for port in ports {
            if let Ok(used) = usage.get(&port, 0) {
                self.usage
                    .insert(port, used, 0)
                    .map_err(failed("write", name::FLOW_USAGE))?;
            }
        }
        let buckets = pins.hash::<Address, Bucket>(name::SYN_LIMITS)?;
        for entry in buckets.iter() {
            let (of, bucket) = entry.map_err(failed("read", name::SYN_LIMITS))?;
            // IPv4 by the whole address, IPv6 by its first half.
            if of == *source || of.0[..2] == source.0[..2] && of.0[2..] == [0, 0] {
                self.syn_limits
                    .insert(of, bucket, 0)
                    .map_err(failed("write", name::SYN_LIMITS))?;
            }
        }
        Ok(())
    }

    /// Whether the program of a hook, as it is here, is what runs on the node's devices; none if none runs there.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn is_in_force(&mut self, role: Role, hook: Hook) -> Result<Option<bool>, Error> {
        /// Bytes of a program's name that the kernel keeps (`BPF_OBJ_NAME_LEN` less its zero).
        const NAME: usize = 15;
        self.load(role, hook)?;
        let program = hook.program(role);
        let refused = |source| Error::Program { program, source };
        let own = attach::classifier(&mut self.ebpf, role, hook)?
            .info()
            .map_err(refused)?;
        let kept = &program[..program.len().min(NAME)];
        let mut found = None;
        for other in loaded_programs() {
            // One that went meanwhile is no other.
            let Ok(other) = other else { continue };
            if other.id() == own.id() || other.name_as_str() != Some(kept) {
                continue;
            }
            let Ok(Some(maps)) = other.map_ids() else {
                continue;
            };
            // Another `fwctl` may be asking too: its counters are not the pinned ones.
            if maps.contains(&self.ports) {
                let same = other.tag() == own.tag();
                found = Some(found.unwrap_or(false) || same);
            }
        }
        Ok(found)
    }

    fn load(&mut self, role: Role, hook: Hook) -> Result<(), Error> {
        let program = hook.program(role);
        if self.loaded.insert(program) {
            let loaded = attach::classifier(&mut self.ebpf, role, hook)?.load();
            loaded.map_err(|source| Error::Program { program, source })?;
        }
        Ok(())
    }

    /// Runs a frame through the program of a hook.
    ///
    /// # Errors
    /// The kernel refuses the frame, or a map.
    pub fn run(
        &mut self,
        role: Role,
        hook: Hook,
        at: TestPlace,
        frame: &[u8],
    ) -> Result<Seen, Error> {
        self.load(role, hook)?;
        let before = self.tally()?;
        let context = at.context();
        // A reply is longer than what it answers by an Ethernet and an IP header at the most.
        let mut answer = vec![0; frame.len() + 128];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut answer),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let program = hook.program(role);
        let result = attach::classifier(&mut self.ebpf, role, hook)?.test_run(options);
        let result = result.map_err(|source| Error::Program { program, source })?;
        let after = self.tally()?;
        let rule = after
            .rules
            .iter()
            .find(|(key, packets)| before.rules.get(key).copied().unwrap_or(0) < **packets);
        let reason = Reason::ALL.iter().find(|reason| {
            let count = |tally: &Tally| tally.reasons.get(reason).copied().unwrap_or(0);
            count(&after) > count(&before)
        });
        Ok(Seen {
            verdict: verdict(result.return_value),
            reason: reason.copied(),
            rule: rule.map(|(key, _)| *key),
            begun: after
                .half_open
                .difference(&before.half_open)
                .next()
                .copied(),
        })
    }

    fn tally(&self) -> Result<Tally, Error> {
        let mut tally = Tally::default();
        for reason in Reason::ALL {
            let values = self.counters.get(&(*reason as u32), 0);
            let values = values.map_err(failed("read", name::COUNTERS))?;
            tally
                .reasons
                .insert(*reason, Counter::sum(values.iter()).packets);
        }
        for entry in self.rules.iter() {
            let (key, values) = entry.map_err(failed("read", name::RULE_COUNTERS))?;
            tally.rules.insert(key, Counter::sum(values.iter()).packets);
        }
        self.half_open.visit(|key, _| {
            tally.half_open.insert(*key);
        });
        Ok(tally)
    }

    /// Whether a flow is among those that the programs see.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Entry>, Error> {
        let settled = Batch::of(&self.flows, name::FLOWS)?.get(key)?;
        let (flow, settled) = match settled {
            Some(flow) => (Some(flow), true),
            None => (self.half_open.get(key), false),
        };
        Ok(flow.map(|flow| Entry {
            key: *key,
            flow,
            settled,
        }))
    }
}

/// What the scratch maps hold.
#[derive(Default)]
struct Tally {
    reasons: BTreeMap<Reason, u64>,
    rules: BTreeMap<RuleKey, u64>,
    half_open: HashSet<FlowKey>,
}

/// The verdict that a program's action carries out.
fn verdict(action: u32) -> Verdict {
    /// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT` of the kernel's `pkt_cls.h`.
    const UNSPEC: i32 = -1;
    const REDIRECT: i32 = 7;
    match action.cast_signed() {
        UNSPEC => Verdict::Accept,
        REDIRECT => Verdict::Reject,
        _ => Verdict::Drop,
    }
}

/// The port of each interface index in the kernel.
///
/// # Errors
/// The map cannot be read.
pub fn ports(pins: &Pins) -> Result<Vec<(u32, Port)>, Error> {
    let map = pins.hash::<u32, Port>(name::PORTS)?;
    let ports = map.iter().collect::<Result<Vec<_>, MapError>>();
    ports.map_err(failed("read", name::PORTS))
}

/// The host's own addresses.
///
/// # Errors
/// The map cannot be read.
pub fn locals(pins: &Pins) -> Result<Vec<Address>, Error> {
    let map = pins.hash::<Address, u32>(name::LOCALS)?;
    let keys = map.keys().collect::<Result<Vec<_>, MapError>>();
    keys.map_err(failed("read", name::LOCALS))
}

/// The settings in force.
///
/// # Errors
/// The map cannot be read.
pub fn settings(pins: &Pins) -> Result<fw_common::maps::Settings, Error> {
    let map: Array<MapData, _> = pins.array(name::SETTINGS)?;
    map.get(&0, 0).map_err(failed("read", name::SETTINGS))
}

fn taken<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    T::try_from(map).map_err(failed("open", name))
}
