//! Programs on devices: attach, update, detach.
//!
//! TCX links (kernel 6.6 and later) are pinned; another agent finds the pin and swaps the program in place, so that no packet goes by
//! unfiltered. Before 6.6 the programs are filters of the [`clsact`] qdisc, which a later agent replaces in place too.

use aya::Ebpf;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;

use super::pins::Pins;
use super::{Error, clsact};

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
    device: &str,
    role: Role,
) -> Result<(), Error> {
    for hook in Hook::ALL {
        let program = classifier(ebpf, role, hook)?;
        match mode {
            AttachMode::Tcx => attach_tcx(program, pins, device, hook)?,
            AttachMode::Clsact => clsact::attach(program, device, hook)?,
        }
    }
    Ok(())
}

/// Takes both programs off a device. That it is gone is fine.
pub(super) fn detach(pins: &Pins, mode: AttachMode, device: &str) -> Result<(), Error> {
    for hook in Hook::ALL {
        match mode {
            AttachMode::Tcx => Pins::remove(pins.link(device, hook))?,
            AttachMode::Clsact => clsact::detach(device, hook)?,
        }
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
    device: &str,
    hook: Hook,
) -> Result<(), Error> {
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let link_failed = |source| Error::Link {
        device: device.to_owned(),
        source,
    };
    let path = pins.link(device, hook);
    match PinnedLink::from_pin(&path) {
        Ok(pinned) => {
            let link = SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(link_failed)?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps the link; our handle of it may go.
                    drop(program.take_link(id).map_err(failed)?);
                    return Ok(());
                }
                Err(error) if is_stale(&error) => Pins::remove(path.clone())?,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(LinkError::SyscallError(error))
            if error.io_error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(link_failed(error)),
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(device, hook.attach_type(), options)
        .map_err(failed)?;
    let link: FdLink = program
        .take_link(id)
        .map_err(failed)?
        .try_into()
        .map_err(link_failed)?;
    link.pin(path).map_err(|source| Error::Pin {
        device: device.to_owned(),
        source,
    })?;
    Ok(())
}

/// The link's device is gone (`ENOLINK`); one of that name that exists now is another.
pub(super) fn is_stale(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else {
        return false;
    };
    error.io_error.raw_os_error() == Some(rustix::io::Errno::NOLINK.raw_os_error())
}
