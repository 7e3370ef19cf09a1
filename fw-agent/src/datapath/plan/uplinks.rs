//! What has to be done at the uplinks: which get the XDP program, and what it knows of the stations behind them.
//!
//! In: the state after the plan for the ports, and the devices that stand for wires. Out: a [`Plan`] of its own, to be carried out behind that one.
//!
//! Order: 1. stations that are no more, 2. new and changed ones, 3. attach, 4. detach.
//!
//! A card may lose its link for a moment when it gets an XDP program. So it gets one when there is something to drop early for the first time, and keeps it
//! while the node has ports under policy.
//!
//! Invariant: a station is a port that is attached, and says no more than its policy does.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::maps::{Station, station_flag};
use fw_common::wire::is_group_mac;

use super::{Action, Plan, State};

/// Plans the uplinks. `devices`: those that stand for wires (name → interface index). `bans`: there are bans.
pub fn plan_uplinks(state: &mut State, devices: &BTreeMap<String, u32>, bans: bool) -> Plan {
    let mut plan = Plan::default();
    let stations = stations(state);
    let gone: Vec<u64> = state
        .stations
        .keys()
        .filter(|mac| !stations.contains_key(mac))
        .copied()
        .collect();
    for mac in gone {
        state.stations.remove(&mac);
        plan.actions.push(Action::RemoveStation { mac });
    }
    for (mac, station) in &stations {
        if state.stations.insert(*mac, *station) != Some(*station) {
            plan.actions.push(Action::SetStation {
                mac: *mac,
                station: *station,
            });
        }
    }

    let listed = stations
        .values()
        .any(|station| station.flags & station_flag::BLACKLIST != 0);
    let in_use = !state.uplinks.is_empty() || !state.inherited_uplinks.is_empty();
    let wanted = !stations.is_empty() && (listed || bans || in_use);
    let none = BTreeMap::new();
    let wanted = if wanted { devices } else { &none };
    state
        .refused_uplinks
        .retain(|device, (ifindex, _)| wanted.get(device) == Some(ifindex));
    for (device, ifindex) in wanted {
        if state.refused_uplinks.contains_key(device) {
            continue;
        }
        if state.uplinks.get(device) != Some(ifindex) {
            plan.actions.push(Action::AttachUplink {
                device: device.clone(),
                ifindex: *ifindex,
            });
            state.uplinks.insert(device.clone(), *ifindex);
        }
        state.inherited_uplinks.remove(device);
    }
    let unwanted: BTreeSet<String> = state
        .uplinks
        .keys()
        .chain(&state.inherited_uplinks)
        .filter(|device| !wanted.contains_key(*device))
        .cloned()
        .collect();
    for device in unwanted {
        state.uplinks.remove(&device);
        state.inherited_uplinks.remove(&device);
        plan.actions.push(Action::DetachUplink { device });
    }
    plan
}

/// The stations behind the uplinks: hardware addresses of attached ports. Of ports that share one, what all of them do.
fn stations(state: &State) -> BTreeMap<u64, Station> {
    let attached: BTreeSet<u32> = state.attached.values().copied().collect();
    let mut stations: BTreeMap<u64, Station> = BTreeMap::new();
    for (ifindex, port) in &state.ports {
        if port.mac == 0 || is_group_mac(port.mac) || !attached.contains(ifindex) {
            continue;
        }
        let station = Station::of(port);
        stations
            .entry(port.mac)
            .and_modify(|known| known.flags &= station.flags)
            .or_insert(station);
    }
    stations
}
