//! The pipeline on tables in memory, watched: what it found, and what the reference model has to know to judge the same packet.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use fw_agent::compile::Compiled;
use fw_agent::image::{MapImage, Memory};
use fw_agent::policy::{Family, PortId};
use fw_common::ban::Ban;
use fw_common::conntrack::{CtState, Tracked};
use fw_common::event::FlowNews;
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::maps::{FragmentKey, FragmentValue, Port, Settings};
use fw_common::pipeline;
use fw_common::tables::{Tables, Words};
use fw_common::verdict::{Direction, NO_RULE};
use fw_common::wire::{Address, ETHERTYPE_ARP, Headers, IpVersion, Packet as WirePacket, Wire};

use super::Found;
use crate::model::{self, Packet, Segment};

/// Tables and the image they were filled from.
pub struct Host {
    image: MapImage,
    memory: Memory,
}

/// What the pipeline made of one packet.
pub struct Judged {
    /// The result.
    pub found: Found,
    /// What the reference model is asked, if a rule or a running flow decided.
    pub packet: Option<Question>,
    /// The connection-tracking state, if it was tracked at all.
    pub state: Option<CtState>,
}

impl Host {
    /// Tables with the compiled policies and no flows.
    pub fn new(compiled: &Compiled) -> Self {
        Self {
            image: compiled.image.clone(),
            memory: Memory::new(&compiled.image),
        }
    }

    /// Takes other policies; flows stay.
    pub fn switch_to(&mut self, compiled: &Compiled) {
        self.image = compiled.image.clone();
        self.memory.switch_to(&self.image);
    }

    /// Forgets flows and fragments.
    pub fn forget_flows(&mut self) {
        self.memory.forget_flows();
    }

    /// Moves the clock.
    pub fn advance(&self, nanoseconds: u64) {
        self.memory.advance(nanoseconds);
    }

    /// The number that a port has in place of an interface index.
    pub fn ifindex(&self, id: PortId) -> Option<u32> {
        let mut ports = (1..).zip(self.image.ports.keys());
        ports.find(|(_, port)| **port == id).map(|(index, _)| index)
    }

    /// Judges a frame that came into the node by an interface; 0: the node made it.
    pub fn judge(
        &self,
        id: PortId,
        direction: Direction,
        frame: &[u8],
        came_from: u32,
    ) -> Result<Judged> {
        let port = self.memory.port_of(id).context("no such port")?;
        let state = Cell::new(None);
        let watched = Watched {
            tables: &self.memory,
            state: &state,
        };
        let mut headers = Headers::default();
        let arrived = Arrived {
            bytes: frame,
            came_from,
        };
        let judgement = pipeline::judge(&arrived, watched, port, direction, &mut headers);
        let built = &self.image.ports[&id];
        let rules = &self.image.policies[built.policies[direction as usize]].rules;
        let rule = match judgement.rule {
            NO_RULE => None,
            identity => {
                let place = rules.iter().position(|rule| *rule == identity);
                Some(place.context("the judgement names no rule of the policy")?)
            }
        };
        let state = state.get();
        // A running flow is the model's business too: it says whether rules are looked at.
        let packet = (rule.is_some() || state == Some(CtState::Established))
            .then(|| seen_by_model(frame, &headers, state))
            .transpose()?;
        Ok(Judged {
            found: Found {
                verdict: judgement.verdict,
                reason: Some(judgement.reason),
                rule,
            },
            packet,
            state,
        })
    }
}

/// What the reference model is asked.
pub enum Question {
    /// Which rule decides this packet?
    Packet(Packet),
    /// Which rule decides this frame that is not IP?
    Frame(model::Frame),
}

/// What to ask the model of a packet. Without a state, a rule decided before the packet was tracked: on a frame that is not IP, or on the
/// address that a discovery message claims.
fn seen_by_model(frame: &[u8], headers: &Headers, state: Option<CtState>) -> Result<Question> {
    let Some(state) = state else {
        return if headers.version == IpVersion::None {
            Ok(Question::Frame(model::Frame {
                ethertype: headers.ethertype,
                arp: (headers.ethertype == ETHERTYPE_ARP)
                    .then(|| [&headers.source, &headers.dest].map(|end| address(Family::V4, end))),
            }))
        } else {
            let at = usize::from(headers.l4) + 8;
            let target = frame.get(at..at + 16).context("a target")?;
            let target: [u8; 16] = target.try_into()?;
            Ok(Question::Packet(model::claim(target.into())))
        };
    };
    Ok(Question::Packet(packet_for_model(headers, state)))
}

fn packet_for_model(headers: &Headers, state: CtState) -> Packet {
    let family = match headers.version {
        IpVersion::V6 => Family::V6,
        IpVersion::V4 | IpVersion::None => Family::V4,
    };
    let (source, dest) = (
        address(family, &headers.source),
        address(family, &headers.dest),
    );
    let [_, _, mac @ ..] = headers.dest_mac.to_be_bytes();
    let segment = (headers.protocol == 6).then_some(Segment {
        flags: headers.tcp_flags,
        sport: headers.sport,
    });
    let port = |port| (headers.has_ports == 1).then_some(port);
    Packet {
        family,
        protocol: headers.protocol,
        source,
        dest,
        sport: port(headers.sport),
        dport: port(headers.dport),
        traits: model::traits_of(mac, source, dest, segment, state),
    }
}

fn address(family: Family, address: &Address) -> IpAddr {
    let mut bytes = [0; 16];
    for (part, word) in bytes.chunks_mut(4).zip(address.0) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    match family {
        Family::V4 => Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]).into(),
        Family::V6 => Ipv6Addr::from(bytes).into(),
    }
}

/// A frame, and where it came into the node.
struct Arrived<'a> {
    bytes: &'a [u8],
    came_from: u32,
}

impl WirePacket for Arrived<'_> {
    fn length(&self) -> u32 {
        self.bytes.length()
    }

    fn load<T: Wire>(&self, offset: u32) -> Option<T> {
        self.bytes.load(offset)
    }

    fn offloaded_tag(&self) -> Option<u16> {
        None
    }

    fn came_from(&self) -> u32 {
        self.came_from
    }
}

/// [`Memory`] that notes the connection-tracking state it gave.
#[derive(Clone, Copy)]
struct Watched<'a> {
    tables: &'a Memory,
    state: &'a Cell<Option<CtState>>,
}

impl Tables for Watched<'_> {
    fn port(&self, ifindex: u32) -> Option<&Port> {
        Tables::port(&self.tables, ifindex)
    }

    fn words(&self) -> Option<impl Words> {
        Some(self.tables.arena())
    }

    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        self.tables.longest_prefix(space, version, address)
    }

    fn has_bans(&self) -> bool {
        self.tables.has_bans()
    }

    fn ban(&self, address: &Address, bits: u32) -> Option<Ban> {
        Tables::ban(&self.tables, address, bits)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        Tables::flow(&self.tables, key)
    }

    fn half_open(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        Tables::half_open(&self.tables, key)
    }

    fn insert_half_open(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.tables.insert_half_open(key, flow)
    }

    fn establish(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.tables.establish(key, flow)
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.tables.remove_flow(key);
    }

    fn tell_flow(&self, key: &FlowKey, news: FlowNews) {
        self.tables.tell_flow(key, news);
    }

    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.tables.remember_fragment(key, value);
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.tables.first_fragment(key)
    }

    fn take_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        self.tables.take_syn(source, interval, burst)
    }

    fn settings(&self) -> Settings {
        self.tables.settings()
    }

    fn now(&self) -> u64 {
        self.tables.now()
    }

    fn track(&self, port: &Port, direction: Direction, headers: &Headers) -> Tracked {
        let tracked = self.tables.track(port, direction, headers);
        self.state.set(Some(tracked.state));
        tracked
    }
}
