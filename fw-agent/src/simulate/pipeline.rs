//! The judge that `fwctl simulate` uses: the packet pipeline over an image in plain memory.
//!
//! Each frame meets fresh flow tables, so every query is answered by itself. A query that names a state other than NEW gets it in place of
//! what tracking finds.

use std::collections::HashMap;
use std::sync::Arc;

use fw_common::ban::Ban;
use fw_common::conntrack::{CtState, Tracked};
use fw_common::event::FlowNews;
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::maps::{FragmentKey, FragmentValue, Port, Settings};
use fw_common::pipeline::{judge, track_flow};
use fw_common::tables::{Tables, Words};
use fw_common::verdict::{Direction, Judgement, Reason};
use fw_common::wire::{Address, Headers, IpVersion};

use super::{Judged, State, Zone};
use crate::compile::Compiled;
use crate::image::Memory;
use crate::policy::PortId;

/// A node's pipeline in memory.
pub struct Pipeline {
    memory: Memory,
    guests: HashMap<(PortId, Direction), Places>,
    /// By interface, those that no rule names under an empty name.
    host: HashMap<Arc<str>, [Places; 2]>,
}

/// Places of rules in their zone's policy, by identity.
type Places = HashMap<u32, usize>;

impl Pipeline {
    /// The pipeline of a compiled configuration.
    pub fn new(compiled: &Compiled) -> Self {
        let image = &compiled.image;
        let guests = image.ports.iter().flat_map(|(id, port)| {
            DIRECTIONS.map(|direction| {
                let policy = &image.policies[port.policies[direction as usize]];
                let places = policy.rules.iter().copied().zip(0..).collect();
                ((*id, direction), places)
            })
        });
        Self {
            memory: Memory::new(image),
            guests: guests.collect(),
            host: host_places(compiled),
        }
    }

    /// The tables.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Judges a frame in a zone.
    pub fn judge(
        &mut self,
        zone: Zone<'_>,
        direction: Direction,
        frame: &[u8],
        state: State,
    ) -> Judged {
        self.memory.forget_flows();
        let (value, places) = match zone {
            Zone::Guest(port) => (
                self.memory.port_of(port.port),
                self.guests.get(&(port.port, direction)),
            ),
            Zone::Host { interface, .. } => {
                let places = self.host.get(interface).or_else(|| self.host.get(""));
                (
                    self.memory.host_on(interface),
                    places.map(|places| &places[direction as usize]),
                )
            }
        };
        let Some(value) = value.copied() else {
            return Judged {
                judgement: Judgement::drop(Reason::NoPolicy),
                tracked: None,
                rule: None,
            };
        };
        let tables = Forced {
            memory: &self.memory,
            state: match state {
                State::New => None,
                State::Established => Some(CtState::Established),
                State::Related => Some(CtState::Related),
                State::Invalid => Some(CtState::Invalid),
                State::Untracked => Some(CtState::Untracked),
            },
        };
        let mut headers = Headers::default();
        let judgement = judge(&frame, tables, &value, direction, &mut headers);
        let rule = places.and_then(|places| places.get(&judgement.rule).copied());
        let needs_no_rule = matches!(judgement.reason, Reason::Established | Reason::Related);
        let got_so_far = rule.is_some() || needs_no_rule;
        Judged {
            judgement,
            tracked: got_so_far.then(|| tables.track(&value, direction, &headers).state),
            rule,
        }
    }
}

const DIRECTIONS: [Direction; 2] = [Direction::In, Direction::Out];

/// The image has a policy per interface; rules are to be found among those of all interfaces.
fn host_places(compiled: &Compiled) -> HashMap<Arc<str>, [Places; 2]> {
    let (Some(host), Some(image)) = (&compiled.policy.host, &compiled.image.host) else {
        return HashMap::new();
    };
    let of = |interface: &str| {
        DIRECTIONS.map(|direction| {
            let index = image.on(interface)[direction as usize];
            let identities = compiled.image.policies[index].rules.iter().copied();
            let places = host.applying(interface, direction).map(|(place, _)| place);
            identities.zip(places).collect()
        })
    };
    let named = image.interfaces.keys();
    let named = named.map(|name| (Arc::clone(name), of(name)));
    named.chain([(Arc::from(""), of(""))]).collect()
}

/// Tables in which tracking finds what the query says.
#[derive(Clone, Copy)]
struct Forced<'m> {
    memory: &'m Memory,
    state: Option<CtState>,
}

impl Tables for Forced<'_> {
    fn track(&self, port: &Port, direction: Direction, headers: &Headers) -> Tracked {
        match self.state {
            Some(state) => Tracked {
                // Whatever the flow is, its address would have been checked.
                unchecked: direction == Direction::Out
                    && port.guard != 0
                    && state == CtState::Established,
                ..Tracked::plain(state)
            },
            None => track_flow(self.memory, port, direction, headers),
        }
    }

    fn port(&self, ifindex: u32) -> Option<&Port> {
        Tables::port(&self.memory, ifindex)
    }

    fn words(&self) -> Option<impl Words> {
        Some(self.memory.arena())
    }

    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        self.memory.longest_prefix(space, version, address)
    }

    fn has_bans(&self) -> bool {
        self.memory.has_bans()
    }

    fn ban(&self, address: &Address, bits: u32) -> Option<Ban> {
        Tables::ban(&self.memory, address, bits)
    }

    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        Tables::flow(&self.memory, key)
    }

    fn half_open(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        Tables::half_open(&self.memory, key)
    }

    fn insert_half_open(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.memory.insert_half_open(key, flow)
    }

    fn establish(&self, key: &FlowKey, flow: &Flow) -> bool {
        self.memory.establish(key, flow)
    }

    fn remove_flow(&self, key: &FlowKey) {
        self.memory.remove_flow(key);
    }

    /// A simulated packet's flow is nobody's.
    fn tell_flow(&self, _key: &FlowKey, _news: FlowNews) {}

    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.memory.remember_fragment(key, value);
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.memory.first_fragment(key)
    }

    fn take_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        self.memory.take_syn(source, interval, burst)
    }

    fn settings(&self) -> Settings {
        self.memory.settings()
    }

    fn now(&self) -> u64 {
        self.memory.now()
    }
}
