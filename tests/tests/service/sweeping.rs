//! When the agent's sweep makes the filter in front of the flow tables anew.

use std::time::{Duration, Instant};

use fw_agent::datapath::flow_filter::FlowFilter;
use fw_agent::datapath::pins::Pins;
use fw_common::flow::FlowKey;
use fw_common::flow_filter::BITS;
use fw_common::wire::Address;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::patience::patience;
use tapwall_tests::tree::ConfigTree;

#[test]
fn a_filter_full_of_flows_that_are_gone_is_made_anew_at_once() {
    let namespace = Netns::new("sweeping").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    let filter = FlowFilter::open(&Pins::new(agent.pin_directory())).unwrap();
    let bits = || filter.asked().map_or(0, |half| filter.bits(half));
    let begun = Instant::now();
    while filter.asked().is_none() {
        assert!(
            begun.elapsed() < patience(Duration::from_secs(20)),
            "no pass"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    // The next pass but for these flows is ten seconds after the first.
    let before = filter.asked();
    for local in 0..BITS / 4 {
        let key = FlowKey {
            vmid: 100,
            net: 0,
            protocol: 17,
            version: 4,
            local: Address([0, 0, 0, local]),
            remote: Address([0; 4]),
            local_port: 1,
            remote_port: 1,
        };
        filter.note(&key);
    }
    let noted = Instant::now();
    assert!(bits() > BITS / 8);
    while filter.asked() == before || bits() > BITS / 64 {
        let waited = noted.elapsed();
        assert!(waited < patience(Duration::from_secs(8)), "{} bits", bits());
        std::thread::sleep(Duration::from_millis(50));
    }
}
