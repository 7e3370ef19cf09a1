//! How a [`crate::image::MapImage`] gets into the kernel. The only user of aya.
//!
//! 1. [`Kernel::open`] loads the programs and opens or makes the pinned maps.
//! 2. [`plan`](plan::plan) compares what the kernel holds with the image and the devices that are there, and lists [`Action`]s.
//! 3. [`Kernel::apply`] carries them out in order. Beside it, a [`Door`] closes devices that have just come.
//!
//! Invariants: make before break, so that stopping after any action leaves every port with a whole policy, old or new, or closed.
//! Maps and links are pinned below one directory, named after the layout version; without the agent the last policy stays in force.

mod arena;
mod attach;
mod bans;
pub mod batch;
mod carry;
mod clsact;
pub mod counters;
mod door;
pub mod flow_filter;
pub mod flows;
mod grace;
pub mod half_open;
mod kernel;
pub mod leftovers;
mod link;
mod pages;
pub mod pins;
pub mod plan;
pub mod scratch;
mod slots;
mod spaces;
pub mod sweep;
mod uplink;
pub mod watch;
mod words;

pub use attach::{AttachMode, Hook, Role};
pub use bans::Bans;
pub use door::{Claim, Door, Newcomer};
pub use kernel::{Kernel, TestPlace, missing_privilege};
pub use link::Kept;
pub use plan::{Action, Plan, State};
pub use words::Words;

use std::path::PathBuf;

use aya::programs::ProgramError;
use aya::programs::tc::TcError;
use fw_common::maps::{Port, name};
use rustix::time::{ClockId, clock_gettime};

/// The kernel programs, as built by `cargo xtask build`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TAPWALL_BPF_OBJECT"));

/// What can go wrong between the agent and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pin directory is not usable.
    #[error("cannot use the pin directory {path}")]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A pin cannot be removed.
    #[error("cannot remove the pin {path}")]
    Unpin {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A pin cannot take another's place.
    #[error("cannot replace the pin {path}")]
    Repin {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The object does not load.
    #[error("cannot load the kernel object")]
    Load {
        /// Why.
        #[source]
        source: aya::EbpfError,
    },
    /// A program is refused.
    #[error("the kernel refuses the program {program}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// A map or program that the object should have is not there.
    #[error("the kernel object has no {name}")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A map operation failed.
    #[error("cannot {verb} map {map}")]
    Map {
        /// What was tried.
        verb: &'static str,
        /// The map's name.
        map: &'static str,
        /// Why.
        #[source]
        source: aya::maps::MapError,
    },
    /// A batch of map operations failed.
    #[error("cannot {verb} map {map}")]
    Batch {
        /// What was tried.
        verb: &'static str,
        /// The map's name.
        map: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A smaller flow table would not hold the flows that there are.
    #[error("{flows} flows do not fit in a table of {entries}; it stays as it is")]
    TooManyFlows {
        /// Flows that there are.
        flows: u64,
        /// Entries of the table that is wanted.
        entries: u32,
    },
    /// The kernel does not tell how many CPUs there may be.
    #[error("cannot count the CPUs")]
    CountCpus {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The kernel does not tell when programs have ended.
    #[error("cannot wait until running programs have ended")]
    AwaitReaders {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A program cannot be attached.
    #[error("cannot attach to {device}")]
    Attach {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: aya::programs::ProgramError,
    },
    /// The clsact qdisc cannot be added or removed.
    #[error("cannot {verb} {device}")]
    Qdisc {
        /// What was tried.
        verb: &'static str,
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: aya::programs::tc::TcError,
    },
    /// The place of the clsact qdisc is taken.
    #[error(
        "{device} has a qdisc `{kind}` (a rate limit makes one) in the place of `clsact`, without which this kernel cannot filter; \
         remove the limit, or use a kernel from 6.6 on"
    )]
    OtherQdisc {
        /// The device.
        device: String,
        /// What is there.
        kind: String,
    },
    /// A program cannot be detached.
    #[error("cannot detach from {device}")]
    Detach {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: aya::programs::tc::TcError,
    },
    /// The device went away, or its name is another device's now.
    #[error("{device} is gone, or is another device by now")]
    NoDevice {
        /// The device.
        device: String,
    },
    /// A pin cannot be opened, or the kernel does not tell which device its link is on.
    #[error("cannot open the pin {path}")]
    AskLink {
        /// The pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A link cannot be pinned.
    #[error("cannot pin the link of {device}")]
    Pin {
        /// The device.
        device: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Now, in nanoseconds of the clock that the programs go by.
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Takes every program of ours off every device and removes all pins: nothing is filtered any more.
///
/// # Errors
/// A pin or a program cannot be removed.
pub fn detach_all(pins: &pins::Pins, mode: AttachMode) -> Result<(), Error> {
    let mut devices = pins.devices();
    for pins in pins.others().iter().chain([pins]) {
        for device in pins.filtered() {
            attach::detach(pins, AttachMode::Clsact, &device)?;
        }
    }
    if mode == AttachMode::Clsact && pins.exist() {
        // Filters have no pins, but no device has one without having been a port before.
        let ports = pins.hash::<u32, Port>(name::PORTS)?;
        for ifindex in ports.keys() {
            let ifindex = ifindex.map_err(|source| Error::Map {
                verb: "read",
                map: name::PORTS,
                source,
            })?;
            devices.extend(clsact::device(ifindex));
        }
    }
    let _hurry = grace::hurry();
    for device in devices {
        attach::end_links(pins, &device)?;
        attach::detach(pins, mode, &device)?;
    }
    for device in pins.uplinks() {
        uplink::detach(pins, &device)?;
    }
    pins.remove_all()
}

impl Error {
    /// The device is not there (any more).
    pub fn is_no_device(&self) -> bool {
        if matches!(self, Self::NoDevice { .. }) {
            return true;
        }
        let absent = [
            rustix::io::Errno::NODEV.raw_os_error(),
            rustix::io::Errno::NXIO.raw_os_error(),
        ];
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            // aya's errors show an I/O error's text as their own, and not the I/O error as their source.
            let io = match (error.downcast_ref(), error.downcast_ref()) {
                (Some(ProgramError::TcError(TcError::IoError(io))), _) => Some(io),
                (_, Some(TcError::IoError(io))) => Some(io),
                _ => error.downcast_ref::<std::io::Error>(),
            };
            let code = io.and_then(std::io::Error::raw_os_error);
            if code.is_some_and(|code| absent.contains(&code)) {
                return true;
            }
            cause = error.source();
        }
        false
    }
}
