//! What a plan does in which order, as words.

mod evolve;
mod host;
mod scale;

use fw_common::maps::classes::{NO_PREFILTER, PREFILTER_WORDS};
use fw_common::maps::{capacity, port_flag};

use super::*;
use crate::compile::compile;
use crate::config::Sources;
use crate::image::VlanImage;
use crate::inventory::facts::HostFacts;

const CLUSTER: &str = "[OPTIONS]\nenable: 1\n[IPSET ops]\n192.0.2.1\n";

fn sources(cluster: &str, guest: &str) -> Sources {
    let files = [
        ("firewall/cluster.fw", cluster),
        ("firewall/100.fw", guest),
        (
            "nodes/n/qemu-server/100.conf",
            "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1",
        ),
        ("nodes/n/lxc/.keep", ""),
    ];
    Sources {
        node: "n".to_owned(),
        files: files
            .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec().into()))
            .into(),
        ..Sources::default()
    }
}

fn image(cluster: &str, guest: &str) -> MapImage {
    let compiled = compile(&sources(cluster, guest), &HostFacts::default(), 0);
    match compiled.policy.enabled {
        true => compiled.image,
        false => MapImage::default(),
    }
}

fn guest(rules: &str) -> String {
    format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}\n")
}

fn devices(ifindex: u32) -> BTreeMap<String, u32> {
    BTreeMap::from([("tap100i0".to_owned(), ifindex), ("eno1".to_owned(), 2)])
}

fn words(plan: &Plan) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::ClearCounters { slot } => format!("clear counters {slot}"),
        Action::WriteClasses { space, .. } => format!("classes {space}"),
        Action::WriteEntries {
            space,
            lineage,
            prefixes,
        } => format!("entries {space}: {} {}", lineage.len(), prefixes.len()),
        Action::AddBits { words, .. } => format!("{} words of bits", words.len()),
        Action::WritePolicy { words, .. } if words.len() == PREFILTER_WORDS as usize => {
            "prefilter".to_owned()
        }
        Action::WritePolicy { .. } => "policy".to_owned(),
        Action::WriteSettings(_) => "settings".to_owned(),
        Action::SetPort { ifindex, port, .. } => format!("port {ifindex} epoch {}", port.epoch),
        Action::AddLocals(addresses) => format!("{} addresses", addresses.len()),
        Action::RemoveLocals(addresses) => format!("{} addresses less", addresses.len()),
        Action::Attach {
            device,
            role: Role::Guest,
            ifindex,
        } => format!("attach {device} {ifindex}"),
        Action::Attach {
            device,
            role: Role::Host,
            ifindex,
        } => format!("attach host {device} {ifindex}"),
        Action::Detach { device } => format!("detach {device}"),
        Action::RemovePort { ifindex } => format!("forget {ifindex}"),
        Action::ResizeFlows { entries } => format!("flows {entries}"),
        Action::FetchFlows => "fetch flows".to_owned(),
        Action::SetStation { mac, station } => format!("station {mac:x} {}", station.flags),
        Action::RemoveStation { mac } => format!("forget station {mac:x}"),
        Action::AttachUplink { device, ifindex } => format!("attach uplink {device} {ifindex}"),
        Action::DetachUplink { device } => format!("detach uplink {device}"),
        Action::AwaitReaders => "await".to_owned(),
        Action::RemoveClasses { space, .. } => format!("remove classes {space}"),
    };
    plan.actions.iter().map(word).collect()
}

/// Applies the steps one after the other and compares what each plans.
fn check(steps: &[(MapImage, BTreeMap<String, u32>, &[&str])]) {
    let mut state = State::default();
    for (number, (image, devices, expect)) in steps.iter().enumerate() {
        let plan = plan(&mut state, image, devices, |_| false);
        assert_eq!(words(&plan), *expect, "step {number}");
    }
}

#[test]
fn everything_is_there_before_a_port_is_switched_and_attached() {
    let start = || image(CLUSTER, &guest("IN ACCEPT -source +ops"));
    let first = [
        "classes 0",
        "policy",
        "policy",
        "settings",
        "clear counters 1",
        "port 7 epoch 1",
        "attach tap100i0 7",
    ];
    check(&[(start(), devices(7), &first), (start(), devices(7), &[])]);
}

#[test]
fn a_changed_rule_touches_its_policy_only() {
    let start = image(CLUSTER, &guest("IN ACCEPT -source +ops"));
    let next = image(CLUSTER, &guest("IN DROP -source +ops"));
    let first = words(&plan(&mut State::default(), &start, &devices(7), |_| false));
    let first: Vec<&str> = first.iter().map(String::as_str).collect();
    check(&[
        (start, devices(7), &first),
        (next, devices(7), &["policy", "port 7 epoch 2", "await"]),
    ]);
}

#[test]
fn changed_sets_are_a_new_space_and_the_old_one_goes_last() {
    let rules = guest("IN ACCEPT -source +ops");
    let wider = CLUSTER.replace("192.0.2.1", "192.0.2.0/24");
    let mut state = State::default();
    plan(&mut state, &image(CLUSTER, &rules), &devices(7), |_| false);
    let plan = plan(&mut state, &image(&wider, &rules), &devices(7), |_| false);
    let expect = [
        "classes 1",
        "policy",
        "port 7 epoch 2",
        "await",
        "remove classes 0",
    ];
    assert_eq!(words(&plan), expect);
}

#[test]
fn big_sets_stay_where_they_are_when_small_ones_change() {
    let blacklist = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n2001:db8::/32\n");
    let next = blacklist.replace("192.0.2.1", "192.0.2.0/24\n192.0.2.7");
    let rules = guest("IN ACCEPT -source +ops");
    let mut state = State::default();
    let first = plan(&mut state, &image(&blacklist, &rules), &devices(7), |_| {
        false
    });
    let expect = [
        "classes 0",
        "prefilter",
        "prefilter",
        "classes 1",
        "policy",
        "policy",
        "settings",
        "clear counters 1",
        "port 7 epoch 1",
        "attach tap100i0 7",
    ];
    assert_eq!(words(&first), expect);
    let before = state.ports[&7];
    assert_ne!(before.flags & port_flag::BLACKLIST, 0);

    let other = plan(&mut state, &image(&next, &rules), &devices(7), |_| false);
    let expect = [
        "classes 2",
        "policy",
        "port 7 epoch 2",
        "await",
        "remove classes 0",
    ];
    assert_eq!(words(&other), expect);
    let after = state.ports[&7];
    assert_eq!(
        (after.big_space, after.prefilter),
        (before.big_space, before.prefilter)
    );

    let blacklist = next.replace("198.51.100.0/24", "203.0.113.0/24");
    let other = plan(&mut state, &image(&blacklist, &rules), &devices(7), |_| {
        false
    });
    let expect = [
        "prefilter",
        "prefilter",
        "classes 3",
        "policy",
        "settings",
        "port 7 epoch 3",
        "await",
        "remove classes 1",
    ];
    assert_eq!(words(&other), expect);
    let settings = state.settings.unwrap();
    let port = state.ports[&7];
    assert_eq!(
        (settings.space, settings.prefilter),
        (port.big_space, port.prefilter)
    );

    plan(
        &mut state,
        &image(&next.replace("blacklist", "other"), &rules),
        &devices(7),
        |_| false,
    );
    let port = state.ports[&7];
    let both = port_flag::BLACKLIST | port_flag::QUIET_BLACKLIST;
    assert_eq!((port.flags, port.prefilter), (before.flags & !both, [0; 2]));
    assert_eq!(state.spaces.len(), 1);
}

#[test]
fn without_room_for_a_prefilter_every_address_is_looked_up() {
    let blacklist = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n");
    let mut state = State::default();
    let all = capacity::ARENA - 1000;
    assert!(state.arena.claim(1000, all));
    plan(
        &mut state,
        &image(&blacklist, &guest("")),
        &devices(7),
        |_| false,
    );
    assert_eq!(state.ports[&7].prefilter, [NO_PREFILTER, 0]);
}

fn edge(uplinks: &BTreeMap<String, u32>, bans: bool) -> Edge {
    Edge {
        uplinks: uplinks.clone(),
        bans,
        ..Edge::default()
    }
}

#[test]
fn an_uplink_gets_its_program_when_there_is_something_to_drop_early() {
    let eno1 = BTreeMap::from([("eno1".to_owned(), 2)]);
    let listed = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n");
    let mut state = State::default();
    let mut step = |image: &MapImage, uplinks: &BTreeMap<String, u32>, bans| {
        plan(&mut state, image, &devices(7), |_| false);
        words(&plan_uplinks(&mut state, &edge(uplinks, bans)))
    };
    let (plain, listed) = (image(CLUSTER, &guest("")), image(&listed, &guest("")));
    let quiet = ["station bc2411000001 0"];
    assert_eq!(step(&plain, &eno1, false), quiet);
    assert_eq!(step(&plain, &eno1, true), ["attach uplink eno1 2"]);
    // It keeps it.
    assert_eq!(step(&plain, &eno1, false), [""; 0]);
    assert_eq!(step(&listed, &eno1, false), ["station bc2411000001 1"]);
    let again = BTreeMap::from([("eno1".to_owned(), 3), ("eno2".to_owned(), 4)]);
    let both = ["attach uplink eno1 3", "attach uplink eno2 4"];
    assert_eq!(step(&listed, &again, false), both);
    assert_eq!(
        step(&listed, &eno1, false),
        ["attach uplink eno1 2", "detach uplink eno2"]
    );
    let off = ["forget station bc2411000001", "detach uplink eno1"];
    assert_eq!(step(&MapImage::default(), &eno1, true), off);
    assert_eq!(
        step(&listed, &eno1, false),
        ["station bc2411000001 1", "attach uplink eno1 2"]
    );
}

#[test]
fn an_interface_of_the_host_is_a_station_by_the_address_of_its_device() {
    let listed = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n");
    let mut state = State::default();
    plan(&mut state, &image(&listed, &guest("")), &devices(7), |_| {
        false
    });
    let mut host = state.ports[&7];
    host.flags |= port_flag::HOST;
    host.mac = 0;
    state.ports.insert(8, host);
    state.ports.insert(9, host);
    state.attached.insert("vmbr0".to_owned(), 8);
    state.attached.insert("wg0".to_owned(), 9);
    let at = |macs: &[(u32, u64)]| Edge {
        macs: macs.iter().copied().collect(),
        ..Edge::default()
    };
    let first = words(&plan_uplinks(&mut state, &at(&[(8, 0x02_00), (9, 0)])));
    assert_eq!(first, ["station 200 3", "station bc2411000001 1"]);
    // With the guest's address it is only dropped what both drop, and is not forwarded.
    let same = words(&plan_uplinks(&mut state, &at(&[(8, 0xbc24_1100_0001)])));
    assert_eq!(same, ["forget station 200", "station bc2411000001 3"]);
}

#[test]
fn an_uplink_that_refuses_is_tried_again_only_when_it_is_another() {
    let uplinks = |ifindex| BTreeMap::from([("eno1".to_owned(), ifindex)]);
    let listed = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n");
    let mut state = State::default();
    plan(&mut state, &image(&listed, &guest("")), &devices(7), |_| {
        false
    });
    let first = words(&plan_uplinks(&mut state, &edge(&uplinks(2), false)));
    assert_eq!(first, ["station bc2411000001 1", "attach uplink eno1 2"]);
    state.refused_uplink("eno1", "no".to_owned());
    assert_eq!(
        plan_uplinks(&mut state, &edge(&uplinks(2), false)),
        Plan::default()
    );
    let other = words(&plan_uplinks(&mut state, &edge(&uplinks(3), false)));
    assert_eq!(other, ["attach uplink eno1 3"]);
}

#[test]
fn ports_that_share_an_address_are_dropped_early_only_for_what_both_drop() {
    let listed = format!("{CLUSTER}[IPSET blacklist]\n198.51.100.0/24\n");
    let mut state = State::default();
    plan(&mut state, &image(&listed, &guest("")), &devices(7), |_| {
        false
    });
    let mut other = state.ports[&7];
    other.flags = 0;
    state.ports.insert(8, other);
    // Not attached: nobody's yet.
    let words_of = |state: &mut State| words(&plan_uplinks(state, &Edge::default()));
    assert_eq!(words_of(&mut state), ["station bc2411000001 1"]);
    state.attached.insert("tap101i0".to_owned(), 8);
    assert_eq!(words_of(&mut state), ["station bc2411000001 0"]);
}

#[test]
fn a_device_made_again_is_attached_again() {
    let same = || image(CLUSTER, &guest(""));
    let mut state = State::default();
    plan(&mut state, &same(), &devices(7), |_| false);
    let gone = BTreeMap::from([("eno1".to_owned(), 2)]);
    let away = plan(&mut state, &same(), &gone, |_| false);
    assert_eq!(
        words(&away),
        ["detach tap100i0", "forget 7", "await", "remove classes 0"]
    );
    let back = plan(&mut state, &same(), &devices(9), |_| false);
    let expect = [
        "classes 0",
        "policy",
        "policy",
        "port 9 epoch 1",
        "attach tap100i0 9",
    ];
    assert_eq!(words(&back), expect);
}

#[test]
fn guards_and_vlans_are_in_place_before_the_port_refers_to_them() {
    let trunks = |mut image: MapImage, vlans: &[u64]| {
        for port in image.ports.values_mut() {
            port.vlans = VlanImage::Words(vlans.to_vec());
        }
        image
    };
    let filtered = |address: &str| {
        let guest = format!("{}[IPSET ipfilter-net0]\n{address}\n", guest(""));
        image(CLUSTER, &guest)
    };
    let first = [
        "classes 0",
        "policy",
        "policy",
        "policy",
        "policy",
        "settings",
        "clear counters 1",
        "port 7 epoch 1",
        "attach tap100i0 7",
    ];
    // The policies say the same of their classes, but of those in another space.
    let readdressed = [
        "classes 1",
        "policy",
        "policy",
        "port 7 epoch 2",
        "await",
        "remove classes 0",
    ];
    check(&[
        (trunks(filtered("10.0.0.1"), &[6; 64]), devices(7), &first),
        (trunks(filtered("10.0.0.1"), &[6; 64]), devices(7), &[]),
        (
            trunks(filtered("10.0.0.2"), &[6; 64]),
            devices(7),
            &readdressed,
        ),
        (
            trunks(filtered("10.0.0.2"), &[7; 64]),
            devices(7),
            &["policy", "port 7 epoch 3", "await"],
        ),
    ]);
}

#[test]
fn the_guard_has_another_number_exactly_when_it_says_something_else() {
    let epoch = |cluster: &str, guest: &str| {
        let mut state = State::default();
        plan(&mut state, &image(cluster, guest), &devices(7), |_| false);
        let port = state.ports[&7];
        assert_ne!(port.guard_epoch, 0);
        (port.guard != 0, port.guard_epoch)
    };
    let filtered =
        |rules: &str, set: &str| format!("{}[IPSET ipfilter-net0]\n{set}\n", guest(rules));
    let none = epoch(CLUSTER, &guest(""));
    assert!(!none.0);
    let one = epoch(CLUSTER, &filtered("", "10.0.0.1"));
    assert!(one.0);
    let same = [
        epoch(CLUSTER, &filtered("IN DROP -source +ops", "10.0.0.1")),
        epoch(
            "[OPTIONS]\nenable: 1\n[IPSET blacklist]\n10.0.0.0/8\n",
            &filtered("", "10.0.0.1"),
        ),
    ];
    assert_eq!(same, [one, one], "rules and sets of others");
    let mut all = vec![
        none.1,
        one.1,
        epoch(CLUSTER, &filtered("", "10.0.0.2")).1,
        epoch(CLUSTER, &filtered("", "10.0.0.0/31")).1,
        epoch(CLUSTER, &filtered("", "10.0.0.0/31\n!10.0.0.1")).1,
        epoch(
            CLUSTER,
            &filtered("", "10.0.0.1").replace("enable: 1", "enable: 1\ndhcp: 0"),
        )
        .1,
    ];
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "different guards");
}

#[test]
fn a_guest_that_does_not_run_costs_nothing() {
    let nobody = BTreeMap::from([("eno1".to_owned(), 2)]);
    let same = || image(CLUSTER, &guest("IN ACCEPT -source +ops"));
    let steps = [(same(), nobody.clone()), (same(), nobody)];
    let [first, second] = steps;
    check(&[(first.0, first.1, &["settings"]), (second.0, second.1, &[])]);
}

#[test]
fn a_device_without_a_configuration_is_attached_and_keeps_only_a_value_of_its_own() {
    let image = image(CLUSTER, &guest("IN ACCEPT -p tcp -dport 80\n"));
    let mut present = Present {
        devices: BTreeMap::from([("tap100i0".to_owned(), 7), ("tap200i0".to_owned(), 8)]),
        unknown: BTreeSet::from(["tap200i0".to_owned()]),
        ..Present::default()
    };
    let mut state = State::default();
    let first = words(&plan_node(&mut state, &image, &present, |_| false));
    assert!(first.contains(&"attach tap200i0 8".to_owned()), "{first:?}");
    assert!(!state.ports.contains_key(&8));
    assert_eq!(
        plan_node(&mut state, &image, &present, |_| false),
        Plan::default()
    );

    // Another port's value is no value for it.
    state.ports.insert(8, state.ports[&7]);
    let next = words(&plan_node(&mut state, &image, &present, |_| false));
    assert_eq!(next, ["forget 8"]);
    // Nor is it with a guest that leaves.
    state.ports.insert(8, state.ports[&7]);
    let next = words(&plan_node(&mut state, &image, &present, |_| true));
    assert_eq!(next, ["forget 8"]);
    // Its own is.
    let own = Port {
        vmid: 200,
        ..state.ports[&7]
    };
    state.ports.insert(8, own);
    assert_eq!(
        plan_node(&mut state, &image, &present, |_| false),
        Plan::default()
    );
    // Known now, and not to be filtered.
    present.unknown.clear();
    let next = words(&plan_node(&mut state, &image, &present, |_| false));
    assert_eq!(next, ["detach tap200i0", "forget 8"]);
}

#[test]
fn switched_off_means_nothing_is_left() {
    let mut state = State::default();
    plan(&mut state, &image(CLUSTER, &guest("")), &devices(7), |_| {
        false
    });
    let off = image(&CLUSTER.replace("enable: 1", "enable: 0"), &guest(""));
    let plan = plan(&mut state, &off, &devices(7), |_| false);
    assert_eq!(
        words(&plan),
        ["detach tap100i0", "forget 7", "await", "remove classes 0"]
    );
    super::plan(&mut state, &off, &devices(7), |_| false);
    assert_eq!(state.free_words(), capacity::ARENA - 1);
}

#[test]
fn an_incomplete_image_takes_nothing_away() {
    let mut state = State::default();
    plan(&mut state, &image(CLUSTER, &guest("")), &devices(7), |_| {
        false
    });
    let plan = plan(&mut state, &MapImage::default(), &devices(7), |_| true);
    assert_eq!(words(&plan), Vec::<String>::new());
}

#[test]
fn a_port_without_a_policy_is_attached_and_has_no_value() {
    let whole = image(CLUSTER, &guest(""));
    let mut broken = whole.clone();
    // The resolver closes such a port itself; an image that could not be built is the datapath's own last line.
    broken.ports.clear();
    broken.failures = vec![(
        PortId { vmid: 100, net: 0 },
        fw_common::verdict::Direction::In,
        crate::image::PolicyError::TooManyRules {
            rules: 16_386,
            limit: 16_384,
        },
    )];
    let mut state = State::default();
    let closed = plan(&mut state, &broken, &devices(7), |_| false);
    assert_eq!(words(&closed), ["settings", "attach tap100i0 7"]);
    plan(&mut state, &whole, &devices(7), |_| false);
    let kept = plan(&mut state, &broken, &devices(7), |_| false);
    assert!(!words(&kept).iter().any(|word| word.starts_with("port")));
    assert!(state.ports.contains_key(&7));
}

#[test]
fn another_size_of_the_flow_table_comes_last_and_attaches_every_program_again() {
    let start = || image(CLUSTER, &guest("IN ACCEPT -source +ops"));
    let mut larger = start();
    larger.flow_capacity = 270_336;
    let mut unknown = start();
    unknown.flow_capacity = 0;
    let mut state = State::default();
    plan(&mut state, &start(), &devices(7), |_| false);
    let resize = ["flows 270336", "attach tap100i0 7", "await", "fetch flows"];
    assert_eq!(
        words(&plan(&mut state, &larger, &devices(7), |_| false)),
        resize
    );
    for image in [&larger, &unknown] {
        let nothing: [&str; 0] = [];
        assert_eq!(
            words(&plan(&mut state, image, &devices(7), |_| false)),
            nothing
        );
    }
    // An agent that could not finish reads back that there is something to fetch.
    state.fetch_flows = true;
    let rest = plan(&mut state, &larger, &devices(7), |_| false);
    assert_eq!(words(&rest), ["await", "fetch flows"]);
}
