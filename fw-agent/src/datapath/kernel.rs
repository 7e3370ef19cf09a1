//! The loaded programs and open maps, and the one interpreter of [`Action`]s.

mod test_run;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, MapInfo, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfLoader, Pod, VerifierLogLevel};
use fw_common::flow::{Flow, FlowKey};
use fw_common::limit::Bucket;
use fw_common::maps::{
    ClassKeyV4, ClassKeyV6, Counter, FragmentKey, FragmentValue, LogKey, Port, SPACE_BITS,
    Settings, capacity, counter, name,
};
use fw_common::wire::Address;
use rustix::fs::{StatFs, statfs};
use rustix::thread::{MembarrierCommand, membarrier};

pub use self::test_run::TestPlace;
use super::attach::{self, AttachMode, Hook, Role};
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
    settings: Array<MapData, Settings>,
    locals: HashMap<MapData, Address, u32>,
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
        for map in name::ALL {
            loader.map_pin_path(map, pins.map(map));
        }
        Self::load(loader, pins, mode)
    }

    fn load(mut loader: EbpfLoader<'_>, pins: Pins, mode: AttachMode) -> Result<Self, Error> {
        let mut ebpf = loader
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(OBJECT)
            .map_err(|source| Error::Load { source })?;
        for (role, hook) in programs() {
            attach::classifier(&mut ebpf, role, hook)?
                .load()
                .map_err(|source| Error::Program {
                    program: hook.program(role),
                    source,
                })?;
        }
        Ok(Self {
            ports: typed(&mut ebpf, name::PORTS)?,
            arena: typed(&mut ebpf, name::ARENA)?,
            v4: typed(&mut ebpf, name::CLASSES_V4)?,
            v6: typed(&mut ebpf, name::CLASSES_V6)?,
            settings: typed(&mut ebpf, name::SETTINGS)?,
            locals: typed(&mut ebpf, name::LOCALS)?,
            ebpf,
            pins,
            mode,
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
            state.ports.insert(ifindex, port);
        }
        for key in self.v4.keys() {
            let data = key.map_err(failed("read", name::CLASSES_V4))?.data();
            state.spaces.entry(u32::from_be(data[0])).or_insert(None);
        }
        for key in self.v6.keys() {
            let data = key.map_err(failed("read", name::CLASSES_V6))?.data();
            state.spaces.entry(u32::from_be(data[0])).or_insert(None);
        }
        let locals = self.locals.keys().collect::<Result<_, _>>();
        state.locals = locals.map_err(failed("read", name::LOCALS))?;
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
        let word = |index| {
            self.arena
                .get(&index, 0)
                .map_err(failed("read", name::ARENA))
        };
        let head = word(start)?;
        let length = (head as u32).min(capacity::ARENA.saturating_sub(start));
        (0..length).map(|offset| word(start + offset)).collect()
    }

    /// Carries out one action.
    ///
    /// # Errors
    /// The kernel refuses it; nothing else was changed.
    pub fn apply(&mut self, action: &Action) -> Result<(), Error> {
        match action {
            Action::WriteClasses { space, classes } => self.write_classes(*space, classes),
            Action::WritePolicy { start, words } => {
                for (offset, word) in words.iter().enumerate() {
                    self.arena
                        .set(start + offset as u32, word, 0)
                        .map_err(failed("write", name::ARENA))?;
                }
                Ok(())
            }
            Action::WriteSettings(settings) => self
                .settings
                .set(0, settings, 0)
                .map_err(failed("write", name::SETTINGS)),
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
            Action::Attach { device, role, .. } => {
                attach::attach(&mut self.ebpf, &self.pins, self.mode, device, *role)
            }
            Action::Detach { device } => attach::detach(&self.pins, self.mode, device),
            Action::RemovePort { ifindex } => removed(self.ports.remove(ifindex), name::PORTS),
            Action::AwaitReaders => await_readers(),
            Action::RemoveClasses { space } => self.remove_classes(*space),
        }
    }

    fn write_classes(&mut self, space: u32, classes: &ClassSpace) -> Result<(), Error> {
        let space = space.to_be();
        for (net, class) in &classes.v4 {
            let data = [space, u32::from(net.network()).to_be()];
            let key = Key::new(SPACE_BITS + u32::from(net.prefix_len()), data);
            self.v4
                .insert(&key, class, 0)
                .map_err(failed("write", name::CLASSES_V4))?;
        }
        for (net, class) in &classes.v6 {
            let [a, b, c, d] = words_of(net.network());
            let length = SPACE_BITS + u32::from(net.prefix_len());
            let key = Key::new(length, [space, a, b, c, d]);
            self.v6
                .insert(&key, class, 0)
                .map_err(failed("write", name::CLASSES_V6))?;
        }
        Ok(())
    }

    fn remove_classes(&mut self, space: u32) -> Result<(), Error> {
        remove_space(&mut self.v4, name::CLASSES_V4, |data| {
            u32::from_be(data[0]) == space
        })?;
        remove_space(&mut self.v6, name::CLASSES_V6, |data| {
            u32::from_be(data[0]) == space
        })
    }

    /// Instructions that the verifier went through for each program.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn verified_instructions(&mut self) -> Result<Vec<(&'static str, u32)>, Error> {
        let mut rows = Vec::new();
        for (role, hook) in programs() {
            let program = hook.program(role);
            let info = attach::classifier(&mut self.ebpf, role, hook)?
                .info()
                .map_err(|source| Error::Program { program, source })?;
            rows.push((program, info.verified_instruction_count().unwrap_or(0)));
        }
        Ok(rows)
    }

    /// Devices that have pinned links.
    pub fn pinned_devices(&self) -> BTreeSet<String> {
        self.pins.devices()
    }
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
        let found = (pinned.key_size(), pinned.value_size(), pinned.max_entries());
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
        name::FRAGMENTS => bytes::<FragmentKey, FragmentValue>(capacity::FRAGMENTS),
        name::LOG_LIMITS => bytes::<LogKey, Bucket>(capacity::LOG_LIMITS),
        name::LOCALS => bytes::<Address, u32>(capacity::LOCALS),
        name::COUNTERS => bytes::<u32, Counter>(counter::ENTRIES),
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

fn remove_space<K: Pod>(
    trie: &mut LpmTrie<MapData, K, u32>,
    map: &'static str,
    belongs: impl Fn(K) -> bool,
) -> Result<(), Error> {
    let keys = trie
        .keys()
        .filter(|key| key.as_ref().map_or(true, |key| belongs(key.data())))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed("read", map))?;
    keys.iter()
        .try_for_each(|key| removed(trie.remove(key), map))
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
