//! The judge that `fwctl simulate` uses: the packet pipeline over an image in plain memory.
//!
//! Each frame meets fresh flow tables, so every query is answered by itself. A query that names a state other than NEW gets it in place of
//! what tracking finds.

use std::collections::HashMap;

use fw_common::conntrack::{Commit, CtState, Tracked};
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::maps::{FragmentKey, FragmentValue, Port, Settings};
use fw_common::pipeline::{judge, track_flow};
use fw_common::tables::{Step, Tables};
use fw_common::verdict::{Direction, Judgement, Reason};
use fw_common::wire::{Address, Headers, IpVersion};

use super::{Judged, State};
use crate::compile::Compiled;
use crate::image::{MapImage, Memory};
use crate::policy::{PortId, PortPolicy};

/// A node's pipeline in memory.
pub struct Pipeline {
    memory: Memory,
    /// By port and direction: the place of each rule in its policy, by identity.
    places: HashMap<(PortId, Direction), HashMap<u32, usize>>,
}

impl Pipeline {
    /// The pipeline of a compiled configuration.
    pub fn new(compiled: &Compiled) -> Self {
        Self {
            memory: Memory::new(&compiled.image),
            places: places(&compiled.image),
        }
    }

    /// Judges a frame at a port.
    pub fn judge(
        &mut self,
        port: &PortPolicy,
        direction: Direction,
        frame: &[u8],
        state: State,
    ) -> Judged {
        self.memory.forget_flows();
        let Some(value) = self.memory.port_of(port.port).copied() else {
            return Judged {
                judgement: Judgement::drop(Reason::NoPolicy),
                rule: None,
            };
        };
        let tables = Forced {
            memory: &self.memory,
            state: match state {
                State::New => None,
                State::Established | State::Related => Some(CtState::Established),
                State::Invalid => Some(CtState::Invalid),
                State::Untracked => Some(CtState::Untracked),
            },
        };
        let mut headers = Headers::default();
        let judgement = judge(&frame, tables, &value, direction, &mut headers);
        let places = self.places.get(&(port.port, direction));
        let rule = places.and_then(|places| places.get(&judgement.rule).copied());
        Judged { judgement, rule }
    }
}

fn places(image: &MapImage) -> HashMap<(PortId, Direction), HashMap<u32, usize>> {
    let mut places = HashMap::new();
    for (id, port) in &image.ports {
        for direction in [Direction::In, Direction::Out] {
            let policy = &image.policies[port.policies[direction as usize]];
            let by_identity = policy.rules.iter().zip(0..);
            let by_identity = by_identity.map(|(rule, place)| (*rule, place)).collect();
            places.insert((*id, direction), by_identity);
        }
    }
    places
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
                state,
                commit: Commit::Nothing,
            },
            None => track_flow(self.memory, port, direction, headers),
        }
    }

    fn port(&self, ifindex: u32) -> Option<&Port> {
        Tables::port(&self.memory, ifindex)
    }

    fn word(&self, index: u32) -> Option<u64> {
        self.memory.word(index)
    }

    fn class(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        self.memory.class(space, version, address)
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

    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        self.memory.remember_fragment(key, value);
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        self.memory.first_fragment(key)
    }

    fn settings(&self) -> Settings {
        self.memory.settings()
    }

    fn now(&self) -> u64 {
        self.memory.now()
    }

    fn repeat<S: Step>(count: u32, step: &mut S) {
        <&Memory as Tables>::repeat(count, step);
    }
}
