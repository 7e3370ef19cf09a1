//! `fwctl drops`, `fwctl trace` and `fwctl log`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{Refused, Silent};
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::ConfigTree;

use crate::{done, fwctl, json};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p udp -dport 80\nIN REJECT -p udp -dport 81 -log info\n";

/// A verb that goes on until it has printed what it is to print, and is ended with the test.
struct Following {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Following {
    /// Starts it and waits until it watches. None on a machine that allows nobody to load tracing programs, if it says so and what to do.
    fn start(agent: &Agent, arguments: &[&str]) -> Option<Self> {
        let mut child = agent
            .fwctl_command()
            .unwrap()
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        if line.contains("this machine does not allow tracing programs") {
            assert!(line.contains("`fwctl log -f`"), "{line}");
            assert_eq!(child.wait().unwrap().code(), Some(2));
            return None;
        }
        assert_eq!(line, "fwctl: watching\n");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, lines })
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
    let drops = [
        "drops",
        "-f",
        "--json",
        "--guest",
        "100",
        "--proto",
        "udp",
        "--address",
        "192.0.2.200",
    ];
    let Some(mut watched) = Following::start(&agent, &drops) else {
        return;
    };
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
    assert_eq!(
        (&said["rule"]["file"], &said["rule"]["line"]),
        (&"firewall/100.fw".into(), &6.into())
    );
    let said = watched.json();
    assert_eq!(
        (&said["verdict"], &said["dport"]),
        (&"drop".into(), &5000.into()),
        "{said}"
    );
    assert_eq!(
        (&said["reason"], &said["rule"]["line"]),
        (&"policy".into(), &3.into()),
        "{said}"
    );
    drop(watched);

    // Without an agent too, and every verdict.
    agent.terminate().unwrap();
    let trace = ["trace", "--guest", "100/net0", "--port", "80", "-n", "1"];
    let mut watched = Following::start(&agent, &trace).unwrap();
    send(&node, 5000);
    send(&node, 80);
    let line = watched.line();
    let (_, line) = line.split_once(' ').unwrap();
    assert!(
        line.starts_with("ACCEPT 100/net0 IN  udp 192.0.2.200:"),
        "{line}"
    );
    let end = "-> 192.0.2.100:80  rule  firewall/100.fw:5: IN ACCEPT -p udp -dport 80\n";
    assert!(line.ends_with(end), "{line}");
    assert!(watched.child.wait().unwrap().success(), "it ends after one");
    drop(watched);

    let reason = ["drops", "-f", "--reason", "rule", "--json", "-n", "1"];
    let mut watched = Following::start(&agent, &reason).unwrap();
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
    assert!(
        reasons.contains(&"ip-filter") && !reasons.contains(&"established"),
        "{totals}"
    );
    for (arguments, expect) in [
        (
            &["drops", "--reason", "because"][..],
            "[possible values: rule, policy",
        ),
        (&["drops", "--guest", "100"], "use --follow"),
        (&["trace", "--for", "0"], "is no length of time"),
    ] {
        let (text, code) = fwctl(&agent, arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expect), "{text}");
    }
}

#[test]
fn the_log_is_shown_by_guest_address_and_port() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    send(&node, 81);
    let written = agent.wait_log(&["DPT=81 "]).unwrap();
    let file = agent.run_directory().join("pve-firewall.log");
    let log = |filter: &[&str]| {
        let of = ["log", "--file", file.to_str().unwrap()];
        done(&agent, &[&of[..], filter].concat())
    };
    let one = format!("{written}\n");
    assert_eq!(log(&["--guest", "100", "--port", "81"]), one);
    assert_eq!(
        log(&[
            "--guest",
            "100/net0",
            "--address",
            "192.0.2.0/24",
            "--proto",
            "udp"
        ]),
        one
    );
    for none in [
        ["--guest", "101"],
        ["--port", "82"],
        ["--proto", "tcp"],
        ["--address", "192.0.2.3"],
    ] {
        assert_eq!(log(&none), "", "{none:?}");
    }
    let said: Value = serde_json::from_str(&log(&["--port", "81", "--json"])).unwrap();
    assert_eq!(
        (&said["guest"], &said["source"]),
        (&100.into(), &"192.0.2.200".into())
    );
    let (text, code) = fwctl(&agent, &["log", "--file", "/nowhere/log"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("cannot read /nowhere/log"), "{text}");
}
