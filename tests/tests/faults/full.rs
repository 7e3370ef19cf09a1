//! A map without room: what is in force stays, a new guest is closed until there is room, and then it gets its policy.

use std::time::Duration;

use fw_agent::datapath::pins::Pins;
use fw_common::maps::{Port, name};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, VETH};
use tapwall_tests::probe::Answer::Answered;
use tapwall_tests::probe::ping;
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
