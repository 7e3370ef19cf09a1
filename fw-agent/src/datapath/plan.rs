//! What has to be done so that the kernel holds an image: decisions as data.
//!
//! In: [`State`] (what the kernel holds), a [`MapImage`], and the devices and addresses that exist ([`Present`]). Out: a [`Plan`], and with it
//! the state after it.
//!
//! Order: 1. the host's addresses, class spaces and prefilters (`classes`), 2. new policies (guards and sets of VLANs among them: all are words of the
//! arena that ports refer to), 3. settings, 4. port values (each switches one port; before a port's first its counters are cleared), 5. attach,
//! 6. detach, 7. forget ports, 8. wait until no program reads what was replaced, 9. remove class spaces that nobody uses, 10. if the flow table is
//! to have another size: make it, attach the programs that use it, wait, and fetch what the others did meanwhile. The words of policies and
//! prefilters that nobody uses are handed out again by the next plan.
//!
//! The small and the big sets are class spaces of their own: a change of one does not write the other's prefixes again. A space in use gets single entries that
//! no policy in use makes a difference of, or that are seen at once where nothing else changes; if too much changes there is a new space.
//!
//! The host's interfaces are ports as guests' NICs are, with other programs. A device is one or the other by its name and place
//! ([`crate::inventory::host_devices`]): one that becomes a bridge port is detached, one that leaves its bridge is attached.
//!
//! A device that is a guest's by its name ([`Present::unknown`]) and of which no configuration is known is attached without a port value: closed.
//! If it has a value that is its own (its guest was here before) it keeps that.
//!
//! Invariant: no action takes away anything that a port in use still refers to. An image equal to the last one gives an empty plan.

mod classes;
mod host;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fw_common::maps::{ANY_VLAN, NO_VLAN, Port, Settings, Station, capacity, port_flag};
use fw_common::wire::Address;

use self::classes::{Filters, Placed, place_space};
use self::host::{host_ports, is_failed, note_locals};
use super::arena::Arena;
use super::attach::Role;
use super::slots::Slots;
use crate::image::{
    Classes, HOST, MapImage, PlacedSpace, Places, PortImage, Prefixes, VlanImage, port_value,
};
use crate::inventory::host_devices::HostDevice;
use crate::policy::{GuestKind, PortId};

pub use classes::next_image;
pub use uplinks::{Edge, plan_uplinks};

/// One step of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fill a class space that nobody uses yet.
    WriteClasses {
        /// Its number.
        space: u32,
        /// Its contents.
        classes: Arc<Classes>,
    },
    /// Write entries of a class space that is in use.
    WriteEntries {
        /// Its number.
        space: u32,
        /// What stands for its new classes in the space of parents, to be written first.
        lineage: Vec<(u32, u32)>,
        /// Prefixes, to be written in this order.
        prefixes: Prefixes,
    },
    /// Write words of a prefilter that is in use, with more bits than they had.
    AddBits {
        /// First of the words.
        start: u32,
        /// The words.
        words: Vec<u64>,
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
    /// Note addresses of the host.
    AddLocals(Vec<Address>),
    /// Forget addresses of the host.
    RemoveLocals(Vec<Address>),
    /// Attach the programs to a device, or update them there.
    Attach {
        /// Name.
        device: String,
        /// Which programs.
        role: Role,
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
    /// Let the uplinks know of a station.
    SetStation {
        /// Its hardware address.
        mac: u64,
        /// The value.
        station: Station,
    },
    /// Let the uplinks forget a station.
    RemoveStation {
        /// Its hardware address.
        mac: u64,
    },
    /// Attach the XDP program to an uplink, or update it there.
    AttachUplink {
        /// Name.
        device: String,
        /// Interface index.
        ifindex: u32,
    },
    /// Take the XDP program off an uplink.
    DetachUplink {
        /// Name.
        device: String,
    },
    /// Wait until every program that was running has ended: it may still use what ports referred to when it began.
    AwaitReaders,
    /// Remove a class space that no port uses.
    RemoveClasses {
        /// Its number.
        space: u32,
        /// Its contents, if they are known.
        classes: Option<Arc<Classes>>,
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
    policies: HashMap<Vec<u64>, u32>,
    /// Prefilters by class space.
    filters: BTreeMap<u32, Filters>,
    arena: Arena,
    slots: Slots,
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

/// What there is on the node that an image does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Interface index of every device by its name.
    pub devices: BTreeMap<String, u32>,
    /// Those of them that are the host's interfaces.
    pub host: BTreeMap<String, HostDevice>,
    /// The host's addresses.
    pub locals: BTreeSet<Address>,
    /// Those of the devices that are a guest's by their name, and of which no configuration says anything.
    pub unknown: BTreeSet<String>,
}

/// Plans as [`plan_node`] does for a node whose host has no interfaces.
pub fn plan(
    state: &mut State,
    image: &MapImage,
    devices: &BTreeMap<String, u32>,
    leave: impl Fn(u32) -> bool,
) -> Plan {
    let present = Present {
        devices: devices.clone(),
        ..Present::default()
    };
    plan_node(state, image, &present, leave)
}

/// Plans how the kernel gets from `state` to `image` with what is present, and updates `state` to what holds after the plan. Ports of guests
/// that the image does not know and of which `leave` says so stay as they are.
pub fn plan_node(
    state: &mut State,
    image: &MapImage,
    present: &Present,
    leave: impl Fn(u32) -> bool,
) -> Plan {
    let devices = &present.devices;
    state.arena.settle();
    let mut plan = Plan::default();
    forget_strangers(state, devices, &mut plan);
    note_locals(state, image, present, &mut plan);
    let of_host = host_ports(image, &present.host);
    // The host first: if not all policies find room, the node must stay reachable.
    let ports: Vec<Switch<'_>> = of_host
        .iter()
        .map(|(port, ifindex)| (HOST, port, *ifindex))
        .chain(
            image
                .ports
                .iter()
                .filter_map(|(id, port)| Some((*id, port, *devices.get(&port.device)?))),
        )
        .collect();
    let mut wanted = failed_ports(image, present);
    let placed = match ports.is_empty() {
        true => Placed::default(),
        false => place_space(state, &image.space, &mut plan),
    };
    let space = placed.space;
    let starts = place_policies(state, image, &ports, space, &mut plan);
    let settings = Settings {
        space: space.big,
        prefilter: space.prefilter,
        ..image.settings
    };
    if state.settings != Some(settings) {
        plan.actions.push(Action::WriteSettings(settings));
        state.settings = Some(settings);
    }
    for (id, port, ifindex) in ports {
        wanted.insert(port.device.clone(), ifindex);
        match starts.of(port, space) {
            Some(places) => {
                let moved = placed.is_step() && image.moved.contains(&id);
                switch_port(state, (id, port, ifindex), places, moved, &mut plan);
            }
            None if plan.no_room.last() == Some(&id) => {}
            None => plan.no_room.push(id),
        }
    }
    placed.finish(&mut plan);
    let mut closed = BTreeSet::new();
    for device in &present.unknown {
        let Some(ifindex) = devices.get(device) else {
            continue;
        };
        if wanted.contains_key(device) {
            continue;
        }
        wanted.insert(device.clone(), *ifindex);
        let known = state.ports.get(ifindex);
        let known = known.filter(|port| port.flags & port_flag::HOST == 0);
        let own = PortId::of_device(device).map(|(_, id)| id);
        if known.map(port_id) != own {
            closed.insert(*ifindex);
        }
    }
    for (device, ifindex) in devices {
        let port = state.ports.get(ifindex);
        let guests = port.filter(|port| port.flags & port_flag::HOST == 0);
        if guests.is_some_and(|port| !wanted.contains_key(device) && leave(port.vmid)) {
            wanted.insert(device.clone(), *ifindex);
        }
    }

    for (device, ifindex) in &wanted {
        if state.attached.get(device) != Some(ifindex) {
            let role = match present.host.contains_key(device) {
                true => Role::Host,
                false => Role::Guest,
            };
            plan.actions.push(Action::Attach {
                device: device.clone(),
                role,
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
    let indices = &indices - &closed;
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

/// Removes ports of interface indices that no device has and nothing is attached to: first of all, as they may take the room that others need.
fn forget_strangers(state: &mut State, devices: &BTreeMap<String, u32>, plan: &mut Plan) {
    let indices: BTreeSet<u32> = devices
        .values()
        .chain(state.attached.values())
        .copied()
        .collect();
    let gone = state.ports.keys().filter(|index| !indices.contains(index));
    let gone: Vec<u32> = gone.copied().collect();
    for ifindex in gone {
        state.ports.remove(&ifindex);
        plan.actions.push(Action::RemovePort { ifindex });
    }
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
                role: role_of(state.ports.get(ifindex)),
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

/// Which programs belong to a device by the port it is.
fn role_of(port: Option<&Port>) -> Role {
    match port.is_some_and(|port| port.flags & port_flag::HOST != 0) {
        true => Role::Host,
        false => Role::Guest,
    }
}

fn port_id(port: &Port) -> PortId {
    PortId {
        vmid: port.vmid,
        net: port.net,
    }
}

/// Where these words are in the arena; none if there is no room for them.
fn place_words(state: &mut State, words: Vec<u64>, plan: &mut Plan) -> Option<u32> {
    if let Some(start) = state.policies.get(&words) {
        return Some(*start);
    }
    let start = state.arena.allocate(words.len() as u32)?;
    state.policies.insert(words.clone(), start);
    plan.actions.push(Action::WritePolicy { start, words });
    Some(start)
}

/// A port of the image whose device exists, and its interface index.
type Switch<'i> = (PortId, &'i PortImage, u32);

/// Where the words of an image are in the arena.
#[derive(Default)]
struct Starts {
    /// Of each policy; none for those that no port needs now, or for which there was no room.
    policies: Vec<Option<u32>>,
    /// Of each set of VLANs likewise.
    vlans: HashMap<Vec<u64>, u32>,
}

impl Starts {
    /// What a port refers to; none if there was no room for some of it.
    fn of(&self, port: &PortImage, space: PlacedSpace) -> Option<Places> {
        let [inbound, outbound] = port.policies.map(|index| self.policies[index]);
        Some(Places {
            policy: [inbound?, outbound?],
            guard: match port.guard {
                None => 0,
                Some(index) => self.policies[index]?,
            },
            vlans: match &port.vlans {
                VlanImage::None => NO_VLAN,
                VlanImage::Any => ANY_VLAN,
                VlanImage::Words(words) => *self.vlans.get(words)?,
            },
            space,
        })
    }
}

/// Finds a place in the arena for everything that ports refer to.
fn place_policies(
    state: &mut State,
    image: &MapImage,
    ports: &[Switch<'_>],
    space: PlacedSpace,
    plan: &mut Plan,
) -> Starts {
    let needed = ports
        .iter()
        .flat_map(|(_, port, _)| port.policies.into_iter().chain(port.guard));
    let mut seen = BTreeSet::new();
    let mut starts = Starts {
        policies: vec![None; image.policies.len()],
        ..Starts::default()
    };
    for index in needed.filter(|index| seen.insert(*index)) {
        let words = image.policies[index].placed(space.small, space.big);
        starts.policies[index] = place_words(state, words, plan);
    }
    for (_, port, _) in ports {
        if let VlanImage::Words(words) = &port.vlans
            && let Some(start) = place_words(state, words.clone(), plan)
        {
            starts.vlans.insert(words.clone(), start);
        }
    }
    starts
}

/// Devices of ports whose policy cannot be built: they keep the one they have; without one they are closed, for the programs find no value.
fn failed_ports(image: &MapImage, present: &Present) -> BTreeMap<String, u32> {
    let devices = &present.devices;
    let mut failed: BTreeMap<String, u32> = image
        .failures
        .iter()
        .filter(|(id, _, _)| *id != HOST)
        .flat_map(|(id, _, _)| [GuestKind::Vm, GuestKind::Container].map(|kind| kind.device(*id)))
        .filter_map(|device| Some((device.clone(), *devices.get(&device)?)))
        .collect();
    if is_failed(image, HOST) {
        let own = present.host.iter();
        failed.extend(own.map(|(device, found)| (device.clone(), found.ifindex)));
    }
    failed
}

/// Switches a port if its value changes, or if what it refers to has `moved` and flows are to be judged again.
fn switch_port(
    state: &mut State,
    (id, port, ifindex): Switch<'_>,
    places: Places,
    moved: bool,
    plan: &mut Plan,
) {
    let old = state.ports.get(&ifindex).copied();
    let epoch = old.map_or(0, |old| old.epoch);
    let (slot, is_new) = state.slots.assign(id);
    if is_new {
        plan.actions.push(Action::ClearCounters { slot });
    }
    let mut value = port_value(id, port, places, epoch);
    value.counters = slot;
    let judges_again = moved && value.flags & port_flag::REEVALUATE != 0;
    if old == Some(value) && !judges_again {
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

/// First words in the arena of everything that a port refers to; 0, [`ANY_VLAN`] and [`NO_PREFILTER`] among them refer to nothing.
pub fn arena_starts(port: &Port) -> [u32; 6] {
    let ([inbound, outbound], [v4, v6]) = (port.policy, port.prefilter);
    [inbound, outbound, port.guard, port.vlans, v4, v6]
}

/// Drops class spaces, policies and prefilters that nobody refers to.
fn release(state: &mut State, plan: &mut Plan) {
    let settings = state.settings.as_slice();
    let ports = || state.ports.values();
    let big = |space, prefilter| (prefilter != [0; 2]).then_some(space);
    let used: BTreeSet<u32> = ports()
        .flat_map(|port| [Some(port.space), big(port.big_space, port.prefilter)])
        .chain(
            settings
                .iter()
                .map(|settings| big(settings.space, settings.prefilter)),
        )
        .flatten()
        .collect();
    let unused: Vec<u32> = state
        .spaces
        .keys()
        .filter(|space| !used.contains(space))
        .copied()
        .collect();
    let starts: BTreeSet<u32> = ports()
        .flat_map(arena_starts)
        .chain(settings.iter().flat_map(|settings| settings.prefilter))
        .collect();
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
    for space in &unused {
        released |= state.release_filters(*space);
    }
    if released || !unused.is_empty() {
        plan.actions.push(Action::AwaitReaders);
    }
    for space in unused {
        let classes = state.spaces.remove(&space).flatten();
        plan.actions.push(Action::RemoveClasses { space, classes });
    }
}

#[cfg(test)]
mod tests;
