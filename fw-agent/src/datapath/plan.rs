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

mod action;
mod classes;
mod host;
mod places;
mod state;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};

use fw_common::maps::{Port, Settings, port_flag};
use fw_common::wire::Address;

use self::classes::{Placed, place_space};
use self::host::{host_ports, is_failed, note_locals};
use self::places::{Switch, place_policies, release};
use super::attach::Role;
use crate::image::{HOST, MapImage, Places, port_value};
use crate::inventory::host_devices::HostDevice;
use crate::policy::{GuestKind, PortId};

pub use action::{Action, Plan};
pub use classes::next_image;
pub use places::arena_starts;
pub use state::State;
pub use uplinks::{Edge, plan_uplinks};

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

#[cfg(test)]
mod tests;
