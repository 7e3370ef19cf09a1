//! `fwctl rules` and `fwctl counters`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::time::Duration;

use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::ConfigTree;

use crate::{done, fwctl, json, masked};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n\n[RULES]\n# of the test\nIN DROP -p udp -dport 5000 # counted\nGROUP used\nIN ACCEPT -p tcp -dport 22\n";
const CLUSTER: &str = "[OPTIONS]\nenable: 1\n[group used]\nIN DROP -p udp -dport 6000\n";

fn send(node: &DemoNode, port: u16) {
    let from = &node.outside;
    let (to, timeout) = (node.vm.v4_port(port), Duration::from_millis(2));
    let seen = exchange(&from.namespace, from.v4(), to, b"count", timeout);
    assert_eq!(seen, Silent);
}

/// The row of the rule on a line.
fn on_line<'a>(listing: &'a Value, file: &str, line: u32) -> &'a Value {
    let mut rows = listing["rules"].as_array().unwrap().iter();
    let found = rows.find(|row| row["file"] == file && row["line"] == line);
    found.unwrap_or_else(|| panic!("no {file}:{line} in {listing}"))
}

#[test]
fn rules_have_their_packets_lines_and_comments_with_and_without_an_agent() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    for port in [5000, 5000, 5000, 6000] {
        send(&node, port);
    }
    let text = done(&agent, &["rules", "100"]);
    let own: Vec<&str> = text.lines().filter(|line| line.contains(".fw:")).collect();
    insta::assert_snapshot!(masked(&own.join("\n")), @"
    6 3 141 <time> ago DROP IN DROP -p udp -dport 5000 firewall/100.fw:7 counted
    7 1 47 <time> ago DROP [used] IN DROP -p udp -dport 6000 firewall/cluster.fw:4
    8 0 0 never ACCEPT IN ACCEPT -p tcp -dport 22 firewall/100.fw:9
    20 0 0 never DROP policy_in: DROP firewall/100.fw:3
    ");

    agent.terminate().unwrap();
    let listing = json(&agent, &["rules", "100/net0", "--json"]);
    let row = on_line(&listing, "firewall/100.fw", 7);
    for (key, expect) in [
        ("guest", Value::from("100")),
        ("nic", "net0".into()),
        ("device", "tap100i0".into()),
        ("direction", "IN".into()),
        ("verdict", "DROP".into()),
        ("packets", 3.into()),
        ("comment", "counted".into()),
        ("group", Value::Null),
        ("shared", false.into()),
        ("matches", "proto=udp dport=5000".into()),
    ] {
        assert_eq!(row[key], expect, "{key} of {row}");
    }
    assert!(row["last_hit_seconds_ago"].is_u64(), "{row}");
    assert!(listing["since"].is_string(), "{listing}");
    let row = on_line(&listing, "firewall/cluster.fw", 4);
    assert_eq!(
        (&row["group"], &row["packets"]),
        (&"used".into(), &1.into())
    );

    // An edit above a rule does not touch its counter.
    tree.write_firewall(100, &format!("# one more line\n{RULES}"))
        .unwrap();
    let listing = json(&agent, &["rules", "100", "--json"]);
    assert_eq!(on_line(&listing, "firewall/100.fw", 8)["packets"], 3);

    let listing = json(&agent, &["rules", "100", "--unused", "1d", "--json"]);
    let lines = listing["rules"].as_array().unwrap();
    assert!(lines.iter().any(|row| row["line"] == 10), "{listing}");
    assert!(lines.iter().all(|row| row["line"] != 8), "{listing}");
}

#[test]
fn counters_begin_again_for_whom_it_is_asked() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let packets = || {
        let listing = json(&agent, &["rules", "100", "--json"]);
        on_line(&listing, "firewall/100.fw", 7)["packets"].clone()
    };
    send(&node, 5000);
    assert_eq!(packets(), 1);
    // Not those of another guest, whatever that has sent by itself.
    done(&agent, &["counters", "zero", "101"]);
    assert_eq!(packets(), 1);
    done(&agent, &["counters", "zero", "100/net0"]);
    assert_eq!(packets(), 0);
    send(&node, 5000);
    done(&agent, &["counters", "zero"]);
    assert_eq!(packets(), 0);
    let reasons = json(&agent, &["map", "dump", "COUNTERS", "--json"]);
    let rule = reasons
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["counter"] == "rule");
    assert_eq!(rule.unwrap()["packets"], 0);
    send(&node, 5000);
    assert_eq!(packets(), 1);
}

#[test]
fn what_there_is_not_is_said() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    for (arguments, expect) in [
        (&["rules", "999"][..], "999 has no rules"),
        (&["rules", "net0"], "expected `host`, a guest such as `100`"),
        (&["rules", "--unused", "soon"], "is no length of time"),
    ] {
        let (text, code) = fwctl(&agent, arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expect), "{text}");
    }
    let completions = done(&agent, &["completions", "bash"]);
    assert!(completions.contains("conntrack"), "{completions}");
    assert!(done(&agent, &["man"]).contains(".TH fwctl"));
}
