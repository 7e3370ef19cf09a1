//! The loaded programs and open maps, and the one interpreter of [`Action`]s.

mod resize;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, RingBuf,
};
use aya::programs::TestRun;
use aya::programs::{TestRunOptions, TestRunResult};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use fw_common::flow::{Flow, FlowKey};
use fw_common::ledger::LogLimit;
use fw_common::maps::{
    ClassKeyV4, ClassKeyV6, Counter, FragmentKey, FragmentValue, Port, PortCounters, PortKey,
    RuleKey, SPACE_BITS, Settings, capacity, counter, name,
};
use rustix::fs::{StatFs, statfs};
use rustix::thread::{MembarrierCommand, membarrier};

use self::resize::OldFlows;
use super::attach::{self, AttachMode, Hook};
use super::batch::Batch;
use super::pins::Pins;
use super::plan::{Action, State};
use super::{Error, OBJECT};
use crate::image::ClassSpace;

/// Programs and maps of one node.
pub struct Kernel {
    ebpf: Ebpf,
    pins: Pins,
    mode: AttachMode,
    ports: HashMap<MapData, u32, Port>,
    arena: Array<MapData, u64>,
    v4: LpmTrie<MapData, ClassKeyV4, u32>,
    v6: LpmTrie<MapData, ClassKeyV6, u32>,
    port_counters: PerCpuArray<MapData, PortCounters>,
    settings: Array<MapData, Settings>,
    /// Number of CPUs that the kernel keeps counters for.
    cpus: usize,
    /// The flow table that programs had which were swapped for those with a table of another size.
    old_flows: Option<OldFlows>,
}

/// What keeps this process from loading programs, as a sentence for the user; none if nothing does.
pub fn missing_privilege(pin_directory: &Path) -> Option<String> {
    /// `BPF_FS_MAGIC` of the kernel's `magic.h`.
    const BPF_FS: i64 = 0xcafe_4a11;
    if !rustix::process::geteuid().is_root() {
        return Some("Tapwall loads eBPF programs and must be run as root".to_owned());
    }
    let existing = pin_directory.ancestors().find(|path| path.exists())?;
    let is_bpf = statfs(existing).is_ok_and(|fs: StatFs| fs.f_type == BPF_FS);
    if is_bpf {
        return None;
    }
    Some(format!(
        "{} is not on a BPF file system; mount one with: mount -t bpf bpf /sys/fs/bpf",
        pin_directory.display()
    ))
}

impl Kernel {
    /// Loads the programs, and opens the maps pinned in `pin_directory` or makes and pins them.
    ///
    /// # Errors
    /// The kernel refuses something, or the directory is not usable.
    pub fn open(pin_directory: &Path, mode: AttachMode) -> Result<Self, Error> {
        let pins = Pins::new(pin_directory);
        pins.create()?;
        discard_other_layout(&pins)?;
        let mut loader = EbpfLoader::new();
        pin_all(&mut loader, &pins);
        let mut ebpf = load_programs(loader, OBJECT)?;
        Ok(Self {
            ports: typed(&mut ebpf, name::PORTS)?,
            arena: typed(&mut ebpf, name::ARENA)?,
            v4: typed(&mut ebpf, name::CLASSES_V4)?,
            v6: typed(&mut ebpf, name::CLASSES_V6)?,
            port_counters: typed(&mut ebpf, name::PORT_COUNTERS)?,
            settings: typed(&mut ebpf, name::SETTINGS)?,
            cpus: nr_cpus().map_err(|(_, source)| Error::CountCpus { source })?,
            ebpf,
            pins,
            mode,
            old_flows: None,
        })
    }

    /// The ring buffer of events. Can be taken once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, Error> {
        typed(&mut self.ebpf, name::EVENTS)
    }

    /// The counters by reason.
    ///
    /// # Errors
    /// They were taken before.
    pub fn take_counters(&mut self) -> Result<PerCpuArray<MapData, Counter>, Error> {
        typed(&mut self.ebpf, name::COUNTERS)
    }

    /// What programs of a debug build say; none if they say nothing, or if it was taken since they were loaded.
    pub fn take_debug_log(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        // That there is no map is what a release build is like.
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// Reads back what the kernel holds: what an earlier agent left, or nothing. `devices`: those that exist, with their interface index.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn recover(&self, devices: &BTreeMap<String, u32>) -> Result<State, Error> {
        let mut state = State::default();
        for entry in self.ports.iter() {
            let (ifindex, port) = entry.map_err(failed("read", name::PORTS))?;
            state.spaces.insert(port.space, None);
            for start in port.policy {
                let words = self.read_policy(start)?;
                state.adopt_policy(start, words);
            }
            state.adopt_port(ifindex, port);
        }
        Batch::of(&self.v4, name::CLASSES_V4)?
            .visit(|keys, _| note_spaces(&mut state, keys.iter().map(|key| key.data()[0])))?;
        Batch::of(&self.v6, name::CLASSES_V6)?
            .visit(|keys, _| note_spaces(&mut state, keys.iter().map(|key| key.data()[0])))?;
        state.flow_capacity = self.flow_capacity()?;
        state.fetch_flows = self.is_resizing();
        state.inherited = self.pins.devices();
        let known = devices
            .iter()
            .filter(|(_, ifindex)| state.ports.contains_key(ifindex));
        state
            .inherited
            .extend(known.map(|(device, _)| device.clone()));
        Ok(state)
    }

    fn read_policy(&self, start: u32) -> Result<Vec<u64>, Error> {
        let head = self
            .arena
            .get(&start, 0)
            .map_err(failed("read", name::ARENA))?;
        let length = (head as u32).min(capacity::ARENA.saturating_sub(start));
        if length == 0 {
            return Ok(Vec::new());
        }
        let mut words = vec![head];
        words.extend(Batch::of(&self.arena, name::ARENA)?.behind(start, length as usize - 1)?);
        Ok(words)
    }

    /// Carries out one action.
    ///
    /// # Errors
    /// The kernel refuses it; nothing else was changed.
    pub fn apply(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::WriteClasses { space, classes } => self.write_classes(*space, classes),
            Action::WritePolicy { start, words } => {
                let arena = Batch::of(&self.arena, name::ARENA)?;
                arena.write((*start..).zip(words.iter().copied()))
            }
            Action::WriteSettings(settings) => self
                .settings
                .set(0, settings, 0)
                .map_err(failed("write", name::SETTINGS)),
            Action::ClearCounters { slot } => self.clear_counters(*slot),
            Action::SetPort { ifindex, port, .. } => self
                .ports
                .insert(ifindex, port, 0)
                .map_err(failed("write", name::PORTS)),
            Action::Attach { device, .. } => {
                attach::attach(&mut self.ebpf, &self.pins, self.mode, device)
            }
            Action::Detach { device } => attach::detach(&self.pins, self.mode, device),
            Action::RemovePort { ifindex } => removed(self.ports.remove(ifindex), name::PORTS),
            Action::ResizeFlows { entries } => self.begin_resize(*entries),
            Action::FetchFlows => self.end_resize(),
            Action::AwaitReaders => await_readers(),
            Action::RemoveClasses { space } => self.remove_classes(*space),
        }
    }

    fn clear_counters(&mut self, slot: u32) -> Result<(), Error> {
        let nothing = vec![PortCounters::default(); self.cpus];
        let values = PerCpuValues::try_from(nothing)
            .map_err(|source| failed("write", name::PORT_COUNTERS)(source.into()))?;
        self.port_counters
            .set(slot, values, 0)
            .map_err(failed("write", name::PORT_COUNTERS))
    }

    fn write_classes(&self, space: u32, classes: &ClassSpace) -> Result<(), Error> {
        let space = space.to_be();
        let v4 = classes.v4.iter().map(|(net, class)| {
            let data = [space, u32::from(net.network()).to_be()];
            (
                Key::new(SPACE_BITS + u32::from(net.prefix_len()), data),
                *class,
            )
        });
        Batch::of(&self.v4, name::CLASSES_V4)?.write(v4)?;
        let v6 = classes.v6.iter().map(|(net, class)| {
            let [a, b, c, d] = words_of(net.network());
            let length = SPACE_BITS + u32::from(net.prefix_len());
            (Key::new(length, [space, a, b, c, d]), *class)
        });
        Batch::of(&self.v6, name::CLASSES_V6)?.write(v6)
    }

    fn remove_classes(&self, space: u32) -> Result<(), Error> {
        let v4 = Batch::of(&self.v4, name::CLASSES_V4)?;
        v4.remove(&v4.keys(|key, _| u32::from_be(key.data()[0]) == space)?)?;
        let v6 = Batch::of(&self.v6, name::CLASSES_V6)?;
        v6.remove(&v6.keys(|key, _| u32::from_be(key.data()[0]) == space)?)?;
        Ok(())
    }

    /// Runs a program on a frame (`BPF_PROG_TEST_RUN`), as if at a hook of interface `ifindex` of this network namespace.
    ///
    /// # Errors
    /// The kernel refuses the frame (too short or too long).
    pub fn test_run(
        &mut self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        answer: &mut [u8],
    ) -> Result<TestRunResult, Error> {
        /// Offset of `ifindex` in `struct __sk_buff`.
        const IFINDEX: usize = 40;
        let mut context = [0; 192];
        context[IFINDEX..IFINDEX + 4].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(answer),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        attach::classifier(&mut self.ebpf, hook)?
            .test_run(options)
            .map_err(|source| Error::Program {
                program: hook.program(),
                source,
            })
    }

    /// Devices that have pinned links.
    pub fn pinned_devices(&self) -> BTreeSet<String> {
        self.pins.devices()
    }
}

/// Has every map pinned, or opened from its pin.
fn pin_all(loader: &mut EbpfLoader<'_>, pins: &Pins) {
    for map in name::ALL {
        loader.map_pin_path(map, pins.map(map));
    }
}

fn load_programs(mut loader: EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, Error> {
    let mut ebpf = loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .load(object)
        .map_err(|source| Error::Load { source })?;
    for hook in Hook::ALL {
        attach::classifier(&mut ebpf, hook)?
            .load()
            .map_err(|source| Error::Program {
                program: hook.program(),
                source,
            })?;
    }
    Ok(ebpf)
}

/// Waits for a grace period of the kernel's read-copy-update, in which every program that was running ends.
fn await_readers() -> Result<(), Error> {
    // `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu` (kernel/sched/membarrier.c).
    membarrier(MembarrierCommand::Global).map_err(|error| Error::AwaitReaders {
        source: error.into(),
    })
}

/// Maps of another layout (a build with other capacities under one ABI number) are not adopted: all of them are made anew, and the programs
/// that use the old ones are replaced after the new ones are filled.
fn discard_other_layout(pins: &Pins) -> Result<(), Error> {
    let differs = |map: &'static str| {
        let Ok(pinned) = MapInfo::from_pin(pins.map(map)) else {
            return false;
        };
        let capacity = match map {
            // Of whatever size the host's options said.
            name::FLOWS => capacity::FLOWS,
            _ => pinned.max_entries(),
        };
        let found = (pinned.key_size(), pinned.value_size(), capacity);
        layout(map).is_some_and(|wanted| wanted != found)
    };
    let Some(map) = name::ALL.into_iter().find(|map| differs(map)) else {
        return Ok(());
    };
    tracing::warn!(map, "the pinned maps have another layout and are replaced");
    for map in name::ALL {
        Pins::remove(pins.map(map))?;
    }
    Ok(())
}

/// Key bytes, value bytes and capacity of a map; none for those whose contents mean nothing to another agent.
fn layout(map: &str) -> Option<(u32, u32, u32)> {
    fn bytes<K, V>(capacity: u32) -> Option<(u32, u32, u32)> {
        Some((size_of::<K>() as u32, size_of::<V>() as u32, capacity))
    }
    match map {
        name::PORTS => bytes::<u32, Port>(capacity::PORTS),
        name::ARENA => bytes::<u32, u64>(capacity::ARENA),
        name::CLASSES_V4 => bytes::<Key<ClassKeyV4>, u32>(capacity::CLASSES),
        name::CLASSES_V6 => bytes::<Key<ClassKeyV6>, u32>(capacity::CLASSES),
        name::FLOWS => bytes::<FlowKey, Flow>(capacity::FLOWS),
        name::HALF_OPEN => bytes::<FlowKey, Flow>(capacity::HALF_OPEN),
        name::FLOW_USAGE => bytes::<PortKey, u64>(capacity::FLOW_USAGE),
        name::FRAGMENTS => bytes::<FragmentKey, FragmentValue>(capacity::FRAGMENTS),
        name::LOG_LIMITS => bytes::<RuleKey, LogLimit>(capacity::LOG_LIMITS),
        name::COUNTERS => bytes::<u32, Counter>(counter::ENTRIES),
        name::PORT_COUNTERS => bytes::<u32, PortCounters>(capacity::PORT_COUNTERS),
        name::RULE_COUNTERS => bytes::<RuleKey, Counter>(capacity::RULE_COUNTERS),
        name::SETTINGS => bytes::<u32, Settings>(1),
        _ => None,
    }
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, Error>
where
    T: TryFrom<Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(Error::Missing { name })?;
    T::try_from(map).map_err(failed("open", name))
}

fn failed(verb: &'static str, map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { verb, map, source }
}

fn words_of(address: std::net::Ipv6Addr) -> [u32; 4] {
    let number = u128::from(address);
    [96, 64, 32, 0].map(|shift| ((number >> shift) as u32).to_be())
}

/// Notes the class spaces (in network order) of keys that were found.
fn note_spaces(state: &mut State, spaces: impl Iterator<Item = u32>) -> ControlFlow<()> {
    for space in spaces {
        state.spaces.entry(u32::from_be(space)).or_insert(None);
    }
    ControlFlow::Continue(())
}

/// That an entry was not there is fine: gone is what was asked for.
fn removed(result: Result<(), MapError>, map: &'static str) -> Result<(), Error> {
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(())
        }
        Err(source) => Err(failed("write", map)(source)),
    }
}
