//! The XDP program on uplinks: attach, update, detach.
//!
//! Links are pinned like those of the TC hooks, so that a later agent swaps the program in place. Native mode only: generic XDP would cost every
//! packet more than the program saves. A card whose driver has none, or on which another program sits, is left alone; the hooks behind decide
//! the same.

use std::path::Path;

use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, Xdp, XdpMode};

use super::Error;
use super::attach::{device_of, is_stale};
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

/// Attaches the program to a device, or swaps it in where an earlier agent had attached its own.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    pins: &Pins,
    device: &str,
    ifindex: u32,
) -> Result<(), Error> {
    let program = program(ebpf)?;
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let link_failed = |source| Error::Link {
        device: device.to_owned(),
        source,
    };
    let path = pins.uplink(device);
    if let Some(on) = device_of(&path)? {
        if on == ifindex && swap(program, &path, device)? {
            return Ok(());
        }
        // Of a device that is gone, or has another name by now.
        Pins::remove(path.clone())?;
    }
    for other in pins.others() {
        let theirs = other.uplink(device);
        // As with the TC hooks: the program first, then the pin.
        if device_of(&theirs)? == Some(ifindex) && swap(program, &theirs, device)? {
            return Pins::rename(&theirs, path);
        }
    }
    let id = program
        .attach_to_if_index(ifindex, XdpMode::Driver)
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

/// Swaps the program of a pinned link; false: the link's device is gone, and with it the pin.
fn swap(program: &mut Xdp, pin: &Path, device: &str) -> Result<bool, Error> {
    let failed = |source| Error::Attach {
        device: device.to_owned(),
        source,
    };
    let link_failed = |source| Error::Link {
        device: device.to_owned(),
        source,
    };
    let pinned = PinnedLink::from_pin(pin).map_err(link_failed)?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(link_failed)?;
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

/// Takes the program off a device. That it is gone is fine.
pub(super) fn detach(pins: &Pins, device: &str) -> Result<(), Error> {
    for other in pins.others() {
        Pins::remove(other.uplink(device))?;
    }
    Pins::remove(pins.uplink(device))
}
