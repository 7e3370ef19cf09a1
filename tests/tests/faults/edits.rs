//! Many edits at once, and a second agent.

use std::fs;
use std::time::{Duration, Instant};

use tapwall_tests::agent::{Agent, program};
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{TIMEOUT, UdpServer, exchange};
use tapwall_tests::tree::{ConfigTree, NODE, temporary_directory};

const EDITS: u16 = 1000;
/// How long the last of them may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What an agent may gain by a thousand edits, in KiB.
const GAIN: u64 = 16 << 10;

fn rules(edit: u16) -> String {
    let port = 10_000 + u32::from(edit);
    format!("[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p udp -dport {port}\n")
}

#[test]
fn a_thousand_edits_end_in_the_last_one_and_in_no_more_memory() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let file = tree.path().join("firewall/100.fw");
    fs::write(&file, rules(0)).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let burst = |last: u16| {
        for edit in last - EDITS + 1..=last {
            // Not in one step, as an editor may: the agent may read any part of it.
            fs::write(&file, rules(edit)).unwrap();
        }
    };
    let outside = &node.outside;
    let attempt = |port, timeout| {
        let to = node.vm.v4_port(port);
        exchange(&outside.namespace, outside.v4(), to, b"edit", timeout)
    };
    let mut memory = Vec::new();
    for round in 1..=3 {
        burst(round * EDITS);
        let last = 10_000 + round * EDITS;
        let _server = UdpServer::start(&node.vm.namespace, node.vm.v4_port(last)).unwrap();
        let deadline = Instant::now() + LIMIT;
        while attempt(last, Duration::from_millis(100)) != Answered {
            assert!(Instant::now() < deadline, "{round}: {}", agent.stderr());
        }
        memory.push(agent.memory().unwrap());
    }
    println!("memory after each burst: {memory:?} KiB");
    // The first burst fills buffers; those behind it add nothing.
    assert!(memory[2] < memory[0] + GAIN, "{memory:?} KiB");
    let other = node.vm.v4_port(10_001);
    let _other = UdpServer::start(&node.vm.namespace, other).unwrap();
    assert_eq!(attempt(other.port(), TIMEOUT), Silent);
    let record = agent.record().unwrap().unwrap();
    assert_eq!(record.degraded, Vec::<String>::new());
}

#[test]
fn a_second_agent_refuses_to_start_and_changes_nothing() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &rules(0)).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let before = agent.record().unwrap();
    let place = temporary_directory("second").unwrap();
    let second = |run: &std::path::Path| {
        let output = node
            .host
            .namespace
            .command(program("fw-agent").unwrap())
            .arg("--root")
            .arg(tree.path())
            .args(["--node", NODE, "--pin-dir"])
            .arg(agent.pin_directory())
            .arg("--run-dir")
            .arg(run)
            .arg("--state-dir")
            .arg(place.path())
            .arg("--log-file")
            .arg(place.path().join("log"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), said)
    };
    let (code, said) = second(agent.run_directory());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("another agent holds the lock"), "{said}");
    assert_eq!(agent.record().unwrap(), before);
    assert!(agent.fwctl(&["status"]).unwrap().status.success());
    let to = node.vm.v4_port(10_000);
    let _server = UdpServer::start(&node.vm.namespace, to).unwrap();
    let outside = &node.outside;
    let seen = exchange(&outside.namespace, outside.v4(), to, b"second", TIMEOUT);
    assert_eq!(seen, Answered, "{}", agent.stderr());
}
