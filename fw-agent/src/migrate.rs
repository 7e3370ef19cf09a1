//! One guest's flows as bytes, for its live migration: written on the node it leaves, read on the node it goes to.
//!
//! ```text
//! TAPWALL-FLOWS 1\n            the form and its version
//! guest, number of flows       each a varint
//! flows                        postcard's form of `Record`: about 30 bytes for IPv4, 55 for IPv6
//! SHA-256 of all before        what was cut or changed on the way is refused
//! ```
//!
//! Times are ages, for no two nodes have the same clock. Whose policy a flow was accepted under does not travel: see [`crate::datapath::flows`].
//! The rule does, as a number that is the same on all nodes for the same line.
//!
//! In: bytes from another node. Invariant: any bytes give flows of one guest whose fields make sense, or an error; nothing panics, and memory is
//! bounded by the size of the input.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fw_common::conntrack::{ANSWERED, REOPENS, RESET, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::HOST_VMID;
use fw_common::verdict::Direction;
use fw_common::wire::Address;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::datapath::flows::Entry;

/// First line.
const HEAD: &[u8] = b"TAPWALL-FLOWS 1\n";
/// Bytes of the checksum.
const SUM: usize = 32;
/// Nanoseconds of a millisecond.
const MILLISECOND: u64 = 1_000_000;
/// Bits of a state that mean something.
const STATE_BITS: u32 = 0xff | ANSWERED | RESET | REOPENS;

/// Why bytes are no flows.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Something else, or of a version that is not known.
    #[error("this is no export of flows, or of another version")]
    NotFlows,
    /// Cut off, or changed on the way.
    #[error("the export is damaged: its checksum is wrong")]
    Damaged,
    /// A record cannot be read.
    #[error("the export cannot be read at flow {index}")]
    Record {
        /// Which, from 0.
        index: u64,
        /// Why.
        #[source]
        source: postcard::Error,
    },
    /// A record's fields contradict each other.
    #[error("flow {index} makes no sense")]
    Nonsense {
        /// Which, from 0.
        index: u64,
    },
    /// The guest of an export is never the host.
    #[error("the host's flows do not travel")]
    Host,
}

/// The flows of one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The guest.
    pub vmid: u32,
    /// Its flows.
    pub flows: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    net: u16,
    protocol: u8,
    /// [`SETTLED`], [`INBOUND`].
    flags: u8,
    local: IpAddr,
    remote: IpAddr,
    local_port: u16,
    remote_port: u16,
    state: u32,
    rule: u32,
    /// Milliseconds since the last packet.
    idle: u64,
    /// Milliseconds since the first.
    age: u64,
    acknowledged: [u32; 2],
}

/// Both ends have taken part in the flow.
const SETTLED: u8 = 1;
/// Its first packet was to the guest.
const INBOUND: u8 = 2;

/// The address of a key as one of the standard library.
pub fn address(version: u8, address: &Address) -> IpAddr {
    let number = address.0.iter().fold(0_u128, |number, word| {
        number << 32 | u128::from(u32::from_be(*word))
    });
    match version {
        4 => Ipv4Addr::from(number as u32).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

/// An address as it stands in keys.
pub fn key_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(address) => Address::v4(u32::from(address).to_be()),
        IpAddr::V6(address) => {
            let number = u128::from(address);
            Address([96, 64, 32, 0].map(|shift| ((number >> shift) as u32).to_be()))
        }
    }
}

/// Writes the flows of a guest; those of others are left out. `now`: of the programs' clock.
///
/// # Errors
/// The guest is none.
pub fn write(vmid: u32, flows: &[Entry], now: u64) -> Result<Vec<u8>, MigrateError> {
    if vmid == HOST_VMID {
        return Err(MigrateError::Host);
    }
    let own = || flows.iter().filter(|entry| entry.key.vmid == vmid);
    let mut out = Vec::with_capacity(64 + flows.len() * 48);
    out.extend_from_slice(HEAD);
    let failed = |index| move |source| MigrateError::Record { index, source };
    out = postcard::to_extend(&(vmid, own().count() as u64), out).map_err(failed(0))?;
    for (entry, index) in own().zip(0..) {
        let (key, flow) = (&entry.key, &entry.flow);
        let inbound = Direction::from_u8(flow.origin) == Direction::In;
        let age = |time: u64| now.saturating_sub(time) / MILLISECOND;
        let record = Record {
            net: key.net,
            protocol: key.protocol,
            flags: if entry.settled { SETTLED } else { 0 } | if inbound { INBOUND } else { 0 },
            local: address(key.version, &key.local),
            remote: address(key.version, &key.remote),
            local_port: key.local_port,
            remote_port: key.remote_port,
            state: flow.state,
            rule: flow.rule,
            idle: age(flow.seen),
            age: age(flow.created),
            acknowledged: flow.acknowledged,
        };
        out = postcard::to_extend(&record, out).map_err(failed(index))?;
    }
    let sum = Sha256::digest(&out);
    out.extend_from_slice(&sum);
    Ok(out)
}

/// Reads what [`write`] wrote.
///
/// # Errors
/// It is not that, or not whole.
pub fn read(bytes: &[u8], now: u64) -> Result<Export, MigrateError> {
    let body = bytes.len().checked_sub(SUM).ok_or(MigrateError::NotFlows)?;
    let (body, sum) = bytes.split_at(body);
    if !body.starts_with(HEAD) {
        return Err(MigrateError::NotFlows);
    }
    if Sha256::digest(body)[..] != *sum {
        return Err(MigrateError::Damaged);
    }
    let rest = &body[HEAD.len()..];
    let failed = |index| move |source| MigrateError::Record { index, source };
    let ((vmid, count), mut rest) =
        postcard::take_from_bytes::<(u32, u64)>(rest).map_err(failed(0))?;
    if vmid == HOST_VMID {
        return Err(MigrateError::Host);
    }
    let mut flows = Vec::new();
    for index in 0..count {
        let (record, left) = postcard::take_from_bytes::<Record>(rest).map_err(failed(index))?;
        rest = left;
        flows.push(entry(vmid, &record, now).ok_or(MigrateError::Nonsense { index })?);
    }
    match rest.is_empty() {
        true => Ok(Export { vmid, flows }),
        false => Err(MigrateError::NotFlows),
    }
}

/// The flow of a record; none if there is no such flow.
fn entry(vmid: u32, record: &Record, now: u64) -> Option<Entry> {
    let version = match (record.local, record.remote) {
        (IpAddr::V4(_), IpAddr::V4(_)) => 4,
        (IpAddr::V6(_), IpAddr::V6(_)) => 6,
        _ => return None,
    };
    let known = State::from_u32(record.state) as u32 == record.state & 0xff;
    if !known || record.state & !STATE_BITS != 0 || record.flags & !(SETTLED | INBOUND) != 0 {
        return None;
    }
    let time = |age: u64| now.saturating_sub(age.saturating_mul(MILLISECOND));
    let origin = match record.flags & INBOUND {
        0 => Direction::Out,
        _ => Direction::In,
    };
    Some(Entry {
        key: FlowKey {
            vmid,
            net: record.net,
            protocol: record.protocol,
            version,
            local: key_address(record.local),
            remote: key_address(record.remote),
            local_port: record.local_port,
            remote_port: record.remote_port,
        },
        flow: Flow {
            seen: time(record.idle),
            created: time(record.age.max(record.idle)),
            state: record.state,
            rule: record.rule,
            origin: origin as u8,
            acknowledged: record.acknowledged,
            ..Flow::default()
        },
        settled: record.flags & SETTLED != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_000_000 * MILLISECOND;

    fn flow(vmid: u32, remote: &str, settled: bool) -> Entry {
        let remote: IpAddr = remote.parse().unwrap();
        let local: IpAddr = match remote {
            IpAddr::V4(_) => "192.0.2.100".parse().unwrap(),
            IpAddr::V6(_) => "2001:db8::100".parse().unwrap(),
        };
        Entry {
            key: FlowKey {
                vmid,
                net: 1,
                protocol: 6,
                version: if remote.is_ipv4() { 4 } else { 6 },
                local: key_address(local),
                remote: key_address(remote),
                local_port: 22,
                remote_port: 40_000,
            },
            flow: Flow {
                seen: NOW - 5 * MILLISECOND,
                created: NOW - 900 * MILLISECOND,
                state: State::Established as u32 | ANSWERED,
                rule: 0xdead_beef,
                acknowledged: [7, u32::MAX],
                ..Flow::default()
            },
            settled,
        }
    }

    #[test]
    fn flows_arrive_with_their_ages_but_without_their_epoch() {
        let mut sent = vec![
            flow(100, "198.51.100.1", true),
            flow(100, "2001:db8::1", false),
            flow(101, "198.51.100.1", true),
        ];
        sent[0].flow.epoch = 12;
        sent[0].flow.guard_epoch = 13;
        let bytes = write(100, &sent, NOW).unwrap();
        let later = 77 * NOW;
        let got = read(&bytes, later).unwrap();
        assert_eq!(got.vmid, 100);
        sent.pop();
        for entry in &mut sent {
            entry.flow.epoch = 0;
            entry.flow.guard_epoch = 0;
            entry.flow.seen += later - NOW;
            entry.flow.created += later - NOW;
        }
        assert_eq!(got.flows, sent);
        assert!(bytes.len() < HEAD.len() + SUM + 8 + 40 + 60, "{}", bytes.len());
    }

    #[test]
    fn what_is_damaged_cut_or_nonsense_is_refused() {
        let bytes = write(100, &[flow(100, "198.51.100.1", true)], NOW).unwrap();
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut], NOW).is_err(), "cut at {cut}");
            let mut other = bytes.clone();
            other[cut] ^= 0x10;
            assert!(read(&other, NOW).is_err(), "changed at {cut}");
        }
        assert!(matches!(write(0, &[], NOW), Err(MigrateError::Host)));
        // With a right checksum: fields are looked at too.
        for (state, expect) in [(State::Stream as u32, true), (12, false), (0x100, false)] {
            let mut entry = flow(100, "198.51.100.1", true);
            entry.flow.state = state;
            let bytes = write(100, &[entry], NOW).unwrap();
            assert_eq!(read(&bytes, NOW).is_ok(), expect, "{state:x}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body: Vec<u8>) {
            let mut bytes = [HEAD, &body].concat();
            let sum = Sha256::digest(&bytes);
            bytes.extend_from_slice(&sum);
            if let Ok(export) = read(&bytes, NOW) {
                let again = write(export.vmid, &export.flows, NOW).unwrap();
                prop_assert_eq!(read(&again, NOW).unwrap(), export);
            }
        }
    }
}
