//! `fwctl why`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::time::Duration;

use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::Refused;
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::ConfigTree;

use crate::{done, fwctl, json, masked};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p udp -dport 80 # web\nIN REJECT -p tcp -dport 81\n";

fn why(agent: &Agent, rest: &[&str]) -> Value {
    let ends = ["why", "192.0.2.200", "100", "--dest", "192.0.2.100", "--json"];
    json(agent, &[&ends[..], rest].concat())
}

#[test]
fn the_programs_in_force_are_asked_and_nothing_changes() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let counted = |line: u32| {
        let listing = json(&agent, &["rules", "100", "--json"]);
        let rows = listing["rules"].as_array().unwrap();
        let row = rows.iter().find(|row| row["line"] == line).unwrap();
        row["packets"].clone()
    };
    let flows = || {
        let list = ["conntrack", "list", "--guest", "100", "--port", "80", "--count", "--json"];
        json(&agent, &list)["flows"].clone()
    };
    for (service, verdict, reason, line, begins) in [
        ("udp/80", "ACCEPT", "rule", 5, true),
        ("tcp/81", "REJECT", "rule", 6, false),
        ("udp/82", "DROP", "policy", 3, false),
    ] {
        let said = why(&agent, &[service]);
        assert_eq!(said["verdict"], verdict, "{said}");
        assert_eq!(said["reason"], reason, "{said}");
        assert_eq!(said["rule"]["file"], "firewall/100.fw", "{said}");
        assert_eq!(said["rule"]["line"], line, "{said}");
        let step = &said["kernel"][0];
        assert_eq!(step["device"], "tap100i0", "{said}");
        assert_eq!(step["in_force"], true, "{said}");
        assert_eq!(step["flow"], Value::Null, "{said}");
        assert_eq!(step["begins_flow"], begins, "{said}");
        assert_eq!(counted(line), 0, "asking is not counted");
    }
    assert_eq!(flows(), 0);

    // What the node knows of flows counts.
    let (from, to) = (&node.outside, node.vm.v4_port(80));
    let seen = exchange(&from.namespace, from.v4(), to, b"?", Duration::from_secs(1));
    assert_eq!(seen, Refused, "nobody listens");
    assert_eq!((counted(5), flows()), (1.into(), 1.into()));
    let list = json(&agent, &["conntrack", "list", "--guest", "100", "--port", "80", "--json"]);
    let sport = list[0]["sport"].to_string();
    let said = why(&agent, &["udp/80", "--sport", &sport]);
    let flow = &said["kernel"][0]["flow"];
    assert_eq!((&flow["state"], &flow["origin"]), (&"UNREPLIED".into(), &"IN".into()), "{said}");
    assert_eq!((counted(5), flows()), (1.into(), 1.into()));

    // What is in force counts, not what the files say by now; and no agent is needed.
    agent.terminate().unwrap();
    tree.write_firewall(100, "[OPTIONS]\nenable: 1\n").unwrap();
    let said = why(&agent, &["udp/80"]);
    assert_eq!((&said["verdict"], &said["rule"]), (&"ACCEPT".into(), &Value::Null), "{said}");
    let text = done(&agent, &["why", "192.0.2.200", "100", "udp/80", "--dest", "192.0.2.100"]);
    assert!(text.contains("which the files do not have (any more)"), "{text}");
    tree.write_firewall(100, RULES).unwrap();
    let text = done(&agent, &["why", "192.0.2.200", "100", "udp/80", "--dest", "192.0.2.100"]);
    insta::assert_snapshot!(masked(&text));
}

#[test]
fn packets_of_the_host_and_between_guests_are_walked_over_their_hops() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let on = "[OPTIONS]\nenable: 1\n[RULES]\n";
    tree.write_firewall(100, &format!("{on}IN SSH(ACCEPT)\n")).unwrap();
    tree.write_firewall(101, &format!("{on}OUT DROP -p tcp -dport 23\n")).unwrap();
    let host = "nodes/demo/host.fw";
    tree.write(host, "[OPTIONS]\nenable: 1\n[RULES]\nIN DROP -p tcp -dport 25\nIN ACCEPT -p tcp -dport 26\n")
        .unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let to_vm = ["--source", "192.0.2.101", "--dest", "192.0.2.100", "--json"];
    for (ends, verdict, hops) in [
        (&["101", "100", "tcp/22"][..], "ACCEPT", 2),
        (&["ct101", "vm100", "tcp/23"], "DROP", 1),
        (&["101/net0", "100/net0", "tcp/24"], "DROP", 2),
    ] {
        let said = json(&agent, &[&["why"], ends, &to_vm].concat());
        assert_eq!(said["verdict"], verdict, "{said}");
        assert_eq!(said["path"].as_array().unwrap().len(), hops, "{said}");
        assert_eq!(said["kernel"].as_array().unwrap().len(), hops, "{said}");
    }
    for (port, verdict, line) in [("tcp/25", "DROP", 4), ("tcp/26", "ACCEPT", 5)] {
        let said = json(&agent, &["why", "192.0.2.200", "192.0.2.1", port, "--json"]);
        assert_eq!(said["verdict"], verdict, "{said}");
        assert_eq!(said["rule"]["line"], line, "{said}");
        assert_eq!(said["kernel"][0]["program"], "tapwall_host_ingress", "{said}");
    }
    for (arguments, expect) in [
        (&["why", "nowhere", "100"][..], "expected host, outside, a guest"),
        (&["why", "outside", "100", "tcp/ssh"], "expected a protocol and a port's number"),
        (&["why", "eno9/x", "host"], "eno9 is not there"),
    ] {
        let (text, code) = fwctl(&agent, arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(expect), "{text}");
    }
}
