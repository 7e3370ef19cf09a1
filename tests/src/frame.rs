//! Ethernet frames of any shape, plausible or not.
//!
//! In: a [`Frame`] as data. Out: its bytes, with right lengths and checksums; who wants wrong ones changes the bytes afterwards. Nothing is
//! hidden: there are as many VLAN tags, IPv4 options, IPv6 extension headers and parts of a datagram as the value says, in its order.
//!
//! Written without the packet builder of `fwctl simulate`, so that the two cannot be wrong in the same way.

mod transport;

use std::net::IpAddr;

pub use self::transport::{Transport, checksum, pseudo_header};

/// EtherType of IPv4.
const IPV4: u16 = 0x0800;
/// EtherType of ARP.
const ARP: u16 = 0x0806;
/// EtherType of IPv6.
const IPV6: u16 = 0x86dd;
/// Protocol number of UDP.
const UDP: u8 = 17;

/// Bytes of the shortest Ethernet frame, without its check sequence (IEEE 802.3).
const SHORTEST: usize = 60;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Ethernet destination.
    pub dest_mac: [u8; 6],
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// VLAN tags from the outermost: EtherType and tag (TCI).
    pub tags: Vec<(u16, u16)>,
    /// What it carries.
    pub body: Body,
}

/// What a frame carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// IPv4 or IPv6, by the family of its addresses.
    Ip(Datagram),
    /// ARP for IPv4 over Ethernet.
    Arp {
        /// 1 asks, 2 answers.
        operation: u16,
        /// The sender's hardware address.
        sender_mac: [u8; 6],
        /// The sender's address.
        sender: [u8; 4],
        /// The target's address.
        target: [u8; 4],
    },
    /// Something else.
    Other {
        /// EtherType.
        ethertype: u16,
        /// All behind it.
        bytes: Vec<u8>,
    },
}

/// An IP datagram, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Source; both addresses are of one family.
    pub source: IpAddr,
    /// Destination.
    pub dest: IpAddr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live, or hop limit.
    pub hops: u8,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers in front of the fragment header.
    pub extensions: Vec<Extension>,
    /// Which part of a datagram this is; none for a whole one.
    pub part: Option<Part>,
    /// The payload of this part.
    pub payload: Vec<u8>,
}

/// IPv6 extension headers, each of its shortest length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options.
    HopByHop,
    /// An empty routing header.
    Routing,
    /// Destination options.
    Destination,
    /// Authentication header (24 bytes).
    Authentication,
}

/// A part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Identification.
    pub id: u32,
    /// Offset in bytes, a multiple of eight.
    pub offset: u16,
    /// Whether more parts follow.
    pub more: bool,
}

impl Frame {
    /// A UDP datagram without data: hardware addresses of receiver and sender, then addresses and ports of sender and receiver.
    pub fn udp([dest_mac, source_mac]: [[u8; 6]; 2], ends: [IpAddr; 2], ports: [u16; 2]) -> Self {
        let ([source, dest], [sport, dport]) = (ends, ports);
        let transport = Transport::Udp {
            sport,
            dport,
            data: Vec::new(),
        };
        let payload = transport.payload(UDP, source, dest);
        Self {
            dest_mac,
            source_mac,
            tags: Vec::new(),
            body: Body::Ip(Datagram::new(source, dest, UDP, payload)),
        }
    }

    /// Its bytes, as long as an Ethernet frame must be.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.unpadded();
        bytes.resize(bytes.len().max(SHORTEST), 0);
        bytes
    }

    /// Its bytes without padding, as tap devices pass them.
    pub fn unpadded(&self) -> Vec<u8> {
        let mut bytes = [self.dest_mac, self.source_mac].concat();
        for (ethertype, tag) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(tag.to_be_bytes());
        }
        match &self.body {
            Body::Ip(datagram) => {
                let v4 = datagram.source.is_ipv4();
                bytes.extend(if v4 { IPV4 } else { IPV6 }.to_be_bytes());
                datagram.append_to(&mut bytes);
            }
            Body::Arp {
                operation,
                sender_mac,
                sender,
                target,
            } => {
                bytes.extend(ARP.to_be_bytes());
                bytes.extend([0, 1, 8, 0, 6, 4]);
                bytes.extend(operation.to_be_bytes());
                bytes.extend(sender_mac);
                bytes.extend(sender);
                bytes.extend([0; 6]);
                bytes.extend(target);
            }
            Body::Other {
                ethertype,
                bytes: body,
            } => {
                bytes.extend(ethertype.to_be_bytes());
                bytes.extend(body);
            }
        }
        bytes
    }
}

impl Datagram {
    /// A whole datagram without anything special.
    pub fn new(source: IpAddr, dest: IpAddr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            dest,
            protocol,
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            part: None,
            payload,
        }
    }

    /// Its bytes, without a frame around them.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        match (self.source, self.dest) {
            (IpAddr::V4(source), IpAddr::V4(dest)) => {
                self.append_v4(source.octets(), dest.octets(), bytes);
            }
            (source, dest) => {
                let octets = |address| match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                };
                self.append_v6(octets(source), octets(dest), bytes);
            }
        }
    }

    fn append_v4(&self, source: [u8; 4], dest: [u8; 4], bytes: &mut Vec<u8>) {
        let header = 20 + self.options.len();
        let total = (header + self.payload.len()) as u16;
        let (id, offset) = match self.part {
            None => (1, 0),
            Some(part) => (
                part.id as u16,
                (part.offset / 8) | if part.more { 0x2000 } else { 0 },
            ),
        };
        let start = bytes.len();
        bytes.extend([0x40 | (header / 4) as u8, 0]);
        bytes.extend(total.to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend([self.hops, self.protocol, 0, 0]);
        bytes.extend(source);
        bytes.extend(dest);
        bytes.extend(&self.options);
        let sum = checksum(&[&bytes[start..]]);
        bytes[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(&self.payload);
    }

    fn append_v6(&self, source: [u8; 16], dest: [u8; 16], bytes: &mut Vec<u8>) {
        const FRAGMENT: u8 = 44;
        let behind = match self.part {
            None => self.protocol,
            Some(_) => FRAGMENT,
        };
        let mut headers = Vec::new();
        let mut numbers = self.extensions.iter().map(|extension| extension.number());
        let first = numbers.next().unwrap_or(behind);
        for extension in &self.extensions {
            let next = numbers.next().unwrap_or(behind);
            headers.extend(extension.bytes(next));
        }
        if let Some(part) = self.part {
            headers.extend([self.protocol, 0]);
            headers.extend((part.offset | u16::from(part.more)).to_be_bytes());
            headers.extend(part.id.to_be_bytes());
        }
        let length = (headers.len() + self.payload.len()) as u16;
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([first, self.hops]);
        bytes.extend(source);
        bytes.extend(dest);
        bytes.extend(headers);
        bytes.extend(&self.payload);
    }
}

impl Extension {
    const fn number(self) -> u8 {
        match self {
            Self::HopByHop => 0,
            Self::Routing => 43,
            Self::Authentication => 51,
            Self::Destination => 60,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            // One PadN option of six bytes.
            Self::HopByHop | Self::Destination => vec![next, 0, 1, 4, 0, 0, 0, 0],
            Self::Routing => vec![next, 0, 4, 0, 0, 0, 0, 0],
            Self::Authentication => {
                let mut bytes = vec![next, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
                bytes.resize(24, 0);
                bytes
            }
        }
    }
}
