//! What a plan does when sets change: single entries at once, single entries that only new policies make a difference of, or a new space.

use fw_common::maps::classes::MAX_DEPTH;

use super::*;
use crate::image::Builder;
use crate::policy::NodePolicy;

const BLACKLIST: &str = "[IPSET blacklist]\n203.0.113.1\n203.0.113.2\n";

/// A node that is configured again and again.
struct Node {
    state: State,
    builder: Builder,
}

impl Node {
    fn new(reevaluate: bool) -> Self {
        Self {
            state: State::default(),
            builder: Builder::new(reevaluate),
        }
    }

    fn step(&mut self, cluster: &str, guest: &str) -> Vec<String> {
        let node = policy(cluster, guest);
        let present = Present {
            devices: devices(7),
            ..Present::default()
        };
        let image = next_image(&mut self.builder, &self.state, &node, &present);
        let plan = plan_node(&mut self.state, &image, &present, |_| false);
        let again = next_image(&mut self.builder, &self.state, &node, &present);
        let rest = plan_node(&mut self.state.clone(), &again, &present, |_| false);
        assert_eq!(rest, Plan::default());
        words(&plan)
    }
}

fn policy(cluster: &str, guest: &str) -> NodePolicy {
    let sources = sources(cluster, guest);
    compile(&sources, &HostFacts::default(), 0).policy
}

fn cluster(sets: &str) -> String {
    format!("{CLUSTER}{sets}")
}

#[test]
fn one_address_of_a_set_moves_at_once_and_nothing_else_is_written() {
    let rules = guest("IN ACCEPT -source +ops\nIN DROP -dest +ops\nOUT DROP -source +ops");
    let mut node = Node::new(false);
    node.step(&cluster(BLACKLIST), &rules);
    let one = |from: &str, to: &str| cluster(BLACKLIST).replace(from, to);
    let steps: [(String, &[&str]); 5] = [
        (
            one("203.0.113.2", "203.0.113.2\n203.0.114.9"),
            &["1 words of bits", "entries 1: 0 1"],
        ),
        // Its bit is there, and so is it.
        (one("203.0.113.2", "203.0.113.2"), &["entries 1: 0 1"]),
        (
            one("203.0.113.2", "203.0.113.2\n203.0.114.9"),
            &["entries 1: 0 1"],
        ),
        (
            one("192.0.2.1", "192.0.2.1\n192.0.2.77")
                .replace("203.0.113.2", "203.0.113.2\n203.0.114.9"),
            &["entries 0: 0 1"],
        ),
        (
            one("203.0.113.2", "203.0.113.2\n203.0.114.9"),
            &["entries 0: 0 1"],
        ),
    ];
    for (cluster, expect) in steps {
        assert_eq!(node.step(&cluster, &rules), expect, "{cluster}");
    }
}

#[test]
fn networks_move_at_once_only_if_no_packet_is_looked_at_from_both_sides() {
    let wider = CLUSTER.replace("192.0.2.1", "192.0.2.1\n192.0.3.0/24\n198.51.100.0/24");
    for (rules, expect) in [
        ("IN ACCEPT -source +ops", vec!["entries 0: 0 2"]),
        ("OUT ACCEPT -dest +ops", vec!["entries 0: 0 2"]),
        // Each hook looks once.
        (
            "IN ACCEPT -source +ops\nOUT ACCEPT -dest +ops",
            vec!["entries 0: 0 2"],
        ),
        (
            "IN ACCEPT -source +ops\nIN ACCEPT -dest +ops",
            vec!["entries 0: 1 2", "policy", "port 7 epoch 2", "await"],
        ),
    ] {
        let mut node = Node::new(false);
        node.step(CLUSTER, &guest(rules));
        assert_eq!(node.step(&wider, &guest(rules)), expect, "{rules}");
    }
}

#[test]
fn nothing_moves_at_once_together_with_a_rule() {
    let rules = guest("IN ACCEPT -source +ops");
    let wider = CLUSTER.replace("192.0.2.1", "192.0.2.1\n192.0.2.77");
    let mut node = Node::new(false);
    node.step(CLUSTER, &rules);
    let other = guest("IN ACCEPT -source +ops -p tcp -dport 22");
    let expect = ["entries 0: 1 1", "policy", "port 7 epoch 2", "await"];
    assert_eq!(node.step(&wider, &other), expect);
}

#[test]
fn an_ip_filter_moves_with_its_port() {
    let filtered = |entries: &str| format!("{}[IPSET ipfilter-net0]\n{entries}\n", guest(""));
    let mut node = Node::new(false);
    node.step(CLUSTER, &filtered("10.0.0.1"));
    let expect = [
        "entries 0: 1 1",
        "policy",
        "policy",
        "port 7 epoch 2",
        "await",
    ];
    assert_eq!(node.step(CLUSTER, &filtered("10.0.0.1\n10.0.0.2")), expect);
}

#[test]
fn what_a_moved_set_let_in_is_judged_again_if_flows_are() {
    let wider = CLUSTER.replace("192.0.2.1", "192.0.2.1\n192.0.2.77");
    for (rules, expect) in [
        (
            "IN ACCEPT -source +ops",
            vec!["entries 0: 0 1", "port 7 epoch 2"],
        ),
        ("IN ACCEPT -p tcp -dport 22", vec![]),
    ] {
        let mut node = Node::new(true);
        node.step(CLUSTER, &guest(rules));
        assert_eq!(node.step(&wider, &guest(rules)), expect, "{rules}");
        assert_eq!(node.step(&wider, &guest(rules)), [""; 0], "{rules}");
    }
}

#[test]
fn who_is_blacklisted_with_a_new_class_is_marked_when_ports_know() {
    let rules = guest("IN ACCEPT -source +ops");
    let mut node = Node::new(false);
    node.step(&cluster(BLACKLIST), &rules);
    // Looked at by another rule too, so that it is no class that there is.
    let other = guest("IN ACCEPT -source +ops\nIN ACCEPT -source 203.0.114.9");
    let listed = cluster(BLACKLIST).replace("203.0.113.2", "203.0.113.2\n203.0.114.0/24");
    let plan = node.step(&listed, &other);
    let expect = [
        "entries 0: 1 1",
        "1 words of bits",
        "entries 1: 1 1",
        "policy",
        "port 7 epoch 2",
        "entries 1: 0 1",
        "await",
    ];
    assert_eq!(plan, expect);
}

#[test]
fn much_that_changes_is_a_new_space() {
    let many = |count: u32, first: u32| {
        let entries = (0..count).map(|number| format!("10.{first}.0.{number}\n"));
        format!("{CLUSTER}{}", entries.collect::<String>())
    };
    let rules = guest("IN ACCEPT -source +ops\nIN ACCEPT -dest +ops");
    let mut node = Node::new(false);
    node.step(&many(200, 1), &rules);
    let few = node.step(&many(250, 1), &rules);
    assert_eq!(few[0], "entries 0: 1 50");
    let much = node.step(&many(250, 2), &rules);
    assert_eq!(much[0], "classes 1");
    assert_eq!(much.last().unwrap(), "remove classes 0");
}

#[test]
fn a_space_whose_classes_are_too_young_for_policies_to_follow_is_made_anew() {
    let mut node = Node::new(false);
    let mut spaces = Vec::new();
    // One address more of the same network is told apart each time.
    for depth in 0..=MAX_DEPTH + 1 {
        let nets: String = (0..=depth)
            .map(|number| format!("IN ACCEPT -source 10.0.0.0/{}\n", 8 + number))
            .collect();
        node.step(CLUSTER, &guest(&nets));
        spaces.push(node.state.ports[&7].space);
    }
    assert!(spaces.iter().any(|space| *space != spaces[0]), "{spaces:?}");
    let evolved = spaces.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(evolved >= MAX_DEPTH as usize, "{spaces:?}");
}
