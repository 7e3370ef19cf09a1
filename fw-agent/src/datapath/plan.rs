//! What has to be done so that the kernel holds an image: decisions as data.
//!
//! In: [`State`] (what the kernel holds), a [`MapImage`], and the devices that exist. Out: a [`Plan`], and with it the state after it.
//!
//! Order: 1. a new class space, 2. new policies, 3. port values (each switches one port; before a
//! port's first its counters are cleared), 4. attach, 5. detach, 6. forget ports, 7. wait until no
//! program reads what was replaced, 8. remove class spaces that no port uses, 9. if the flow
//! table is to have another size: make it, attach the programs that use it, wait, and fetch what the others did meanwhile. The words of policies that no port uses are handed out again by
//! the next plan.
//!
//! Invariant: no action takes away anything that a port in use still refers to. An image equal to the last one gives an empty plan.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fw_common::maps::{Port, Settings, capacity};

use super::arena::Arena;
use super::slots::Slots;
use crate::image::{ClassSpace, MapImage, PortImage, port_value};
use crate::policy::{GuestKind, PortId};

/// One step of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill a class space that nobody uses yet.
    WriteClasses {
        /// Its number.
        space: u32,
        /// Its contents.
        classes: ClassSpace,
    },
    /// Fill free words of the arena.
    WritePolicy {
        /// First word.
        start: u32,
        /// The words.
        words: Vec<u64>,
    },
    /// Replace the node's settings.
    WriteSettings(Settings),
    /// Set a port's counters to zero, before its first value names them.
    ClearCounters {
        /// Their entry.
        slot: u32,
    },
    /// Switch a port to new policies.
    SetPort {
        /// Interface index.
        ifindex: u32,
        /// Name, for messages.
        device: String,
        /// The value.
        port: Port,
    },
    /// Attach the programs to a device, or update them there.
    Attach {
        /// Name.
        device: String,
        /// Interface index.
        ifindex: u32,
    },
    /// Take the programs off a device; it is unfiltered then.
    Detach {
        /// Name.
        device: String,
    },
    /// Forget a port whose programs are gone.
    RemovePort {
        /// Interface index.
        ifindex: u32,
    },
    /// Make the flow table anew in another size, and programs that use it; those that are attached still use the old one.
    ResizeFlows {
        /// Flows that it takes.
        entries: u32,
    },
    /// Fetch what programs with the old flow table did to it before they were replaced.
    FetchFlows,
    /// Wait until every program that was running has ended: it may still use what ports referred to when it began.
    AwaitReaders,
    /// Remove a class space that no port uses.
    RemoveClasses {
        /// Its number.
        space: u32,
    },
}

/// What to do, and what is not possible.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in order.
    pub actions: Vec<Action>,
    /// Ports whose policy found no room: they keep the one they have, or stay closed.
    pub no_room: Vec<PortId>,
}

/// What the kernel holds, as far as the agent knows.
#[derive(Clone, Debug)]
pub struct State {
    /// Ports by interface index.
    pub ports: BTreeMap<u32, Port>,
    /// Devices with programs attached by this agent, and their interface index.
    pub attached: BTreeMap<String, u32>,
    /// Devices with programs that an earlier agent attached.
    pub inherited: BTreeSet<String>,
    /// Class spaces that may have contents, the current one with what it holds.
    pub spaces: BTreeMap<u32, Option<ClassSpace>>,
    /// Entries of the flow table.
    pub flow_capacity: u32,
    /// An earlier plan resized the flow table and was not carried out to its end.
    pub fetch_flows: bool,
    /// Policies in the arena by their words.
    policies: HashMap<Vec<u64>, u32>,
    arena: Arena,
    slots: Slots,
    settings: Option<Settings>,
}

impl Default for State {
    /// A kernel that holds nothing.
    fn default() -> Self {
        Self {
            ports: BTreeMap::new(),
            attached: BTreeMap::new(),
            inherited: BTreeSet::new(),
            spaces: BTreeMap::new(),
            flow_capacity: capacity::FLOWS,
            fetch_flows: false,
            policies: HashMap::new(),
            arena: Arena::new(capacity::ARENA),
            slots: Slots::default(),
            settings: None,
        }
    }
}

impl State {
    /// Notes a policy that was found in the arena.
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
}

/// Plans how the kernel gets from `state` to `image` with the devices that exist (name → interface index), and updates `state` to what
/// holds after the plan. Ports of guests that the image does not know and of which `leave` says so stay as they are.
pub fn plan(
    state: &mut State,
    image: &MapImage,
    devices: &BTreeMap<String, u32>,
    leave: impl Fn(u32) -> bool,
) -> Plan {
    state.arena.settle();
    let mut plan = Plan::default();
    if state.settings != Some(image.settings) {
        plan.actions.push(Action::WriteSettings(image.settings));
        state.settings = Some(image.settings);
    }
    let present: Vec<Present<'_>> = image
        .ports
        .iter()
        .filter_map(|(id, port)| Some((*id, port, *devices.get(&port.device)?)))
        .collect();
    let mut wanted = failed_ports(image, devices);
    if !present.is_empty() {
        let space = choose_space(state, image, &mut plan);
        let starts = place_policies(state, image, &present, &mut plan);
        for (id, port, ifindex) in present {
            wanted.insert(port.device.clone(), ifindex);
            let [inbound, outbound] = port.policies.map(|index| starts[index]);
            match (inbound, outbound) {
                (Some(inbound), Some(outbound)) => {
                    let switch = (id, port, ifindex);
                    switch_port(state, switch, [inbound, outbound], space, &mut plan);
                }
                _ => plan.no_room.push(id),
            }
        }
    }
    for (device, ifindex) in devices {
        let port = state.ports.get(ifindex);
        if port.is_some_and(|port| !wanted.contains_key(device) && leave(port.vmid)) {
            wanted.insert(device.clone(), *ifindex);
        }
    }

    for (device, ifindex) in &wanted {
        if state.attached.get(device) != Some(ifindex) {
            plan.actions.push(Action::Attach {
                device: device.clone(),
                ifindex: *ifindex,
            });
            state.attached.insert(device.clone(), *ifindex);
        }
        state.inherited.remove(device);
    }
    let unwanted: BTreeSet<String> = state
        .attached
        .keys()
        .chain(&state.inherited)
        .filter(|device| !wanted.contains_key(*device))
        .cloned()
        .collect();
    for device in unwanted {
        state.lost(&device);
        plan.actions.push(Action::Detach { device });
    }
    let indices: BTreeSet<u32> = wanted.values().copied().collect();
    let forgotten: Vec<u32> = state
        .ports
        .keys()
        .filter(|ifindex| !indices.contains(ifindex))
        .copied()
        .collect();
    for ifindex in forgotten {
        state.ports.remove(&ifindex);
        plan.actions.push(Action::RemovePort { ifindex });
    }
    let known: BTreeSet<PortId> = state.ports.values().map(port_id).collect();
    state
        .slots
        .retain(|id| known.contains(&id) || image.ports.contains_key(&id));
    release(state, &mut plan);
    resize_flows(state, image, &mut plan);
    plan
}

/// Has the flow table made anew if it is to have another size, and the programs that use it attached in place of the others. It comes last: should it fail,
/// everything else is done, and it is not tried again before the size that is wanted changes.
fn resize_flows(state: &mut State, image: &MapImage, plan: &mut Plan) {
    let wanted = image.flow_capacity;
    if wanted != 0 && wanted != state.flow_capacity {
        state.flow_capacity = wanted;
        plan.actions.push(Action::ResizeFlows { entries: wanted });
        for (device, ifindex) in &state.attached {
            plan.actions.push(Action::Attach {
                device: device.clone(),
                ifindex: *ifindex,
            });
        }
        state.fetch_flows = true;
    }
    if std::mem::take(&mut state.fetch_flows) {
        plan.actions.push(Action::AwaitReaders);
        plan.actions.push(Action::FetchFlows);
    }
}

fn port_id(port: &Port) -> PortId {
    PortId {
        vmid: port.vmid,
        net: port.net,
    }
}

/// The class space for `image`: the current one if its contents are right, else a new one.
fn choose_space(state: &mut State, image: &MapImage, plan: &mut Plan) -> u32 {
    let current = state
        .spaces
        .iter()
        .find(|(_, classes)| classes.as_ref() == Some(&image.space));
    if let Some((space, _)) = current {
        return *space;
    }
    let space = state.spaces.keys().next_back().map_or(0, |last| last + 1);
    plan.actions.push(Action::WriteClasses {
        space,
        classes: image.space.clone(),
    });
    state.spaces.insert(space, Some(image.space.clone()));
    space
}

/// A port of the image whose device exists, and its interface index.
type Present<'i> = (PortId, &'i PortImage, u32);

/// Where each policy of `image` is in the arena; none for those that no port needs now, or for which there was no room.
fn place_policies(
    state: &mut State,
    image: &MapImage,
    present: &[Present<'_>],
    plan: &mut Plan,
) -> Vec<Option<u32>> {
    let needed: BTreeSet<usize> = present
        .iter()
        .flat_map(|(_, port, _)| port.policies)
        .collect();
    let mut starts = vec![None; image.policies.len()];
    for index in needed {
        let words = &image.policies[index].words;
        if let Some(start) = state.policies.get(words) {
            starts[index] = Some(*start);
        } else if let Some(start) = state.arena.allocate(words.len() as u32) {
            starts[index] = Some(start);
            state.policies.insert(words.clone(), start);
            plan.actions.push(Action::WritePolicy {
                start,
                words: words.clone(),
            });
        }
    }
    starts
}

/// Devices of ports whose policy cannot be built: they keep the one they have; without one they are closed, for the programs find no value.
fn failed_ports(image: &MapImage, devices: &BTreeMap<String, u32>) -> BTreeMap<String, u32> {
    image
        .failures
        .iter()
        .flat_map(|(id, _, _)| [GuestKind::Vm, GuestKind::Container].map(|kind| kind.device(*id)))
        .filter_map(|device| Some((device.clone(), *devices.get(&device)?)))
        .collect()
}

/// Switches a port if its value changes.
fn switch_port(
    state: &mut State,
    (id, port, ifindex): Present<'_>,
    policy: [u32; 2],
    space: u32,
    plan: &mut Plan,
) {
    let old = state.ports.get(&ifindex).copied();
    let epoch = old.map_or(0, |old| old.epoch);
    let (slot, is_new) = state.slots.assign(id);
    if is_new {
        plan.actions.push(Action::ClearCounters { slot });
    }
    let mut value = port_value(id, port, policy, space, epoch);
    value.counters = slot;
    if old == Some(value) {
        return;
    }
    value.epoch = epoch.wrapping_add(1);
    state.ports.insert(ifindex, value);
    plan.actions.push(Action::SetPort {
        ifindex,
        device: port.device.clone(),
        port: value,
    });
}

/// Drops class spaces and policies that no port refers to.
fn release(state: &mut State, plan: &mut Plan) {
    let used: BTreeSet<u32> = state.ports.values().map(|port| port.space).collect();
    let unused: Vec<u32> = state
        .spaces
        .keys()
        .filter(|space| !used.contains(space))
        .copied()
        .collect();
    let starts: BTreeSet<u32> = state.ports.values().flat_map(|port| port.policy).collect();
    let arena = &mut state.arena;
    let mut released = false;
    state.policies.retain(|words, start| {
        let keep = starts.contains(start);
        if !keep {
            released = true;
            arena.release(*start, words.len() as u32);
        }
        keep
    });
    if released || !unused.is_empty() {
        plan.actions.push(Action::AwaitReaders);
    }
    for space in unused {
        state.spaces.remove(&space);
        plan.actions.push(Action::RemoveClasses { space });
    }
}

#[cfg(test)]
mod tests;
