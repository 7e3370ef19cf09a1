//! What verbs say that cannot do what they are asked.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::Command;

use tapwall_tests::agent::{Agent, program};
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::ConfigTree;

use crate::fwctl;

/// What a verb says that fails, run by itself or by a program before it.
fn failing(before: &[&str], arguments: &[&str]) -> String {
    let own = program("fwctl").unwrap();
    let mut words = before.iter().map(|word| (*word).into());
    let first = words.next().unwrap_or_else(|| own.clone().into_os_string());
    let mut command = Command::new(&first);
    if !before.is_empty() {
        command.args(words).arg(&own);
    }
    let output = command.args(arguments).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn it_is_said_what_is_missing_and_what_to_do() {
    let nowhere = "/sys/fs/bpf/tapwall-test-nowhere";
    for arguments in [&["conntrack", "list"][..], &["top", "--once"], &["drops"]] {
        let place = [&["--pin-dir", nowhere], arguments].concat();
        let said = failing(&[], &place);
        let expect = format!(
            "fwctl: no maps are pinned in {nowhere}: the firewall is not loaded; `fwctl start` starts it\n"
        );
        assert_eq!(said, expect);
        // There nobody is root.
        let said = failing(&["unshare", "--user"], &place);
        assert!(said.contains("only root may look into the maps"), "{said}");
    }
    let log = ["log", "--file", "/nonexistent/log"];
    let said = failing(&[], &log);
    assert!(said.contains("nothing was logged yet"), "{said}");
    let said = failing(&[], &["log", "--reason", "policy"]);
    assert!(said.contains("set `json` under [log]"), "{said}");
}

#[test]
fn who_is_not_there_is_told_who_is_and_an_agent_that_is_gone_how_to_start_it() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let there = "no 102 is under policy on this node: there are 101/net0, 100/net0, host";
    for arguments in [
        &["rules", "102"][..],
        &["conntrack", "list", "--guest", "102"],
        &["conntrack", "top", "--guest", "102"],
        &["counters", "zero", "102"],
        &["top", "--once", "-d", "200ms", "--guest", "102"],
    ] {
        let output = agent.fwctl(arguments).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(there), "{arguments:?}: {said}");
    }
    agent.terminate().unwrap();
    let (said, code) = fwctl(&agent, &["reload"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no agent runs"), "{said}");
    assert!(said.contains("`fwctl start` starts it"), "{said}");
}
