//! `fwctl conntrack`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use fw_agent::datapath::flows::{self, Entry};
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::sweep;
use fw_agent::migrate;
use fw_common::conntrack::{ANSWERED, State};
use fw_common::flow::{Flow, FlowKey};
use fw_common::maps::{PortKey, name};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::DemoNode;
use tapwall_tests::tree::{ConfigTree, temporary_directory};

use crate::{done, fwctl, json, masked};

const OPEN: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[RULES]\nIN ACCEPT -p tcp -dport 80\n";
const SHUT: &str = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n";

/// A connection from outside to the virtual machine, both ends of it.
fn connection(node: &DemoNode) -> (TcpStream, TcpStream) {
    let to = node.vm.v4_port(80);
    let listener = node
        .vm
        .namespace
        .run(|| Ok(TcpListener::bind(to)?))
        .unwrap();
    let near = node
        .outside
        .namespace
        .run(|| Ok(TcpStream::connect(to)?))
        .unwrap();
    let (far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    (near, far)
}

/// Whether what one end says reaches the other soon.
fn reaches((near, far): &mut (TcpStream, TcpStream), timeout: Duration) -> bool {
    near.write_all(b"?").unwrap();
    far.set_read_timeout(Some(timeout)).unwrap();
    far.read_exact(&mut [0]).is_ok()
}

#[test]
fn flows_are_listed_flushed_exported_and_imported() {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write_firewall(100, OPEN).unwrap();
    let mut agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let mut open = connection(&node);
    assert!(reaches(&mut open, Duration::from_secs(3)));
    agent.after(|| tree.write_firewall(100, SHUT)).unwrap();
    assert!(reaches(&mut open, Duration::from_secs(3)), "it goes on");
    agent.terminate().unwrap();

    let sport = open.0.local_addr().unwrap().port();
    let text = done(
        &agent,
        &["conntrack", "list", "--guest", "100", "--port", "80"],
    );
    insta::assert_snapshot!(masked(&text).replace(&sport.to_string(), "<port>"), @"
    guest proto dir source dest state age idle expires
    100/net0 tcp IN 192.0.2.200:<port> 192.0.2.100:80 ESTABLISHED <time>
    ");
    let count = |filter: &[&str]| {
        let list = ["conntrack", "list", "--count", "--json"];
        json(&agent, &[&list[..], filter].concat())["flows"].clone()
    };
    let one = [
        "--guest",
        "100",
        "--address",
        "192.0.2.200",
        "--state",
        "established",
    ];
    for (filter, expect) in [
        (&one[..], 1),
        (&["--proto", "tcp", "--port", "80"], 1),
        (&["--guest", "100/net0", "--proto", "tcp"], 1),
        (&["--guest", "100/net1"], 0),
        (&["--guest", "100", "--proto", "tcp", "--half-open"], 0),
        (&["--address", "192.0.2.200/32", "--port", "81"], 0),
        // Not the node's addresses: a frame that the bridge does not know where to send comes by here, too.
        (&["--guest", "101", "--address", "198.51.100.0/24"], 0),
    ] {
        assert_eq!(count(filter), expect, "{filter:?}");
    }
    let top = json(
        &agent,
        &[
            "conntrack",
            "top",
            "--by",
            "service",
            "--guest",
            "100",
            "--json",
        ],
    );
    let named = top["top"].as_array().unwrap().iter();
    assert!(
        named
            .into_iter()
            .any(|row| row["name"] == "tcp/80" && row["flows"] == 1),
        "{top}"
    );

    let place = temporary_directory("export").unwrap();
    let file = place.path().join("flows");
    let file = file.to_str().unwrap();
    done(&agent, &["conntrack", "export", "100", file]);
    let (text, code) = fwctl(&agent, &["conntrack", "flush"]);
    assert_eq!(code, Some(2), "everything is not the default: {text}");
    done(&agent, &["conntrack", "flush", "--guest", "100"]);
    assert_eq!(count(&["--guest", "100"]), 0);
    assert!(
        !reaches(&mut open, Duration::from_millis(300)),
        "it is judged by the rules"
    );

    let import = ["conntrack", "import", file, "--json", "--vmid"];
    let (text, code) = fwctl(&agent, &[&import[..], &["101"]].concat());
    assert_eq!(code, Some(2), "{text}");
    // What the guest has sent meanwhile may have begun flows of its own.
    done(&agent, &["conntrack", "flush", "--guest", "100"]);
    let said = json(&agent, &[&import[..], &["100"]].concat());
    assert_eq!(
        (&said["known"], &said["refused"]),
        (&0.into(), &0.into()),
        "{said}"
    );
    assert_eq!(count(&one), 1);
    assert!(reaches(&mut open, Duration::from_secs(3)), "it goes on");
    let again = json(&agent, &[&import[..], &["100"]].concat());
    assert_eq!(again["imported"], 0, "{again}");
    std::fs::write(
        file,
        "TAPWALL-FLOWS 1\nbut nothing more, and that for long enough",
    )
    .unwrap();
    let (text, code) = fwctl(&agent, &[&import[..], &["100"]].concat());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("damaged"), "{text}");
}

#[test]
fn a_hundred_thousand_flows_travel_and_no_port_gets_more_than_its_quota() {
    const MANY: u32 = 100_000;
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    let pins = Pins::new(agent.pin_directory());
    let now = sweep::now();
    let flow = |number: u32, vmid| Entry {
        key: FlowKey {
            vmid,
            net: 0,
            protocol: 6,
            version: 4,
            local: migrate::key_address("192.0.2.100".parse().unwrap()),
            remote: migrate::key_address(std::net::Ipv4Addr::from(0x0a00_0000 + number).into()),
            local_port: 80,
            remote_port: 40_000,
        },
        flow: Flow {
            seen: now,
            created: now,
            state: State::Established as u32 | ANSWERED,
            ..Flow::default()
        },
        settled: true,
    };
    let sent: Vec<Entry> = (0..MANY).map(|number| flow(number, 100)).collect();
    let bytes = migrate::write(100, &sent, now).unwrap();
    let place = temporary_directory("many").unwrap();
    let file = place.path().join("flows");
    std::fs::write(&file, &bytes).unwrap();
    let file = file.to_str().unwrap();
    let said = json(&agent, &["conntrack", "import", file, "--json"]);
    assert_eq!(said["imported"], MANY, "{said}");
    let usage = || {
        let usage = pins.hash::<PortKey, u64>(name::FLOW_USAGE).unwrap();
        let port = PortKey {
            vmid: 100,
            net: 0,
            reserved: 0,
        };
        usage.get(&port, 0).unwrap_or(0)
    };
    assert_eq!(usage(), u64::from(MANY));
    done(&agent, &["conntrack", "export", "100", file]);
    // The guest may have begun some of its own.
    let is_ours = |entry: &Entry| (entry.key.local_port, entry.key.remote_port) == (80, 40_000);
    let exported = migrate::read(&std::fs::read(file).unwrap(), now).unwrap();
    let ours = exported.flows.iter().filter(|entry| is_ours(entry));
    assert_eq!(ours.count(), sent.len());

    let more: Vec<Entry> = (MANY..MANY + 50_000)
        .map(|number| flow(number, 100))
        .collect();
    let quota = u64::from(fw_common::maps::Settings::default().flow_quota);
    let done_so = flows::insert(&pins, &more).unwrap();
    assert_eq!(u64::from(MANY) + done_so.inserted as u64, quota);
    assert_eq!(done_so.refused, more.len() - done_so.inserted);
    assert_eq!(usage(), quota);
    assert_eq!(flows::remove(&pins, is_ours).unwrap() as u64, quota);
    assert_eq!(usage(), 0);
}
