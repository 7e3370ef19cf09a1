//! A flow as it is printed, with source and destination as its first packet had them.

use std::io::Write;
use std::net::IpAddr;

use anyhow::Result;
use fw_common::conntrack::{ANSWERED, State, timeout};
use fw_common::flow::FlowKey;
use fw_common::maps::{HOST_VMID, PortKey, Settings};
use fw_common::verdict::Direction;
use serde::Serialize;

use super::has_ports;
use crate::cli::scope::Scope;
use crate::cli::{duration, table};
use crate::config::registry::protocol_name;
use crate::datapath::flows::Entry;
use crate::migrate::address;

const SECOND: u64 = 1_000_000_000;

/// Keys of the JSON objects. They are added, never renamed or removed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Shown {
    /// Null for the host.
    guest: Option<u32>,
    nic: Option<u16>,
    protocol: String,
    /// Of the first packet, from the guest's or the host's point of view.
    direction: &'static str,
    source: IpAddr,
    sport: Option<u16>,
    dest: IpAddr,
    dport: Option<u16>,
    /// Identifier of an exchange of ICMP messages.
    icmp_id: Option<u16>,
    state: &'static str,
    answered: bool,
    half_open: bool,
    age_seconds: u64,
    idle_seconds: u64,
    /// Until it is forgotten if no packet comes.
    expires_seconds: u64,
    /// Identity of the rule that accepted it.
    rule: String,
}

impl Shown {
    pub(super) fn of(entry: &Entry, settings: &Settings, now: u64) -> Self {
        let (key, flow) = (&entry.key, &entry.flow);
        let is_host = key.vmid == HOST_VMID;
        let direction = Direction::from_u8(flow.origin);
        let local = (address(key.version, &key.local), key.local_port);
        let remote = (address(key.version, &key.remote), key.remote_port);
        let (source, dest) = match direction {
            Direction::In => (remote, local),
            Direction::Out => (local, remote),
        };
        let ports = has_ports(key.protocol);
        let idle = now.saturating_sub(flow.seen) / SECOND;
        let limit = u64::from(timeout(flow.state, key.protocol, settings));
        Self {
            guest: (!is_host).then_some(key.vmid),
            nic: (!is_host).then_some(key.net),
            protocol: protocol_text(key.protocol),
            direction: direction.name(),
            source: source.0,
            sport: ports.then_some(source.1),
            dest: dest.0,
            dport: ports.then_some(dest.1),
            icmp_id: (!ports).then_some(key.local_port),
            state: State::from_u32(flow.state).name(),
            answered: flow.state & ANSWERED != 0,
            half_open: !entry.settled,
            age_seconds: now.saturating_sub(flow.created) / SECOND,
            idle_seconds: idle,
            expires_seconds: limit.saturating_sub(idle),
            rule: format!("{:08x}", flow.rule),
        }
    }
}

fn protocol_text(number: u8) -> String {
    protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// Whose flow it is.
pub(super) fn owner(key: &FlowKey) -> String {
    Scope::of(PortKey::of_flow(key)).to_string()
}

/// Protocol and port that the first packet was to.
pub(super) fn service(entry: &Entry) -> String {
    let key = &entry.key;
    let protocol = protocol_text(key.protocol);
    let port = match Direction::from_u8(entry.flow.origin) {
        Direction::In => key.local_port,
        Direction::Out => key.remote_port,
    };
    match has_ports(key.protocol) {
        true => format!("{protocol}/{port}"),
        false => protocol,
    }
}

pub(super) fn print(out: &mut impl Write, flows: &[Shown], json: bool) -> Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, flows)?;
        writeln!(out)?;
        return Ok(());
    }
    let mut lines = table([
        "guest", "proto", "dir", "source", "dest", "state", "age", "idle", "expires", "",
    ]);
    for flow in flows {
        let end = |address: IpAddr, port: Option<u16>| match (address, port) {
            (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
            (IpAddr::V4(address), Some(port)) => format!("{address}:{port}"),
            (address, None) => address.to_string(),
        };
        let guest = match (flow.guest, flow.nic) {
            (Some(guest), Some(nic)) => format!("{guest}/net{nic}"),
            (Some(_), None) | (None, _) => "host".to_owned(),
        };
        let remark = match (flow.half_open, flow.answered) {
            (true, _) => "half-open",
            (false, true) => "",
            (false, false) => "unanswered",
        };
        lines.add_row([
            guest,
            flow.protocol.clone(),
            flow.direction.to_owned(),
            end(flow.source, flow.sport),
            end(flow.dest, flow.dport),
            flow.state.to_owned(),
            duration::short(flow.age_seconds),
            duration::short(flow.idle_seconds),
            duration::short(flow.expires_seconds),
            remark.to_owned(),
        ]);
    }
    let text = lines.to_string();
    for line in text.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
