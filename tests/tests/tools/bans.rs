//! `fwctl ban`, `unban` and `bans`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod enforced;
mod kept;
mod socket;
mod spared;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, STRANGER_V4, STRANGER_V6, Station};
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{Answered, Silent};
use tapwall_tests::probe::{UdpServer, exchange};
use tapwall_tests::tree::{ConfigTree, temporary_directory};

use crate::{done, fwctl, json, masked};

/// Everybody may come in everywhere; one administrator.
const CLUSTER: &str =
    "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n[IPSET management]\n192.0.2.200\n2001:db8:1::200\n";
const GUEST: &str = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";

/// How long something may take that has to happen.
const SOON: Duration = Duration::from_secs(10);

fn bed() -> (DemoNode, ConfigTree, Agent) {
    let node = DemoNode::new().unwrap();
    let tree = ConfigTree::with_demo_guests().unwrap();
    tree.write("firewall/cluster.fw", CLUSTER).unwrap();
    for vmid in [100, 101] {
        tree.write_firewall(vmid, GUEST).unwrap();
    }
    let agent = Agent::start(&node.host.namespace, &tree).unwrap();
    (node, tree, agent)
}

/// The host and both guests.
fn places(node: &DemoNode) -> [&Station; 3] {
    [&node.host, &node.vm, &node.container]
}

fn servers(node: &DemoNode) -> Vec<UdpServer> {
    let places = places(node).into_iter();
    let ends = places.flat_map(|place| [place.v4_port(7), place.v6_port(7)].map(|to| (place, to)));
    ends.map(|(place, to)| UdpServer::start(&place.namespace, to).unwrap())
        .collect()
}

/// What a source outside gets from every place.
fn answers(node: &DemoNode, source: IpAddr, timeout: u64) -> BTreeSet<String> {
    let ask = |place: &Station| {
        let to = SocketAddr::new(place.address_like(source), 7);
        let timeout = Duration::from_millis(timeout);
        exchange(&node.outside.namespace, source, to, b"ban", timeout).to_string()
    };
    places(node).into_iter().map(ask).collect()
}

#[track_caller]
fn is_answered(node: &DemoNode, source: IpAddr) {
    let expect = [Answered.to_string()].into();
    // A datagram may be lost on a busy machine, twice in a row it is not.
    if answers(node, source, 3000) != expect {
        assert_eq!(answers(node, source, 3000), expect, "{source}");
    }
}

#[track_caller]
fn is_banned(node: &DemoNode, source: IpAddr) {
    assert_eq!(
        answers(node, source, 150),
        [Silent.to_string()].into(),
        "{source}"
    );
}

#[test]
fn bans_are_made_listed_and_lifted_for_the_host_and_all_guests() {
    let (node, _tree, agent) = bed();
    let _servers = servers(&node);
    for source in [STRANGER_V4, STRANGER_V6] {
        is_answered(&node, source);
    }
    let ban = [
        "ban",
        "192.0.2.201",
        "2001:db8:1::201",
        "--for",
        "2h",
        "--reason",
        "noise\nat night",
    ];
    let text = done(&agent, &ban);
    insta::assert_snapshot!(masked(&text), @r"
    192.0.2.201 is banned for <time>
    2001:db8:1::201 is banned for <time>
    ");
    for source in [STRANGER_V4, STRANGER_V6] {
        is_banned(&node, source);
    }
    is_answered(&node, node.outside.v4());
    agent.wait_said("192.0.2.201 is banned for ").unwrap();
    assert!(
        agent.stderr().contains("noise at night"),
        "{}",
        agent.stderr()
    );

    let by = [
        "ban",
        "198.51.100.7/24",
        "--for",
        "forever",
        "--by",
        "list",
        "--reason",
        "bad network",
    ];
    insta::assert_snapshot!(done(&agent, &by), @"198.51.100.0/24 is banned for ever");
    let text = masked(&done(&agent, &["bans"]));
    let text: Vec<&str> = text.lines().collect();
    insta::assert_snapshot!(text[..text.len() - 1].join("\n"), @r"
    address remaining by reason
    192.0.2.201 <time> fwctl noise at night
    198.51.100.0/24 for ever list bad network
    2001:db8:1::201 <time> fwctl noise at night
    ");
    let listed = json(&agent, &["bans", "--json"]);
    // Three places, two families.
    assert!(listed["dropped_packets"].as_u64().unwrap() >= 6, "{listed}");
    let bans = listed["bans"].as_array().unwrap();
    let left = bans[0]["remaining_seconds"].as_u64().unwrap();
    assert!(left > 7000 && left <= 7200, "{listed}");
    assert_eq!(
        (
            &bans[1]["forever"],
            &bans[1]["remaining_seconds"],
            &bans[1]["by"]
        ),
        (&true.into(), &Value::Null, &"list".into())
    );

    let (text, code) = fwctl(&agent, &["unban", "198.51.100.9", "192.0.2.202"]);
    assert_eq!(code, Some(1));
    insta::assert_snapshot!(text, @r"
    192.0.2.202 was not banned
    198.51.100.9 was not banned itself, but is in 198.51.100.0/24
    ");
    insta::assert_snapshot!(done(&agent, &["unban", "192.0.2.201"]), @"192.0.2.201 is no longer banned");
    is_answered(&node, STRANGER_V4);
    is_banned(&node, STRANGER_V6);
    let (text, code) = fwctl(&agent, &["unban"]);
    assert_eq!(code, Some(2), "{text}");
    let lifted = json(&agent, &["unban", "--all", "--json"]);
    assert_eq!(
        lifted["lifted"],
        json!(["198.51.100.0/24", "2001:db8:1::201"])
    );
    is_answered(&node, STRANGER_V6);
    assert_eq!(json(&agent, &["bans", "--json"])["bans"], json!([]));
    agent
        .wait_said("2001:db8:1::201 is no longer banned")
        .unwrap();
}

#[test]
fn thousands_are_banned_from_standard_input_and_lifted_by_their_account() {
    let (node, _tree, agent) = bed();
    let _servers = servers(&node);
    let mut text = String::from("# a list\n192.0.2.201 # a stranger\nno address\n192.0.2.200\n");
    for number in 0..20_000 {
        let [_, _, a, b] = u32::to_be_bytes(number);
        text.push_str(&format!("10.1.{a}.{b}\n"));
    }
    let mut command = agent.fwctl_command().unwrap();
    command.args(["ban", "--file", "-", "--by", "list", "--for", "1d"]);
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    eprintln!("20,001 bans in {:?}", began.elapsed());
    assert_eq!(
        output.status.code(),
        Some(1),
        "a line and the administrator"
    );
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stdout), @"20001 prefixes are banned for 1d");
    insta::assert_snapshot!(String::from_utf8_lossy(&output.stderr), @r#"
    -:3: "no address" is neither an address nor a network such as 192.0.2.0/24; it is left out
    fwctl: 192.0.2.200 is not banned: it would hit 192.0.2.200 (of the management set)
    fwctl: --force bans them all the same
    "#);
    is_banned(&node, STRANGER_V4);
    is_answered(&node, node.outside.v4());
    let list = json(&agent, &["bans", "--by", "list", "--json"]);
    assert_eq!(list["bans"].as_array().unwrap().len(), 20_001);
    done(&agent, &["ban", "203.0.113.7"]);
    insta::assert_snapshot!(done(&agent, &["unban", "--by", "list"]), @"20001 prefixes are no longer banned");
    is_answered(&node, STRANGER_V4);
    let left = json(&agent, &["bans", "--json"]);
    assert_eq!(left["bans"][0]["address"], "203.0.113.7", "{left}");
    // More than there is room for: none of them rather than some.
    let many = (0..70_000_u32).map(|number| {
        let [_, a, b, c] = u32::to_be_bytes(number);
        format!("10.{a}.{b}.{c}\n")
    });
    let place = temporary_directory("bans").unwrap();
    let file = place.path().join("many");
    std::fs::write(&file, many.collect::<String>()).unwrap();
    let (text, code) = fwctl(&agent, &["ban", "--file", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("70001 bans are more than the 65536"),
        "{text}"
    );
    assert_eq!(
        json(&agent, &["bans", "--json"])["bans"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_ban_ends_by_itself_and_not_before_that_of_the_last_who_wants_it() {
    let (node, _tree, agent) = bed();
    let _servers = servers(&node);
    done(&agent, &["ban", "192.0.2.201", "--for", "2", "--by", "a"]);
    is_banned(&node, STRANGER_V4);
    let deadline = Instant::now() + patience(SOON);
    while answers(&node, STRANGER_V4, 200) != [Answered.to_string()].into() {
        assert!(Instant::now() < deadline, "{}", agent.stderr());
    }
    agent.wait_said("the ban of 192.0.2.201 has ended").unwrap();
    assert_eq!(json(&agent, &["bans", "--json"])["bans"], json!([]));

    done(&agent, &["ban", "192.0.2.201", "--for", "1h", "--by", "a"]);
    done(&agent, &["ban", "192.0.2.201", "--for", "2h", "--by", "b"]);
    let text = done(&agent, &["unban", "192.0.2.201", "--by", "b"]);
    insta::assert_snapshot!(text, @"192.0.2.201 is banned on, by a");
    is_banned(&node, STRANGER_V4);
    let listed = json(&agent, &["bans", "--json"]);
    let left = listed["bans"][0]["remaining_seconds"].as_u64().unwrap();
    assert!(left <= 3600, "{listed}");
    insta::assert_snapshot!(done(&agent, &["unban", "--by", "a"]), @"192.0.2.201 is no longer banned");
    is_answered(&node, STRANGER_V4);
}

/// A connection to a place, both ends of it.
fn connection(node: &DemoNode, place: &Station, source: IpAddr) -> (TcpStream, TcpStream) {
    let to = place.v4_port(22);
    let listener = place.namespace.run(|| Ok(TcpListener::bind(to)?)).unwrap();
    let connect = || {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::STREAM,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
        rustix::net::connect(&socket, &to)?;
        Ok(TcpStream::from(socket))
    };
    let near = node.outside.namespace.run(connect).unwrap();
    let (far, _) = listener.accept().unwrap();
    (near, far)
}
