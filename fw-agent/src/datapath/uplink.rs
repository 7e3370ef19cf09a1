//! The XDP program on uplinks: attach, update, detach.
//!
//! Links are pinned like those of the TC hooks, so that a later agent swaps the program in place. Native mode only: generic XDP would cost every
//! packet more than the program saves. A card whose driver has none, or on which another program sits, is left alone; the hooks behind decide
//! the same.

use aya::Ebpf;
use aya::programs::{ProgramError, ProgramFd, Xdp};

use super::Error;
use super::attach::{device_of, open, put, swap};
use super::link::{self, Place};
use super::pins::Pins;

/// Name of the program.
pub(super) const PROGRAM: &str = "tapwall_uplink";

/// The loaded program of the object.
pub(super) fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, Error> {
    ebpf.program_mut(PROGRAM)
        .ok_or(Error::Missing { name: PROGRAM })?
        .try_into()
        .map_err(refused)
}

pub(super) fn refused(source: ProgramError) -> Error {
    Error::Program {
        program: PROGRAM,
        source,
    }
}

/// The loaded program as others may use it.
pub(super) fn fd(ebpf: &mut Ebpf) -> Result<ProgramFd, Error> {
    let fd = program(ebpf)?.fd().map_err(refused)?;
    fd.try_clone().map_err(|source| refused(source.into()))
}

/// Attaches the program to a device, or swaps it in where an earlier agent had attached its own.
pub(super) fn attach(
    program: &ProgramFd,
    pins: &Pins,
    device: &str,
    ifindex: u32,
) -> Result<(), Error> {
    let path = pins.uplink(device);
    if let Some(link) = open(&path)? {
        if device_of(&path, &link)? == ifindex && swap(&link, program, device)? {
            return Ok(());
        }
        // Of a device that is gone, or has another name by now.
        Pins::remove(path.clone())?;
    }
    for other in pins.others() {
        let theirs = other.uplink(device);
        // As with the TC hooks: the program first, then the pin.
        if let Some(link) = open(&theirs)?
            && device_of(&theirs, &link)? == ifindex
            && swap(&link, program, device)?
        {
            return Pins::rename(&theirs, path);
        }
    }
    let link = put(program, Place::Card, device, ifindex)?;
    link::pin(&link, &path).map_err(|source| Error::Pin {
        device: device.to_owned(),
        source,
    })
}

/// Takes the program off a device. That it is gone is fine.
pub(super) fn detach(pins: &Pins, device: &str) -> Result<(), Error> {
    for other in pins.others() {
        Pins::remove(other.uplink(device))?;
    }
    Pins::remove(pins.uplink(device))
}
