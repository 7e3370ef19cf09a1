//! Programs on devices: attach, update, detach.
//!
//! TCX links (kernel 6.6 and later) are pinned; another agent finds the pin and swaps the program in place, so that no packet goes by
//! unfiltered. Before 6.6 the programs are filters of the [`clsact`] qdisc, which a later agent replaces in place too.
//!
//! A link belongs to the device it is on, whatever that is called by now: 1. the pin of the device's name is used if its link is on the device,
//! 2. otherwise it is set aside for the device that it is on, 3. the pin that an agent of another version left is taken over: first the program is
//! swapped, then the pin moves, 4. otherwise a link is made; one that the device already has under a former name gets the new name. A link that cannot be
//! pinned is in force all the same, as long as whoever asked for it holds it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::{ProgramError, ProgramFd, SchedClassifier, TcAttachType};
use aya::sys::SyscallError;
use aya::util::KernelVersion;

use super::door::Programs;
use super::link::{Held, Kept, Place};
use super::pins::Pins;
use super::{Error, clsact, grace, link};

/// What a device is to the firewall; decides which programs belong on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A guest's NIC.
    Guest,
    /// An interface of the host.
    Host,
}

impl Role {
    /// Both.
    pub const ALL: [Role; 2] = [Role::Guest, Role::Host];
}

/// The two hooks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What the device receives: packets from the guest, or to the host.
    Ingress,
    /// What it sends: packets to the guest, or from the host.
    Egress,
}

impl Hook {
    /// Both, the one that packets to the guest go through first: a port that is half attached lets nothing in.
    pub const ALL: [Hook; 2] = [Hook::Egress, Hook::Ingress];

    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// Name of the program that belongs here on a device of this role.
    pub const fn program(self, role: Role) -> &'static str {
        match (role, self) {
            (Role::Guest, Self::Ingress) => "tapwall_ingress",
            (Role::Guest, Self::Egress) => "tapwall_egress",
            (Role::Host, Self::Ingress) => "tapwall_host_ingress",
            (Role::Host, Self::Egress) => "tapwall_host_egress",
        }
    }

    pub(super) const fn attach_type(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// By pinned TCX links.
    Tcx,
    /// As filters of the clsact qdisc.
    Clsact,
}

impl AttachMode {
    /// The better one that this kernel has.
    pub fn of_this_kernel() -> Self {
        // TCX links came with kernel 6.6 (commit e420bed02507).
        if KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0)) {
            Self::Tcx
        } else {
            Self::Clsact
        }
    }
}

/// Attaches the program of a hook to a device, or swaps it in where an earlier agent had attached its own. What stands for it afterwards has to be kept.
pub(super) fn attach(
    programs: &Programs,
    (pins, held): (&Pins, Option<&Held>),
    (device, ifindex): (&str, u32),
    (role, hook): (Role, Hook),
) -> Result<Vec<Kept>, Error> {
    match programs.mode {
        AttachMode::Tcx => {
            let program = programs.fd(role, hook)?;
            let (path, link) = attach_tcx(&program, (pins, held), (device, ifindex), hook)?;
            Ok(vec![Kept::Link(path, link)])
        }
        AttachMode::Clsact => programs.with(|ebpf| {
            clsact::attach(classifier(ebpf, role, hook)?, pins, (device, ifindex), hook)
        }),
    }
}

/// Takes both programs off a device. That it is gone is fine.
pub(super) fn detach(pins: &Pins, mode: AttachMode, device: &str) -> Result<(), Error> {
    let others = pins.others();
    let versions = || others.iter().chain([pins]);
    match mode {
        AttachMode::Tcx => versions()
            .flat_map(|pins| Hook::ALL.map(|hook| pins.link(device, hook)))
            .try_for_each(Pins::remove),
        AttachMode::Clsact => clsact::detach(device, versions()),
    }
}

/// Takes all links off a device at once. Not while anyone attaches: that takes pins over.
pub(super) fn end_links(pins: &Pins, device: &str) -> Result<(), Error> {
    let _hurry = grace::hurry();
    for hook in Hook::ALL {
        let pin = pins.link(device, hook);
        if let Some(link) = open(&pin)? {
            link::detach(&link).map_err(|error| refused(device, "bpf_link_detach", error))?;
        }
    }
    Ok(())
}

/// Detaches what was set aside for devices that turned out to need no programs.
pub(super) fn drop_aside(pins: &Pins) -> Result<(), Error> {
    for device in pins.set_aside() {
        detach(pins, AttachMode::Tcx, &device)?;
    }
    Ok(())
}

/// Likewise filters of interfaces that have lost their name to another, of all versions.
pub(super) fn drop_strays(pins: &Pins) -> Result<(), Error> {
    let others = pins.others();
    clsact::drop_strays(others.iter().chain([pins]))
}

/// A loaded program of the object.
pub(super) fn classifier(
    ebpf: &mut Ebpf,
    role: Role,
    hook: Hook,
) -> Result<&mut SchedClassifier, Error> {
    let name = hook.program(role);
    ebpf.program_mut(name)
        .ok_or(Error::Missing { name })?
        .try_into()
        .map_err(|source| Error::Program {
            program: name,
            source,
        })
}

fn attach_tcx(
    program: &ProgramFd,
    (pins, held): (&Pins, Option<&Held>),
    (device, ifindex): (&str, u32),
    hook: Hook,
) -> Result<(PathBuf, OwnedFd), Error> {
    let path = pins.link(device, hook);
    if let Some(link) = open(&path)? {
        match device_of(&path, &link)? {
            on if on == ifindex => {
                if swap(&link, program, device)? {
                    return Ok((path, link));
                }
                // It went meanwhile.
                Pins::remove(path.clone())?;
            }
            // The device is gone; one of that name that exists now is another.
            0 => Pins::remove(path.clone())?,
            on => Pins::rename(&path, pins.aside(on, hook))?,
        }
    }
    for other in pins.others() {
        let theirs = other.link(device, hook);
        // The program first: if this ends between the two, the next agent finds the pin where it was.
        if let Some(link) = open(&theirs)?
            && device_of(&theirs, &link)? == ifindex
            && swap(&link, program, device)?
        {
            Pins::rename(&theirs, path.clone())?;
            return Ok((path, link));
        }
    }
    let link = match put(program, Place::Hook(hook), device, ifindex) {
        Ok(link) => link,
        Err(error) if is_there(&error) => {
            let known = match pin_on(pins, ifindex, hook)? {
                Some((pin, link)) => {
                    Pins::rename(&pin, path.clone())?;
                    Some(link)
                }
                None => held_on(held, ifindex, hook)?,
            };
            return known.map(|link| (path, link)).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    if let Err(error) = link::pin(&link, &path) {
        tracing::warn!(
            device,
            "{}: cannot pin: {error}; the program stays while this process runs",
            path.display()
        );
    }
    Ok((path, link))
}

/// Attaches a program.
pub(super) fn put(
    program: &ProgramFd,
    place: Place,
    device: &str,
    ifindex: u32,
) -> Result<OwnedFd, Error> {
    let _hurry = grace::hurry();
    link::create(program.as_fd(), ifindex, place)
        .map_err(|error| refused(device, "bpf_link_create", error))
}

/// Gives a link another program; false: the link's device is gone.
pub(super) fn swap(link: &OwnedFd, program: &ProgramFd, device: &str) -> Result<bool, Error> {
    link::update(link, program.as_fd()).map_err(|error| refused(device, "bpf_link_update", error))
}

fn refused(device: &str, call: &'static str, io_error: std::io::Error) -> Error {
    Error::Attach {
        device: device.to_owned(),
        source: ProgramError::SyscallError(SyscallError { call, io_error }),
    }
}

/// The pin, whatever its name, of the link of a hook that is on this device.
fn pin_on(pins: &Pins, ifindex: u32, hook: Hook) -> Result<Option<(PathBuf, OwnedFd)>, Error> {
    for device in pins.devices() {
        let pin = pins.link(&device, hook);
        if let Some(link) = open(&pin)?
            && device_of(&pin, &link)? == ifindex
        {
            return Ok(Some((pin, link)));
        }
    }
    Ok(None)
}

/// The link of a hook on this device that the process holds, whether it is pinned or not.
fn held_on(held: Option<&Held>, ifindex: u32, hook: Hook) -> Result<Option<OwnedFd>, Error> {
    let failed = |source| Error::AskLink {
        path: PathBuf::from(hook.name()),
        source,
    };
    let Some(held) = held else { return Ok(None) };
    let Some((_, link)) = held.on(ifindex, hook).map_err(failed)? else {
        return Ok(None);
    };
    link.try_clone().map(Some).map_err(failed)
}

/// Opens a pinned link, if there is one.
pub(super) fn open(pin: &Path) -> Result<Option<OwnedFd>, Error> {
    link::open(pin).map_err(|source| Error::AskLink {
        path: pin.to_path_buf(),
        source,
    })
}

/// Interface index of the device of a link that is pinned there; 0 if it is gone.
pub(super) fn device_of(pin: &Path, link: &OwnedFd) -> Result<u32, Error> {
    link::ifindex(link).map_err(|source| Error::AskLink {
        path: pin.to_path_buf(),
        source,
    })
}

/// The device has this very program at this hook already (`EEXIST`).
fn is_there(error: &Error) -> bool {
    let Error::Attach {
        source: ProgramError::SyscallError(error),
        ..
    } = error
    else {
        return false;
    };
    error.io_error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error())
}
