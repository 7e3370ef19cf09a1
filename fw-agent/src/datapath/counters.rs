//! What is counted per rule and port, read from the pinned maps and set back to zero.
//!
//! In: pins. Out: sums over all CPUs. Works with or without an agent.
//!
//! Counters begin when the maps are made (after a boot, or with a new layout) and whenever [`zero`] is called: [`since`] is the later of the two,
//! kept as the modification time of the map's pin. A packet that is being counted while its counter is set to zero may be in neither number.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::SystemTime;

use aya::maps::{MapError, PerCpuValues};
use aya::util::nr_cpus;
use fw_common::maps::{Counter, NO_COUNTERS, Port, PortCounters, PortKey, RuleKey, name};
use fw_common::verdict::Reason;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::Error;
use super::kernel::failed;
use super::pins::Pins;

/// The counters of all rules that have decided something.
///
/// # Errors
/// The map cannot be read.
pub fn rules(pins: &Pins) -> Result<BTreeMap<RuleKey, Counter>, Error> {
    let map = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    let mut found = BTreeMap::new();
    for entry in map.iter() {
        let (key, values) = entry.map_err(failed("read", name::RULE_COUNTERS))?;
        found.insert(key, Counter::sum(values.iter()));
    }
    Ok(found)
}

/// The ports that are under policy.
///
/// # Errors
/// The map cannot be read.
pub fn known(pins: &Pins) -> Result<BTreeSet<PortKey>, Error> {
    let mut found = BTreeSet::new();
    for entry in pins.hash::<u32, Port>(name::PORTS)?.iter() {
        let (_, port) = entry.map_err(failed("read", name::PORTS))?;
        found.insert(port_key(&port));
    }
    Ok(found)
}

/// What every port has counted, by direction and verdict.
///
/// # Errors
/// A map cannot be read.
pub fn ports(pins: &Pins) -> Result<BTreeMap<PortKey, PortCounters>, Error> {
    let mut slots = BTreeMap::new();
    for entry in pins.hash::<u32, Port>(name::PORTS)?.iter() {
        let (_, port) = entry.map_err(failed("read", name::PORTS))?;
        slots.insert(port_key(&port), port.counters);
    }
    let map = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS)?;
    let mut found = BTreeMap::new();
    for (key, slot) in slots {
        // More ports than places to count them in.
        let Ok(values) = map.get(&slot, 0) else {
            continue;
        };
        let sum: &mut PortCounters = found.entry(key).or_default();
        for (direction, verdicts) in sum.0.iter_mut().enumerate() {
            for (verdict, sum) in verdicts.iter_mut().enumerate() {
                *sum = Counter::sum(values.iter().map(|value| &value.0[direction][verdict]));
            }
        }
    }
    Ok(found)
}

/// The name of a port in maps that outlive its device.
const fn port_key(port: &Port) -> PortKey {
    PortKey {
        vmid: port.vmid,
        net: port.net,
        reserved: 0,
    }
}

/// What was dropped or rejected so far, by reason. Rules and policies of the administrator accept and drop for the same reason: those are not
/// among them, their own counters tell ([`rules`]).
///
/// # Errors
/// The map cannot be read.
pub fn drops(pins: &Pins) -> Result<Vec<(Reason, Counter)>, Error> {
    let reasons = Reason::ALL.iter().filter(|reason| drops_only(**reason));
    let counters = reasons.map(|reason| Ok((*reason, dropped(pins, *reason)?)));
    counters.collect()
}

/// What was dropped for one reason that only drops are for.
///
/// # Errors
/// The map cannot be read.
pub fn dropped(pins: &Pins, reason: Reason) -> Result<Counter, Error> {
    let map = pins.per_cpu::<Counter>(name::COUNTERS)?;
    let values = map.get(&(reason as u32), 0);
    let values = values.map_err(failed("read", name::COUNTERS))?;
    Ok(Counter::sum(values.iter()))
}

/// Whether a reason is always one to drop.
const fn drops_only(reason: Reason) -> bool {
    match reason {
        Reason::Noise
        | Reason::Invalid
        | Reason::Blacklist
        | Reason::Smurf
        | Reason::TcpFlags
        | Reason::MacFilter
        | Reason::RouterAdvertisement
        | Reason::IpFilter
        | Reason::Malformed
        | Reason::Fragment
        | Reason::HeaderChain
        | Reason::NoPolicy
        | Reason::BadPolicy
        | Reason::SynLimit
        | Reason::Vlan
        | Reason::Layer2
        | Reason::Ban
        | Reason::Martian => true,
        Reason::Rule
        | Reason::Policy
        | Reason::Established
        | Reason::Standard
        | Reason::NotIp
        | Reason::Hairpin
        | Reason::GuestOff
        | Reason::Related
        | Reason::Forwarded => false,
    }
}

/// Since when has been counted, if the pin tells.
pub fn since(pins: &Pins) -> Option<SystemTime> {
    let pin = std::fs::metadata(pins.map(name::RULE_COUNTERS));
    pin.and_then(|pin| pin.modified()).ok()
}

/// What [`zero`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Zeroed {
    /// Rules whose counters were not zero.
    pub rules: usize,
    /// Ports.
    pub ports: usize,
}

/// Sets the counters of the rules and ports that are wanted to zero; with `reasons` also those by reason. What the agent watches (events lost, flows
/// refused) goes on: it must never fall.
///
/// # Errors
/// A map cannot be read or written; those before are done.
pub fn zero(pins: &Pins, wanted: impl Fn(PortKey) -> bool, reasons: bool) -> Result<Zeroed, Error> {
    let mut done = Zeroed::default();
    let mut counters = pins.per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)?;
    let keys = counters.keys().collect::<Result<Vec<RuleKey>, MapError>>();
    for key in keys.map_err(failed("read", name::RULE_COUNTERS))? {
        if wanted(key.port()) {
            super::kernel::removed(counters.remove(&key), name::RULE_COUNTERS)?;
            done.rules += 1;
        }
    }
    let cpus = nr_cpus().map_err(|(_, source)| Error::CountCpus { source })?;
    let mut slots = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS)?;
    let mut found = BTreeMap::new();
    for entry in pins.hash::<u32, Port>(name::PORTS)?.iter() {
        let (_, port) = entry.map_err(failed("read", name::PORTS))?;
        let key = port_key(&port);
        if port.counters != NO_COUNTERS && wanted(key) {
            found.insert(port.counters, key);
        }
    }
    for slot in found.keys() {
        let nothing = PerCpuValues::try_from(vec![PortCounters::default(); cpus])
            .map_err(|source| failed("write", name::PORT_COUNTERS)(source.into()))?;
        slots
            .set(*slot, nothing, 0)
            .map_err(failed("write", name::PORT_COUNTERS))?;
    }
    done.ports = found.len();
    if reasons {
        let mut entries = pins.per_cpu::<Counter>(name::COUNTERS)?;
        for reason in Reason::ALL {
            let nothing = PerCpuValues::try_from(vec![Counter::default(); cpus])
                .map_err(|source| failed("write", name::COUNTERS)(source.into()))?;
            entries
                .set(*reason as u32, nothing, 0)
                .map_err(failed("write", name::COUNTERS))?;
        }
    }
    begin_again(&pins.map(name::RULE_COUNTERS))?;
    Ok(done)
}

/// Has the pin say that counting began now.
fn begin_again(pin: &Path) -> Result<(), Error> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    utimensat(CWD, pin, &times, AtFlags::empty()).map_err(|error| Error::PinDirectory {
        path: pin.to_path_buf(),
        source: error.into(),
    })
}
