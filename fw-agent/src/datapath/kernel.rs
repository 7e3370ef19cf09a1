//! The loaded programs and open maps, and the one interpreter of [`Action`]s.

pub(super) mod resize;
mod test_run;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::thread::Builder;

use aya::maps::lpm_trie::Key;
use aya::maps::{
    Array, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, PerCpuValues, RingBuf,
};
use aya::programs::{Program, ProgramError, SchedClassifier, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use fw_common::ban::Ban;
use fw_common::flow::{Flow, FlowKey};
use fw_common::ledger::LogLimit;
use fw_common::limit::Bucket;
use fw_common::maps::classes::PREFILTER_WORDS;
use fw_common::maps::{
    ANY_VLAN, BanKey, ClassKeyV4, ClassKeyV6, Counter, FragmentKey, FragmentValue, NO_VLAN, Port,
    PortCounters, PortKey, RuleKey, Settings, Station, VLAN_WORDS, capacity, counter, name,
};
use fw_common::wire::Address;
use rustix::fs::{StatFs, statfs};
use rustix::thread::{MembarrierCommand, membarrier};

use self::resize::OldFlows;
pub use self::test_run::TestPlace;
use super::attach::{self, AttachMode, Hook, Role};
use super::carry::Carry;
use super::door::{Desk, Door, Newcomer, Programs};
use super::flow_filter::FlowFilter;
use super::link::{Held, Kept};
use super::pins::Pins;
use super::plan::{Action, State};
use super::spaces::Tries;
use super::words::{self, Words};
use super::{Error, OBJECT, flow_filter, grace, half_open, uplink};

/// Programs and maps of one node.
pub struct Kernel {
    programs: Arc<Programs>,
    desk: Arc<Desk>,
    pins: Pins,
    ports: HashMap<MapData, u32, Port>,
    stations: HashMap<MapData, u64, Station>,
    arena: Words,
    tries: Tries,
    port_counters: PerCpuArray<MapData, PortCounters>,
    settings: Array<MapData, Settings>,
    locals: HashMap<MapData, Address, u32>,
    /// Number of CPUs that the kernel keeps counters for.
    cpus: usize,
    /// Maps and links of TC hooks, so that they do not go with their pins. Without those of uplinks nothing is open.
    held: Held,
    /// The flow table that programs had which were swapped for those with a table of another size.
    old_flows: Option<OldFlows>,
    /// Filters were put on devices whose names other interfaces may have had.
    may_stray: bool,
    /// What agents of other versions knew and that is not yet wholly here.
    carried: Vec<Carry>,
}

/// Every program of the object, by where it belongs.
fn programs() -> impl Iterator<Item = (Role, Hook)> {
    let hooks = |role| Hook::ALL.into_iter().map(move |hook| (role, hook));
    Role::ALL.into_iter().flat_map(hooks)
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
        let mut held = Held::default();
        for map in name::ALL {
            hold(&mut held, pins.map(map))?;
        }
        // An agent that was killed while it resized the table did not.
        FlowFilter::open(&pins)?.resume();
        Ok(Self {
            held,
            stations: typed(&mut ebpf, name::STATIONS)?,
            ports: typed(&mut ebpf, name::PORTS)?,
            arena: Words::new(data(&mut ebpf, name::ARENA)?)?,
            tries: Tries {
                v4: typed(&mut ebpf, name::CLASSES_V4)?,
                v6: typed(&mut ebpf, name::CLASSES_V6)?,
            },
            port_counters: typed(&mut ebpf, name::PORT_COUNTERS)?,
            settings: typed(&mut ebpf, name::SETTINGS)?,
            locals: typed(&mut ebpf, name::LOCALS)?,
            carried: Carry::begin(&pins),
            cpus: nr_cpus().map_err(|(_, source)| Error::CountCpus { source })?,
            programs: Arc::new(Programs::new(ebpf, mode)),
            desk: Arc::default(),
            pins,
            old_flows: None,
            may_stray: false,
        })
    }

    /// The ring buffer of events. Can be taken once.
    ///
    /// # Errors
    /// It was taken before.
    pub fn take_events(&mut self) -> Result<RingBuf<MapData>, Error> {
        self.programs.with(|ebpf| typed(ebpf, name::EVENTS))
    }

    /// The counters by reason.
    ///
    /// # Errors
    /// They were taken before.
    pub fn take_counters(&mut self) -> Result<PerCpuArray<MapData, Counter>, Error> {
        self.programs.with(|ebpf| typed(ebpf, name::COUNTERS))
    }

    /// What programs of a debug build say; none if they say nothing, or if it was taken since they were loaded.
    pub fn take_debug_log(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        // That there is no map is what a release build is like.
        self.programs.with(|ebpf| EbpfLogger::init(ebpf).ok())
    }

    /// Reads back what the kernel holds: what an earlier agent left, or nothing. `devices`: those that exist, with their interface index.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn recover(&self, devices: &BTreeMap<String, u32>) -> Result<State, Error> {
        let mut state = State::default();
        for entry in self.ports.iter() {
            let (ifindex, port) = entry.map_err(failed("read", name::PORTS))?;
            // Perhaps in neither trie: a space without prefixes.
            state.spaces.insert(port.space, Some(Arc::default()));
            let [inbound, outbound] = port.policy;
            for start in [inbound, outbound, port.guard] {
                let words = self.read_policy(start)?;
                state.adopt_policy(start, words);
            }
            if port.vlans != NO_VLAN && port.vlans != ANY_VLAN {
                let words = self.read_words(port.vlans, VLAN_WORDS)?;
                state.adopt_policy(port.vlans, words);
            }
            state.adopt_port(ifindex, port);
        }
        let settings = self
            .settings
            .get(&0, 0)
            .map_err(failed("read", name::SETTINGS))?;
        for (space, classes) in self.tries.read()? {
            state.spaces.insert(space, classes.map(Arc::new));
        }
        self.recover_filters(&mut state, &settings)?;
        state.settings = Some(settings);
        let locals = self.locals.keys().collect::<Result<_, _>>();
        state.locals = locals.map_err(failed("read", name::LOCALS))?;
        state.flow_capacity = self.flow_capacity()?;
        state.fetch_flows = self.is_resizing();
        for entry in self.stations.iter() {
            let (mac, station) = entry.map_err(failed("read", name::STATIONS))?;
            state.stations.insert(mac, station);
        }
        let others = self.pins.others();
        for pins in others.iter().chain([&self.pins]) {
            state.inherited_uplinks.extend(pins.uplinks());
            state.inherited.extend(pins.devices());
        }
        let known = devices
            .iter()
            .filter(|(_, ifindex)| state.ports.contains_key(ifindex));
        state
            .inherited
            .extend(known.map(|(device, _)| device.clone()));
        Ok(state)
    }

    /// Finds the prefilters of the class spaces in use.
    fn recover_filters(&self, state: &mut State, settings: &Settings) -> Result<(), Error> {
        let mut pairs = vec![(settings.space, settings.prefilter)];
        let ports = state.ports.values();
        pairs.extend(ports.map(|port| (port.big_space, port.prefilter)));
        let mut seen = BTreeSet::new();
        let pairs = pairs.into_iter();
        for (space, starts) in pairs.filter(|pair| pair.1 != [0; 2] && seen.insert(*pair)) {
            let [v4, v6] = starts.map(|start| self.read_words(start, PREFILTER_WORDS));
            let words = [v4?, v6?];
            if !state.adopt_filters(space, starts, words.clone()) {
                // Somebody's all the same, until ports refer to others.
                for (start, words) in starts.into_iter().zip(words) {
                    state.adopt_policy(start, words);
                }
                // What a prefilter does not cover is not found: there will be new ones.
                state.spaces.insert(space, None);
            }
        }
        Ok(())
    }

    fn read_policy(&self, start: u32) -> Result<Vec<u64>, Error> {
        let head = self.arena.get(start)?;
        let length = (head as u32).min(capacity::ARENA.saturating_sub(start));
        self.read_words(start, length)
    }

    /// Words of the arena; none if there are not so many, or from word 0, which stands for nothing.
    fn read_words(&self, start: u32, length: u32) -> Result<Vec<u64>, Error> {
        let last = start.checked_add(length);
        if start == 0 || last.is_none_or(|last| last > capacity::ARENA) {
            return Ok(Vec::new());
        }
        self.arena.read(start, length)
    }

    /// Carries out one action.
    ///
    /// # Errors
    /// The kernel refuses it; nothing else was changed.
    pub fn apply(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::WriteClasses { space, classes } => self.tries.write(*space, classes),
            Action::WriteEntries {
                space,
                lineage,
                prefixes,
            } => self.tries.write_entries(*space, lineage, prefixes),
            Action::WritePolicy { start, words } | Action::AddBits { start, words } => {
                self.arena.write(*start, words)
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
            Action::AddLocals(addresses) => addresses.iter().try_for_each(|address| {
                self.locals
                    .insert(address, 1, 0)
                    .map_err(failed("write", name::LOCALS))
            }),
            Action::RemoveLocals(addresses) => addresses
                .iter()
                .try_for_each(|address| removed(self.locals.remove(address), name::LOCALS)),
            Action::Attach {
                device,
                role,
                ifindex,
            } => {
                self.may_stray |= self.programs.mode == AttachMode::Clsact;
                self.attach(Newcomer {
                    device: device.clone(),
                    ifindex: *ifindex,
                    role: *role,
                })
            }
            Action::Detach { device } => {
                if self.desk.leave(device) {
                    // Links go when nothing holds them any more, and with each the kernel waits.
                    let _hurry = grace::hurry();
                    attach::detach(&self.pins, self.programs.mode, device)?;
                    self.held.let_go(&self.pins, device);
                }
                Ok(())
            }
            Action::RemovePort { ifindex } => removed(self.ports.remove(ifindex), name::PORTS),
            Action::ResizeFlows { entries } => self.begin_resize(*entries),
            Action::FetchFlows => {
                self.end_resize()?;
                hold(&mut self.held, self.pins.map(name::FLOWS))
            }
            Action::SetStation { mac, station } => self
                .stations
                .insert(mac, station, 0)
                .map_err(failed("write", name::STATIONS)),
            Action::RemoveStation { mac } => removed(self.stations.remove(mac), name::STATIONS),
            Action::AttachUplink { device, ifindex } => {
                let program = self.programs.with(uplink::fd)?;
                uplink::attach(&program, &self.pins, device, *ifindex)
            }
            Action::DetachUplink { device } => uplink::detach(&self.pins, device),
            Action::AwaitReaders => await_readers(),
            Action::RemoveClasses { space, classes } => {
                self.tries.remove(*space, classes.as_deref())
            }
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

    /// Ends what [`Self::apply`] began for a whole plan that was carried out: links of devices that have other names by now and need no
    /// programs, and what agents of other versions left, whose links are all replaced by then.
    ///
    /// # Errors
    /// A pin that is there cannot be removed.
    pub fn tidy(&mut self) -> Result<(), Error> {
        // What is set aside may be for a device that is being closed; adopting that is followed by another round.
        if self.desk.is_quiet() {
            attach::drop_aside(&self.pins)?;
            if std::mem::take(&mut self.may_stray) {
                attach::drop_strays(&self.pins)?;
            }
        }
        if !self.carried.is_empty() {
            await_readers()?;
        }
        for carry in self.carried.drain(..) {
            carry.end(&self.pins);
        }
        for other in self.pins.others() {
            other.remove_version()?;
            tracing::info!(
                version = other.version_number(),
                "took over from another version"
            );
        }
        Ok(())
    }

    fn attach(&mut self, newcomer: Newcomer) -> Result<(), Error> {
        let (place, role) = ((newcomer.device.as_str(), newcomer.ifindex), newcomer.role);
        if !self.desk.begin(newcomer.clone(), &self.programs) {
            return Ok(());
        }
        let mut result = Ok(());
        for hook in Hook::ALL {
            let pins = (&self.pins, Some(&self.held));
            match attach::attach(&self.programs, pins, place, (role, hook)) {
                Ok(kept) => self.held.keep(kept),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        self.desk.end(newcomer.ifindex, result.is_ok());
        result
    }

    /// What closes devices beside the loop.
    ///
    /// # Errors
    /// The ports cannot be opened.
    pub fn door(&self) -> Result<Door, Error> {
        Door::new(
            Arc::clone(&self.programs),
            Arc::clone(&self.desk),
            self.pins.clone(),
        )
    }

    /// Holds what stands for programs that were attached through a [`Door`]. Says whether they are of this generation; others have to be attached again.
    pub fn adopt(&mut self, newcomer: &Newcomer, generation: u64, kept: Vec<Kept>) -> bool {
        self.held.keep(kept);
        self.may_stray |= self.programs.mode == AttachMode::Clsact;
        self.desk.adopted(newcomer.ifindex);
        self.programs.generation() == generation
    }

    /// Whether programs are still being attached to a device, by whoever has a [`Door`].
    pub fn is_being_closed(&self, ifindex: u32) -> bool {
        self.desk.is_claimed(ifindex)
    }

    /// Makes pins again that are gone, because somebody removed them or unmounted the BPF file system. Meanwhile the programs stay where they
    /// are, as this process holds them. Answers how many were made.
    ///
    /// # Errors
    /// There is no BPF file system (again) yet; nothing is opened by that.
    pub fn repair_pins(&mut self) -> Result<usize, Error> {
        if self.pins.exist() && self.held.is_pinned() {
            return Ok(0);
        }
        let failed = |source| Error::PinDirectory {
            path: self.pins.root().to_path_buf(),
            source,
        };
        if let Some(sentence) = missing_privilege(self.pins.root()) {
            return Err(failed(std::io::Error::other(sentence)));
        }
        self.pins.create()?;
        self.held.pin_again().map_err(failed)
    }

    /// How programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.programs.mode
    }

    /// Devices that have pinned links.
    pub fn pinned_devices(&self) -> BTreeSet<String> {
        self.pins.devices()
    }
}

fn hold(held: &mut Held, pin: std::path::PathBuf) -> Result<(), Error> {
    let result = held.hold(pin.clone());
    result.map_err(|source| Error::AskLink { path: pin, source })
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
    let mut of_object: BTreeMap<&str, &mut Program> = ebpf.programs_mut().collect();
    let names = programs().map(|(role, hook)| hook.program(role));
    let wanted: Vec<(&'static str, &mut Program)> = names
        .chain([uplink::PROGRAM])
        .map(|name| {
            let program = of_object.remove(name);
            Ok((name, program.ok_or(Error::Missing { name })?))
        })
        .collect::<Result<_, Error>>()?;
    // The verifier takes some tenths of a second for each, and goes through several at the same time.
    std::thread::scope(|scope| {
        let loads: Vec<_> = wanted
            .into_iter()
            .map(|(name, program)| {
                let thread = Builder::new().name("load".to_owned());
                (
                    name,
                    thread.spawn_scoped(scope, || insist(|| load(program))),
                )
            })
            .collect();
        // All have ended before this does, also after an error.
        loads.into_iter().try_for_each(|(program, thread)| {
            let loaded = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // The system has no thread left.
                Err(error) => Err(ProgramError::IOError(error)),
            };
            loaded.map_err(|source| Error::Program { program, source })
        })
    })?;
    Ok(ebpf)
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match <&mut SchedClassifier>::try_from(&mut *program) {
        Ok(classifier) => classifier.load(),
        Err(_) => <&mut Xdp>::try_from(program)?.load(),
    }
}

/// Loads again what the verifier gave up with `EAGAIN`: it does so when something else waits for the thread (`signal_pending`), whatever the
/// program is like.
fn insist(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const ATTEMPTS: usize = 10;
    for _ in 1..ATTEMPTS {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                tracing::debug!("the verifier was interrupted; loading again");
            }
            loaded => return loaded,
        }
    }
    load()
}

/// Waits for a grace period of the kernel's read-copy-update, in which every program that was running ends.
pub(super) fn await_readers() -> Result<(), Error> {
    let _hurry = grace::hurry();
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
        name::ARENA => Some((size_of::<u32>() as u32, words::VALUE_BYTES, 1)),
        name::CLASSES_V4 => bytes::<Key<ClassKeyV4>, u32>(capacity::CLASSES),
        name::CLASSES_V6 => bytes::<Key<ClassKeyV6>, u32>(capacity::CLASSES),
        name::FLOWS => bytes::<FlowKey, Flow>(capacity::FLOWS),
        name::HALF_OPEN => Some((size_of::<u32>() as u32, half_open::VALUE_BYTES, 1)),
        name::FLOW_FILTER => Some((size_of::<u32>() as u32, flow_filter::VALUE_BYTES, 1)),
        name::FLOW_USAGE => bytes::<PortKey, u64>(capacity::FLOW_USAGE),
        name::FRAGMENTS => bytes::<FragmentKey, FragmentValue>(capacity::FRAGMENTS),
        name::LOG_LIMITS => bytes::<RuleKey, LogLimit>(capacity::LOG_LIMITS),
        name::LOCALS => bytes::<Address, u32>(capacity::LOCALS),
        name::SYN_LIMITS => bytes::<Address, Bucket>(capacity::SYN_LIMITS),
        name::COUNTERS => bytes::<u32, Counter>(counter::ENTRIES),
        name::PORT_COUNTERS => bytes::<u32, PortCounters>(capacity::PORT_COUNTERS),
        name::RULE_COUNTERS => bytes::<RuleKey, Counter>(capacity::RULE_COUNTERS),
        name::STATIONS => bytes::<u64, Station>(capacity::STATIONS),
        name::BANS => bytes::<Key<BanKey>, Ban>(capacity::BANS),
        name::HAS_BANS => bytes::<u32, u32>(1),
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

pub(super) fn data(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, Error> {
    match ebpf.take_map(name) {
        Some(Map::Array(data)) => Ok(data),
        Some(_) | None => Err(Error::Missing { name }),
    }
}

pub(super) fn failed(verb: &'static str, map: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { verb, map, source }
}

/// That an entry was not there is fine: gone is what was asked for.
pub(super) fn removed(result: Result<(), MapError>, map: &'static str) -> Result<(), Error> {
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
