//! The log for programs: one JSON object per line, with the same keys on each.
//!
//! In: a record, its names ([`LogContext`]) and its rule ([`Origin`]). Out: an object in which whatever does not apply is null. What the log
//! says about itself is an object with `time`, `level` and `status` only; that of a flow has keys of its own, `flow` among them. Keys are added, never renamed or removed.
//!
//! Addresses, ports and flags are read by the pipeline's own parser. A frame that it refuses, or whose headers are longer than what was captured,
//! has the link's fields only, and `undecoded` says why.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fw_common::conntrack::{ANSWERED, State};
use fw_common::event::{Event, FlowChange, FlowEvent, HEADER_BYTES};
use fw_common::verdict::{Direction, Reason, Verdict};
use fw_common::wire::{self, Address, Fragment, Headers, IpVersion};
use jiff::Zoned;
use serde::Serialize;

use super::context::LogContext;
use super::flow::{icmp_types, is_assured};
use super::status::Status;
use crate::config::registry::protocol_name;
use crate::policy::Origin;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// Flags of TCP from the lowest bit.
const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// One logged packet.
#[derive(Debug, Serialize)]
struct Packet<'a> {
    /// RFC 3339, microseconds.
    time: String,
    level: u8,
    /// Guest and NIC; null for the host.
    guest: Option<u32>,
    nic: Option<u16>,
    device: &'a str,
    bridge: Option<&'a str>,
    /// `in` or `out`, from the guest's or the host's point of view.
    direction: &'static str,
    verdict: &'static str,
    reason: &'static str,
    chain: &'a str,
    rule: Option<Rule<'a>>,
    /// Bytes of the whole frame.
    length: u32,
    mark: Option<u32>,
    vlan: Option<u16>,
    mac_source: Option<String>,
    mac_dest: Option<String>,
    ethertype: Option<u16>,
    source: Option<IpAddr>,
    dest: Option<IpAddr>,
    protocol: Option<u8>,
    protocol_name: Option<&'static str>,
    sport: Option<u16>,
    dport: Option<u16>,
    tcp_flags: Option<Vec<&'static str>>,
    icmp_type: Option<u16>,
    icmp_code: Option<u16>,
    /// `first` or `later`, for a part of a datagram.
    fragment: Option<&'static str>,
    /// Why the fields from `source` on are null, if that is because the frame could not be read.
    undecoded: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct Rule<'a> {
    text: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
}

/// A flow that begins or ends.
#[derive(Debug, Serialize)]
struct Flow {
    /// As that of a packet.
    time: String,
    /// `new` or `destroy`.
    flow: &'static str,
    guest: Option<u32>,
    nic: Option<u16>,
    /// Of its first packet; so are addresses, ports and the type.
    direction: &'static str,
    state: &'static str,
    replied: bool,
    assured: bool,
    source: IpAddr,
    dest: IpAddr,
    protocol: u8,
    protocol_name: Option<&'static str>,
    sport: Option<u16>,
    dport: Option<u16>,
    icmp_type: Option<u8>,
    icmp_id: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Said {
    time: String,
    level: u8,
    status: String,
}

/// Appends one packet's line, newline included.
pub fn packet_into(
    out: &mut Vec<u8>,
    event: &Event,
    context: &LogContext<'_>,
    (device, bridge): (&str, Option<&str>),
    origin: Option<&Origin>,
    time: &Zoned,
) {
    let filled = usize::from(event.captured).min(HEADER_BYTES);
    let frame = &event.header[..filled];
    let mut headers = Headers::default();
    let parsed = wire::parse(&frame, &mut headers);
    let link = (filled >= 14).then_some(());
    let is_ip = parsed.is_ok() && headers.version != IpVersion::None;
    let has_addresses = is_ip || (parsed.is_ok() && headers.arp_mac != 0);
    let protocol = is_ip.then_some(headers.protocol);
    let ports = is_ip && headers.has_ports != 0;
    let is_icmp = matches!(protocol, Some(ICMP | ICMPV6));
    let host = event.vmid == 0;
    let packet = Packet {
        time: stamp(time),
        level: event.level,
        guest: (!host).then_some(event.vmid),
        nic: (!host).then_some(event.net),
        device,
        bridge,
        direction: match Direction::from_u8(event.direction) {
            Direction::In => "in",
            Direction::Out => "out",
        },
        verdict: match Verdict::from_u8(event.verdict) {
            Verdict::Accept => "accept",
            Verdict::Drop => "drop",
            Verdict::Reject => "reject",
        },
        reason: Reason::from_u8(event.reason).map_or("unknown", Reason::name),
        chain: &context.chain,
        rule: origin.map(|origin| Rule {
            text: &origin.text,
            file: origin.line.as_ref().map(|line| &*line.file),
            line: origin.line.as_ref().map(|line| line.line),
        }),
        length: event.length,
        mark: (event.mark != 0).then_some(event.mark),
        vlan: vlan(event, frame),
        mac_source: link.map(|()| mac(&frame[6..12])),
        mac_dest: link.map(|()| mac(&frame[..6])),
        ethertype: match parsed {
            Ok(()) => Some(headers.ethertype),
            Err(_) => link.map(|()| u16::from_be_bytes([frame[12], frame[13]])),
        },
        source: has_addresses.then(|| address(&headers.source, headers.version)),
        dest: has_addresses.then(|| address(&headers.dest, headers.version)),
        protocol,
        protocol_name: protocol.and_then(protocol_name),
        sport: (ports && !is_icmp).then_some(headers.sport),
        dport: (ports && !is_icmp).then_some(headers.dport),
        tcp_flags: (ports && protocol == Some(TCP)).then(|| flags(headers.tcp_flags)),
        icmp_type: (ports && is_icmp).then_some(headers.sport),
        icmp_code: (ports && is_icmp).then_some(headers.dport),
        fragment: match headers.fragment {
            Fragment::First if is_ip => Some("first"),
            Fragment::Later if is_ip => Some("later"),
            Fragment::First | Fragment::Later | Fragment::Whole => None,
        },
        undecoded: parsed.err().map(|reason| {
            let is_cut = (event.length as usize) > filled;
            match reason == Reason::Malformed && is_cut {
                true => "longer than what was captured",
                false => reason.name(),
            }
        }),
    };
    line(out, &packet);
}

/// Appends the line of a flow that begins or ends, newline included.
pub fn flow_into(out: &mut Vec<u8>, event: &FlowEvent, time: &Zoned) {
    let key = &event.key;
    let host = key.vmid == 0;
    let local = (address_of(key.version, &key.local), key.local_port);
    let remote = (address_of(key.version, &key.remote), key.remote_port);
    let origin = Direction::from_u8(event.origin);
    let ((source, sport), (dest, dport)) = match origin {
        Direction::In => (remote, local),
        Direction::Out => (local, remote),
    };
    let is_icmp = matches!(key.protocol, ICMP | ICMPV6);
    let flow = Flow {
        time: stamp(time),
        flow: match FlowChange::from_u8(event.change) {
            FlowChange::Begins => "new",
            FlowChange::Ends => "destroy",
        },
        guest: (!host).then_some(key.vmid),
        nic: (!host).then_some(key.net),
        direction: match origin {
            Direction::In => "in",
            Direction::Out => "out",
        },
        state: State::from_u32(event.state).name(),
        replied: event.state & ANSWERED != 0,
        assured: is_assured(event),
        source,
        dest,
        protocol: key.protocol,
        protocol_name: protocol_name(key.protocol),
        sport: (!is_icmp).then_some(sport),
        dport: (!is_icmp).then_some(dport),
        icmp_type: is_icmp.then(|| icmp_types(key).0),
        icmp_id: is_icmp.then_some(key.local_port),
    };
    line(out, &flow);
}

/// Appends a line of the log about itself, newline included.
pub fn status_into(out: &mut Vec<u8>, status: &Status<'_>, time: &Zoned) {
    let said = Said {
        time: stamp(time),
        level: status.level(),
        status: status.to_string(),
    };
    line(out, &said);
}

fn line(out: &mut Vec<u8>, value: &impl Serialize) {
    // Neither writing to a vector nor these types can fail.
    serde_json::to_writer(&mut *out, value).ok();
    out.push(b'\n');
}

fn stamp(time: &Zoned) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f%:z").to_string()
}

/// The outer VLAN: the tag that the NIC took out, or else the first in the frame.
fn vlan(event: &Event, frame: &[u8]) -> Option<u16> {
    let inline = match frame.get(12..16) {
        Some(&[0x81, 0x00, high, low] | &[0x88, 0xa8, high, low]) => {
            Some(u16::from_be_bytes([high, low]))
        }
        Some(_) | None => None,
    };
    let tag = match event.tagged {
        0 => inline,
        _ => Some(event.vlan_tci),
    };
    tag.map(|tci| tci & 0x0fff)
}

fn mac(bytes: &[u8]) -> String {
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

/// An address of a flow.
pub(super) fn address_of(version: u8, end: &Address) -> IpAddr {
    match version {
        6 => address(end, IpVersion::V6),
        _ => address(end, IpVersion::V4),
    }
}

/// ARP has IPv4 addresses and no IP version.
fn address(address: &Address, version: IpVersion) -> IpAddr {
    let [a, b, c, d] = address.0.map(u32::to_ne_bytes);
    match version {
        IpVersion::V6 => {
            let mut bytes = [0; 16];
            for (place, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                place.copy_from_slice(&word);
            }
            IpAddr::V6(Ipv6Addr::from(bytes))
        }
        IpVersion::V4 | IpVersion::None => IpAddr::V4(Ipv4Addr::from(d)),
    }
}

fn flags(bits: u8) -> Vec<&'static str> {
    let named = TCP_FLAGS.iter().enumerate();
    named
        .filter(|(bit, _)| bits & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect()
}

#[cfg(test)]
mod tests;
