//! What follows the IP header, and the Internet checksum (RFC 1071).

use std::net::IpAddr;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// A transport header and its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP without options.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Sequence number.
        sequence: u32,
        /// Acknowledgement number.
        acknowledge: u32,
        /// Flags.
        flags: u8,
        /// Data.
        data: Vec<u8>,
    },
    /// UDP.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// Data.
        data: Vec<u8>,
    },
    /// ICMP or ICMPv6 of any type.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Second word: of an echo the identifier and the sequence number.
        word: [u8; 4],
        /// All behind.
        data: Vec<u8>,
    },
    /// Another protocol that begins with ports (SCTP, DCCP, UDP-Lite): 24 bytes, the rest of which mean nothing.
    Ports {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// Opaque bytes.
    Bytes(Vec<u8>),
}

impl Transport {
    /// The payload of a datagram of `protocol` between these addresses.
    pub fn payload(&self, protocol: u8, source: IpAddr, dest: IpAddr) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Tcp {
                sport,
                dport,
                sequence,
                acknowledge,
                flags,
                data,
            } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledge.to_be_bytes());
                bytes.extend([5 << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(data);
                seal(&mut bytes, 16, TCP, source, dest);
            }
            Self::Udp { sport, dport, data } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.extend((data.len() as u16 + 8).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                seal(&mut bytes, 6, UDP, source, dest);
            }
            Self::Icmp {
                kind,
                code,
                word,
                data,
            } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(word);
                bytes.extend(data);
                if protocol == ICMPV6 {
                    seal(&mut bytes, 2, ICMPV6, source, dest);
                } else {
                    let sum = checksum(&[&bytes]);
                    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                }
            }
            Self::Ports { sport, dport } => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(dport.to_be_bytes());
                bytes.resize(24, 0);
            }
            Self::Bytes(data) => bytes.extend(data),
        }
        bytes
    }
}

fn seal(bytes: &mut [u8], at: usize, protocol: u8, source: IpAddr, dest: IpAddr) {
    let pseudo = pseudo_header(source, dest, bytes.len(), protocol);
    let sum = match (checksum(&[&pseudo, bytes]), protocol) {
        // 0 would mean that there is none.
        (0, UDP) => 0xffff,
        (sum, _) => sum,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// The pseudo-header of RFC 9293 (IPv4) and RFC 8200 (IPv6).
pub fn pseudo_header(source: IpAddr, dest: IpAddr, length: usize, protocol: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [source, dest] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The checksum over these parts, all but the last of an even length. 0 if a right checksum is among the bytes.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
