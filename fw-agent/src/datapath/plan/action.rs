//! Steps, and what a plan is made of.

use std::sync::Arc;

use fw_common::maps::{Port, Settings, Station};
use fw_common::wire::Address;

use crate::datapath::attach::Role;
use crate::image::{Classes, Prefixes};
use crate::policy::PortId;

/// One step of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill a class space that nobody uses yet.
    WriteClasses {
        /// Its number.
        space: u32,
        /// Its contents.
        classes: Arc<Classes>,
    },
    /// Write entries of a class space that is in use.
    WriteEntries {
        /// Its number.
        space: u32,
        /// What stands for its new classes in the space of parents, to be written first.
        lineage: Vec<(u32, u32)>,
        /// Prefixes, to be written in this order.
        prefixes: Prefixes,
    },
    /// Write words of a prefilter that is in use, with more bits than they had.
    AddBits {
        /// First of the words.
        start: u32,
        /// The words.
        words: Vec<u64>,
    },
    /// Fill free words of the arena.
    WritePolicy {
        /// First word.
        start: u32,
        /// The words.
        words: Vec<u64>,
    },
    /// Replace the node's settings.
    WriteSettings(Settings),
    /// Set a port's counters to zero, before its first value names them.
    ClearCounters {
        /// Their entry.
        slot: u32,
    },
    /// Switch a port to new policies.
    SetPort {
        /// Interface index.
        ifindex: u32,
        /// Name, for messages.
        device: String,
        /// The value.
        port: Port,
    },
    /// Note addresses of the host.
    AddLocals(Vec<Address>),
    /// Forget addresses of the host.
    RemoveLocals(Vec<Address>),
    /// Attach the programs to a device, or update them there.
    Attach {
        /// Name.
        device: String,
        /// Which programs.
        role: Role,
        /// Interface index.
        ifindex: u32,
    },
    /// Take the programs off a device; it is unfiltered then.
    Detach {
        /// Name.
        device: String,
    },
    /// Forget a port whose programs are gone.
    RemovePort {
        /// Interface index.
        ifindex: u32,
    },
    /// Make the flow table anew in another size, and programs that use it; those that are attached still use the old one.
    ResizeFlows {
        /// Flows that it takes.
        entries: u32,
    },
    /// Fetch what programs with the old flow table did to it before they were replaced.
    FetchFlows,
    /// Let the uplinks know of a station.
    SetStation {
        /// Its hardware address.
        mac: u64,
        /// The value.
        station: Station,
    },
    /// Let the uplinks forget a station.
    RemoveStation {
        /// Its hardware address.
        mac: u64,
    },
    /// Attach the XDP program to an uplink, or update it there.
    AttachUplink {
        /// Name.
        device: String,
        /// Interface index.
        ifindex: u32,
    },
    /// Take the XDP program off an uplink.
    DetachUplink {
        /// Name.
        device: String,
    },
    /// Wait until every program that was running has ended: it may still use what ports referred to when it began.
    AwaitReaders,
    /// Remove a class space that no port uses.
    RemoveClasses {
        /// Its number.
        space: u32,
        /// Its contents, if they are known.
        classes: Option<Arc<Classes>>,
    },
}

/// What to do, and what is not possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in order.
    pub actions: Vec<Action>,
    /// Ports whose policy found no room: they keep the one they have, or stay closed.
    pub no_room: Vec<PortId>,
}
