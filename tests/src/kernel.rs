//! The kernel programs on single frames: `BPF_PROG_TEST_RUN` with real maps and no device.
//!
//! In: an image, then frames for its ports. Out: for each frame the TC action, what the program said about it, and the answer if it made one.
//!
//! 1. [`TestKernel::new`] opens a kernel on a pin directory of its own, which vanishes with the value, also by a panic.
//! 2. [`TestKernel::load`] plans and applies an image; nothing is attached, so every port gets an interface index that no device has.
//! 3. [`TestKernel::run`] puts the port's value under the index of the loopback device, the only one that exists everywhere, and runs
//!    the program as at that device.
//!
//! The rule that decided is only in events, so [`TestKernel::load`] has every rule log. The reason is what the counters say: exactly one
//! reason's counter may move, by one packet (the ledger), and an event must agree.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::TestRunResult;
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::plan::plan;
use fw_agent::datapath::{Action, AttachMode, Hook, Kernel, State};
use fw_agent::image::MapImage;
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::event::{EVENT_BYTES, Event};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{Counter, FragmentKey, FragmentValue, Port, counter, name};
use fw_common::verdict::{Direction, REASONS, Reason, Verdict};

/// Number of the next pin directory of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The loopback device.
const LOOPBACK: u32 = 1;
/// Interface indices of ports begin here: no namespace has so many devices.
const FIRST_INDEX: u32 = 1 << 20;
/// Bytes of the longest frame that a test run takes.
const LONGEST: usize = 4096;

/// `TC_ACT_UNSPEC`: go on.
pub const PASS: i32 = -1;
/// `TC_ACT_SHOT`: drop.
pub const SHOT: i32 = 2;
/// `TC_ACT_REDIRECT`: what `bpf_redirect` returns; a test run does not carry it out.
pub const REDIRECT: i32 = 7;

/// A pin directory that is removed with everything in it when dropped.
pub struct PinDirectory {
    path: PathBuf,
}

impl PinDirectory {
    /// A name of this process' own; the directory itself is made by whoever pins.
    pub fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tapwall-test-{}-{number}", std::process::id());
        Self {
            path: Path::new("/sys/fs/bpf").join(name),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pins in it.
    pub fn pins(&self) -> Pins {
        Pins::new(&self.path)
    }
}

impl Default for PinDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        if let Err(error) = self.pins().remove_all() {
            eprintln!("removing {}: {error}", self.path.display());
        }
    }
}

/// What the program did with one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The TC action.
    pub action: i32,
    /// Why, by the counters.
    pub reason: Reason,
    /// Verdict and identity of the rule, if a rule decided.
    pub rule: Option<(Verdict, u32)>,
    /// Whether an answer was due but there had been too many.
    pub limited: bool,
    /// The frame afterwards: with [`REDIRECT`] the answer.
    pub frame: Vec<u8>,
}

/// Carries out an action, but for those on devices that there are not.
pub fn apply_to_maps(kernel: &mut Kernel, action: &Action) -> Result<()> {
    match action {
        Action::Attach { .. } | Action::Detach { .. } => Ok(()),
        Action::WriteClasses { .. }
        | Action::WritePolicy { .. }
        | Action::WriteSettings(_)
        | Action::ClearCounters { .. }
        | Action::SetPort { .. }
        | Action::RemovePort { .. }
        | Action::ResizeFlows { .. }
        | Action::FetchFlows
        | Action::AwaitReaders
        | Action::RemoveClasses { .. } => Ok(kernel.apply(action)?),
    }
}

/// Programs, maps, and what was loaded into them.
pub struct TestKernel {
    kernel: Kernel,
    state: State,
    /// Interface index of each port.
    indices: BTreeMap<PortId, u32>,
    /// The value that stands for the loopback device now.
    current: Option<Port>,
    counters: PerCpuArray<MapData, Counter>,
    /// The counters as last read.
    counted: Vec<u64>,
    /// Frames went through since.
    uncounted: bool,
    events: RingBuf<MapData>,
    // Last, so that it is removed when everything that could use it is closed.
    directory: PinDirectory,
}

impl TestKernel {
    /// Loads the programs; the maps are empty.
    pub fn new() -> Result<Self> {
        let directory = PinDirectory::new();
        let mut kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel())
            .context("loading the kernel programs (this needs root and /sys/fs/bpf)")?;
        let events = kernel.take_events()?;
        let counters = directory.pins().per_cpu(name::COUNTERS)?;
        let mut made = Self {
            kernel,
            state: State::default(),
            indices: BTreeMap::new(),
            current: None,
            counters,
            counted: Vec::new(),
            uncounted: false,
            events,
            directory,
        };
        made.counted = made.read_counters()?;
        Ok(made)
    }

    /// Replaces what is loaded by these policies, with the one change that every rule logs, without limit. Flows stay.
    pub fn load(&mut self, node: &NodePolicy) -> Result<MapImage> {
        let mut node = node.clone();
        node.settings.log_interval = 0;
        for port in &mut node.ports {
            let policies = [&mut port.inbound, &mut port.outbound];
            for rule in policies.into_iter().flat_map(|policy| &mut policy.rules) {
                rule.log.get_or_insert(7);
            }
        }
        self.load_as_is(&node)
    }

    /// Replaces what is loaded by these policies as they are. Flows stay.
    pub fn load_as_is(&mut self, node: &NodePolicy) -> Result<MapImage> {
        let image = MapImage::build(node);
        let ports = image.ports.iter().zip(FIRST_INDEX..);
        let devices = ports
            .clone()
            .map(|((_, port), index)| (port.device.clone(), index))
            .collect();
        self.indices = ports.map(|((id, _), index)| (*id, index)).collect();
        let plan = plan(&mut self.state, &image, &devices, |_| false);
        ensure!(plan.no_room.is_empty(), "no room for {:?}", plan.no_room);
        for action in &plan.actions {
            apply_to_maps(&mut self.kernel, action)?;
        }
        Ok(image)
    }

    /// Runs the program of a direction on a frame of a port.
    pub fn run(&mut self, port: PortId, direction: Direction, frame: &[u8]) -> Result<Run> {
        while self.events.next().is_some() {}
        if std::mem::take(&mut self.uncounted) {
            self.counted = self.read_counters()?;
        }
        let mut answer = vec![0; LONGEST];
        let result = self.test_run(port, direction, frame, &mut answer)?;
        answer.truncate(result.data_size_out as usize);
        let (reason, limited) = self.settle()?;
        let rule = self.take_event(reason)?;
        Ok(Run {
            action: result.return_value.cast_signed(),
            reason,
            rule,
            limited,
            frame: answer,
        })
    }

    /// Runs the program like [`TestKernel::run`] and tells only the TC action: ten times as fast.
    pub fn act(&mut self, port: PortId, direction: Direction, frame: &[u8]) -> Result<i32> {
        self.uncounted = true;
        let mut answer = [0; LONGEST];
        let result = self.test_run(port, direction, frame, &mut answer)?;
        Ok(result.return_value.cast_signed())
    }

    fn test_run(
        &mut self,
        port: PortId,
        direction: Direction,
        frame: &[u8],
        answer: &mut [u8],
    ) -> Result<TestRunResult> {
        let index = self.indices.get(&port).context("no such port")?;
        let value = *self.state.ports.get(index).context("the port is closed")?;
        if self.current != Some(value) {
            self.kernel.apply(&Action::SetPort {
                ifindex: LOOPBACK,
                device: "lo".to_owned(),
                port: value,
            })?;
            self.current = Some(value);
        }
        let hook = match direction {
            Direction::In => Hook::Egress,
            Direction::Out => Hook::Ingress,
        };
        Ok(self.kernel.test_run(hook, LOOPBACK, frame, answer)?)
    }

    /// The ledger: which reason one packet was counted under since the last call, and whether an answer was held back.
    fn settle(&mut self) -> Result<(Reason, bool)> {
        let now = self.read_counters()?;
        let moved: Vec<(usize, u64)> = now
            .iter()
            .zip(&self.counted)
            .enumerate()
            .map(|(entry, (now, before))| (entry, now - before))
            .filter(|(_, by)| *by > 0)
            .collect();
        self.counted = now;
        let limited = counter::REJECTS_LIMITED as usize;
        let (entry, held_back) = match moved[..] {
            [(entry, 1)] => (entry, false),
            [(entry, 1), (other, 1)] if other == limited => (entry, true),
            _ => bail!("one frame moved these counters: {moved:?}"),
        };
        ensure!(entry < REASONS, "one frame moved counter {entry} alone");
        let reason = Reason::from_u8(entry as u8).context("a counter without a reason")?;
        Ok((reason, held_back))
    }

    fn read_counters(&self) -> Result<Vec<u64>> {
        (0..counter::ENTRIES)
            .map(|entry| {
                let values = self.counters.get(&entry, 0).context("reading a counter")?;
                Ok(values.iter().map(|value| value.packets).sum())
            })
            .collect()
    }

    /// Verdict and rule of the only event, if there is one.
    fn take_event(&mut self, reason: Reason) -> Result<Option<(Verdict, u32)>> {
        let Some(event) = self.events.next() else {
            return Ok(None);
        };
        let bytes: &[u8; EVENT_BYTES] = event[..].try_into().context("an event's size")?;
        let at = offset_of!(Event, rule);
        let mut rule = [0; 4];
        rule.copy_from_slice(&bytes[at..at + 4]);
        let verdict = Verdict::from_u8(bytes[offset_of!(Event, verdict)]);
        let said = bytes[offset_of!(Event, reason)];
        drop(event);
        ensure!(
            said == reason as u8,
            "the event says {said}, the counters {reason:?}"
        );
        ensure!(self.events.next().is_none(), "two events for one frame");
        Ok(Some((verdict, u32::from_ne_bytes(rule))))
    }

    /// The pinned maps.
    pub fn pins(&self) -> Pins {
        self.directory.pins()
    }

    /// The port's value in the kernel.
    pub fn port(&self, port: PortId) -> Option<Port> {
        self.state.ports.get(self.indices.get(&port)?).copied()
    }

    /// Suppressed packets that the events since the last call tell of, one number per event.
    pub fn take_suppressed(&mut self) -> Result<Vec<u64>> {
        let mut found = Vec::new();
        while let Some(event) = self.events.next() {
            let bytes: &[u8; EVENT_BYTES] = event[..].try_into().context("an event's size")?;
            let at = offset_of!(Event, suppressed);
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            found.push(u64::from_ne_bytes(number));
        }
        Ok(found)
    }

    /// Forgets all flows and fragments.
    pub fn forget_flows(&self) -> Result<()> {
        let pins = self.directory.pins();
        clear::<FlowKey, Flow>(&mut pins.hash(name::FLOWS)?)?;
        clear::<FlowKey, Flow>(&mut pins.hash(name::HALF_OPEN)?)?;
        clear::<FragmentKey, FragmentValue>(&mut pins.hash(name::FRAGMENTS)?)
    }

    /// All flows: those that both ends have taken part in, and the half-open ones.
    pub fn flows(&self) -> Result<[Vec<(FlowKey, Flow)>; 2]> {
        let pins = self.directory.pins();
        let read = |table| {
            let table: Table<FlowKey, Flow> = pins.hash(table)?;
            let flows: Result<Vec<(FlowKey, Flow)>, _> = table.iter().collect();
            flows.context("reading a table")
        };
        Ok([read(name::FLOWS)?, read(name::HALF_OPEN)?])
    }

    /// Lets time pass for all flows and fragments: they were last seen so much earlier.
    pub fn advance(&self, nanoseconds: u64) -> Result<()> {
        let pins = self.directory.pins();
        for table in [name::FLOWS, name::HALF_OPEN] {
            change::<FlowKey, Flow>(&mut pins.hash(table)?, |flow| {
                flow.seen = flow.seen.saturating_sub(nanoseconds);
            })?;
        }
        change::<FragmentKey, FragmentValue>(&mut pins.hash(name::FRAGMENTS)?, |first| {
            first.seen = first.seen.saturating_sub(nanoseconds);
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
