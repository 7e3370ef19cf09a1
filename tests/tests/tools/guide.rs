//! `docs/guide.md`: what it shows of a demo node is what a demo node says.
//!
//! Blocks that begin with "```console demo" have lines `# fwctl …` and what that prints. In them `…` stands for anything: within a line for any text, as
//! a line for any lines. Blanks count as one, empty lines not at all.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, STRANGER_V4};
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::connect;
use tapwall_tests::tree::{ConfigTree, temporary_directory};

const GUIDE: &str = include_str!("../../../docs/guide.md");

/// A command and the lines that it is said to print.
struct Shown {
    arguments: Vec<&'static str>,
    lines: Vec<String>,
}

fn shown() -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    let mut in_block = false;
    for line in GUIDE.lines() {
        match (line, line.strip_prefix("# fwctl ")) {
            ("```console demo", _) => in_block = true,
            ("```", _) => in_block = false,
            _ if !in_block => {}
            (_, Some(command)) => found.push(Shown {
                arguments: command.split(' ').collect(),
                lines: Vec::new(),
            }),
            (line, None) => found.last_mut().unwrap().lines.extend(plain(line)),
        }
    }
    found
}

/// A line with single blanks, unless it is empty.
fn plain(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// Whether a line is as it is shown.
fn is_like(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…').map(str::trim);
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut ends = true;
    for part in parts {
        ends = part.is_empty();
        let Some((_, behind)) = rest.split_once(part) else {
            return false;
        };
        rest = behind;
    }
    ends || rest.is_empty()
}

/// What differs, if something does.
fn difference(printed: &[String], shown: &[String]) -> Option<String> {
    let mut at = 0;
    let mut anywhere = false;
    for line in shown {
        if line == "…" {
            anywhere = true;
            continue;
        }
        let mut rest = printed.iter().skip(at);
        let found = match anywhere {
            true => rest.position(|printed| is_like(printed, line)),
            false => rest
                .next()
                .and_then(|printed| is_like(printed, line).then_some(0)),
        };
        let Some(found) = found else {
            return Some(format!("no {line:?} behind line {at}"));
        };
        at += found + 1;
        anywhere = false;
    }
    (!anywhere && at < printed.len()).then(|| format!("more than is shown from line {at} on"))
}

#[test]
fn what_the_guide_shows_is_what_a_node_says() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    for (file, text) in [
        (
            "firewall/cluster.fw",
            include_str!("../../src/bin/demo/sample/cluster.fw"),
        ),
        (
            "firewall/100.fw",
            include_str!("../../src/bin/demo/sample/100.fw"),
        ),
        (
            "firewall/101.fw",
            include_str!("../../src/bin/demo/sample/101.fw"),
        ),
    ] {
        tree.write(file, text).unwrap();
    }
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let (outside, vm) = (&node.outside.namespace, &node.vm);
    let to = vm.v4_port(80);
    let listener = vm.namespace.run(|| Ok(TcpListener::bind(to)?)).unwrap();
    let _near = outside.run(|| Ok(TcpStream::connect(to)?)).unwrap();
    let _far = listener.accept().unwrap();
    let refused = connect(
        outside,
        STRANGER_V4,
        vm.v4_port(22),
        Duration::from_millis(300),
    );
    assert_eq!(refused, Silent);
    agent.wait_log(&["DPT=22 "]).unwrap();

    let place = temporary_directory("settings").unwrap();
    let settings = place.path().join("agent.toml");
    let log = agent.run_directory().join("pve-firewall.log");
    std::fs::write(&settings, format!("[log]\nfile = {log:?}\n")).unwrap();
    let shown = shown();
    assert!(shown.len() >= 10);
    for Shown { arguments, lines } in shown {
        let config = ["--config", settings.to_str().unwrap()];
        let output = agent.fwctl(&[&config[..], &arguments].concat()).unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap();
        let printed: Vec<String> = text.lines().filter_map(plain).collect();
        if let Some(difference) = difference(&printed, &lines) {
            panic!("fwctl {}: {difference}:\n{text}", arguments.join(" "));
        }
    }
}
