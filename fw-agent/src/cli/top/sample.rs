//! One look at the node: the pinned counters and flows, and what the agent says of itself.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::maps::MapInfo;
use fw_common::half_open;
use fw_common::maps::{Counter, PortCounters, PortKey, RuleKey, name};
use fw_common::verdict::Reason;

use crate::cli::Place;
use crate::cli::status::{self, Found};
use crate::control::Status;
use crate::datapath::flows;
use crate::datapath::pins::Pins;
use crate::datapath::{counters, sweep};
use crate::migrate::address;

/// What was counted until some moment.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// Nanoseconds of the coarse monotonic clock.
    pub(super) at: u64,
    pub(super) status: Status,
    /// What of that could not be asked or read.
    pub(super) remarks: Vec<String>,
    pub(super) ports: BTreeMap<PortKey, PortCounters>,
    pub(super) rules: BTreeMap<RuleKey, Counter>,
    pub(super) reasons: Vec<(Reason, Counter)>,
    pub(super) flows: Flows,
}

/// The flows, by who takes part in them.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// Flows that the tables have room for, settled and half-open.
    pub(super) room: [u64; 2],
    pub(super) by_address: HashMap<Talker, Talk>,
}

/// An address at one end of flows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Talker {
    pub(super) port: PortKey,
    /// It is the guest's or the host's own, not that of the other end.
    pub(super) is_own: bool,
    pub(super) address: IpAddr,
}

/// Its flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Talk {
    pub(super) settled: u64,
    pub(super) half_open: u64,
    /// Those of both kinds that began after the last look.
    pub(super) new: u64,
}

impl Sample {
    /// Looks. `since`: when the last look was.
    pub(super) fn take(place: &Place, pins: &Pins, since: Option<u64>) -> Result<Self> {
        let (status, remarks) = match status::status(place) {
            Ok(Found {
                status, remarks, ..
            }) => (status, remarks),
            Err(error) => (Status::default(), vec![format!("{error:#}")]),
        };
        Ok(Self {
            at: sweep::now(),
            status,
            remarks,
            ports: counters::ports(pins)?,
            rules: counters::rules(pins)?,
            reasons: counters::drops(pins)?,
            flows: Flows::count(pins, since.unwrap_or(u64::MAX))?,
        })
    }
}

impl Flows {
    fn count(pins: &Pins, since: u64) -> Result<Self> {
        let info = MapInfo::from_pin(pins.map(name::FLOWS));
        let info = info.context("cannot read the layout of FLOWS")?;
        let mut found = Self {
            room: [info.max_entries(), half_open::ENTRIES].map(u64::from),
            ..Self::default()
        };
        flows::visit(pins, |entry| {
            let (key, port) = (&entry.key, PortKey::of_flow(&entry.key));
            for (is_own, end) in [(true, &key.local), (false, &key.remote)] {
                let talker = Talker {
                    port,
                    is_own,
                    address: address(key.version, end),
                };
                let talk = found.by_address.entry(talker).or_default();
                match entry.settled {
                    true => talk.settled += 1,
                    false => talk.half_open += 1,
                }
                talk.new += u64::from(entry.flow.created > since);
            }
        })?;
        Ok(found)
    }
}
