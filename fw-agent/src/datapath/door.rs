//! Programs on devices, for those who attach them at the same time: the agent's loop, and whoever closes a device the moment it comes.
//!
//! 1. [`Programs`] are the loaded ones, shared; when they are loaded anew (a flow table of another size) their generation is another.
//! 2. [`Desk`] knows who is at work on which device. One at a time: attaching the same program twice is refused by the kernel, and a link that is made but not
//!    yet pinned is found by nobody.
//! 3. [`Door`] is what the closing side has. Whoever closes a device gets a [`Claim`] first; the loop meanwhile takes that device for attached, and adopts what
//!    stands for the programs when it is told.
//!
//! Invariant: nothing here opens a device. A device without a port value is closed by the programs; one whose value is another port's loses it first.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap, MapData};
use aya::programs::ProgramFd;
use fw_common::maps::{Port, name, port_flag};

use super::Error;
use super::attach::{self, AttachMode, Hook, Role, classifier};
use super::kernel::removed;
use super::link::Kept;
use super::pins::Pins;
use crate::policy::PortId;

/// The loaded programs.
pub(super) struct Programs {
    loaded: Mutex<Loaded>,
    pub(super) mode: AttachMode,
}

struct Loaded {
    ebpf: Ebpf,
    generation: u64,
}

impl Programs {
    pub(super) fn new(ebpf: Ebpf, mode: AttachMode) -> Self {
        let loaded = Loaded {
            ebpf,
            generation: 0,
        };
        Self {
            loaded: Mutex::new(loaded),
            mode,
        }
    }

    /// Does something with them that does not take long: others wait.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Ebpf) -> T) -> T {
        what(&mut lock(&self.loaded).ebpf)
    }

    /// Puts others in their place.
    pub(super) fn replace(&self, ebpf: Ebpf) {
        let mut loaded = lock(&self.loaded);
        loaded.ebpf = ebpf;
        loaded.generation += 1;
    }

    pub(super) fn generation(&self) -> u64 {
        lock(&self.loaded).generation
    }

    /// A program, to be attached while others use the rest: that takes a while.
    pub(super) fn fd(&self, role: Role, hook: Hook) -> Result<ProgramFd, Error> {
        let program = hook.program(role);
        self.with(|ebpf| {
            let fd = classifier(ebpf, role, hook)?.fd();
            fd.map_err(|source| Error::Program { program, source })?
                .try_clone()
                .map_err(|source| Error::Program {
                    program,
                    source: source.into(),
                })
        })
    }
}

/// A device that is to have programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Name.
    pub device: String,
    /// Interface index.
    pub ifindex: u32,
    /// Which programs.
    pub role: Role,
}

/// What is being done, or was done, about a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// The loop attaches the programs.
    Loop,
    /// They are attached by a holder of a [`Claim`], from programs of this generation.
    Claimed(u64),
    /// That is done, and the loop has still to adopt them.
    Done,
    /// They are attached, and the loop knows.
    Attached,
}

/// Who is at work on which device, by interface index.
#[derive(Default)]
pub(super) struct Desk {
    places: Mutex<BTreeMap<u32, (Newcomer, Work)>>,
    freed: Condvar,
}

impl Desk {
    /// Has the loop attach programs of this generation, after everyone else; false: somebody is doing just that.
    pub(super) fn begin(&self, newcomer: Newcomer, programs: &Programs) -> bool {
        let mut places = lock(&self.places);
        loop {
            match places.get(&newcomer.ifindex) {
                Some((known, Work::Claimed(generation))) => {
                    if known == &newcomer && *generation == programs.generation() {
                        return false;
                    }
                }
                Some((_, Work::Loop | Work::Done | Work::Attached)) | None => {
                    places.insert(newcomer.ifindex, (newcomer, Work::Loop));
                    return true;
                }
            }
            places = self
                .freed
                .wait(places)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes what became of what the loop began.
    pub(super) fn end(&self, ifindex: u32, is_attached: bool) {
        let mut places = lock(&self.places);
        match (is_attached, places.get_mut(&ifindex)) {
            (true, Some((_, work))) => *work = Work::Attached,
            (_, _) => drop(places.remove(&ifindex)),
        }
    }

    /// Has the loop take the programs off a device; false: what has that name now is another device, which is being closed.
    pub(super) fn leave(&self, device: &str) -> bool {
        let mut places = lock(&self.places);
        let is_other = |(known, work): &(Newcomer, Work)| {
            known.device == device && matches!(work, Work::Claimed(_) | Work::Done)
        };
        if places.values().any(is_other) {
            return false;
        }
        places.retain(|_, (known, _)| known.device != device);
        true
    }

    /// The loop has adopted what was done.
    pub(super) fn adopted(&self, ifindex: u32) {
        if let Some((_, work @ Work::Done)) = lock(&self.places).get_mut(&ifindex) {
            *work = Work::Attached;
        }
    }

    /// Whether there is nothing that the loop has still to adopt.
    pub(super) fn is_quiet(&self) -> bool {
        let places = lock(&self.places);
        let mut works = places.values().map(|(_, work)| work);
        works.all(|work| matches!(work, Work::Loop | Work::Attached))
    }

    /// Whether somebody else is still attaching the programs.
    pub(super) fn is_claimed(&self, ifindex: u32) -> bool {
        let places = lock(&self.places);
        matches!(places.get(&ifindex), Some((_, Work::Claimed(_))))
    }
}

/// The right to attach programs to a device; given back when dropped.
pub struct Claim {
    desk: Arc<Desk>,
    ifindex: u32,
    generation: u64,
    is_done: bool,
}

impl Claim {
    /// The programs are attached, and the loop is told.
    pub fn done(&mut self) {
        self.is_done = true;
    }

    /// Generation of the programs.
    pub const fn generation(&self) -> u64 {
        self.generation
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut places = lock(&self.desk.places);
        if let Some((_, work @ Work::Claimed(_))) = places.get_mut(&self.ifindex) {
            match self.is_done {
                true => *work = Work::Done,
                false => drop(places.remove(&self.ifindex)),
            }
        }
        drop(places);
        self.desk.freed.notify_all();
    }
}

/// What is needed to close devices without the loop.
#[derive(Clone)]
pub struct Door {
    programs: Arc<Programs>,
    desk: Arc<Desk>,
    pins: Pins,
    ports: Arc<Mutex<HashMap<MapData, u32, Port>>>,
}

impl Door {
    pub(super) fn new(programs: Arc<Programs>, desk: Arc<Desk>, pins: Pins) -> Result<Self, Error> {
        let ports = pins.hash(name::PORTS)?;
        Ok(Self {
            programs,
            desk,
            pins,
            ports: Arc::new(Mutex::new(ports)),
        })
    }

    /// How programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.programs.mode
    }

    /// The right to close a device; none if it has its programs, or somebody is attaching them.
    pub fn claim(&self, newcomer: &Newcomer) -> Option<Claim> {
        let mut places = lock(&self.desk.places);
        if let Some((known, work)) = places.get(&newcomer.ifindex)
            && (known == newcomer || matches!(work, Work::Loop | Work::Claimed(_)))
        {
            return None;
        }
        Some(self.take(&mut places, newcomer.clone()))
    }

    /// The right to attach again what was attached to a device, and what that is; none if nothing was.
    pub fn claim_again(&self, ifindex: u32) -> Option<(Newcomer, Claim)> {
        let mut places = lock(&self.desk.places);
        match places.get(&ifindex)? {
            (_, Work::Loop | Work::Claimed(_)) => None,
            (known, Work::Done | Work::Attached) => {
                let known = known.clone();
                let claim = self.take(&mut places, known.clone());
                Some((known, claim))
            }
        }
    }

    fn take(&self, places: &mut BTreeMap<u32, (Newcomer, Work)>, newcomer: Newcomer) -> Claim {
        let generation = self.programs.generation();
        let ifindex = newcomer.ifindex;
        places.insert(ifindex, (newcomer, Work::Claimed(generation)));
        Claim {
            desk: Arc::clone(&self.desk),
            ifindex,
            generation,
            is_done: false,
        }
    }

    /// Interface indices of all that have programs.
    pub fn attached(&self) -> Vec<u32> {
        lock(&self.desk.places).keys().copied().collect()
    }

    /// A device is gone; another may have its interface index some day.
    pub fn forget(&self, ifindex: u32) {
        let mut places = lock(&self.desk.places);
        if let Some((_, Work::Done | Work::Attached)) = places.get(&ifindex) {
            places.remove(&ifindex);
        }
    }

    /// Attaches the program of one hook. What stands for it afterwards has to be kept.
    ///
    /// # Errors
    /// The device is gone, or the kernel refuses the program.
    pub fn close(&self, newcomer: &Newcomer, hook: Hook) -> Result<Vec<Kept>, Error> {
        let place = (newcomer.device.as_str(), newcomer.ifindex);
        attach::attach(
            &self.programs,
            (&self.pins, None),
            place,
            (newcomer.role, hook),
        )
    }

    /// Takes the value of another port, or of the host, from an interface index (the device had another name, or is another). Says whether there was one.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn forget_stranger(&self, ifindex: u32, own: PortId) -> Result<bool, Error> {
        let mut ports = lock(&self.ports);
        let Ok(port) = ports.get(&ifindex, 0) else {
            return Ok(false);
        };
        if port.flags & port_flag::HOST == 0 && (port.vmid, port.net) == (own.vmid, own.net) {
            return Ok(false);
        }
        removed(ports.remove(&ifindex), name::PORTS)?;
        Ok(true)
    }
}

/// What a thread that panicked has left is as good as what others leave.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
