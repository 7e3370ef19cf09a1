//! The host's interfaces in plans.

use super::*;
use crate::inventory::facts::address;

const RULES: &str = "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 80 -i eno1\n";

/// A node with interfaces of the host, whose addresses end with these numbers. `tap100i0` runs.
fn present(own: &[(&str, u32)], addresses: &[u8]) -> Present {
    let own = own
        .iter()
        .map(|(name, ifindex)| ((*name).to_owned(), *ifindex));
    let mut devices = BTreeMap::from([("tap100i0".to_owned(), 7)]);
    devices.extend(own.clone());
    let host = own.map(|(name, ifindex)| {
        let bare = name.starts_with("wg");
        (name, HostDevice { ifindex, bare })
    });
    let locals = addresses
        .iter()
        .map(|last| address([192, 0, 2, *last].into()));
    Present {
        devices,
        host: host.collect(),
        locals: locals.collect(),
        unknown: BTreeSet::new(),
    }
}

fn next(state: &mut State, image: &MapImage, present: &Present) -> Vec<String> {
    words(&plan_node(state, image, present, |_| true))
}

#[test]
fn interfaces_get_their_policy_before_their_programs() {
    let image = image(RULES, &guest(""));
    let mut state = State::default();
    let own = present(&[("eno1", 2), ("vmbr0", 3), ("wg0", 4)], &[1, 2]);
    let expect = [
        "2 addresses",
        "classes 0",
        "policy",
        "policy",
        "policy",
        "policy",
        "policy",
        "settings",
        "port 2 epoch 1",
        "port 3 epoch 1",
        "port 4 epoch 1",
        "clear counters 1",
        "port 7 epoch 1",
        "attach host eno1 2",
        "attach tap100i0 7",
        "attach host vmbr0 3",
        "attach host wg0 4",
    ];
    assert_eq!(next(&mut state, &image, &own), expect);
    assert_eq!(next(&mut state, &image, &own), Vec::<String>::new());
    let ports = &state.ports;
    // Only `eno1` has a rule of its own, and only inbound.
    assert_ne!(ports[&2].policy[0], ports[&3].policy[0]);
    assert_eq!(ports[&2].policy[1], ports[&3].policy[1]);
    assert_eq!(ports[&3].policy, ports[&4].policy);
    assert_eq!(
        [2, 3, 4, 7].map(|index| ports[&index].flags & (port_flag::HOST | port_flag::NO_LINK)),
        [
            port_flag::HOST,
            port_flag::HOST,
            port_flag::HOST | port_flag::NO_LINK,
            0
        ]
    );
}

#[test]
fn interfaces_and_addresses_come_and_go() {
    let image = image(RULES, &guest(""));
    let mut state = State::default();
    next(&mut state, &image, &present(&[("vmbr0", 3)], &[1, 2]));
    // `vmbr0` becomes a port of something: the device is still there, but not the host's.
    let mut joined = present(&[("vmbr0", 3), ("eno1", 2)], &[2, 3]);
    joined.host.remove("vmbr0");
    let expect = [
        "1 addresses less",
        "1 addresses",
        "policy",
        "port 2 epoch 1",
        "attach host eno1 2",
        "detach vmbr0",
        "forget 3",
        "await",
    ];
    assert_eq!(next(&mut state, &image, &joined), expect);
}

#[test]
fn a_host_that_is_switched_off_leaves_the_guests_alone() {
    let on = image(RULES, &guest(""));
    let mut off = on.clone();
    off.host = None;
    let mut state = State::default();
    let own = present(&[("vmbr0", 3)], &[1]);
    next(&mut state, &on, &own);
    let expect = ["1 addresses less", "detach vmbr0", "forget 3", "await"];
    assert_eq!(next(&mut state, &off, &own), expect);
    assert!(state.attached.contains_key("tap100i0"));
}

#[test]
fn a_host_whose_policy_cannot_be_built_keeps_its_last_and_is_closed_elsewhere() {
    let whole = image(RULES, &guest(""));
    let mut broken = whole.clone();
    broken.host = None;
    let error = crate::image::PolicyError::TooManyRules {
        rules: 16_386,
        limit: 16_384,
    };
    let direction = fw_common::verdict::Direction::In;
    broken.failures = vec![(HOST, direction, error)];
    let mut state = State::default();
    next(&mut state, &whole, &present(&[("vmbr0", 3)], &[1]));
    let kept = state.ports[&3];
    let more = present(&[("vmbr0", 3), ("eno1", 2)], &[1]);
    assert_eq!(next(&mut state, &broken, &more), ["attach host eno1 2"]);
    assert_eq!(state.ports.get(&3), Some(&kept));
    assert!(!state.ports.contains_key(&2), "closed");
}

#[test]
fn the_hosts_policies_find_room_first() {
    let image = image(RULES, &guest("IN ACCEPT -p tcp -dport 1000:1100"));
    let mut state = State::default();
    // Leave room for the host's policies only.
    let own = present(&[("vmbr0", 3)], &[]);
    let of_host: usize = image.host.as_ref().map_or(0, |host| {
        let pair = host.on("vmbr0");
        pair.map(|index| image.policies[index].words.len())
            .iter()
            .sum()
    });
    let taken = state.free_words() - of_host as u32 - 1;
    state.adopt_policy(1, vec![0; taken as usize]);
    let made = plan_node(&mut state, &image, &own, |_| true);
    assert_eq!(made.no_room, [PortId { vmid: 100, net: 0 }]);
    assert!(state.ports.contains_key(&3));
}
