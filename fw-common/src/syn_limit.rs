//! How many connections one source may ask for: a token bucket per IPv4 address or IPv6 /64.
//!
//! In: parsed headers and the node's settings. Out: whether the packet is one too many. It comes before everything else, flows included, and
//! each packet is counted where it enters the node: what a guest sends at its own NIC, other packets at the first port that they are for.
//!
//! Different from the reference: it counts a bridged packet once per bridge.

use crate::maps::{HOST_VMID, Port};
use crate::tables::Tables;
use crate::verdict::Direction;
use crate::wire::tcp_flag::{ACK, FIN, RST, SYN};
use crate::wire::{Address, Headers, IpVersion, Packet, protocol};

/// Whether a packet asks for a connection.
#[inline(always)]
pub fn is_request(headers: &Headers) -> bool {
    headers.protocol == protocol::TCP
        && headers.has_ports == 1
        && headers.tcp_flags & (FIN | SYN | RST | ACK) == SYN
}

/// Whether a packet is to be counted at a port: the host did not make it, and it did not come in by a guest's port, which has counted it. (What
/// comes in by a port of the host and gets to a guest is forwarded, and was not counted there.)
#[inline(always)]
pub fn enters_here<P: Packet, T: Tables>(
    packet: &P,
    tables: T,
    port: &Port,
    direction: Direction,
) -> bool {
    match (direction, port.vmid) {
        (Direction::In, HOST_VMID) => true,
        (Direction::Out, HOST_VMID) => false,
        (Direction::Out, _) => true,
        (Direction::In, _) => match packet.came_from() {
            0 => false,
            ifindex => tables
                .port(ifindex)
                .is_none_or(|port| port.vmid == HOST_VMID),
        },
    }
}

/// Takes a token from the bucket of the packet's source; true if there is none left. Only for what [`is_request`].
#[inline(always)]
pub fn exceeds<T: Tables>(tables: T, headers: &Headers) -> bool {
    let settings = tables.settings();
    if settings.syn_interval == 0 {
        return false;
    }
    !tables.take_syn(&source(headers), settings.syn_interval, settings.syn_burst)
}

/// Whom a request is counted for.
#[inline(always)]
pub fn source(headers: &Headers) -> Address {
    match headers.version {
        IpVersion::V6 => {
            let [a, b, _, _] = headers.source.0;
            Address([a, b, 0, 0])
        }
        IpVersion::V4 | IpVersion::None => headers.source,
    }
}
