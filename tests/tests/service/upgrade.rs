//! What an agent of another version knew is known to the next one: flows, bans, counters.
//!
//! The pins of a running version under the name of the one before stand for that one's, as long as what comes over has the same sizes in both.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, MapData, MapInfo};
use fw_agent::datapath::flows::{self, Entry};
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep::now;
use fw_agent::datapath::{AttachMode, Bans};
use fw_common::conntrack::State;
use fw_common::flow::FlowKey;
use fw_common::maps::{ABI, Counter, PortCounters, RuleKey, counter, name};
use fw_common::wire::{Address, protocol};
use tapwall_tests::agent::{Agent, attach_mode};
use tapwall_tests::netns::run;
use tapwall_tests::node::{DemoNode, TAP};
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{Session, TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::vigil::{Asking, Flow};

/// Versions whose maps the agent can read; what it reads of them has one layout.
const OLD: [u32; 3] = [3, 4, 5];
/// One whose maps nobody can.
const UNKNOWN: u32 = 1000;
const ECHO: u16 = 7007;

fn rules(lines: &str) -> String {
    format!("[OPTIONS]\nenable: 1\npolicy_in: DROP\n\n[RULES]\n{lines}")
}

/// Key and value bytes of these versions' maps that come over.
const SIZES: [(&str, u32, u32); 6] = [
    (name::FLOWS, 44, 48),
    (name::COUNTERS, 4, 24),
    (name::PORT_COUNTERS, 4, 144),
    (name::RULE_COUNTERS, 12, 24),
    (name::PORTS, 4, 64),
    (name::BANS, 20, 16),
];

/// A flow that only one end has taken part in so far.
const HALF_OPEN: FlowKey = FlowKey {
    vmid: 100,
    net: 0,
    protocol: protocol::UDP,
    version: 4,
    local: Address::v4(0x0a00_0001),
    remote: Address::v4(0x0a00_0002),
    local_port: 9,
    remote_port: 40_000,
};

/// Makes what this version has pinned another's.
fn rename(pins: &Path, version: u32) {
    let own = Pins::new(pins);
    for (map, key, value) in SIZES {
        let info = MapInfo::from_pin(own.map(map)).unwrap();
        let sizes = (info.key_size(), info.value_size());
        assert_eq!(
            sizes,
            (key, value),
            "{map} cannot stand for that of versions {OLD:?} any more"
        );
    }
    // Half-open flows were in a hash map of their own.
    let mut table = HashMap::<MapData, FlowKey, fw_common::flow::Flow>::create(1 << 16, 0).unwrap();
    flows::visit(&own, |entry| {
        if !entry.settled {
            table.insert(entry.key, entry.flow, 0).unwrap();
        }
    })
    .unwrap();
    let flow = fw_common::flow::Flow {
        seen: now(),
        created: now(),
        state: State::Asked as u32,
        ..Default::default()
    };
    table.insert(HALF_OPEN, flow, 0).unwrap();
    fs::remove_file(own.map(name::HALF_OPEN)).unwrap();
    table.pin(own.map(name::HALF_OPEN)).unwrap();
    let directory = |version| pins.join(format!("v{version}"));
    fs::rename(directory(ABI), directory(version)).unwrap();
}

/// Packets that rules, the VM's NIC and the node's counters have counted.
fn counted(pins: &Path) -> [u64; 3] {
    let pins = Pins::new(pins);
    let mut sums = [0; 3];
    for entry in pins
        .per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)
        .unwrap()
        .iter()
    {
        sums[0] += Counter::sum(entry.unwrap().1.iter()).packets;
    }
    let ports = pins.per_cpu::<PortCounters>(name::PORT_COUNTERS).unwrap();
    for slot in 0..16 {
        for value in ports.get(&slot, 0).unwrap().iter() {
            let counters = value.0.iter().flatten();
            sums[1] += counters.map(|counter| counter.packets).sum::<u64>();
        }
    }
    let node = pins.per_cpu::<Counter>(name::COUNTERS).unwrap();
    for index in 0..counter::ENTRIES {
        sums[2] += Counter::sum(node.get(&index, 0).unwrap().iter()).packets;
    }
    sums
}

struct Scene {
    node: DemoNode,
    tree: ConfigTree,
    agent: Agent,
}

/// A node whose rules accept what the scene is about.
fn scene(options: &[&str]) -> Scene {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let open = format!("IN ACCEPT -p tcp -dport 80\nIN ACCEPT -p udp -dport {ECHO}\n");
    tree.write_firewall(100, &rules(&open)).unwrap();
    let agent = Agent::start_with(&node.host.namespace, &tree, options).unwrap();
    Scene { node, tree, agent }
}

#[test]
fn flows_bans_and_counters_come_over_from_versions_before() {
    for version in OLD {
        everything_comes_over(version, &[]);
    }
}

#[test]
fn with_filters_too_flows_bans_and_counters_come_over() {
    for version in OLD {
        everything_comes_over(version, &["--clsact"]);
    }
}

fn everything_comes_over(version: u32, options: &[&str]) {
    let Scene { node, tree, agent } = scene(options);
    let _server = TcpServer::start(&node.vm.namespace, node.vm.v4_port(80)).unwrap();
    let (outside, web) = (&node.outside, node.vm.v4_port(80));
    let mut session = Session::open(&outside.namespace, outside.v4(), web).unwrap();
    session.transfer(1000).unwrap();
    let asking = Asking::start(
        outside,
        &node.vm,
        ECHO,
        Flow::Same,
        Duration::from_millis(1),
    )
    .unwrap();
    while asking.tally().arrived < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // Both live on by their flows alone: no rule would accept them now.
    agent
        .after(|| tree.write_firewall(100, &rules("IN ACCEPT -p tcp -dport 81\n")))
        .unwrap();
    let pins = agent.pin_directory().to_path_buf();
    let banned = "203.0.113.0/24".parse().unwrap();
    Bans::open(&Pins::new(&pins))
        .unwrap()
        .add(banned, 0, 7)
        .unwrap();
    let (before, sent_before) = (counted(&pins), asking.tally().sent);
    assert!(before.iter().all(|packets| *packets > 0), "{before:?}");

    let moved = |_: &mut Command| rename(&pins, version);
    let agent = agent.respawn_adjusted(&node.host.namespace, moved).unwrap();
    agent.wait_said("took over from another version").unwrap();
    assert!(
        agent.stderr().contains("carried over from another version"),
        "{}",
        agent.stderr()
    );
    assert!(!pins.join(format!("v{version}")).exists());
    for side in ["ingress", "egress"] {
        let mut tc = node.host.namespace.command("tc");
        let text = run(tc.args(["filter", "show", "dev", TAP, side])).unwrap();
        let filters = text.lines().filter(|line| line.contains(" id ")).count();
        let by_filters = !options.is_empty() || attach_mode() == AttachMode::Clsact;
        assert_eq!(filters, usize::from(by_filters), "{side}: {text}");
    }
    session.transfer(1000).unwrap();
    let arrived = asking.tally().arrived;
    while asking.tally().arrived < arrived + 20 {
        assert_eq!(asking.tally().lost, 0, "{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(asking.tally().lost, 0, "{}", agent.stderr());
    assert_eq!(
        connect(&outside.namespace, outside.v4(), web, TIMEOUT),
        Silent
    );
    let half_open = |entry: &Entry| entry.key == HALF_OPEN && !entry.settled;
    let found = flows::list(&Pins::new(&pins), half_open).unwrap();
    assert_eq!(found.len(), 1);
    let after = counted(&pins);
    // A question and its answer are counted at two hooks each, and there is other traffic.
    let meanwhile = 4 * (asking.tally().sent - sent_before) + 500;
    for (after, before) in after.iter().zip(before) {
        assert!(
            *after >= before && *after < before + meanwhile,
            "{before} became {after}"
        );
    }
    let bans = Bans::open(&Pins::new(&pins)).unwrap();
    let listed = bans.list().unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].0, listed[0].1.reason), (banned, 7));
    assert!(bans.may_exist().unwrap());
}

#[test]
fn of_a_version_that_is_not_known_nothing_comes_over_and_the_log_says_so() {
    let Scene { node, tree, agent } = scene(&[]);
    let _server = TcpServer::start(&node.vm.namespace, node.vm.v4_port(81)).unwrap();
    let outside = &node.outside;
    let pace = Duration::from_millis(1);
    let asking = Asking::start(outside, &node.vm, ECHO, Flow::Same, pace).unwrap();
    while asking.tally().arrived < 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // What goes on by its flow alone ends with it; what the rules accept goes on. An answer that is on its way meanwhile begins no flow of its own.
    let edited = rules("IN ACCEPT -p tcp -dport 81\nOUT DROP -p udp\n");
    agent.after(|| tree.write_firewall(100, &edited)).unwrap();
    let (source, web) = (outside.v4(), node.vm.v4_port(81));
    let mut session = Session::open(&outside.namespace, source, web).unwrap();
    session.transfer(1000).unwrap();
    assert_eq!(asking.tally().lost, 0);
    let pins = agent.pin_directory().to_path_buf();
    let moved = |_: &mut Command| rename(&pins, UNKNOWN);
    let agent = agent.respawn_adjusted(&node.host.namespace, moved).unwrap();
    agent
        .wait_said("the layout of this version's maps is not known")
        .unwrap();
    agent.wait_said("took over from another version").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while asking.tally().lost == 0 {
        assert!(Instant::now() < deadline, "the flow came over");
        std::thread::sleep(Duration::from_millis(5));
    }
    session.transfer(1000).unwrap();
    let new = connect(&outside.namespace, source, web, TIMEOUT);
    assert_eq!(new, Answered);
}
