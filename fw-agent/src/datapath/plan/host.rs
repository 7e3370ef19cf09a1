//! The host's part of a plan: its interfaces as ports, and its addresses.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::maps::capacity;
use fw_common::wire::Address;

use super::{Action, Plan, Present, State};
use crate::image::{HOST, MapImage, PortImage};
use crate::inventory::host_devices::HostDevice;
use crate::policy::PortId;

/// The host's interfaces as ports, with their interface index; none if the image has no policy for the host.
pub(super) fn host_ports(
    image: &MapImage,
    devices: &BTreeMap<String, HostDevice>,
) -> Vec<(PortImage, u32)> {
    let Some(host) = &image.host else {
        return Vec::new();
    };
    devices
        .iter()
        .map(|(device, found)| (host.port(device, found.bare), found.ifindex))
        .collect()
}

/// Keeps the host's addresses while its firewall is on.
pub(super) fn note_locals(state: &mut State, image: &MapImage, present: &Present, plan: &mut Plan) {
    let wanted: BTreeSet<Address> = match image.host {
        Some(_) => present.locals.iter().copied().take(LOCALS).collect(),
        None if is_failed(image, HOST) => return,
        None => BTreeSet::new(),
    };
    let new: Vec<Address> = wanted.difference(&state.locals).copied().collect();
    let gone: Vec<Address> = state.locals.difference(&wanted).copied().collect();
    if !gone.is_empty() {
        plan.actions.push(Action::RemoveLocals(gone));
    }
    if !new.is_empty() {
        plan.actions.push(Action::AddLocals(new));
    }
    state.locals = wanted;
}

/// Addresses that the map takes. The kernel asks the routes for others.
const LOCALS: usize = capacity::LOCALS as usize;

/// Whether a policy of the port could not be built.
pub(super) fn is_failed(image: &MapImage, id: PortId) -> bool {
    image.failures.iter().any(|(failed, _, _)| *failed == id)
}
