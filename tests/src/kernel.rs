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

mod flows;

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::TestRunResult;
use fw_agent::datapath::flow_filter::FlowFilter;
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::plan::{Edge, Present, next_image, plan_node, plan_uplinks};
use fw_agent::datapath::{Action, AttachMode, Bans, Hook, Kernel, Role, State, TestPlace};
use fw_agent::image::{Builder, MapImage};
use fw_agent::policy::{NodePolicy, PortId};
use fw_common::event::{EVENT_BYTES, Event, FLOW_EVENT_BYTES, FlowEvent};
use fw_common::maps::{Counter, Port, counter, name};
use fw_common::verdict::{Direction, REASONS, Reason, Verdict};

pub use self::flows::fill_flows;

/// Number of the next pin directory of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The loopback device.
const LOOPBACK: u32 = 1;
/// Interface indices of ports begin here: no namespace has so many devices.
const FIRST_INDEX: u32 = 1 << 20;
/// Bytes of the longest frame that a test run takes.
const LONGEST: usize = 4096;
/// `XDP_DROP`.
const XDP_DROP: u32 = 1;
/// `XDP_PASS`.
const XDP_PASS: u32 = 2;

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
    /// Whether a flow found no room.
    pub refused: bool,
    /// The frame afterwards: with [`REDIRECT`] the answer.
    pub frame: Vec<u8>,
}

/// Carries out an action, but for those on devices that there are not.
pub fn apply_to_maps(kernel: &mut Kernel, action: &Action) -> Result<()> {
    match action {
        Action::Attach { .. }
        | Action::Detach { .. }
        | Action::AttachUplink { .. }
        | Action::DetachUplink { .. } => Ok(()),
        Action::WriteClasses { .. }
        | Action::WritePolicy { .. }
        | Action::WriteSettings(_)
        | Action::ClearCounters { .. }
        | Action::SetPort { .. }
        | Action::AddLocals(_)
        | Action::RemoveLocals(_)
        | Action::RemovePort { .. }
        | Action::ResizeFlows { .. }
        | Action::FetchFlows
        | Action::SetStation { .. }
        | Action::RemoveStation { .. }
        | Action::AwaitReaders
        | Action::WriteEntries { .. }
        | Action::AddBits { .. }
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
    builder: Builder,
    counters: PerCpuArray<MapData, Counter>,
    /// The counters as last read.
    counted: Vec<u64>,
    /// Frames went through since.
    uncounted: bool,
    events: RingBuf<MapData>,
    told: Vec<FlowEvent>,
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
        // Nobody sweeps here: from the beginning, when there are no flows, the programs ask the filter.
        FlowFilter::open(&directory.pins())?.rebuild()?.finish();
        let mut made = Self {
            kernel,
            state: State::default(),
            indices: BTreeMap::new(),
            current: None,
            builder: Builder::default(),
            counters,
            counted: Vec::new(),
            uncounted: false,
            events,
            told: Vec::new(),
            directory,
        };
        made.counted = made.read_counters()?;
        Ok(made)
    }

    /// Replaces what is loaded by these policies, with the one change that every rule logs, without limit. Flows stay.
    pub fn load(&mut self, node: &NodePolicy) -> Result<MapImage> {
        self.load_with(node, &Present::default())
    }

    /// Likewise, with interfaces and addresses of the host. They are those of this network namespace.
    pub fn load_with(&mut self, node: &NodePolicy, host: &Present) -> Result<MapImage> {
        let mut node = node.clone();
        if let Some(host) = &mut node.host {
            let policies = [&mut host.inbound, &mut host.outbound];
            for rule in policies.into_iter().flat_map(|policy| &mut policy.rules) {
                rule.log.get_or_insert(7);
            }
        }
        node.settings.log_interval = 0;
        for port in &mut node.ports {
            let port = Arc::make_mut(port);
            let policies = [&mut port.inbound, &mut port.outbound];
            let policies = policies.into_iter().chain(&mut port.guard);
            for rule in policies.flat_map(|policy| &mut policy.rules) {
                rule.log.get_or_insert(7);
            }
        }
        self.place(&node, host)
    }

    /// Replaces what is loaded by these policies as they are. Flows stay.
    pub fn load_as_is(&mut self, node: &NodePolicy) -> Result<MapImage> {
        self.place(node, &Present::default())
    }

    fn place(&mut self, node: &NodePolicy, host: &Present) -> Result<MapImage> {
        let ports = node.ports.iter().zip(FIRST_INDEX..);
        let mut present = host.clone();
        let guests = ports.clone();
        present
            .devices
            .extend(guests.map(|(port, index)| (port.device(), index)));
        self.indices = ports.map(|(port, index)| (port.port, index)).collect();
        let image = next_image(&mut self.builder, &self.state, node, &present);
        let plan = plan_node(&mut self.state, &image, &present, |_| false);
        ensure!(plan.no_room.is_empty(), "no room for {:?}", plan.no_room);
        let uplinks = plan_uplinks(&mut self.state, &Edge::default());
        for action in plan.actions.iter().chain(&uplinks.actions) {
            apply_to_maps(&mut self.kernel, action)?;
        }
        Ok(image)
    }

    /// As an agent that is started again: forgets what was loaded and reads it back.
    pub fn restart(&mut self) -> Result<()> {
        let node = std::mem::take(&mut self.state.attached);
        self.state = self.kernel.recover(&node)?;
        self.state.attached = node;
        self.builder = Builder::default();
        Ok(())
    }

    /// Has the ports that are loaded from now on judge flows of an older epoch again.
    pub fn reevaluate(&mut self) {
        self.builder = Builder::new(true);
    }

    /// The interface index that stands for a port.
    pub fn index_of(&self, port: PortId) -> Option<u32> {
        self.indices.get(&port).copied()
    }

    /// Runs the program of a direction on a frame of a port that this host made.
    pub fn run(&mut self, port: PortId, direction: Direction, frame: &[u8]) -> Result<Run> {
        self.run_from(port, direction, frame, 0)
    }

    /// Likewise, on a frame that came into the host by an interface.
    pub fn run_from(
        &mut self,
        port: PortId,
        direction: Direction,
        frame: &[u8],
        came_from: u32,
    ) -> Result<Run> {
        self.observe(|kernel, answer| kernel.test_run(port, direction, frame, came_from, answer))
    }

    /// Runs a program and looks at everything it told.
    fn observe(
        &mut self,
        run: impl FnOnce(&mut Self, &mut [u8]) -> Result<TestRunResult>,
    ) -> Result<Run> {
        while self.events.next().is_some() {}
        if std::mem::take(&mut self.uncounted) {
            self.counted = self.read_counters()?;
        }
        let mut answer = vec![0; LONGEST];
        let result = run(self, &mut answer)?;
        answer.truncate(result.data_size_out as usize);
        let Settled {
            reason,
            limited,
            refused,
        } = self.settle()?;
        let rule = self.take_event(reason)?;
        Ok(Run {
            action: result.return_value.cast_signed(),
            reason,
            rule,
            limited,
            refused,
            frame: answer,
        })
    }

    /// Runs the program like [`TestKernel::run`] and tells only the TC action: ten times as fast.
    pub fn act(&mut self, port: PortId, direction: Direction, frame: &[u8]) -> Result<i32> {
        self.uncounted = true;
        let mut answer = [0; LONGEST];
        let result = self.test_run(port, direction, frame, 0, &mut answer)?;
        Ok(result.return_value.cast_signed())
    }

    fn test_run(
        &mut self,
        port: PortId,
        direction: Direction,
        frame: &[u8],
        came_from: u32,
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
        let at = TestPlace {
            ifindex: LOOPBACK,
            ingress_ifindex: came_from,
            ..TestPlace::default()
        };
        let kernel = &mut self.kernel;
        Ok(kernel.test_run_at(Role::Guest, hook, at, frame, answer)?)
    }

    /// Runs the program of a direction on a frame at an interface of the host.
    pub fn run_host(&mut self, direction: Direction, at: TestPlace, frame: &[u8]) -> Result<Run> {
        let hook = match direction {
            Direction::In => Hook::Ingress,
            Direction::Out => Hook::Egress,
        };
        self.observe(|kernel, answer| {
            Ok(kernel
                .kernel
                .test_run_at(Role::Host, hook, at, frame, answer)?)
        })
    }

    /// Runs the XDP program on a frame: why it drops it, or nothing. By the ledger it counts a drop twice, and nothing else.
    pub fn run_uplink(&mut self, frame: &[u8]) -> Result<Option<Reason>> {
        let action = self.kernel.test_run_uplink(frame)?.return_value;
        let now = self.read_counters()?;
        let moved: Vec<(usize, u64)> = now
            .iter()
            .zip(&self.counted)
            .enumerate()
            .map(|(entry, (now, before))| (entry, now - before))
            .filter(|(_, by)| *by > 0)
            .collect();
        self.counted = now;
        let early = counter::EARLY_DROPS as usize;
        match (action, &moved[..]) {
            (XDP_PASS, []) => Ok(None),
            (XDP_DROP, [(entry, 1), (other, 1)]) if *other == early => Ok(Some(
                Reason::from_u8(*entry as u8).context("a counter without a reason")?,
            )),
            _ => bail!("action {action} moved these counters: {moved:?}"),
        }
    }

    /// The ledger: which reason one packet was counted under since the last call, and what else was.
    fn settle(&mut self) -> Result<Settled> {
        let now = self.read_counters()?;
        let moved: Vec<(usize, u64)> = now
            .iter()
            .zip(&self.counted)
            .enumerate()
            .map(|(entry, (now, before))| (entry, now - before))
            .filter(|(_, by)| *by > 0)
            .collect();
        self.counted = now;
        let (entry, also) = match moved[..] {
            [(entry, 1)] => (entry, None),
            [(entry, 1), (other, 1)] => (entry, Some(other as u32)),
            _ => bail!("one frame moved these counters: {moved:?}"),
        };
        let (limited, refused) = match also {
            None => (false, false),
            Some(counter::REJECTS_LIMITED) => (true, false),
            Some(counter::FLOWS_REFUSED) => (false, true),
            Some(_) => bail!("one frame moved these counters: {moved:?}"),
        };
        ensure!(entry < REASONS, "one frame moved counter {entry} alone");
        let reason = Reason::from_u8(entry as u8).context("a counter without a reason")?;
        Ok(Settled {
            reason,
            limited,
            refused,
        })
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
        let mut found = None;
        while let Some(event) = self.events.next() {
            if event.len() == FLOW_EVENT_BYTES {
                // SAFETY: these are the bytes of one `FlowEvent`, for which any are valid.
                let told = unsafe { event.as_ptr().cast::<FlowEvent>().read_unaligned() };
                self.told.push(told);
                continue;
            }
            let bytes: &[u8; EVENT_BYTES] = event[..].try_into().context("an event's size")?;
            let at = offset_of!(Event, rule);
            let mut rule = [0; 4];
            rule.copy_from_slice(&bytes[at..at + 4]);
            let verdict = Verdict::from_u8(bytes[offset_of!(Event, verdict)]);
            let said = bytes[offset_of!(Event, reason)];
            ensure!(
                said == reason as u8,
                "the event says {said}, the counters {reason:?}"
            );
            ensure!(found.is_none(), "two events for one frame");
            found = Some((verdict, u32::from_ne_bytes(rule)));
        }
        Ok(found)
    }

    /// What the frames of [`TestKernel::run`] told of flows since the last call.
    pub fn take_told(&mut self) -> Vec<FlowEvent> {
        std::mem::take(&mut self.told)
    }

    /// The pin directory, for others that open the same maps.
    pub fn directory(&self) -> &Path {
        self.directory.path()
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

    /// The bans.
    pub fn bans(&self) -> Result<Bans> {
        Ok(Bans::open(&self.directory.pins())?)
    }

    /// Whether the programs look bans up.
    pub fn has_bans(&self) -> Result<bool> {
        let map = self.directory.pins().array::<u32>(name::HAS_BANS)?;
        Ok(map.get(&0, 0).context("reading a map")? != 0)
    }
}

/// What the counters say of one packet.
struct Settled {
    reason: Reason,
    limited: bool,
    refused: bool,
}
