//! `fwctl drops`, `fwctl trace` and `fwctl log`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tapwall_tests::agent::{Agent, program};
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{Refused, Silent};
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::{fwctl, json};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p udp -dport 80\nIN REJECT -p udp -dport 81 -log info\n";

/// A verb that goes on until it has printed what it is to print, and is ended with the test.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    /// Starts it and waits until it watches.
    fn start(agent: &Agent, node: &DemoNode, tree: &ConfigTree, arguments: &[&str]) -> Self {
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", node.host.namespace.path().display()))
            .arg("--")
            .arg(program("fwctl").unwrap())
            .args(["--node", NODE, "--root"])
            .arg(tree.path())
            .arg("--pin-dir")
            .arg(agent.pin_directory())
            .arg("--run-dir")
            .arg(agent.run_directory())
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "fwctl: watching\n");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn send(node: &DemoNode, port: u16) {
    let (from, to) = (&node.outside, node.vm.v4_port(port));
    let timeout = Duration::from_millis(100);
    let seen = exchange(&from.namespace, from.v4(), to, b"live", timeout);
    assert!(matches!(seen, Silent | Refused), "{seen:?}");
}

#[test]
fn verdicts_are_seen_logged_or_not_with_their_rule_with_and_without_an_agent() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let drops = ["drops", "-f", "--json", "--guest", "100", "--proto", "udp", "--address", "192.0.2.200"];
    let mut watched = Following::start(&agent, &node, &tree, &drops);
    send(&node, 80);
    send(&node, 81);
    send(&node, 5000);
    let said = watched.json();
    for (key, expect) in [
        ("guest", Value::from(100)),
        ("nic", 0.into()),
        ("device", "tap100i0".into()),
        ("direction", "in".into()),
        ("verdict", "reject".into()),
        ("reason", "rule".into()),
        ("source", "192.0.2.200".into()),
        ("dest", "192.0.2.100".into()),
        ("dport", 81.into()),
        ("protocol_name", "udp".into()),
    ] {
        assert_eq!(said[key], expect, "{key} of {said}");
    }
    assert_eq!((&said["rule"]["file"], &said["rule"]["line"]), (&"firewall/100.fw".into(), &6.into()));
    let said = watched.json();
    assert_eq!((&said["verdict"], &said["dport"]), (&"drop".into(), &5000.into()), "{said}");
    assert_eq!((&said["reason"], &said["rule"]["line"]), (&"policy".into(), &3.into()), "{said}");
    drop(watched);

    // Without an agent too, and every verdict.
    agent.terminate().unwrap();
    let trace = ["trace", "--guest", "100/net0", "--port", "80", "-n", "1"];
    let mut watched = Following::start(&agent, &node, &tree, &trace);
    send(&node, 5000);
    send(&node, 80);
    let line = watched.line();
    let (_, line) = line.split_once(' ').unwrap();
    assert!(line.starts_with("ACCEPT 100/net0 IN  udp 192.0.2.200:"), "{line}");
    let end = "-> 192.0.2.100:80  rule  firewall/100.fw:5: IN ACCEPT -p udp -dport 80\n";
    assert!(line.ends_with(end), "{line}");
    assert!(watched.child.wait().unwrap().success(), "it ends after one");
    drop(watched);

    let reason = ["drops", "-f", "--reason", "rule", "--json", "-n", "1"];
    let mut watched = Following::start(&agent, &node, &tree, &reason);
    send(&node, 5000);
    send(&node, 81);
    assert_eq!(watched.json()["dport"], 81);
}

#[test]
fn totals_are_by_reason_and_what_is_no_filter_is_said() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let totals = json(&agent, &["drops", "--json"]);
    let reasons: Vec<&str> = totals
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reason"].as_str().unwrap())
        .collect();
    assert!(reasons.contains(&"ip-filter") && !reasons.contains(&"established"), "{totals}");
    for (arguments, expect) in [
        (&["drops", "--reason", "because"][..], "reasons are rule, policy"),
        (&["drops", "--guest", "100"], "use --follow"),
        (&["trace", "--for", "0"], "is no length of time"),
    ] {
        let (text, code) = fwctl(&agent, arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expect), "{text}");
    }
}
