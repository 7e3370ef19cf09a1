//! An agent with another layout of maps takes over: its own maps, then the links of the one before, one by one.
//!
//! The pins of a running version under another version's name stand for the old agent's.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use fw_common::maps::ABI;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::run;
use tapwall_tests::node::{DemoNode, STRANGER_V4, TAP, VETH};
use tapwall_tests::probe::Answer::{Answered, Refused};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::tree::ConfigTree;

use crate::bed::{Bed, cluster, firewall};

const RULES: &str = "IN ACCEPT -p tcp -dport 80\n";
/// A flow that no rule accepts.
const FORBIDDEN: u16 = 4444;

fn own(pins: &Path) -> PathBuf {
    pins.join(format!("v{ABI}"))
}

fn other(pins: &Path) -> PathBuf {
    pins.join(format!("v{}", ABI + 1000))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Replaces the agent by one that finds what `arrange` makes of the pins, while the forbidden flow is sent to both guests.
fn upgrade(bed: Bed, arrange: impl FnOnce(&Path)) -> (Bed, u64, u64) {
    let Bed { agent, tree, node } = bed;
    let pins = agent.pin_directory().to_path_buf();
    let sinks = [&node.vm, &node.container].map(|guest| {
        let sink = guest.namespace.run(|| {
            let socket = UdpSocket::bind(guest.v4_port(FORBIDDEN))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        (guest.v4_port(FORBIDDEN), sink.unwrap())
    });
    let source = node.outside.namespace.run(|| {
        let socket = UdpSocket::bind(node.outside.v4_port(0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    });
    let source = source.unwrap();
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let agent = thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for (to, _) in &sinks {
                    // The container's rejects come back as errors.
                    if source.send_to(b"forbidden", to).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
                thread::yield_now();
            }
        });
        let host = &node.host.namespace;
        let next = agent.respawn_adjusted(host, |_: &mut Command| arrange(&pins));
        let next = next.and_then(|agent| {
            agent.wait_for(Duration::from_secs(20), "its first record", |_| true)?;
            Ok(agent)
        });
        stop.store(true, Ordering::Relaxed);
        next.unwrap()
    });
    let passed: u64 = sinks
        .iter()
        .map(|(_, sink)| {
            let mut count = 0;
            while sink.recv(&mut [0; 32]).is_ok() {
                count += 1;
            }
            count
        })
        .sum();
    let bed = Bed { agent, tree, node };
    (bed, sent.into_inner(), passed)
}

#[track_caller]
fn check(bed: &Bed, sent: u64, passed: u64) {
    assert!(sent > 10, "{sent}");
    assert_eq!(passed, 0, "of {sent}");
    let outside = &bed.node.outside;
    for guest in bed.guests() {
        let _server = TcpServer::start(&guest.namespace, guest.v4_port(80)).unwrap();
        bed.expect("open", bed.tcp(outside, guest.v4_port(80)), &Answered);
        let seen = bed.tcp(outside, guest.v4_port(81));
        bed.expect("closed", seen, &bed.policy_of(guest));
    }
    let pins = bed.agent.pin_directory();
    assert_eq!(names(pins), [format!("v{ABI}")], "{}", bed.agent.stderr());
}

#[test]
fn an_agent_of_another_version_takes_over_without_a_gap() {
    let bed = Bed::new(RULES).unwrap();
    // Something to drop early, so that there is a link of a network card too.
    let text = cluster("", &format!("[IPSET blacklist]\n{STRANGER_V4}\n"));
    bed.agent
        .after(|| bed.tree.write("firewall/cluster.fw", &text))
        .unwrap();
    let before = names(&own(bed.agent.pin_directory()).join("links"));
    assert!(before.contains(&"eno1-uplink".to_owned()), "{before:?}");
    let (bed, sent, passed) = upgrade(bed, |pins| fs::rename(own(pins), other(pins)).unwrap());
    check(&bed, sent, passed);
    assert_eq!(names(&own(bed.agent.pin_directory()).join("links")), before);
    // And what it took over it can take away.
    let output = bed.agent.fwctl(&["stop"]).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!bed.agent.pin_directory().exists());
    let container = &bed.node.container;
    let _server = TcpServer::start(&container.namespace, container.v4_port(81)).unwrap();
    let outside = &bed.node.outside;
    bed.becomes(&Answered, |timeout| {
        let to = container.v4_port(81);
        connect(&outside.namespace, outside.v4(), to, timeout)
    });
}

#[test]
fn an_upgrade_that_was_cut_short_is_finished_by_the_next_start() {
    let bed = Bed::new(RULES).unwrap();
    // One link was taken over with its pin, the other's pin was not moved yet.
    let (bed, sent, passed) = upgrade(bed, |pins| {
        let (own, other) = (own(pins), other(pins));
        fs::create_dir_all(other.join("maps")).unwrap();
        fs::create_dir_all(other.join("links")).unwrap();
        for name in names(&own.join("links")) {
            if name.starts_with(TAP) {
                continue;
            }
            let (from, to) = (
                own.join("links").join(&name),
                other.join("links").join(&name),
            );
            fs::rename(from, to).unwrap();
        }
        assert!(
            names(&other.join("links"))
                .iter()
                .any(|name| name.starts_with(VETH))
        );
    });
    check(&bed, sent, passed);
}

#[test]
fn filters_are_taken_over_in_place() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &firewall("DROP", RULES)).unwrap();
    tree.write_firewall(101, &firewall("REJECT", RULES))
        .unwrap();
    let agent = Agent::start_with(&node.host.namespace, &tree, &["--clsact"]).unwrap();
    let bed = Bed { agent, tree, node };
    let (bed, sent, passed) = upgrade(bed, |pins| fs::rename(own(pins), other(pins)).unwrap());
    check(&bed, sent, passed);
    let host = &bed.node.host.namespace;
    let filters = || {
        let mut tc = host.command("tc");
        let text = run(tc.args(["filter", "show", "dev", VETH, "egress"])).unwrap();
        text.lines().filter(|line| line.contains(" id ")).count()
    };
    assert_eq!(filters(), 1);
    let container = &bed.node.container;
    let to = container.v4_port(81);
    let attempt = |timeout| {
        connect(
            &bed.node.outside.namespace,
            bed.node.outside.v4(),
            to,
            timeout,
        )
    };
    bed.expect("closed", attempt(TIMEOUT), &Refused);
    assert!(bed.agent.fwctl(&["stop"]).unwrap().status.success());
    let qdiscs = run(host.command("tc").args(["qdisc", "show"])).unwrap();
    assert!(!qdiscs.contains("clsact"), "{qdiscs}");
}
