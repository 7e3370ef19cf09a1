//! The bits of a packet that rules look at beside addresses, ports and protocol, derived from the words of the specification.
//!
//! In: what a packet says and its connection-tracking state. Out: bits of `fw_common::maps::traits`. Nothing here is shared with the pipeline but
//! the numbers of the bits.

use std::net::IpAddr;

use fw_common::conntrack::CtState;
use fw_common::maps::traits;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// Flags and source port of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Flags byte.
    pub flags: u8,
    /// Source port.
    pub sport: u16,
}

/// The bits of one packet. `segment`: only for TCP.
pub fn traits_of(
    dest_mac: [u8; 6],
    source: IpAddr,
    dest: IpAddr,
    segment: Option<Segment>,
    state: CtState,
) -> u8 {
    let mut bits = 0;
    if dest_mac[0] & 1 == 1 || is_group(dest) {
        bits |= traits::TO_GROUP;
    }
    if is_group(source) {
        bits |= traits::FROM_GROUP;
    }
    if state == CtState::Invalid {
        bits |= traits::INVALID;
    }
    if state == CtState::New {
        bits |= traits::NEW;
    }
    if let Some(Segment { flags, sport }) = segment {
        if flags & (FIN | SYN | RST | ACK) != SYN {
            bits |= traits::NOT_SYN;
        }
        if is_impossible(flags, sport) {
            bits |= traits::BAD_TCP_FLAGS;
        }
    }
    bits
}

fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// The table of the option `tcpflags`: of the flags under a mask exactly these are set.
fn is_impossible(flags: u8, sport: u16) -> bool {
    const ALL: u8 = FIN | SYN | RST | PSH | ACK | URG;
    const TABLE: [(u8, u8); 4] = [
        (ALL, FIN | PSH | URG),
        (ALL, 0),
        (SYN | RST, SYN | RST),
        (FIN | SYN, FIN | SYN),
    ];
    let in_table = TABLE.iter().any(|(mask, set)| flags & mask == *set);
    let syn_from_port_0 = sport == 0 && flags & (FIN | SYN | RST | ACK) == SYN;
    in_table || syn_from_port_0
}

/// The state of a packet of which no flow is known: what netfilter's documentation and spec 02 §2 say.
pub fn first_state(v6: bool, protocol: u8, flags: u8, icmp_type: u16) -> CtState {
    const ICMP: u8 = 1;
    const TCP: u8 = 6;
    const ICMPV6: u8 = 58;
    match (v6, protocol) {
        (_, TCP) => match flags & (FIN | SYN | RST | ACK | URG) {
            // A SYN opens; an ACK without more is picked up in mid-stream. PSH says nothing.
            flags if flags & !URG == SYN || flags & !URG == ACK => CtState::New,
            _ => CtState::Invalid,
        },
        // Echo, timestamp, information, address mask; for IPv6 echo and node information.
        (false, ICMP) if matches!(icmp_type, 8 | 13 | 15 | 17) => CtState::New,
        (false, ICMP) => CtState::Invalid,
        (true, ICMPV6) => match icmp_type {
            128 | 139 => CtState::New,
            130..=136 | 143 => CtState::Untracked,
            _ => CtState::Invalid,
        },
        _ => CtState::New,
    }
}
