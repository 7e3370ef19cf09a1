//! The logs of packets, with real packets.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::{ConfigTree, temporary_directory};

const LIMIT: Duration = Duration::from_secs(5);
/// More than the programs take to load on a busy machine.
const START: Duration = Duration::from_secs(60);

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\nlog_level_in: info\n\n[RULES]\nIN DROP -p udp -dport 5000:5999 -log warning\n";

/// Sends a datagram to the virtual machine, which drops it.
fn send(node: &DemoNode, port: u16) {
    let from = &node.outside;
    let timeout = Duration::from_millis(2);
    let to = node.vm.v4_port(port);
    let seen = exchange(&from.namespace, from.v4(), to, b"log", timeout);
    assert_eq!(seen, Silent);
}

/// Waits for the line about a packet to this port.
fn wait_json(file: &Path, port: u16, agent: &Agent) -> Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(file).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(found) = lines.into_iter().find(|line| line["dport"] == port) {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "no {port} in:\n{text}\n{}",
            agent.stderr()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn json_lines_name_the_rule_and_follow_rotation_deletion_and_hup() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let place = temporary_directory("logs").unwrap();
    let file = place.path().join("tapwall.json");
    let agent = Agent::spawn_adjusted(&node.host.namespace, &tree, |command| {
        command.arg("--log-json").arg(&file);
    })
    .unwrap();
    agent.wait_for(START, "its first record", |_| true).unwrap();
    agent.wait_attached("tap100i0", None).unwrap();

    send(&node, 5001);
    let line = wait_json(&file, 5001, &agent);
    for (key, expect) in [
        ("guest", Value::from(100)),
        ("nic", 0.into()),
        ("device", "tap100i0".into()),
        ("bridge", "vmbr0".into()),
        ("direction", "in".into()),
        ("verdict", "drop".into()),
        ("reason", "rule".into()),
        ("level", 4.into()),
        ("source", node.outside.v4().to_string().into()),
        ("dest", node.vm.v4().to_string().into()),
        ("protocol_name", "udp".into()),
    ] {
        assert_eq!(line[key], expect, "{key} of {line}");
    }
    assert_eq!(line["rule"]["file"], "firewall/100.fw", "{line}");
    assert_eq!(line["rule"]["line"], 7, "{line}");
    let text = line["rule"]["text"].as_str().unwrap();
    assert!(text.starts_with("IN DROP -p udp"), "{line}");

    // The policy's line is that of its option.
    send(&node, 6000);
    let line = wait_json(&file, 6000, &agent);
    assert_eq!(
        (&line["reason"], &line["rule"]["line"]),
        (&"policy".into(), &3.into())
    );

    let rotated = place.path().join("tapwall.json.1");
    fs::rename(&file, &rotated).unwrap();
    agent.signal(Signal::HUP).unwrap();
    agent.wait_said("SIGHUP").unwrap();
    send(&node, 5002);
    wait_json(&file, 5002, &agent);
    wait_json(&rotated, 5001, &agent);

    // A file that is gone is noticed within a second, without a word from anybody.
    let log = agent.run_directory().join("pve-firewall.log");
    fs::remove_file(&file).unwrap();
    fs::remove_file(&log).unwrap();
    let deadline = Instant::now() + LIMIT;
    let mut port = 5100;
    while !(file.exists() && log.exists()) {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
        send(&node, port);
        port += 1;
        // Faster than the limit of the rule's log would only be counted.
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_full_disk_stops_neither_the_agent_nor_the_other_log_and_is_reported_later() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let place = temporary_directory("full").unwrap();
    let file = place.path().join("tapwall.json");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let agent = Agent::spawn_adjusted(&node.host.namespace, &tree, |command| {
        command.arg("--log-json").arg(&file);
    })
    .unwrap();
    agent.wait_for(START, "its first record", |_| true).unwrap();
    agent.wait_attached("tap100i0", None).unwrap();
    agent.wait_said("cannot write to the log").unwrap();
    send(&node, 5001);
    agent.wait_log(&["DPT=5001 "]).unwrap();
    let complaints = agent.stderr().matches("cannot write to the log").count();
    assert_eq!(complaints, 1, "{}", agent.stderr());

    fs::remove_file(&file).unwrap();
    send(&node, 5002);
    let deadline = Instant::now() + LIMIT;
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if text.contains("\"status\":\"lost ") && text.contains("No space left on device") {
            break;
        }
        assert!(Instant::now() < deadline, "{text}\n{}", agent.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.after(|| tree.write_firewall(101, RULES)).unwrap();
}
