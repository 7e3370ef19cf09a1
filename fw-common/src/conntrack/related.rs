//! RELATED: an ICMP error that quotes a packet of a known flow.
//!
//! In: the error, its port and direction, the tables. Out: whether some flow of the port is what it is about.
//!
//! 1. Only the types that report an error about one packet count, and only whole datagrams.
//! 2. The quoted headers are parsed.
//! 3. The error must go to whom the quoted packet came from.
//! 4. The quoted packet went the other way, so its flow is looked up with the opposite direction, in both tables; one that timed out is none.
//!
//! Invariant: an error neither refreshes nor changes a flow, and what it quotes is never more than a key to look up: a later fragment, an error
//! about an error, or too short a quote have no flow. Redirects of IPv6 are discovery, not errors about packets: INVALID, as in netfilter.

use super::{is_alive, is_icmp_without_flow};
use crate::flow::FlowKey;
use crate::maps::Port;
use crate::pipeline::find_flow;
use crate::tables::Tables;
use crate::verdict::Direction;
use crate::wire::{Fragment, Headers, IpVersion, Packet, parse_quoted, protocol};

/// Whether a packet is an error about another: unreachable, source quench, redirect, time exceeded, parameter problem (RFC 792);
/// unreachable, too big, time exceeded, parameter problem (RFC 4443).
#[inline(always)]
pub fn is_error(headers: &Headers) -> bool {
    let by_type = match (headers.version, headers.protocol) {
        (IpVersion::V4, protocol::ICMP) => matches!(headers.sport, 3 | 4 | 5 | 11 | 12),
        (IpVersion::V6, protocol::ICMPV6) => matches!(headers.sport, 1..=4),
        _ => false,
    };
    by_type && headers.fragment == Fragment::Whole
}

/// Whether an error ([`is_error`]) is about a flow of `port` that is alive.
#[inline(always)]
pub fn related<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &Headers,
) -> bool {
    let mut quoted = Headers::default();
    if parse_quoted(packet, headers, &mut quoted).is_err() {
        return false;
    }
    let is_about_sender = quoted.source == headers.dest;
    if !is_about_sender || quoted.fragment == Fragment::Later || is_icmp_without_flow(&quoted) {
        return false;
    }
    let key = FlowKey::of(&quoted, port, direction.opposite());
    find_flow(&tables, &key)
        .is_some_and(|flow| is_alive(flow, quoted.protocol, &tables.settings(), tables.now()))
}
