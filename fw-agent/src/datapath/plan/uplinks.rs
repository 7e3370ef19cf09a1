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

use fw_common::maps::{Station, port_flag, station_flag};
use fw_common::wire::is_group_mac;

use super::{Action, Plan, State};

/// What there is at the edge of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    /// Devices that stand for wires: name and interface index.
    pub uplinks: BTreeMap<String, u32>,
    /// Hardware addresses of devices by interface index, as numbers; for those of the host's interfaces.
    pub macs: BTreeMap<u32, u64>,
    /// There may be bans.
    pub bans: bool,
}

/// Plans the uplinks.
pub fn plan_uplinks(state: &mut State, edge: &Edge) -> Plan {
    let mut plan = Plan::default();
    let stations = stations(state, edge);
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
    let limited = state
        .settings
        .is_some_and(|settings| settings.syn_interval != 0);
    let in_use = !state.uplinks.is_empty() || !state.inherited_uplinks.is_empty();
    let wanted = !stations.is_empty() && (listed || limited || edge.bans || in_use);
    let none = BTreeMap::new();
    let wanted = if wanted { &edge.uplinks } else { &none };
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
fn stations(state: &State, edge: &Edge) -> BTreeMap<u64, Station> {
    let attached: BTreeSet<u32> = state.attached.values().copied().collect();
    let mut stations: BTreeMap<u64, Station> = BTreeMap::new();
    for (ifindex, port) in &state.ports {
        let mac = match port.flags & port_flag::HOST {
            0 => port.mac,
            _ => edge.macs.get(ifindex).copied().unwrap_or(0),
        };
        if mac == 0 || is_group_mac(mac) || !attached.contains(ifindex) {
            continue;
        }
        let station = Station::of(port);
        stations
            .entry(mac)
            .and_modify(|known| *known = known.both(station))
            .or_insert(station);
    }
    stations
}
