//! The Ethernet frame of a query.
//!
//! In: a [`Query`] and the hardware addresses of both ends. Out: the bytes that a guest's device would carry, with right lengths and checksums.
//!
//! 1. Link header: the destination is the receiver's address, the group address that belongs to an IP group or broadcast address, or what
//!    `dsttype` asks for; the source is `mac_source` or the sender's. A VLAN tag is in the bytes, as a guest would send it.
//! 2. Network header, by the family of the addresses. Neighbour discovery and group management have the hop limits their receivers insist on.
//! 3. `payload`: the transport header, and as much of a body as makes the packet plausible.

mod payload;

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header};

use super::protocol::{ICMPV6, IGMP, TCP};
use super::query::{Addresses, DestType, Query, echo_request};

/// Hardware address of what is outside; locally administered.
pub const OUTSIDE_MAC: [u8; 6] = [0x02, 0x54, 0x57, 0x00, 0x00, 0x01];
/// Hardware address of the node.
pub const HOST_MAC: [u8; 6] = [0x02, 0x54, 0x57, 0x00, 0x00, 0x02];
/// Hardware address of a guest whose own is not known.
pub const NO_MAC: [u8; 6] = [0x02, 0x54, 0x57, 0x00, 0x00, 0x03];

const BROADCAST: [u8; 6] = [0xff; 6];
const VLAN: u16 = 0x8100;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

/// Hardware addresses of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The sender's, unless the query has another.
    pub source: [u8; 6],
    /// The receiver's, unless the packet goes to a group.
    pub dest: [u8; 6],
}

impl Query {
    /// The frame between these ends.
    pub fn frame(&self, link: Link) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        self.frame_into(link, &mut out);
        out
    }

    /// Appends the frame between these ends to `out`.
    pub fn frame_into(&self, link: Link, out: &mut Vec<u8>) {
        let addresses = self.addresses();
        let ether_type = match addresses {
            Addresses::V4(..) => IPV4,
            Addresses::V6(..) => IPV6,
        };
        let header = Ethernet2Header {
            source: self.mac_source.unwrap_or(link.source),
            destination: self.destination(addresses, link.dest),
            ether_type: EtherType(if self.vlan.is_some() {
                VLAN
            } else {
                ether_type
            }),
        };
        out.extend_from_slice(&header.to_bytes());
        if let Some(vlan) = self.vlan {
            out.extend_from_slice(&vlan.to_be_bytes());
            out.extend_from_slice(&ether_type.to_be_bytes());
        }
        let network = out.len();
        let header = match addresses {
            Addresses::V4(..) => Ipv4Header::MIN_LEN,
            Addresses::V6(..) => Ipv6Header::LEN,
        };
        out.resize(network + header, 0);
        payload::write(self, addresses, out);
        let length = out.len() - network;
        let head = &mut out[network..network + header];
        match addresses {
            Addresses::V4(source, dest) => {
                let header = self.ipv4(source.octets(), dest.octets(), length);
                head.copy_from_slice(&header.to_bytes());
            }
            Addresses::V6(source, dest) => {
                let header = Ipv6Header {
                    payload_length: (length - Ipv6Header::LEN) as u16,
                    next_header: IpNumber(self.protocol),
                    hop_limit: self.hop_limit(),
                    source: source.octets(),
                    destination: dest.octets(),
                    ..Ipv6Header::default()
                };
                head.copy_from_slice(&header.to_bytes());
            }
        }
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], length: usize) -> Ipv4Header {
        let mut header = Ipv4Header {
            total_len: length as u16,
            identification: 1,
            dont_fragment: self.protocol == TCP,
            time_to_live: self.hop_limit(),
            protocol: IpNumber(self.protocol),
            source,
            destination,
            ..Ipv4Header::default()
        };
        header.header_checksum = header.calc_header_checksum();
        header
    }

    /// 255 for neighbour discovery (RFC 4861), 1 for group management (RFC 2236, 2710), else 64.
    fn hop_limit(&self) -> u8 {
        match (self.protocol, self.icmp_type()) {
            (ICMPV6, 133..=137) => 255,
            (ICMPV6, 130..=132 | 143) | (IGMP, _) => 1,
            _ => 64,
        }
    }

    pub(super) fn icmp_type(&self) -> u8 {
        self.icmp_type.unwrap_or(echo_request(self.protocol))
    }

    fn destination(&self, addresses: Addresses, station: [u8; 6]) -> [u8; 6] {
        // RFC 1112 and RFC 2464: where the packets of an IP group go.
        let group = match addresses {
            Addresses::V4(_, dest) if dest.is_multicast() => {
                let [_, b, c, d] = dest.octets();
                Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            Addresses::V6(_, dest) if dest.is_multicast() => {
                let [.., a, b, c, d] = dest.octets();
                Some([0x33, 0x33, a, b, c, d])
            }
            Addresses::V4(..) | Addresses::V6(..) => None,
        };
        let all_hosts = match addresses {
            Addresses::V4(..) => [0x01, 0x00, 0x5e, 0, 0, 1],
            Addresses::V6(..) => [0x33, 0x33, 0, 0, 0, 1],
        };
        match (self.dsttype, addresses) {
            (Some(DestType::Unicast), _) => station,
            (Some(DestType::Broadcast), _) => BROADCAST,
            (Some(DestType::Multicast), _) => group.unwrap_or(all_hosts),
            (None, Addresses::V4(_, dest)) if dest.is_broadcast() => BROADCAST,
            (None, _) => group.unwrap_or(station),
        }
    }
}

#[cfg(test)]
mod tests;
