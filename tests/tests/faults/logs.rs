//! The log's file is lost, and more events come than anybody reads.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::UdpSocket;

use rustix::process::Signal;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::ConfigTree;

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN DROP -p udp -dport 5000:5999 -log warning\n";
/// Without a limit, so that every packet is an event.
const CLUSTER: &str = "[OPTIONS]\nenable: 1\nlog_ratelimit: enable=0\n";
/// More events than the ring buffer has room for (1 MiB).
const FLOOD: u32 = 30_000;

/// To be dropped from the last to the first.
fn start() -> (DemoNode, ConfigTree, Agent) {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    (node, tree, agent)
}

/// Sends datagrams that are dropped and logged.
fn send(node: &DemoNode, port: u16, count: u32) {
    let outside = &node.outside;
    let socket = outside.namespace.run(|| {
        let socket = UdpSocket::bind(outside.v4_port(0))?;
        socket.connect(node.vm.v4_port(port))?;
        Ok(socket)
    });
    let socket = socket.unwrap();
    for _ in 0..count {
        socket.send(b"event").unwrap();
    }
}

#[test]
fn a_deleted_log_is_made_anew() {
    let (node, _tree, agent) = start();
    let log = agent.run_directory().join("pve-firewall.log");
    send(&node, 5001, 1);
    agent.wait_log(&["DPT=5001"]).unwrap();
    fs::remove_file(&log).unwrap();
    send(&node, 5002, 1);
    // The line may still have gone to the deleted file; a later one does not.
    let mut tries = 0;
    while agent.wait_log(&["DPT=5003"]).is_err() {
        send(&node, 5003, 1);
        tries += 1;
        assert!(tries < 3, "{}", agent.stderr());
    }
    assert!(!agent.log().contains("DPT=5001"));
}

#[test]
fn events_that_found_no_room_are_counted_and_reported() {
    let (node, _tree, agent) = start();
    send(&node, 5001, 1);
    agent.wait_log(&["DPT=5001"]).unwrap();
    // It reads nothing while it stands still.
    agent.signal(Signal::STOP).unwrap();
    send(&node, 5002, FLOOD);
    agent.signal(Signal::CONT).unwrap();
    let line = agent.wait_log(&["skipped", "(queue full)"]).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let skipped = words.iter().position(|word| *word == "skipped").unwrap();
    let lost: u32 = words[skipped + 1].parse().unwrap();
    let written = agent.log().matches("DPT=5002").count() as u32;
    println!("{lost} lost, {written} written, of {FLOOD}");
    assert_eq!(lost + written, FLOOD, "{line}");
    // Afterwards it goes on.
    send(&node, 5004, 1);
    agent.wait_log(&["DPT=5004"]).unwrap();
}
