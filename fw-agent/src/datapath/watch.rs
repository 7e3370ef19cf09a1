//! Verdicts as they are made: a probe on the programs in force, there only while somebody looks.
//!
//! In: pins, and which verdicts are wanted. Out: records with the first bytes of each packet.
//!
//! Every packet that a program judges passes its function `judged`, which does nothing: with the port, the direction and the outcome. A tracing
//! program (fentry) is put before that function in each of the node's programs, and taken away with the process that asked, however that ends.
//! So this costs nothing while nobody looks, needs no agent, and changes neither programs nor maps. Verdicts that no rule logs are seen
//! like all others.
//!
//! 1. The programs that use the pinned map of ports are found ([`target`]). 2. A program of some fifty instructions is made for the filter
//!    ([`program`]): it leaves out what is not wanted, keeps to a number of records per second and CPU, and says how many it left out for that.
//!    3. It is loaded and attached once per program. 4. Records come by perf buffers.
//!
//! Not seen: what a network card's hook drops, and frames on devices without a port (both are counted by reason). The kernel needs BTF
//! (`CONFIG_DEBUG_INFO_BTF`), as Proxmox's and Debian's have.

mod btf;
mod program;
mod target;

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::maps::perf::{PerfEvent, PerfEventArrayBuffer};
use aya::maps::{Map, MapData, PerfEventArray};
use aya::util::online_cpus;
use fw_common::event::{Event, HEADER_BYTES};
use fw_common::ledger::Outcome;
use fw_common::verdict::Reason;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::btf::Btf;
use self::program::Probe;
use super::Error;
use super::kernel::failed;
use super::pins::Pins;
use crate::policy::PortId;

/// Name in errors.
const EVENTS: &str = "of verdicts";
/// Pages of each CPU's buffer.
const PAGES: usize = 64;

/// Which verdicts are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// No accepts.
    pub drops_only: bool,
    /// Only of this guest; 0 is the host.
    pub vmid: Option<u32>,
    /// Only of this NIC.
    pub port: Option<PortId>,
    /// Only for this reason.
    pub reason: Option<Reason>,
}

/// A probe that is in place until it is dropped.
pub struct Watch {
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    /// Attached tracing programs.
    _links: Vec<OwnedFd>,
    /// Records that found no room in a buffer.
    lost: u64,
}

impl Watch {
    /// Puts the probe in place.
    ///
    /// # Errors
    /// No program of these pins is attached, or the kernel refuses the probe.
    pub fn open(pins: &Pins, wanted: Wanted) -> Result<Self, Error> {
        let programs = target::programs(pins)?;
        let kernel =
            std::fs::read("/sys/kernel/btf/vmlinux").map_err(probe("read the types of"))?;
        let kernel = Btf::parse(&kernel).ok_or_else(|| unknown("the kernel's types"))?;
        let fields = program::Fields::of(&kernel).ok_or_else(|| unknown("struct sk_buff"))?;
        drop(kernel);
        let cpus = online_cpus().map_err(|(_, source)| Error::CountCpus { source })?;
        let last = cpus.iter().max().copied().unwrap_or(0);
        let events = program::events(last + 1).map_err(probe("make the buffers"))?;
        let limits = program::limits().map_err(probe("make the limits"))?;
        let mut links = Vec::new();
        for program in &programs {
            let probe_program = Probe {
                wanted,
                fields,
                events: events.as_fd(),
                limits: limits.as_fd(),
            };
            links.push(probe_program.attach(program).map_err(refused)?);
        }
        let data = MapData::from_fd(events).map_err(failed("open the map", EVENTS))?;
        let map = PerfEventArray::try_from(Map::PerfEventArray(data));
        let mut map = map.map_err(failed("open the map", EVENTS))?;
        let mut buffers = Vec::new();
        for cpu in cpus {
            let buffer = map.open(cpu, Some(PAGES)).map_err(|error| Error::Batch {
                verb: "open the buffers of",
                map: EVENTS,
                source: io::Error::other(error),
            })?;
            buffers.push(buffer);
        }
        Ok(Self {
            buffers,
            _links: links,
            lost: 0,
        })
    }

    /// Waits for records, at most so long, and shows them to `visit`, until it breaks.
    ///
    /// # Errors
    /// The kernel does not say when there are some.
    pub fn next(
        &mut self,
        timeout: Duration,
        mut visit: impl FnMut(Event) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let mut waiting: Vec<PollFd<'_>> = self
            .buffers
            .iter()
            .map(|buffer| PollFd::new(buffer, PollFlags::IN))
            .collect();
        match poll(&mut waiting, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(probe("wait for records of")(error.into())),
        }
        drop(waiting);
        let lost = &mut self.lost;
        for buffer in &mut self.buffers {
            let done = buffer.try_fold((), |(), event| match event {
                PerfEvent::Sample { head, tail } => match program::record(&[head, tail].concat()) {
                    Some(event) => match visit(event) {
                        ControlFlow::Continue(()) => ControlFlow::Continue(()),
                        ControlFlow::Break(()) => ControlFlow::Break(()),
                    },
                    None => ControlFlow::Continue(()),
                },
                PerfEvent::Lost { count } => {
                    *lost += count;
                    ControlFlow::Continue(())
                }
            });
            if done.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Records that were lost since the last time this was asked.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

/// A refusal without a reason comes from the machine's policy: a locked-down kernel, or a container.
fn refused(source: io::Error) -> Error {
    if source.kind() != io::ErrorKind::PermissionDenied {
        return probe("attach the programs")(source);
    }
    let message = format!(
        "this machine does not allow tracing programs ({source}); logged packets are shown by `fwctl log -f`"
    );
    let source = io::Error::new(source.kind(), message);
    probe("attach the programs")(source)
}

fn probe(verb: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Batch {
        verb,
        map: "(probe of verdicts)",
        source,
    }
}

fn unknown(what: &str) -> Error {
    probe("understand")(io::Error::other(format!(
        "{what} are not what this program knows"
    )))
}

/// The outcome of a record as parts of an [`Event`].
fn outcome(event: &mut Event, bits: u64) {
    let outcome = Outcome::from_bits(bits);
    event.verdict = outcome.verdict as u8;
    event.reason = outcome.reason as u8;
    event.rule = outcome.rule;
}

/// An event without a packet.
const fn nothing() -> Event {
    Event {
        time_ns: 0,
        suppressed: 0,
        ifindex: 0,
        vmid: 0,
        rule: 0,
        length: 0,
        mark: 0,
        captured: 0,
        net: 0,
        vlan_tci: 0,
        tagged: 0,
        direction: 0,
        verdict: 0,
        reason: 0,
        level: 6,
        reserved: 0,
        header: [0; HEADER_BYTES],
    }
}
