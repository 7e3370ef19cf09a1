//! Before the cluster file system is there: the last good configuration is enforced.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::time::{Duration, Instant};

use fw_agent::control::client;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{self, Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::{ConfigTree, NODE};

const LIMIT: Duration = Duration::from_secs(10);

fn rules(port: u16) -> String {
    format!("[OPTIONS]\nenable: 1\npolicy_in: DROP\n\n[RULES]\nIN ACCEPT -p tcp -dport {port}\n")
}

fn tcp(node: &DemoNode, port: u16, timeout: Duration) -> Answer {
    let outside = &node.outside;
    connect(
        &outside.namespace,
        outside.v4(),
        node.vm.v4_port(port),
        timeout,
    )
}

/// A boot: no agent, no pins, no tree; then an agent with the state of the one before.
fn boot(mut agent: Agent, node: &DemoNode) -> Agent {
    agent.terminate().unwrap();
    let stopped = agent.fwctl(&["stop"]).unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
    agent.respawn(&node.host.namespace).unwrap()
}

#[test]
fn without_the_tree_the_cached_configuration_is_enforced_and_then_the_real_one() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &rules(80)).unwrap();
    let servers = [80, 81].map(|port| TcpServer::start(&node.vm.namespace, node.vm.v4_port(port)));
    assert!(servers.iter().all(Result::is_ok));
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    // As if the cluster file system were not mounted: without the node's directory, what else is there does not count.
    fs::rename(tree.path().join("nodes"), tree.path().join("away")).unwrap();
    let agent = boot(agent, &node);
    let record = agent
        .wait_for(LIMIT, "the cached configuration", |record| record.enabled)
        .unwrap();
    assert!(
        record
            .degraded
            .iter()
            .any(|text| text.contains("the configuration of")),
        "{record:?}"
    );
    assert!(agent.stderr().contains("is enforced until it is there"));
    assert_eq!(tcp(&node, 80, TIMEOUT), Answered, "{}", agent.stderr());
    assert_eq!(tcp(&node, 81, TIMEOUT), Silent, "{}", agent.stderr());

    tree.write_firewall(100, &rules(81)).unwrap();
    fs::rename(tree.path().join("away"), tree.path().join("nodes")).unwrap();
    agent
        .wait_for(LIMIT, "the real configuration", |record| {
            record.degraded.is_empty()
        })
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while tcp(&node, 81, Duration::from_millis(200)) != Answered {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
    }
    assert_eq!(tcp(&node, 80, TIMEOUT), Silent, "{}", agent.stderr());
}

#[test]
fn a_damaged_cache_is_reported_and_not_used() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    agent.terminate().unwrap();
    let file = agent.state_directory().join("last-good");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    fs::rename(tree.path().join("nodes"), tree.path().join("away")).unwrap();
    let agent = boot(agent, &node);
    agent
        .wait_said("is damaged: its checksum is another")
        .unwrap();
    agent.wait_said("the last policy stays in force").unwrap();
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        match client::status(agent.run_directory()) {
            Ok(status) => break status,
            Err(error) => assert!(Instant::now() < deadline, "{error:#}"),
        }
    };
    assert_eq!(status.record.generation, 0);
    let why = format!("nodes/{NODE}");
    assert!(
        status
            .record
            .degraded
            .iter()
            .any(|text| text.contains(&why)),
        "{status:?}"
    );
    fs::rename(tree.path().join("away"), tree.path().join("nodes")).unwrap();
    agent
        .wait_for(LIMIT, "the real configuration", |record| record.enabled)
        .unwrap();
}

#[test]
fn without_a_tree_or_a_cache_the_agent_waits_and_can_be_asked_and_stopped() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    fs::rename(tree.path().join("nodes"), tree.path().join("away")).unwrap();
    let agent = Agent::spawn(&node.host.namespace, &tree).unwrap();
    agent.wait_said("cannot read").unwrap();
    assert_eq!(agent.record().unwrap(), None);
    let output = agent.fwctl(&["status"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.starts_with("Status: disabled/running\ndegraded: cannot read"),
        "{text}"
    );
    let stopped = agent.fwctl(&["stop"]).unwrap();
    assert!(stopped.status.success(), "{stopped:?}");
}
