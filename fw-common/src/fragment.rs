//! Fragments: later ones get the ports of their datagram's first.
//!
//! In: headers of a fragment. Out: the same with ports, or the [`Reason`] it is dropped for. Fragments must come in order: a later one whose
//! first was not seen is dropped.

use crate::maps::{FragmentKey, FragmentValue, Port};
use crate::tables::Tables;
use crate::verdict::{Direction, Reason};
use crate::wire::{self, Fragment, Headers, protocol};

/// Remembers first fragments and gives later ones their ports.
///
/// Neighbour discovery in fragments is dropped (RFC 6980). A later fragment of a protocol with ports whose first was not seen is dropped.
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
    let key = FragmentKey {
        vmid: port.vmid,
        net: port.net,
        protocol: headers.protocol,
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
                reserved: 0,
            },
        );
        return Ok(());
    }
    let has_type = matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
    if !wire::has_ports(headers.protocol) && !has_type {
        return Ok(());
    }
    /// Seconds that a datagram may take to arrive (RFC 8200 section 4.5).
    const REASSEMBLY: u64 = 60 * crate::conntrack::SECOND;
    let first = tables.first_fragment(&key).ok_or(Reason::Fragment)?;
    if tables.now().saturating_sub(first.seen) > REASSEMBLY {
        return Err(Reason::Fragment);
    }
    headers.sport = first.sport;
    headers.dport = first.dport;
    headers.echo_id = first.echo_id;
    headers.tcp_flags = first.tcp_flags;
    headers.has_ports = 1;
    Ok(())
}
