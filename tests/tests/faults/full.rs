//! A map without room: what is in force stays, a new guest is closed until there is room, and then it gets its policy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aya::maps::{MapError, PerCpuValues};
use aya::util::nr_cpus;
use fw_agent::datapath::pins::Pins;
use fw_agent::record::Record;
use fw_common::maps::{Counter, Port, RuleKey, counter, name};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, Station, VETH};
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{UdpServer, exchange, ping};
use tapwall_tests::tree::ConfigTree;
use tapwall_tests::vigil::{Asking, Flow, Knocking};

use crate::policies::{ACCEPTED, FORBIDDEN, policy};

/// Interface indices from here on are nobody's.
const STRANGERS: u32 = 1 << 24;

#[test]
fn a_table_of_ports_full_of_strangers_is_cleared_for_a_new_guest() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let address = node.outside.v4().to_string();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, &policy(0, &address)).unwrap();
    }
    node.unplug_container().unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let pace = Duration::from_millis(2);
    let asking = Asking::start(&node.outside, &node.vm, ACCEPTED, Flow::New, pace).unwrap();
    let knocking = Knocking::start(&node.outside, &node.vm, FORBIDDEN, pace).unwrap();

    let pins = Pins::new(agent.pin_directory());
    let mut ports = pins.hash::<u32, Port>(name::PORTS).unwrap();
    let stranger = Port {
        vmid: 999,
        ..Port::default()
    };
    let mut filled = 0;
    while ports.insert(STRANGERS + filled, stranger, 0).is_ok() {
        filled += 1;
    }
    assert!(filled > 1000, "{filled}");
    node.plug_container().unwrap();
    agent
        .wait_for(
            Duration::from_secs(20),
            "the container enforced",
            |record| {
                record.degraded.is_empty()
                    && record
                        .ports
                        .iter()
                        .any(|port| port.device == VETH && port.attached)
            },
        )
        .unwrap();
    let guest = &node.container;
    let reached = ping(
        &guest.namespace,
        guest.v4(),
        node.outside.v4(),
        Duration::from_secs(2),
    );
    assert_eq!(reached, Answered, "{}", agent.stderr());
    let enforced = Knocking::start(&node.outside, guest, FORBIDDEN, pace).unwrap();
    let accepted = Asking::start(&node.outside, guest, ACCEPTED, Flow::New, pace).unwrap();
    while accepted.tally().sent < 100 || enforced.tally().sent < 100 {
        std::thread::yield_now();
    }
    for asking in [asking, accepted] {
        assert_eq!(asking.tally().lost, 0, "{}", agent.stderr());
    }
    for knocking in [knocking, enforced] {
        assert_eq!(knocking.tally().arrived, 0, "{}", agent.stderr());
    }
}

const LIMIT: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(2);
/// A port in all ranges of [`large`].
const WITHIN: u16 = 40_000;

/// The policy A with so many ranges of ports besides, which begin and end in no order: every port of them satisfies many rules, and no two the same.
fn large(ranges: u32, client: &str) -> String {
    let rules = (0..ranges).map(|row| {
        let first = 10_000 + row * 7_919 % 25_000;
        let last = 45_000 + row * 4_729 % 20_000;
        format!("IN ACCEPT -p udp -dport {first}:{last}\n")
    });
    policy(0, client) + &rules.collect::<String>()
}

#[track_caller]
fn hold(asking: &[&Asking], knocking: &[&Knocking], agent: &Agent) {
    let sent = || {
        let asked = asking.iter().map(|asking| asking.tally().sent);
        let knocked = knocking.iter().map(|knocking| knocking.tally().sent);
        asked.chain(knocked).collect::<Vec<u64>>()
    };
    let before = sent();
    let deadline = Instant::now() + LIMIT;
    while sent()
        .iter()
        .zip(&before)
        .any(|(now, before)| *now < before + 20)
    {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
        std::thread::yield_now();
    }
    for asking in asking {
        assert_eq!(asking.tally().lost, 0, "{}", agent.stderr());
    }
    for knocking in knocking {
        assert_eq!(knocking.tally().arrived, 0, "{}", agent.stderr());
    }
}

fn try_port(from: &Station, to: &Station, port: u16, timeout: Duration) -> Answer {
    exchange(
        &from.namespace,
        from.v4(),
        to.v4_port(port),
        b"full",
        timeout,
    )
}

#[test]
fn a_policy_without_room_leaves_its_guest_the_last_one_until_there_is_room() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let client = node.outside.v4().to_string();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, &policy(0, &client)).unwrap();
    }
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let (from, vm, guest) = (&node.outside, &node.vm, &node.container);
    let asking = |to| Asking::start(from, to, ACCEPTED, Flow::New, PACE).unwrap();
    let knock = |to| Knocking::start(from, to, FORBIDDEN, PACE).unwrap();
    let (vm_asked, vm_knocked) = (asking(vm), knock(vm));
    let (guest_asked, guest_knocked) = (asking(guest), knock(guest));
    let running = [&vm_asked, &guest_asked];
    let closed = [&vm_knocked, &guest_knocked];
    let _servers = [vm, guest].map(|to| UdpServer::start(&to.namespace, to.v4_port(WITHIN)));
    let short = Duration::from_millis(150);
    let holds = |record: &Record| record.degraded.is_empty();
    // The first takes more than half of all the room …
    let apply = |vmid, text: &str| {
        let before = agent.record().unwrap().unwrap().generation;
        tree.write_firewall(vmid, text).unwrap();
        let is_newer = |record: &Record| record.generation > before;
        agent.wait_for(LIMIT, "the edit", is_newer).unwrap()
    };
    assert!(holds(&apply(100, &large(16_000, &client))));
    assert_eq!(try_port(from, vm, WITHIN, LIMIT), Answered);
    assert_eq!(try_port(from, guest, WITHIN, short), Silent);
    // … and there is not enough for the second.
    let record = apply(101, &large(14_000, &client));
    let named = "guest 101 net0: no room for its policy";
    assert!(
        record.degraded.iter().any(|text| text.contains(named)),
        "{record:?}"
    );
    assert_eq!(record.degraded.len(), 1, "{record:?}");
    let status = agent.fwctl(&["status"]).unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains(named), "{status}");
    assert!(agent.stderr().contains(named), "{}", agent.stderr());
    assert_eq!(try_port(from, guest, WITHIN, short), Silent);
    hold(&running, &closed, &agent);
    // A device that comes now has no last policy: it is closed, and the others do not notice.
    drop(guest_asked);
    node.unplug_container().unwrap();
    let before = agent.record().unwrap().unwrap().ports;
    let before = before
        .iter()
        .find(|port| port.device == VETH)
        .unwrap()
        .ifindex;
    node.plug_container().unwrap();
    agent.wait_attached(VETH, before).unwrap();
    for port in [ACCEPTED, WITHIN] {
        let _server = UdpServer::start(&guest.namespace, guest.v4_port(ACCEPTED));
        assert_eq!(try_port(from, guest, port, short), Silent);
    }
    hold(&[&vm_asked], &closed, &agent);
    // Another's edit makes room.
    tree.write_firewall(100, &policy(0, &client)).unwrap();
    agent.wait_for(LIMIT, "room", holds).unwrap();
    assert_eq!(
        try_port(from, guest, WITHIN, LIMIT),
        Answered,
        "{}",
        agent.stderr()
    );
    assert_eq!(try_port(from, vm, WITHIN, short), Silent);
    let guest_asked = asking(guest);
    hold(&[&vm_asked, &guest_asked], &closed, &agent);
}

#[test]
fn without_room_for_counters_every_verdict_holds_and_the_uncounted_are_told() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let client = node.outside.v4().to_string();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, &policy(0, &client)).unwrap();
    }
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let pins = Pins::new(agent.pin_directory());
    let mut rules = pins
        .per_cpu_hash::<RuleKey, Counter>(name::RULE_COUNTERS)
        .unwrap();
    let uncounted = || {
        let counters = pins.per_cpu::<Counter>(name::COUNTERS).unwrap();
        let values = counters.get(&counter::RULES_UNCOUNTED, 0).unwrap();
        values.iter().map(|value| value.packets).sum::<u64>()
    };
    assert_eq!(uncounted(), 0);
    // Of a guest that is not there.
    let mut filled = 0;
    let deadline = Instant::now() + LIMIT;
    loop {
        let key = RuleKey {
            vmid: 999,
            rule: filled,
            net: 0,
            direction: 0,
            reserved: 0,
        };
        let nothing = vec![Counter::default(); nr_cpus().unwrap()];
        match rules.insert(key, PerCpuValues::try_from(nothing).unwrap(), 0) {
            Ok(()) => filled += 1,
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                break;
            }
            // The kernel makes room for more values than it has ready, but not at once.
            Err(error) => assert!(Instant::now() < deadline, "{filled}: {error:?}"),
        }
    }
    assert!(filled > 200_000, "{filled}");
    let (from, vm) = (&node.outside, &node.vm);
    let asking = Asking::start(from, vm, ACCEPTED, Flow::New, PACE).unwrap();
    let knocking = Knocking::start(from, vm, FORBIDDEN, PACE).unwrap();
    hold(&[&asking], &[&knocking], &agent);
    assert!(uncounted() > 0);
    // An edit has those forgotten that nobody has, and the rules are counted. Each takes the kernel a while.
    agent
        .after(|| tree.write_firewall(101, &policy(2, &client)))
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    let are_counted = || {
        let guests = rules.keys().filter_map(Result::ok).map(|key| key.vmid);
        let guests: BTreeSet<u32> = guests.collect();
        guests.contains(&100) && !guests.contains(&999)
    };
    while !are_counted() {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
        hold(&[&asking], &[&knocking], &agent);
    }
}
