//! A flood of connection requests from a million addresses fills the table of half-open flows, and no established flow notices.
//!
//! Frames go through `BPF_PROG_TEST_RUN` at a port that accepts them, so that every one begins a flow. It prints what a frame of the flood cost.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use fw_agent::compile::compile;
use fw_agent::config::Sources;
use fw_agent::policy::PortId;
use fw_common::maps::capacity;
use fw_common::verdict::{Direction, Reason};
use tapwall_tests::frame::{Body, Datagram, Frame, Transport};
use tapwall_tests::kernel::{PASS, TestKernel};
use tapwall_tests::tree::{ConfigTree, NODE, facts};

const PORT: PortId = PortId { vmid: 100, net: 0 };
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const SYN: u8 = 2;
const ACK: u8 = 16;
const PUSH: u8 = 8;

/// Established flows.
const FLOWS: u32 = 10_000;
/// Spoofed sources.
const SOURCES: u32 = 1_000_000;
/// Spoofed requests between two looks at the established flows.
const ROUND: u32 = 100_000;

/// A segment between the guest's port 80 and the `number`th address of a network.
fn segment(direction: Direction, network: Ipv4Addr, number: u32, flags: u8) -> Vec<u8> {
    let remote = Ipv4Addr::from(u32::from(network) + number);
    let (guest_mac, router_mac) = ([0xbc, 0x24, 0x11, 0, 1, 0], [2, 0, 0, 0, 0, 1]);
    let (source, dest, source_mac, dest_mac, sport, dport) = match direction {
        Direction::In => (remote, GUEST, router_mac, guest_mac, 40_000, 80),
        Direction::Out => (GUEST, remote, guest_mac, router_mac, 80, 40_000),
    };
    let (source, dest) = (IpAddr::V4(source), IpAddr::V4(dest));
    let transport = Transport::Tcp {
        sport,
        dport,
        sequence: 1,
        acknowledge: 1,
        flags,
        data: Vec::new(),
    };
    let frame = Frame {
        dest_mac,
        source_mac,
        tags: Vec::new(),
        body: Body::Ip(Datagram::new(
            source,
            dest,
            6,
            transport.payload(6, source, dest),
        )),
    };
    frame.bytes()
}

const CLIENTS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const SPOOFED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);

#[test]
fn a_million_spoofed_sources_cost_no_established_flow() {
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(
        100,
        "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport 80\n",
    )
    .unwrap();
    let compiled = compile(&Sources::read(tree.path(), NODE), &facts(NODE), 0);
    let mut kernel = TestKernel::new().unwrap();
    kernel.load_as_is(&compiled.policy).unwrap();

    let handshake = [
        (Direction::In, SYN),
        (Direction::Out, SYN | ACK),
        (Direction::In, ACK),
    ];
    for number in 0..FLOWS {
        for (direction, flags) in handshake {
            let frame = segment(direction, CLIENTS, number, flags);
            assert_eq!(kernel.act(PORT, direction, &frame).unwrap(), PASS);
        }
    }
    let mut nanoseconds = 0;
    for start in (0..SOURCES).step_by(ROUND as usize) {
        for number in start..start + ROUND {
            let frame = segment(Direction::In, SPOOFED, number, SYN);
            let before = Instant::now();
            assert_eq!(kernel.act(PORT, Direction::In, &frame).unwrap(), PASS);
            nanoseconds += before.elapsed().as_nanos();
        }
        // Both ends of some flows, by rule or not: a flow that was lost would be picked up by the rule on its way in.
        let [established, half_open] = kernel.flows().unwrap();
        assert_eq!(established.len(), FLOWS as usize, "after {}", start + ROUND);
        assert!(half_open.len() > capacity::HALF_OPEN as usize * 9 / 10);
        // At the end every one.
        let stride = if start + ROUND == SOURCES { 1 } else { 100 };
        for number in (0..FLOWS).step_by(stride) {
            for direction in [Direction::Out, Direction::In] {
                let frame = segment(direction, CLIENTS, number, ACK | PUSH);
                let reason = kernel.run(PORT, direction, &frame).unwrap().reason;
                assert_eq!(reason, Reason::Established, "flow {number} {direction:?}");
            }
        }
    }
    let each = nanoseconds / u128::from(SOURCES);
    println!(
        "{SOURCES} spoofed requests, {each} ns each with the test run's own cost; {FLOWS} established flows went on"
    );
}
