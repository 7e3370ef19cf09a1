//! Programs on devices: attach, update, detach.
//!
//! TCX links (kernel 6.6 and later) are pinned; another agent finds the pin and swaps the program in place, so that no packet goes by
//! unfiltered. Before 6.6 the programs are filters of the [`clsact`] qdisc, which a later agent replaces in place too.
//!
//! A link belongs to the device it is on, whatever that is called by now: 1. the pin of the device's name is used if its link is on the device,
//! 2. otherwise it is set aside for the device that it is on, 3. the pin that an agent of another version left is taken over: first the program is
//! swapped, then the pin moves, 4. otherwise a link is made; one that the device already has under a former name gets the new name.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::pins::Pins;
use super::{Error, clsact, link};

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

/// Attaches both programs to a device, or swaps them in where an earlier agent had attached its own.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    mode: AttachMode,
    (device, ifindex): (&str, u32),
    role: Role,
) -> Result<(), Error> {
    for hook in Hook::ALL {
        let program = classifier(ebpf, role, hook)?;
        match mode {
            AttachMode::Tcx => attach_tcx(program, pins, (device, ifindex), hook)?,
            AttachMode::Clsact => clsact::attach(program, pins, (device, ifindex), hook)?,
        }
    }
    Ok(())
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

/// Detaches what was set aside for devices that turned out to need no programs.
pub(super) fn drop_aside(pins: &Pins) -> Result<(), Error> {
    for device in pins.set_aside() {
        detach(pins, AttachMode::Tcx, &device)?;
    }
    Ok(())
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
    program: &mut SchedClassifier,
    pins: &Pins,
    (device, ifindex): (&str, u32),
    hook: Hook,
) -> Result<(), Error> {
    let path = pins.link(device, hook);
    match device_of(&path)? {
        Some(on) if on == ifindex && swap(program, &path, device)? => return Ok(()),
        // It went meanwhile, and its pin with it.
        Some(on) if on == ifindex => {}
        // The device is gone; one of that name that exists now is another.
        Some(0) => Pins::remove(path.clone())?,
        Some(on) => Pins::rename(&path, pins.aside(on, hook))?,
        None => {}
    }
    for other in pins.others() {
        let theirs = other.link(device, hook);
        // The program first: if this ends between the two, the next agent finds the pin where it was.
        if device_of(&theirs)? == Some(ifindex) && swap(program, &theirs, device)? {
            return Pins::rename(&theirs, path);
        }
    }
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = match program.attach_with_options(device, hook.attach_type(), options) {
        Ok(id) => id,
        Err(error) if is_there(&error) => {
            let Some(pin) = pin_on(pins, ifindex, hook)? else {
                return Err(failed(error));
            };
            return Pins::rename(&pin, path);
        }
        Err(error) => return Err(failed(error)),
    };
    let link: FdLink = program
        .take_link(id)
        .map_err(failed)?
        .try_into()
        .map_err(|source| Error::Link {
            device: device.to_owned(),
            source,
        })?;
    link.pin(&path).map_err(|source| Error::Pin {
        device: device.to_owned(),
        source,
    })?;
    if device_of(&path)? != Some(ifindex) {
        // The name went to another device meanwhile.
        Pins::remove(path)?;
        return Err(Error::NoDevice {
            device: device.to_owned(),
        });
    }
    Ok(())
}

/// Swaps the program of a pinned link; false: the link's device is gone, and with it the pin.
fn swap(program: &mut SchedClassifier, pin: &Path, device: &str) -> Result<bool, Error> {
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let link_failed = |source| Error::Link {
        device: device.to_owned(),
        source,
    };
    let pinned = PinnedLink::from_pin(pin).map_err(link_failed)?;
    let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_failed)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The pin keeps the link; our handle of it may go.
            drop(program.take_link(id).map_err(failed)?);
            Ok(true)
        }
        Err(error) if is_stale(&error) => Pins::remove(pin.to_path_buf()).map(|()| false),
        Err(error) => Err(failed(error)),
    }
}

/// The pin, whatever its name, of the link of a hook that is on this device.
fn pin_on(pins: &Pins, ifindex: u32, hook: Hook) -> Result<Option<std::path::PathBuf>, Error> {
    for device in pins.devices() {
        let pin = pins.link(&device, hook);
        if device_of(&pin)? == Some(ifindex) {
            return Ok(Some(pin));
        }
    }
    Ok(None)
}

/// Interface index of a pinned link's device; 0 if it is gone, none if there is no pin.
pub(super) fn device_of(pin: &Path) -> Result<Option<u32>, Error> {
    link::ifindex(pin).map_err(|source| Error::AskLink {
        path: pin.to_path_buf(),
        source,
    })
}

/// The device has this very program at this hook already (`EEXIST`).
fn is_there(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(rustix::io::Errno::EXIST.raw_os_error())
}

/// The link's device is gone (`ENOLINK`); one of that name that exists now is another.
pub(super) fn is_stale(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(rustix::io::Errno::NOLINK.raw_os_error())
}
