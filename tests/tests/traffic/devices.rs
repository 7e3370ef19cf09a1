//! Devices of guests that come before their configuration, come and go, and change their names; filters that others delete.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use fw_agent::datapath::AttachMode;
use fw_agent::datapath::pins::Pins;
use fw_agent::record::Record;
use fw_common::maps::{ABI, Port, name};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use tapwall_tests::agent::{Agent, attach_mode};
use tapwall_tests::netns::{Netns, run};
use tapwall_tests::node::{DemoNode, VETH};
use tapwall_tests::probe::Answer::{Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer};
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::bed::{Bed, firewall};

const RULES: &str = "IN ACCEPT -p tcp -dport 80\n";
const LIMIT: Duration = Duration::from_secs(10);

/// A bed whose container is not plugged yet, and whose agent has these options besides.
fn without_container(options: &[&str]) -> Bed {
    let node = DemoNode::new().unwrap();
    node.unplug_container().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, &firewall("DROP", RULES)).unwrap();
    tree.write_firewall(101, &firewall("REJECT", RULES))
        .unwrap();
    let agent = Agent::start_with(&node.host.namespace, &tree, options).unwrap();
    Bed { agent, tree, node }
}

fn config() -> String {
    format!("nodes/{NODE}/lxc/101.conf")
}

fn is_closed(record: &Record) -> bool {
    record
        .closed
        .iter()
        .any(|port| port.device == VETH && port.attached)
}

fn links(bed: &Bed) -> PathBuf {
    bed.agent.pin_directory().join(format!("v{ABI}/links"))
}

/// Names of the pins of links.
fn pinned(bed: &Bed) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(links(bed))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Interface indices of the ports in the kernel.
fn ports(bed: &Bed) -> Vec<u32> {
    let map = Pins::new(bed.agent.pin_directory())
        .hash::<u32, Port>(name::PORTS)
        .unwrap();
    let mut keys: Vec<u32> = map.keys().collect::<Result<_, _>>().unwrap();
    keys.sort_unstable();
    keys
}

#[test]
fn a_device_is_closed_until_its_configuration_comes() {
    let bed = without_container(&[]);
    let (container, outside) = (&bed.node.container, &bed.node.outside);
    let text = fs::read_to_string(bed.tree.path().join(config())).unwrap();
    bed.agent.after(|| bed.tree.remove(&config())).unwrap();

    let pin = links(&bed).join(format!("{VETH}-ingress"));
    let window = thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            bed.node.host.namespace.run(|| {
                let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
                let started = Instant::now();
                while name_to_index(&socket, VETH).is_err() && started.elapsed() < LIMIT {}
                let made = Instant::now();
                while !pin.exists() && made.elapsed() < LIMIT {}
                Ok(made.elapsed())
            })
        });
        bed.node.plug_container().unwrap();
        watcher.join().unwrap().unwrap()
    });
    println!("from the device's first sight to both programs: {window:?}");
    bed.agent
        .wait_for(LIMIT, "the device closed", is_closed)
        .unwrap();
    let output = bed.agent.fwctl(&["status"]).unwrap();
    let status = String::from_utf8(output.stdout).unwrap();
    assert!(status.contains("closed: no configuration yet"), "{status}");

    let (web, other) = (container.v4_port(80), container.v4_port(81));
    let _server = TcpServer::start(&container.namespace, web).unwrap();
    let _outside = UdpServer::start(&outside.namespace, outside.v4_port(514)).unwrap();
    bed.expect("in", bed.tcp(outside, web), &Silent);
    bed.expect("out", bed.udp(container, outside.v4_port(514)), &Silent);
    bed.expect("ping", bed.ping(container, outside.v4()), &Silent);

    bed.agent
        .after(|| bed.tree.write(&config(), &text))
        .unwrap();
    let attempt = |timeout| {
        let from = &outside.namespace;
        tapwall_tests::probe::connect(from, outside.v4(), web, timeout)
    };
    bed.becomes(&Answered, attempt);
    bed.expect("by its policy", bed.tcp(outside, other), &Refused);
    bed.expect("out", bed.udp(container, outside.v4_port(514)), &Answered);
}

#[test]
fn a_device_whose_configuration_says_no_firewall_is_let_go() {
    let bed = without_container(&[]);
    let (container, outside) = (&bed.node.container, &bed.node.outside);
    let text = fs::read_to_string(bed.tree.path().join(config())).unwrap();
    bed.agent.after(|| bed.tree.remove(&config())).unwrap();
    bed.node.plug_container().unwrap();
    bed.agent
        .wait_for(LIMIT, "the device closed", is_closed)
        .unwrap();
    let _server = TcpServer::start(&container.namespace, container.v4_port(81)).unwrap();
    bed.expect("in", bed.tcp(outside, container.v4_port(81)), &Silent);
    let open = text.replace("firewall=1", "firewall=0");
    let record = bed
        .agent
        .after(|| bed.tree.write(&config(), &open))
        .unwrap();
    assert!(!is_closed(&record), "{record:?}");
    bed.expect("in", bed.tcp(outside, container.v4_port(81)), &Answered);
    assert!(!pinned(&bed).iter().any(|name| name.contains(VETH)));
    // Known now, it is never closed.
    bed.node.unplug_container().unwrap();
    bed.node.plug_container().unwrap();
    bed.expect("again", bed.tcp(outside, container.v4_port(81)), &Answered);
}

#[test]
fn a_device_that_comes_and_goes_500_times_leaves_nothing_and_ends_filtered() {
    let bed = without_container(&[]);
    let (before, ports_before) = (pinned(&bed), ports(&bed));
    let host = &bed.node.host.namespace;
    for round in 0..500 {
        // One in two has a configuration.
        let device = ["veth101i0", "veth777i0"][round % 2];
        host.ip(&format!(
            "link add {device} type veth peer name far\nlink set {device} up\nlink delete {device}"
        ))
        .unwrap();
    }
    bed.node.plug_container().unwrap();
    bed.agent.wait_attached(VETH, None).unwrap();
    let container = &bed.node.container;
    let _server = TcpServer::start(&container.namespace, container.v4_port(80)).unwrap();
    let outside = &bed.node.outside;
    bed.expect("open", bed.tcp(outside, container.v4_port(80)), &Answered);
    bed.expect("closed", bed.tcp(outside, container.v4_port(81)), &Refused);

    let mut expect = before.clone();
    let pins = match attach_mode() {
        AttachMode::Tcx => ["egress", "ingress"],
        AttachMode::Clsact => ["clsact", "qdisc"],
    };
    expect.extend(pins.map(|pin| format!("{VETH}-{pin}")));
    expect.sort();
    become_equal(&expect, || pinned(&bed));
    let mut expect = ports_before.clone();
    expect.push(host.ifindex(VETH).unwrap());
    expect.sort_unstable();
    assert_eq!(ports(&bed), expect);

    bed.node.unplug_container().unwrap();
    let gone = |record: &Record| {
        let mut of = record.ports.iter().filter(|port| port.device == VETH);
        of.all(|port| port.ifindex.is_none())
    };
    bed.agent.wait_for(LIMIT, "the device gone", gone).unwrap();
    become_equal(&before, || pinned(&bed));
    assert_eq!(ports(&bed), ports_before);
}

/// Waits until that is so; what went a moment ago may still be being cleared away.
fn become_equal<T: PartialEq + std::fmt::Debug>(expect: &T, now: impl Fn() -> T) {
    let deadline = Instant::now() + LIMIT;
    while now() != *expect && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(now(), *expect);
}

#[test]
fn pins_that_are_gone_open_nothing_and_come_back() {
    let bed = Bed::new(RULES).unwrap();
    let (container, outside) = (&bed.node.container, &bed.node.outside);
    let before = pinned(&bed);
    let _servers = [80, 81].map(|port| {
        let to = container.v4_port(port);
        TcpServer::start(&container.namespace, to).unwrap()
    });
    // What the end of a mount does to them.
    fs::remove_dir_all(bed.agent.pin_directory()).unwrap();
    let closed = || bed.tcp(outside, container.v4_port(81));
    bed.expect("without pins", closed(), &Refused);
    bed.agent
        .wait_said("pins were gone and have been made again")
        .unwrap();
    assert_eq!(pinned(&bed), before);
    bed.expect("pinned again", closed(), &Refused);
    bed.expect("open", bed.tcp(outside, container.v4_port(80)), &Answered);
    // They are the very links: a later agent takes them over.
    let Bed { agent, tree, node } = bed;
    let agent = agent.restart(&node.host.namespace).unwrap();
    let bed = Bed { agent, tree, node };
    let seen = bed.tcp(&bed.node.outside, bed.node.container.v4_port(81));
    bed.expect("after a restart", seen, &Refused);
    assert!(bed.agent.fwctl(&["stop"]).unwrap().status.success());
    let attempt = |timeout| {
        let (outside, to) = (&bed.node.outside, bed.node.container.v4_port(81));
        tapwall_tests::probe::connect(&outside.namespace, outside.v4(), to, timeout)
    };
    bed.becomes(&Answered, attempt);
}

/// Gives a device another name. Kernels before 6.2 do that only to one that is down (commit bd039b5ea2a9).
fn rename(host: &Netns, from: &str, to: &str) {
    let Err(error) = host.ip(&format!("link set {from} name {to}")) else {
        return;
    };
    assert!(error.to_string().contains("busy"), "{error}");
    for line in [
        format!("link set {from} down"),
        format!("link set {from} name {to}"),
        format!("link set {to} up"),
    ] {
        host.ip(&line).unwrap();
    }
}

#[test]
fn devices_that_change_their_names_have_the_policy_of_the_name() {
    let bed = Bed::new(RULES).unwrap();
    let (host, outside) = (&bed.node.host.namespace, &bed.node.outside);
    let container = &bed.node.container;
    let servers = [80, 81].map(|port| {
        let to = container.v4_port(port);
        TcpServer::start(&container.namespace, to).unwrap()
    });
    let attempt = |port: u16| {
        move |timeout| {
            let to = container.v4_port(port);
            tapwall_tests::probe::connect(&outside.namespace, outside.v4(), to, timeout)
        }
    };
    bed.expect("at first", attempt(81)(TIMEOUT), &Refused);
    // Away: it is no guest's device any more. And back.
    for (from, to, expect) in [(VETH, "moved0", Answered), ("moved0", VETH, Refused)] {
        rename(host, from, to);
        bed.becomes(&expect, attempt(81));
        bed.becomes(&Answered, attempt(80));
    }
    // Two devices swap names while one of them is filtered: what has the name is.
    host.ip("link add dev spare0 type veth peer name spare1")
        .unwrap();
    // One after the other: `ip` remembers names.
    rename(host, VETH, "moved0");
    rename(host, "spare0", VETH);
    host.ip(&format!("link set {VETH} up")).unwrap();
    let other = host.ifindex(VETH).unwrap();
    bed.agent
        .wait_for(LIMIT, "the other device attached", |record| {
            record
                .ports
                .iter()
                .any(|port| port.ifindex == Some(other) && port.attached)
        })
        .unwrap();
    bed.becomes(&Answered, attempt(81));
    for (from, to) in [(VETH, "spare0"), ("moved0", VETH)] {
        rename(host, from, to);
    }
    bed.becomes(&Refused, attempt(81));
    bed.becomes(&Answered, attempt(80));
    // What was set aside for a device that turned out to need nothing goes, a moment later.
    let deadline = Instant::now() + LIMIT;
    while pinned(&bed)
        .iter()
        .any(|name| name.starts_with("interface"))
    {
        assert!(Instant::now() < deadline, "{:?}", pinned(&bed));
        thread::yield_now();
    }
    drop(servers);
}

#[test]
fn filters_that_somebody_deletes_are_there_again_at_once_and_nothing_is_left_by_stop() {
    let bed = without_container(&["--clsact"]);
    bed.node.plug_container().unwrap();
    bed.agent.wait_attached(VETH, None).unwrap();
    let container = &bed.node.container;
    let outside = &bed.node.outside;
    let host = &bed.node.host.namespace;
    let _servers = [80, 81].map(|port| {
        let to = container.v4_port(port);
        TcpServer::start(&container.namespace, to).unwrap()
    });
    let attempt = |timeout| {
        let to = container.v4_port(81);
        tapwall_tests::probe::connect(&outside.namespace, outside.v4(), to, timeout)
    };
    bed.becomes(&Refused, attempt);
    let qdiscs = || run(host.command("tc").args(["qdisc", "show"])).unwrap();
    for command in [
        &["qdisc", "del", "dev", VETH, "clsact"][..],
        &["filter", "del", "dev", VETH, "egress"],
    ] {
        for _ in 0..5 {
            run(host.command("tc").args(command)).unwrap();
            bed.becomes(&Refused, attempt);
            bed.expect("and stays", attempt(TIMEOUT), &Refused);
        }
    }
    bed.expect("open", bed.tcp(outside, container.v4_port(80)), &Answered);
    // On one device somebody else has a filter: its qdisc stays.
    run(host.command("tc").args(
        "filter add dev tap100i0 ingress prio 9 protocol all u32 match u32 0 0 action ok"
            .split(' '),
    ))
    .unwrap_or_default();
    let others = run(host
        .command("tc")
        .args(["filter", "show", "dev", "tap100i0", "ingress"]));
    let kept = others.unwrap().contains("u32");
    assert!(qdiscs().contains("clsact"));
    assert!(bed.agent.fwctl(&["stop"]).unwrap().status.success());
    let left: Vec<String> = qdiscs()
        .lines()
        .filter(|line| line.contains("clsact"))
        .map(str::to_owned)
        .collect();
    assert_eq!(left.len(), usize::from(kept), "{left:?}");
    assert!(left.iter().all(|line| line.contains("tap100i0")));
}
