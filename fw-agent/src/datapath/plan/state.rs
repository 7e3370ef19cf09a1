//! What a plan begins with and ends with: what the kernel holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fw_common::maps::{Port, Settings, Station, capacity};
use fw_common::wire::Address;

use super::classes::Filters;
use super::port_id;
use crate::datapath::arena::Arena;
use crate::datapath::slots::Slots;
use crate::image::Classes;

/// What the kernel holds, as far as the agent knows.
#[derive(Clone, Debug)]
pub struct State {
    /// Ports by interface index.
    pub ports: BTreeMap<u32, Port>,
    /// Devices with programs attached by this agent, and their interface index.
    pub attached: BTreeMap<String, u32>,
    /// Devices with programs that an earlier agent attached.
    pub inherited: BTreeSet<String>,
    /// Class spaces that may have contents, with what they hold; none: what that is, is not known.
    pub spaces: BTreeMap<u32, Option<Arc<Classes>>>,
    /// Uplinks with the XDP program attached by this agent, and their interface index.
    pub uplinks: BTreeMap<String, u32>,
    /// Uplinks with the program of an earlier agent.
    pub inherited_uplinks: BTreeSet<String>,
    /// Uplinks that do not take the program: interface index, and why not.
    pub refused_uplinks: BTreeMap<String, (u32, String)>,
    /// What the uplinks know of stations, by hardware address.
    pub stations: BTreeMap<u64, Station>,
    /// Addresses of the host.
    pub locals: BTreeSet<Address>,
    /// Entries of the flow table.
    pub flow_capacity: u32,
    /// An earlier plan resized the flow table and was not carried out to its end.
    pub fetch_flows: bool,
    /// What is in the arena, by its words; prefilters are apart.
    pub(super) policies: HashMap<Vec<u64>, u32>,
    /// Prefilters by class space.
    pub(super) filters: BTreeMap<u32, Filters>,
    pub(super) arena: Arena,
    pub(super) slots: Slots,
    /// What the kernel has of settings; none: not known.
    pub settings: Option<Settings>,
}

impl Default for State {
    /// A kernel that holds nothing.
    fn default() -> Self {
        Self {
            ports: BTreeMap::new(),
            attached: BTreeMap::new(),
            inherited: BTreeSet::new(),
            spaces: BTreeMap::new(),
            locals: BTreeSet::new(),
            flow_capacity: capacity::FLOWS,
            fetch_flows: false,
            uplinks: BTreeMap::new(),
            inherited_uplinks: BTreeSet::new(),
            refused_uplinks: BTreeMap::new(),
            stations: BTreeMap::new(),
            policies: HashMap::new(),
            filters: BTreeMap::new(),
            arena: Arena::new(capacity::ARENA),
            slots: Slots::default(),
            settings: None,
        }
    }
}

impl State {
    /// Notes a policy, or something else of which nobody knows what it is, that was found in the arena.
    pub fn adopt_policy(&mut self, start: u32, words: Vec<u64>) {
        if self.arena.claim(start, words.len() as u32) {
            self.policies.insert(words, start);
        }
    }

    /// Notes a port that was found in the kernel.
    pub fn adopt_port(&mut self, ifindex: u32, port: Port) {
        self.slots.adopt(port_id(&port), port.counters);
        self.ports.insert(ifindex, port);
    }

    /// Words of the arena that are free.
    pub fn free_words(&self) -> u32 {
        self.arena.available()
    }

    /// Forgets that a device has programs (it vanished, or attaching failed).
    pub fn lost(&mut self, device: &str) {
        self.attached.remove(device);
        self.inherited.remove(device);
    }

    /// Notes that an uplink does not take the program, and why.
    pub fn refused_uplink(&mut self, device: &str, why: String) {
        if let Some(ifindex) = self.uplinks.remove(device) {
            self.refused_uplinks
                .insert(device.to_owned(), (ifindex, why));
        }
    }
}
