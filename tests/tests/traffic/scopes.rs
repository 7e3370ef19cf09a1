//! What cannot be enforced for one guest is nobody else's trouble.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::IpAddr;

use fw_common::maps::policy::MAX_RULES;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::TcpServer;
use tapwall_tests::tree::ConfigTree;

use crate::bed::{Bed, firewall};

const RULES: &str = "IN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\n";

/// More rules than a policy takes.
fn too_many() -> String {
    let rules = (0..=MAX_RULES).map(|rule| format!("IN ACCEPT -p tcp -dport {}\n", 1000 + rule));
    firewall("ACCEPT", &rules.collect::<String>())
}

/// What each guest answers at two ports.
#[track_caller]
fn expect(bed: &Bed, when: &str, answers: [[&Answer; 2]; 2]) {
    for (guest, expect) in bed.guests().into_iter().zip(answers) {
        for (port, expect) in [80, 82].into_iter().zip(expect) {
            let to = guest.v4_port(port);
            let _server = TcpServer::start(&guest.namespace, to).unwrap();
            let seen = bed.tcp(&bed.node.outside, to);
            bed.expect(&format!("{when}: {to}"), seen, expect);
        }
    }
}

/// The state of the node has a line with these words, or none.
#[track_caller]
fn expect_status(bed: &Bed, words: Option<&str>) {
    let output = bed.agent.fwctl(&["status"]).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    let found = lines.find(|line| line.starts_with("degraded: "));
    match words {
        None => assert_eq!(found, None, "{text}"),
        Some(words) => assert!(found.is_some_and(|line| line.contains(words)), "{text}"),
    }
}

#[test]
fn a_guest_whose_policy_cannot_be_built_keeps_its_last_one_and_others_change() {
    let bed = Bed::new(RULES).unwrap();
    let first = [[&Answered, &Refused]; 2];
    expect(&bed, "first", first);
    expect_status(&bed, None);
    let other = |bed: &Bed, rules: &str| {
        let text = firewall("REJECT", rules);
        bed.agent.after(|| bed.tree.write_firewall(101, &text))
    };
    bed.agent
        .after(|| bed.tree.write_firewall(100, &too_many()))
        .unwrap();
    expect(&bed, "too many rules", first);
    expect_status(&bed, Some("guest 100 net0 IN: "));
    other(&bed, "IN ACCEPT -p tcp -dport 82\n").unwrap();
    let changed = [&Refused, &Answered];
    expect(&bed, "the other", [first[0], changed]);
    expect_status(&bed, Some("guest 100 net0 IN: "));

    // It gets well by itself.
    let text = firewall("DROP", "IN ACCEPT -p tcp -dport 82\n");
    bed.agent
        .after(|| bed.tree.write_firewall(100, &text))
        .unwrap();
    expect(&bed, "well again", [[&Silent, &Answered], changed]);
    expect_status(&bed, None);
}

#[test]
fn a_guest_whose_policy_could_never_be_built_is_closed() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &too_many()).unwrap();
    tree.write_firewall(101, &firewall("REJECT", RULES))
        .unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let bed = Bed { agent, tree, node };
    expect(&bed, "never", [[&Silent; 2], [&Answered, &Refused]]);
    expect_status(&bed, Some("guest 100 net0 IN: "));
    let outside: IpAddr = bed.node.outside.v4();
    bed.expect("out", bed.ping(&bed.node.vm, outside), &Silent);
    bed.expect("out", bed.ping(&bed.node.container, outside), &Answered);
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_contents_or_closes_its_guest() {
    let bed = Bed::new(RULES).unwrap();
    let first = [[&Answered, &Refused]; 2];
    let file = "firewall/100.fw";
    // A directory in its place exists and cannot be read, by root either.
    let [path, directory] = [file, "directory"].map(|name| bed.tree.path().join(name));
    fs::create_dir(&directory).unwrap();
    let exchange = |bed: &Bed| {
        let swapped = || {
            Ok(renameat_with(
                CWD,
                &path,
                CWD,
                &directory,
                RenameFlags::EXCHANGE,
            )?)
        };
        bed.agent.after(swapped).unwrap();
    };
    exchange(&bed);
    expect(&bed, "just unreadable", first);
    let text = firewall("REJECT", "IN ACCEPT -p tcp -dport 82\n");
    bed.agent
        .after(|| bed.tree.write_firewall(101, &text))
        .unwrap();
    let changed = [&Refused, &Answered];
    expect(&bed, "unreadable", [first[0], changed]);
    expect_status(&bed, Some("firewall/100.fw cannot be read ("));

    exchange(&bed);
    expect_status(&bed, None);
    bed.agent
        .after(|| bed.tree.write_firewall(100, &firewall("DROP", "")))
        .unwrap();
    expect(&bed, "readable", [[&Silent; 2], changed]);
    expect_status(&bed, None);

    // One that was never read closes its guest, also for an agent that finds neither kernel nor cache with anything of it.
    drop(bed);
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(101, &firewall("REJECT", RULES))
        .unwrap();
    fs::create_dir(tree.path().join(file)).unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let bed = Bed { agent, tree, node };
    expect(&bed, "never read", [[&Silent; 2], first[1]]);
    expect_status(&bed, Some("firewall/100.fw cannot be read ("));
}
