//! Lines that lose, delay and reorder, and rate limits beside our programs.

use std::net::SocketAddr;

use tapwall_tests::netns::Netns;
use tapwall_tests::node::{Station, TAP, VETH};
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange, transfer};

use crate::bed::{Bed, tool};

/// Bytes that cross each way.
const BYTES: u64 = 256 << 10;

fn of_guests(rules: &str) -> Bed {
    let bed = Bed::new("[OPTIONS]\nenable: 1\n");
    for vmid in [100, 101] {
        let text = format!("[OPTIONS]\nenable: 1\n[RULES]\n{rules}");
        bed.agent
            .after(|| bed.tree.write_firewall(vmid, &text))
            .unwrap();
    }
    bed
}

fn guests(bed: &Bed) -> [&Station; 2] {
    [&bed.node.vm, &bed.node.container]
}

fn netem(namespace: &Netns, device: &str, weather: &str) {
    tool(
        namespace,
        &format!("tc qdisc add dev {device} root netem {weather}"),
    );
}

#[test]
fn flows_stay_whole_on_a_line_that_loses_and_reorders() {
    let bed = of_guests("IN ACCEPT -p tcp -dport 5001\n");
    let outside = &bed.node.outside;
    netem(
        &outside.namespace,
        "eth0",
        "delay 4ms 2ms loss 3% reorder 25%",
    );
    for guest in guests(&bed) {
        for to in [guest.v4_port(5001), guest.v6_port(5001)] {
            let _server = TcpServer::start(&guest.namespace, to).unwrap();
            let source = outside.address_like(to.ip());
            transfer(&outside.namespace, source, to, BYTES).unwrap();
        }
        let closed = guest.v4_port(5002);
        let _server = TcpServer::start(&guest.namespace, closed).unwrap();
        for _ in 0..4 {
            let seen = connect(&outside.namespace, outside.v4(), closed, TIMEOUT);
            bed.expect("a closed port in bad weather", seen, &Silent);
        }
    }
}

#[test]
fn parts_that_overtake_the_first_open_nothing() {
    let bed = of_guests("IN ACCEPT -p udp -dport 5001\n");
    let outside = &bed.node.outside;
    // Every packet may overtake the one before it.
    netem(&outside.namespace, "eth0", "delay 3ms reorder 50% gap 2");
    for guest in guests(&bed) {
        let (open, closed) = (guest.v4_port(5001), guest.v4_port(5002));
        let _open = UdpServer::start(&guest.namespace, open).unwrap();
        let behind = UdpServer::start(&guest.namespace, closed).unwrap();
        // Two parts: of one datagram in three the second comes first. A datagram of many parts would hardly ever come in order.
        let payload = vec![7; 2500];
        let mut answers = Vec::new();
        for _ in 0..20 {
            let seen = exchange(&outside.namespace, outside.v4(), open, &payload, TIMEOUT);
            answers.push(seen);
            let seen = exchange(
                &outside.namespace,
                outside.v4(),
                closed,
                &payload,
                TIMEOUT / 8,
            );
            bed.expect("parts to a closed port", seen, &Silent);
        }
        // Parts that come before those in front of them are dropped, so that some datagrams are lost; not all.
        let said = bed.agent.stderr();
        assert!(answers.contains(&Answered), "{open}: {answers:?}; {said}");
        assert!(!behind.receives(&payload, TIMEOUT / 8));
    }
}

/// How the reference's node limits a NIC's rate: tokens on the way to the guest, a police action on the way from it.
#[test]
fn a_rate_limit_of_the_nic_works_beside_the_firewall() {
    let bed = of_guests("IN ACCEPT -p tcp -dport 5001\n");
    let outside = &bed.node.outside;
    for device in [TAP, VETH] {
        tool(
            bed.host(),
            &format!("tc qdisc add dev {device} root handle 1: htb default 1"),
        );
        tool(
            bed.host(),
            &format!("tc class add dev {device} parent 1: classid 1:1 htb rate 8mbit"),
        );
    }
    for guest in guests(&bed) {
        let to: SocketAddr = guest.v4_port(5001);
        let _server = TcpServer::start(&guest.namespace, to).unwrap();
        let done = transfer(&outside.namespace, outside.v4(), to, 1 << 20).unwrap();
        // A mebibyte at a megabyte a second; the burst is free.
        assert!(done.elapsed.as_millis() > 700, "{:?}", done.elapsed);
        let closed = guest.v4_port(5002);
        let _server = TcpServer::start(&guest.namespace, closed).unwrap();
        let seen = connect(&outside.namespace, outside.v4(), closed, TIMEOUT);
        bed.expect("a closed port beside a rate limit", seen, &Silent);
    }
}
