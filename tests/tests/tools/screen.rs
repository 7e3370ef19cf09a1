//! `fwctl top`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::Silent;
use tapwall_tests::probe::exchange;
use tapwall_tests::tree::ConfigTree;

use crate::pty::Pty;
use crate::{done, fwctl, json};

const RULES: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p tcp -dport 80\nIN DROP -p udp -dport 5000\n";

/// A connection from outside to the virtual machine, both ends of it.
fn connection(node: &DemoNode) -> (TcpStream, TcpStream) {
    let to = node.vm.v4_port(80);
    let listener = node.vm.namespace.run(|| Ok(TcpListener::bind(to)?));
    let listener = listener.unwrap();
    let near = node.outside.namespace.run(|| Ok(TcpStream::connect(to)?));
    (near.unwrap(), listener.accept().unwrap().0)
}

/// A datagram that is dropped.
fn drop_one(node: &DemoNode) {
    let (from, to) = (&node.outside, node.vm.v4_port(5000));
    let timeout = Duration::from_millis(20);
    let seen = exchange(&from.namespace, from.v4(), to, b"drop", timeout);
    assert_eq!(seen, Silent);
}

fn top(agent: &Agent, size: (u16, u16)) -> Pty {
    let mut command = agent.fwctl_command().unwrap();
    Pty::start(command.args(["top", "-d", "300ms"]), size)
}

#[test]
fn the_screen_shows_what_happens_obeys_keys_and_gives_the_terminal_back() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let _open = connection(&node);
    drop_one(&node);
    let mut screen = top(&agent, (80, 24));
    screen.wait("[1 guests]");
    screen.wait("100/net0");
    screen.wait(": on, agent runs, generation ");
    screen.wait("every 300ms");
    assert_eq!(screen.text().lines().count(), 24, "{}", screen.text());

    screen.press("2");
    screen.wait("own  100/net0    192.0.2.100");
    screen.wait("peer 100/net0    192.0.2.200");
    screen.press("\t");
    screen.wait("firewall/100.fw:6: IN DROP -p udp");
    screen.wait("firewall/100.fw:5: IN ACCEPT -p tcp");
    screen.press("s");
    screen.wait("by packets");

    // Live where the machine lets anybody look; else it says why not.
    screen.press("4");
    screen.wait("[4 drops]");
    screen.wait_for("a drop, or why there is none", |text| {
        drop_one(&node);
        // What comes behind it is cut off at this width, or is not, as the client's port is long or short.
        text.contains(" -> 192.0.2.100:5000 ") || text.contains("not live: ")
    });
    if screen.text().contains("not live: ") {
        screen.wait("allow tracing programs");
    } else {
        screen.press("\x1b[C\x1b[C\x1b[C\x1b[C\x1b[C");
        screen.wait("rule  firewall/100.fw:6: IN DROP -p udp -dport 5000");
    }

    screen.press("1/102\r");
    screen.wait("no 102 is under policy on this node: there are 101/net0, 100/net0");
    screen.press("/101\r");
    screen.wait("only 101");
    assert!(!screen.text().contains("100/net0"), "{}", screen.text());
    screen.press("?");
    screen.wait("any key goes back");
    screen.press("x\x1b[H");
    screen.resize(120, 40);
    screen.wait_for("a first line of that width", |text| {
        text.lines().next().is_some_and(|line| line.len() == 120)
    });

    // Without an agent too.
    agent.terminate().unwrap();
    screen.wait("agent STOPPED");
    screen.press("p");
    screen.wait("PAUSED");
    screen.press("q");
    assert!(screen.end().success());

    // A signal ends it as a key does.
    let screen = top(&agent, (40, 10));
    screen.wait("[1 guests]");
    screen.signal(Signal::TERM);
    assert!(screen.end().success());
}

#[test]
fn frames_are_printed_with_the_rates_of_an_interval() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, RULES).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let _open = connection(&node);
    let ended = AtomicBool::new(false);
    let (said, text) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                drop_one(&node);
            }
        });
        let once = ["top", "--once", "-d", "1s", "--guest", "100"];
        let said = json(&agent, &[&once[..], &["--json"]].concat());
        let text = done(&agent, &[&once[..], &["--pane", "rules"]].concat());
        ended.store(true, Ordering::Relaxed);
        (said, text)
    });
    let guest = &said["guests"][0];
    assert_eq!(guest["guest"], 100, "{said}");
    assert!(guest["drops_per_second"].as_f64().unwrap() > 1.0, "{said}");
    assert!(guest["flows"].as_u64().unwrap() >= 1, "{said}");
    let rules = said["rules"].as_array().unwrap();
    let rule = rules.iter().find(|rule| rule["line"] == 6).unwrap();
    assert_eq!(rule["file"], "firewall/100.fw", "{said}");
    assert!(rule["hits_per_second"].as_f64().unwrap() > 1.0, "{said}");
    match said["drops"]["not_live"].as_str() {
        None => assert_eq!(said["drops"]["packets"][0]["dport"], 5000, "{said}"),
        Some(why) => assert!(why.contains("does not allow"), "{said}"),
    }
    assert!(text.contains("\nrules, by rate\n"), "{text}");
    assert!(text.contains("firewall/100.fw:6: IN DROP -p udp"), "{text}");
    assert!(!text.contains("\ndrops, by rate\n"), "{text}");

    let (text, code) = fwctl(&agent, &["top"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("standard output is no terminal: use --once"),
        "{text}"
    );
    agent.terminate().unwrap();
    let said = json(&agent, &["top", "--json", "-n", "1", "-d", "200ms"]);
    assert_eq!(said["agent_running"], false, "{said}");
    assert!(!said["guests"].as_array().unwrap().is_empty(), "{said}");
}
