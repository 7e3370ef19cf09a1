//! A stream of random frames for a few ports, the same for the same seed: conversations, nonsense, and damaged copies of both.
//!
//! In: the ports with their addresses, and a pool of addresses beyond them. Out: [`Step`]s without end. The pools are small on purpose: packets
//! meet flows, fragments and errors meet what they belong to.
//!
//! 1. A frame is built whole (any protocol, tags, extension headers, parts of datagrams), or as the answer to an earlier one, or as an ICMP
//!    error that quotes an earlier one. 2. Now and then bytes of it are changed, cut off or added.

use std::net::IpAddr;

use fw_agent::policy::PortId;
use fw_common::verdict::Direction;
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::frame::{Body, Datagram, Extension, Frame, Part, Transport};

/// A NIC and what is its own.
#[derive(Clone, Debug)]
pub struct End {
    /// The port.
    pub port: PortId,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its addresses, of both families.
    pub addresses: Vec<IpAddr>,
}

/// A frame at a port.
#[derive(Clone, Debug)]
pub struct Step {
    /// The port.
    pub port: PortId,
    /// Which way it goes.
    pub direction: Direction,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Earlier frames that answers and errors are made of.
const REMEMBERED: usize = 64;
/// A router's hardware address, and one that nobody has.
const OTHER_MACS: [[u8; 6]; 2] = [[0x02, 0, 0, 0, 0, 1], [0x02, 0, 0, 0, 0, 9]];
const BROADCAST: [u8; 6] = [0xff; 6];
const PORTS: [u16; 12] = [0, 22, 25, 53, 67, 68, 80, 123, 443, 546, 547, 40000];
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Flags of segments that come often; others are random.
const FLAGS: [u8; 8] = [SYN, SYN | ACK, ACK, ACK | 8, ACK | 1, 4, 4 | ACK, ACK];

/// The stream.
pub struct Shuffle {
    ends: Vec<End>,
    others: Vec<IpAddr>,
    rng: TestRng,
    remembered: Vec<(usize, Direction, Frame)>,
}

impl Shuffle {
    /// Frames between `ends` and `others`.
    pub fn new(ends: Vec<End>, others: Vec<IpAddr>, seed: u8) -> Self {
        Self {
            ends,
            others,
            rng: TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]),
            remembered: Vec::new(),
        }
    }

    /// Whether something of this chance (in percent) happens.
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.rng.random_range(0..of.len())].clone()
    }

    /// The next frame.
    pub fn step(&mut self) -> Step {
        let (end, direction, frame) = match self.rng.random_range(0..100) {
            0..40 => self.fresh(),
            40..85 => self.answer().unwrap_or_else(|| self.fresh()),
            _ => self.error().unwrap_or_else(|| self.fresh()),
        };
        let mut bytes = if self.chance(50) {
            frame.bytes()
        } else {
            frame.unpadded()
        };
        if self.remembered.len() < REMEMBERED {
            self.remembered.push((end, direction, frame));
        } else if self.chance(30) {
            let place = self.rng.random_range(0..REMEMBERED);
            self.remembered[place] = (end, direction, frame);
        }
        if self.chance(12) {
            self.damage(&mut bytes);
        }
        Step {
            port: self.ends[end].port,
            direction,
            frame: bytes,
        }
    }

    fn fresh(&mut self) -> (usize, Direction, Frame) {
        let end = self.rng.random_range(0..self.ends.len());
        let direction = self.one(&[Direction::In, Direction::Out]);
        let frame = self.frame(end, direction);
        (end, direction, frame)
    }

    /// An earlier frame turned around, or once more; TCP goes on.
    fn answer(&mut self) -> Option<(usize, Direction, Frame)> {
        if self.remembered.is_empty() {
            return None;
        }
        let place = self.rng.random_range(0..self.remembered.len());
        let (end, direction, mut frame) = self.remembered[place].clone();
        let turned = self.chance(75);
        let direction = match (direction, turned) {
            (Direction::In, true) | (Direction::Out, false) => Direction::Out,
            (Direction::Out, true) | (Direction::In, false) => Direction::In,
        };
        if turned {
            std::mem::swap(&mut frame.source_mac, &mut frame.dest_mac);
        }
        if let Body::Ip(datagram) = &mut frame.body {
            let ports: Vec<u8> = datagram.payload.iter().take(4).copied().collect();
            if turned {
                std::mem::swap(&mut datagram.source, &mut datagram.dest);
            }
            let whole = datagram.part.is_none_or(|part| part.offset == 0);
            if whole && ports.len() == 4 {
                let (first, second) = match turned {
                    true => ([ports[2], ports[3]], [ports[0], ports[1]]),
                    false => ([ports[0], ports[1]], [ports[2], ports[3]]),
                };
                let (sport, dport) = (u16::from_be_bytes(first), u16::from_be_bytes(second));
                let transport = match datagram.protocol {
                    6 => Some(self.segment(sport, dport)),
                    17 => Some(Transport::Udp {
                        sport,
                        dport,
                        data: vec![0; 24],
                    }),
                    1 | 58 if turned => {
                        let kind = match ports[0] {
                            8 => 0,
                            13 => 14,
                            128 => 129,
                            135 => 136,
                            other => other,
                        };
                        datagram.payload[0] = kind;
                        None
                    }
                    _ => None,
                };
                if let Some(transport) = transport {
                    let (source, dest) = (datagram.source, datagram.dest);
                    datagram.payload = transport.payload(datagram.protocol, source, dest);
                }
            }
        }
        Some((end, direction, frame))
    }

    /// An ICMP error about an earlier frame, mostly to the one that sent it.
    fn error(&mut self) -> Option<(usize, Direction, Frame)> {
        let (end, direction, quoted) = self.remembered.get(self.rng.random_range(0..REMEMBERED))?;
        let (end, quoted_direction, quoted) = (*end, *direction, quoted.clone());
        let Body::Ip(datagram) = &quoted.body else {
            return None;
        };
        let mut bytes = quoted.unpadded();
        let mut quote = bytes.split_off(14 + 4 * quoted.tags.len());
        let keep = self.rng.random_range(20..96);
        quote.truncate(keep.min(quote.len()));
        let v4 = datagram.source.is_ipv4();
        let (protocol, kind) = match v4 {
            true => (1, self.one(&[3, 3, 3, 4, 5, 11, 12])),
            false => (58, self.one(&[1, 2, 2, 3, 4, 137])),
        };
        let direction = match quoted_direction {
            Direction::In => Direction::Out,
            Direction::Out => Direction::In,
        };
        let dest = match self.chance(85) {
            true => datagram.source,
            false => self.address(end, v4, false),
        };
        let source = match self.chance(50) {
            true => datagram.dest,
            false => self.address(end, v4, direction == Direction::Out),
        };
        let transport = Transport::Icmp {
            kind,
            code: self.rng.random_range(0..6),
            word: [0; 4],
            data: quote,
        };
        let payload = transport.payload(protocol, source, dest);
        let frame = Frame {
            dest_mac: quoted.source_mac,
            source_mac: quoted.dest_mac,
            tags: quoted.tags.clone(),
            body: Body::Ip(Datagram::new(source, dest, protocol, payload)),
        };
        Some((end, direction, frame))
    }

    /// An address of one family: the NIC's own (mostly) or another.
    fn address(&mut self, end: usize, v4: bool, own: bool) -> IpAddr {
        let own = own != self.chance(12);
        let pool = match own {
            true => &self.ends[end].addresses,
            false => &self.others,
        };
        let pool: Vec<IpAddr> = pool
            .iter()
            .filter(|address| address.is_ipv4() == v4)
            .copied()
            .collect();
        self.one(&pool)
    }

    fn frame(&mut self, end: usize, direction: Direction) -> Frame {
        let own_mac = match self.chance(94) {
            true => self.ends[end].mac,
            false => OTHER_MACS[1],
        };
        let other_mac = match self.chance(90) {
            true => OTHER_MACS[0],
            false => BROADCAST,
        };
        let (source_mac, dest_mac) = match direction {
            Direction::In => (OTHER_MACS[0], own_mac),
            Direction::Out => (own_mac, other_mac),
        };
        let mut tags = Vec::new();
        while tags.len() < 4 && self.chance(6) {
            let kind = self.one(&[0x8100, 0x8100, 0x88a8, 0x9100]);
            tags.push((kind, self.one(&[0, 5, 7, 99, 0x2005])));
        }
        let body = match self.rng.random_range(0..100) {
            0..6 => {
                let sender_mac = match self.chance(85) {
                    true => source_mac,
                    false => OTHER_MACS[1],
                };
                let operation = self.one(&[1, 2]);
                let octets = |address| match address {
                    IpAddr::V4(address) => address.octets(),
                    IpAddr::V6(_) => [0; 4],
                };
                let sender = self.address(end, true, direction == Direction::Out);
                let target = self.address(end, true, direction == Direction::In);
                Body::Arp {
                    operation,
                    sender_mac,
                    sender: octets(sender),
                    target: octets(target),
                }
            }
            6..9 => Body::Other {
                ethertype: self.one(&[0x88cc, 0x8863, 0x8847, 0x0600, 100]),
                bytes: vec![0; 46],
            },
            _ => Body::Ip(self.datagram(end, direction)),
        };
        Frame {
            dest_mac,
            source_mac,
            tags,
            body,
        }
    }

    fn datagram(&mut self, end: usize, direction: Direction) -> Datagram {
        let v4 = self.chance(50);
        let out = direction == Direction::Out;
        let source = self.address(end, v4, out);
        let dest = self.address(end, v4, !out);
        let icmp = if v4 { 1 } else { 58 };
        let protocol = self.one(&[6, 6, 6, 17, 17, 17, icmp, icmp, 132, 47, 2, 1, 58, 136, 33]);
        let (sport, dport) = (self.one(&PORTS), self.one(&PORTS));
        let transport = match protocol {
            6 => self.segment(sport, dport),
            17 => Transport::Udp {
                sport,
                dport,
                data: vec![0; 24],
            },
            1 | 58 => {
                let kind = self.one(&[
                    8, 8, 0, 13, 3, 5, 128, 128, 129, 133, 134, 135, 135, 136, 136, 143, 1, 2,
                ]);
                let target = self.address(end, false, out);
                let mut data = match target {
                    IpAddr::V6(target) => target.octets().to_vec(),
                    IpAddr::V4(_) => Vec::new(),
                };
                data.resize(24, 0);
                Transport::Icmp {
                    kind,
                    code: 0,
                    word: [0, self.rng.random_range(0..3), 0, 1],
                    data,
                }
            }
            132 | 136 | 33 => Transport::Ports { sport, dport },
            _ => Transport::Bytes(vec![7; 32]),
        };
        let payload = transport.payload(protocol, source, dest);
        let mut datagram = Datagram::new(source, dest, protocol, payload);
        if v4 && self.chance(8) {
            datagram.options = vec![1; 4 * self.rng.random_range(1..=10)];
        }
        while !v4 && datagram.extensions.len() < 10 && self.chance(12) {
            let extension = self.one(&[
                Extension::HopByHop,
                Extension::Routing,
                Extension::Destination,
                Extension::Authentication,
            ]);
            datagram.extensions.push(extension);
        }
        if !v4 && self.chance(2) {
            datagram.extensions = vec![Extension::Destination; 9];
        }
        if self.chance(12) {
            self.cut(&mut datagram);
        }
        datagram
    }

    /// Makes a part of a datagram: its first, or a later one.
    fn cut(&mut self, datagram: &mut Datagram) {
        let offset = self.one(&[0, 0, 8, 16, 24, 32, 1480]);
        datagram.part = Some(Part {
            id: self.rng.random_range(1..4),
            offset,
            more: self.chance(60),
        });
        let length = datagram.payload.len() & !7;
        match offset {
            0 => datagram.payload.truncate(length),
            _ => datagram.payload.truncate(16),
        }
    }

    fn segment(&mut self, sport: u16, dport: u16) -> Transport {
        let flags = match self.chance(90) {
            true => self.one(&FLAGS),
            false => self.rng.random_range(0..64),
        };
        Transport::Tcp {
            sport,
            dport,
            sequence: self.rng.random_range(0..8),
            acknowledge: self.rng.random_range(0..8),
            flags,
            data: vec![0; self.one(&[0, 4])],
        }
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.rng.random_range(0..4) {
            0 => bytes.truncate(self.rng.random_range(14..=bytes.len().max(14))),
            1 => {
                let more = self.rng.random_range(1..64);
                bytes.resize(bytes.len() + more, 0xa5);
            }
            _ => {
                for _ in 0..self.rng.random_range(1..4) {
                    let headers = bytes.len().min(80);
                    let place = self.rng.random_range(12..headers.max(13));
                    if let Some(byte) = bytes.get_mut(place) {
                        *byte = self.rng.random();
                    }
                }
            }
        }
    }
}
