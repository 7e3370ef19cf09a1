//! `fwctl status`, `start` and `restart`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::ConfigTree;

/// First line, all lines, exit code.
fn status(agent: &Agent) -> (String, String, Option<i32>) {
    let output = agent.fwctl(&["status"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let first = text.lines().next().unwrap_or_default().to_owned();
    (first, text, output.status.code())
}

#[test]
fn the_line_says_enabled_running_and_pending() {
    let namespace = Netns::new("status").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let mut agent = Agent::start(&namespace, &tree).unwrap();
    let (line, text, code) = status(&agent);
    assert_eq!(
        (line.as_str(), code),
        ("Status: enabled/running", Some(0)),
        "{text}"
    );
    assert!(text.contains("\ngeneration "), "{text}");

    agent
        .after(|| tree.write("firewall/cluster.fw", "[OPTIONS]\nenable: 0\n"))
        .unwrap();
    assert_eq!(status(&agent).0, "Status: disabled/running");

    // One that hangs has not seen the edit; the record tells.
    agent.signal(Signal::STOP).unwrap();
    let (line, ..) = status(&agent);
    assert_eq!(line, "Status: disabled/running");
    tree.write("firewall/cluster.fw", "[OPTIONS]\nenable: 1\n")
        .unwrap();
    let (line, text, code) = status(&agent);
    let expect = "Status: disabled/running (pending changes)";
    assert_eq!((line.as_str(), code), (expect, Some(1)), "{text}");
    agent.after(|| agent.signal(Signal::CONT)).unwrap();
    assert_eq!(status(&agent).0, "Status: enabled/running");

    agent.terminate().unwrap();
    let (line, text, _) = status(&agent);
    assert_eq!(line, "Status: enabled/stopped", "{text}");
    let stopped = agent.fwctl(&["stop"]).unwrap();
    assert!(stopped.status.success());
    let (_, text, code) = status(&agent);
    assert_eq!(
        (text.as_str(), code),
        ("Status: enabled/stopped\n", Some(0))
    );
}

#[test]
fn errors_show_and_json_has_everything() {
    let namespace = Netns::new("errors").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    agent
        .after(|| tree.write_firewall(100, "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p x\n"))
        .unwrap();
    let (line, text, code) = status(&agent);
    assert_eq!((line.as_str(), code), ("Status: enabled/running", Some(1)));
    assert!(text.contains("1 lines are not enforced"), "{text}");
    let output = agent.fwctl(&["status", "--json"]).unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, expect) in [
        ("running", Value::from(true)),
        ("pending", false.into()),
        ("enabled", true.into()),
        ("errors", 1.into()),
        ("pid", agent.pid().into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
    ] {
        assert_eq!(json[key], expect, "{key} of {json}");
    }
    assert!(
        json["applied_at"].is_string() && json["degraded"].is_array(),
        "{json}"
    );
}

/// These verbs are systemd's. On a machine that runs it they would do what they say, so only the refusal is tried.
#[test]
fn start_and_restart_need_systemd() {
    if Path::new("/run/systemd/system").is_dir() {
        return;
    }
    let namespace = Netns::new("verbs").unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&namespace, &tree).unwrap();
    for verb in ["start", "restart"] {
        let output = agent.fwctl(&[verb]).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{verb}: {said}");
        assert!(said.contains("no systemd here"), "{verb}: {said}");
    }
}
