//! Fragments: later ones get the ports of their datagram's first.
//!
//! In: headers of a fragment. Out: the same with ports, or the [`Reason`] it is dropped for. Fragments must come in order: a later one whose
//! first was not seen is dropped, and so is one that begins before the end of what was seen (an overlap, or one that was overtaken).
//!
//! For IPv6 only the first fragment tells the protocol; later ones are judged by that, whatever they claim. For IPv4 each tells it, and
//! those of protocols without ports need no first.

use crate::maps::{FragmentKey, FragmentValue, Port};
use crate::tables::Tables;
use crate::verdict::{Direction, Reason};
use crate::wire::{self, Fragment, Headers, IpVersion, protocol};

/// Seconds that a datagram may take to arrive (RFC 8200 section 4.5).
const REASSEMBLY: u64 = 60 * crate::conntrack::SECOND;

/// Remembers first fragments and gives later ones their ports.
///
/// Neighbour discovery in fragments is dropped (RFC 6980).
///
/// # Errors
/// [`Reason::Fragment`].
#[inline(always)]
pub fn complete_fragment<T: Tables>(
    tables: T,
    port: &Port,
    direction: Direction,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let is_v6 = headers.version == IpVersion::V6;
    let key = FragmentKey {
        vmid: port.vmid,
        net: port.net,
        protocol: if is_v6 { 0 } else { headers.protocol },
        direction: direction as u8,
        id: headers.fragment_id,
        source: headers.source,
        dest: headers.dest,
    };
    if headers.fragment == Fragment::First {
        if headers.protocol == protocol::ICMPV6 && matches!(headers.sport, 133..=137) {
            return Err(Reason::Fragment);
        }
        tables.remember_fragment(
            &key,
            &FragmentValue {
                seen: tables.now(),
                sport: headers.sport,
                dport: headers.dport,
                echo_id: headers.echo_id,
                tcp_flags: headers.tcp_flags,
                protocol: headers.protocol,
                end: u32::from(headers.fragment_end),
                reserved: 0,
            },
        );
        return Ok(());
    }
    let has_type = matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
    if !is_v6 && !wire::has_ports(headers.protocol) && !has_type {
        return Ok(());
    }
    let mut seen = tables.first_fragment(&key).ok_or(Reason::Fragment)?;
    let overlaps = u32::from(headers.fragment_start) < seen.end;
    if overlaps || tables.now().saturating_sub(seen.seen) > REASSEMBLY {
        return Err(Reason::Fragment);
    }
    headers.protocol = seen.protocol;
    headers.sport = seen.sport;
    headers.dport = seen.dport;
    headers.echo_id = seen.echo_id;
    headers.tcp_flags = seen.tcp_flags;
    headers.has_ports = wire::tells_ports(seen.protocol) as u8;
    seen.end = u32::from(headers.fragment_end);
    tables.remember_fragment(&key, &seen);
    Ok(())
}
