//! `fwctl ban`, `unban` and `bans`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
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
    assert_eq!(
        answers(node, source, 3000),
        [Answered.to_string()].into(),
        "{source}"
    );
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
fn nothing_of_a_source_arrives_once_the_ban_is_made() {
    let (node, _tree, agent) = bed();
    let to = node.vm.v4_port(7);
    let server = UdpServer::start(&node.vm.namespace, to).unwrap();
    let socket = node
        .outside
        .namespace
        .run(|| Ok(UdpSocket::bind((STRANGER_V4, 0))?))
        .unwrap();
    socket.connect(to).unwrap();
    let payload = |number: u32| format!("number {number}").into_bytes();
    let mut sent: Vec<Instant> = Vec::new();
    let mut send = || {
        socket
            .send(&payload(u32::try_from(sent.len()).unwrap()))
            .unwrap();
        sent.push(Instant::now());
    };
    send();
    assert!(server.receives(&payload(0), patience(SOON)));
    let mut command = agent.fwctl_command().unwrap();
    command.args(["ban", "192.0.2.201"]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let status = loop {
        send();
        std::thread::sleep(Duration::from_millis(1));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    let over = Instant::now();
    assert!(status.success());
    for _ in 0..300 {
        send();
        std::thread::sleep(Duration::from_millis(1));
    }
    // What is not banned arrives behind it.
    let other = exchange(
        &node.outside.namespace,
        node.outside.v4(),
        to,
        b"other",
        patience(SOON),
    );
    assert_eq!(other, Answered);
    let arrived =
        |number: usize| server.receives(&payload(u32::try_from(number).unwrap()), Duration::ZERO);
    let before = sent.iter().filter(|time| **time < over).count();
    let late: Vec<usize> = (before..sent.len())
        .filter(|number| arrived(*number))
        .collect();
    assert_eq!(
        late,
        [0; 0],
        "of {} sent after the ban",
        sent.len() - before
    );
    let last = (0..before).rev().find(|number| arrived(*number)).unwrap();
    assert!(last + 1 < sent.len());
    eprintln!(
        "the last of {before} datagrams before the command's end that arrived was sent {:?} before it",
        over - sent[last]
    );
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

/// Whether what one end says reaches the other in time.
fn reaches((near, far): &mut (TcpStream, TcpStream), timeout: Duration) -> bool {
    near.write_all(b"?").unwrap();
    far.set_read_timeout(Some(timeout)).unwrap();
    far.read_exact(&mut [0]).is_ok()
}

#[test]
fn connections_that_run_are_cut() {
    let (node, _tree, agent) = bed();
    for place in places(&node) {
        let mut banned = connection(&node, place, STRANGER_V4);
        let mut other = connection(&node, place, node.outside.v4());
        assert!(reaches(&mut banned, patience(SOON)));
        done(&agent, &["ban", "192.0.2.201", "--automatic"]);
        assert!(!reaches(&mut banned, Duration::from_millis(500)));
        assert!(reaches(&mut other, patience(SOON)));
        done(&agent, &["unban", "192.0.2.201"]);
        // What was sent meanwhile is sent again.
        assert!(reaches(&mut banned, patience(SOON)), "it goes on");
    }
}

#[test]
fn who_administers_the_node_is_not_banned_unless_forced() {
    let (node, tree, agent) = bed();
    // Of which the node's own network would be a part.
    let elsewhere = format!("{CLUSTER}[ALIASES]\nlocal_network 10.9.0.0/16\n");
    tree.write("firewall/cluster.fw", &elsewhere).unwrap();
    tree.write(
        ".members",
        r#"{"nodelist":{"demo":{"ip":"192.0.2.1"},"other":{"ip":"203.0.113.9"}}}"#,
    )
    .unwrap();
    node.host
        .namespace
        .ip("route add 10.0.0.0/8 via 192.0.2.254")
        .unwrap();
    let _connected = connection(&node, &node.host, STRANGER_V4);
    let refused = |arguments: &[&str]| {
        let mut command = agent.fwctl_command().unwrap();
        command
            .arg("ban")
            .args(arguments)
            .env("SSH_CONNECTION", "198.51.100.7 50000 192.0.2.1 22");
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(output.stdout, b"");
        let text = String::from_utf8(output.stderr).unwrap();
        text.lines()
            .filter(|line| !line.contains("--force"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let every = [
        "192.0.2.1",
        "192.0.2.200",
        "192.0.2.201",
        "192.0.2.254",
        "203.0.113.9",
        "198.51.100.7",
        "127.0.0.1",
        "::1",
        "fe80::1",
        "2001:db8:1::1",
    ];
    insta::assert_snapshot!(refused(&every), @r"
    fwctl: 192.0.2.1 is not banned: it would hit 192.0.2.1 (an address of this node)
    fwctl: 192.0.2.200 is not banned: it would hit 192.0.2.200 (of the management set)
    fwctl: 192.0.2.201 is not banned: it would hit 192.0.2.201 (connected to SSH or the web interface)
    fwctl: 192.0.2.254 is not banned: it would hit 192.0.2.254 (a gateway of this node)
    fwctl: 203.0.113.9 is not banned: it would hit 203.0.113.9 (node other of the cluster)
    fwctl: 198.51.100.7 is not banned: it would hit 198.51.100.7 (the other end of this session)
    fwctl: 127.0.0.1 is not banned: it would hit 127.0.0.0/8 (this machine itself)
    fwctl: ::1 is not banned: it would hit ::1 (this machine itself)
    fwctl: fe80::1 is not banned: it would hit fe80::/10 (link-local: neighbours and routers are found by it)
    fwctl: 2001:db8:1::1 is not banned: it would hit 2001:db8:1::1 (an address of this node)
    ");
    insta::assert_snapshot!(refused(&["192.0.2.192/26"]), @"fwctl: 192.0.2.192/26 is not banned: it would hit 192.0.2.254 (a gateway of this node), 192.0.2.200 (of the management set), 192.0.2.201 (connected to SSH or the web interface)");
    // IPv4 as IPv6 writes it is no way around.
    let text = refused(&["::ffff:0:0/96"]);
    assert!(
        text.contains("0.0.0.0/0 is not banned") && text.contains(" more"),
        "{text}"
    );
    assert_eq!(json(&agent, &["bans", "--json"])["bans"], json!([]));

    // Who attacks is connected, too.
    done(&agent, &["ban", "192.0.2.201", "--automatic"]);
    let (text, code) = fwctl(&agent, &["ban", "192.0.2.200", "--automatic"]);
    assert_eq!(code, Some(1), "{text}");
    done(&agent, &["ban", "192.0.2.200", "--force"]);
    let answer = |source| {
        let to = node.host.v4_port(7);
        exchange(
            &node.outside.namespace,
            source,
            to,
            b"?",
            Duration::from_millis(100),
        )
    };
    let _server = UdpServer::start(&node.host.namespace, node.host.v4_port(7)).unwrap();
    assert_eq!(
        [answer(STRANGER_V4), answer(node.outside.v4())],
        [Silent, Silent]
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

#[test]
fn bans_outlive_the_agent_and_the_map() {
    let (node, _tree, mut agent) = bed();
    let _servers = servers(&node);
    done(
        &agent,
        &["ban", "192.0.2.201", "--for", "1h", "--reason", "kept"],
    );
    agent.terminate().unwrap();
    is_banned(&node, STRANGER_V4);
    // Nobody is asked.
    done(&agent, &["ban", "2001:db8:1::201", "--for", "forever"]);
    done(&agent, &["ban", "203.0.113.7", "--for", "boot"]);
    is_banned(&node, STRANGER_V6);
    let mut agent = agent.restart(&node.host.namespace).unwrap();
    is_banned(&node, STRANGER_V4);

    agent.terminate().unwrap();
    done(&agent, &["stop"]);
    is_answered(&node, STRANGER_V4);
    let (text, code) = fwctl(&agent, &["ban", "203.0.113.8"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("the firewall is not loaded: bans are noted"),
        "{text}"
    );
    done(&agent, &["unban", "203.0.113.7"]);
    let agent = agent.restart(&node.host.namespace).unwrap();
    for source in [STRANGER_V4, STRANGER_V6] {
        is_banned(&node, source);
    }
    agent
        .wait_said("bans from before are in force again")
        .unwrap();
    let listed = json(&agent, &["bans", "--json"]);
    let bans = listed["bans"].as_array().unwrap().iter();
    let addresses: Vec<&str> = bans.map(|ban| ban["address"].as_str().unwrap()).collect();
    assert_eq!(addresses, ["192.0.2.201", "203.0.113.8", "2001:db8:1::201"]);
    assert_eq!(listed["bans"][0]["reason"], "kept");
}

#[test]
fn after_a_boot_those_are_banned_whose_time_is_not_over() {
    let (node, _tree, mut agent) = bed();
    let _servers = servers(&node);
    agent.terminate().unwrap();
    done(&agent, &["stop"]);
    let line = |net: &str, made: u64, lasts: &str| {
        format!(
            "{{\"banned\":{{\"net\":\"{net}\",\"by\":\"fwctl\",\"reason\":\"\",\"made\":{made},\"lasts\":{lasts}}}}}\n"
        )
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = u64::try_from(now.as_millis()).unwrap();
    let hour = 3_600_000;
    // As the machine left it when it went down a day ago.
    let made = now - 24 * hour;
    let text = [
        "{\"loaded\":{\"boot\":\"another\",\"map\":1}}\n".to_owned(),
        line("192.0.2.201/32", made, "\"forever\""),
        line(
            "203.0.113.1/32",
            made,
            &format!("{{\"until\":{}}}", now - hour),
        ),
        line(
            "203.0.113.2/32",
            made,
            &format!("{{\"until\":{}}}", now + hour),
        ),
        line("203.0.113.3/32", made, "\"boot\""),
        // A clock that ran ahead.
        line(
            "203.0.113.4/32",
            now + 500 * hour,
            &format!("{{\"until\":{}}}", now + 502 * hour),
        ),
    ];
    std::fs::write(agent.state_directory().join("bans.jsonl"), text.concat()).unwrap();
    let agent = agent.restart(&node.host.namespace).unwrap();
    is_banned(&node, STRANGER_V4);
    let listed = json(&agent, &["bans", "--json"]);
    let bans = listed["bans"].as_array().unwrap().iter();
    let left = |ban: &Value| {
        ban["remaining_seconds"]
            .as_u64()
            .map(|left| left.div_ceil(900))
    };
    let bans: Vec<_> = bans
        .map(|ban| (ban["address"].as_str().unwrap(), left(ban)))
        .collect();
    // In quarters of an hour.
    assert_eq!(
        bans,
        [
            ("192.0.2.201", None),
            ("203.0.113.2", Some(4)),
            ("203.0.113.4", Some(8))
        ]
    );
}

/// One request over the control socket: the status, and the body as JSON.
fn ask(agent: &Agent, method: &str, body: &str) -> (u16, Value) {
    let socket = agent.run_directory().join("control.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(patience(SOON))).unwrap();
    write!(
        stream,
        "{method} /v1/bans HTTP/1.1\r\nHost: tapwall\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (
        status,
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}")),
    )
}

#[test]
fn bans_over_the_control_socket() {
    let (node, _tree, agent) = bed();
    let _servers = servers(&node);
    let wanted = r#"{"addresses":["192.0.2.201"],"for":3600,"by":"monitor","reason":"flood"}"#;
    let (status, said) = ask(&agent, "POST", wanted);
    assert_eq!((status, &said["enforced"]), (200, &true.into()), "{said}");
    is_banned(&node, STRANGER_V4);
    let (status, listed) = ask(&agent, "GET", "");
    assert_eq!(
        (status, &listed["bans"][0]["reason"]),
        (200, &"flood".into())
    );
    assert_eq!(listed["bans"], json(&agent, &["bans", "--json"])["bans"]);
    for (method, body, expect, part) in [
        (
            "POST",
            r#"{"addresses":["192.0.2.200"],"for":"forever","by":"x"}"#,
            409,
            "management set",
        ),
        (
            "POST",
            r#"{"addresses":["nobody"],"for":"boot","by":"x"}"#,
            400,
            "nobody",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":"ever","by":"x"}"#,
            400,
            "error",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":1,"by":" "}"#,
            400,
            "empty",
        ),
        (
            "POST",
            r#"{"addresses":["192.0.2.9"],"for":1,"by":"x","fro":1}"#,
            400,
            "fro",
        ),
        ("POST", "nonsense", 400, "error"),
        ("DELETE", "{}", 400, "say whose"),
        ("DELETE", r#"{"all":true,"by":"monitor"}"#, 400, "say whose"),
        ("PUT", "{}", 405, "method"),
    ] {
        let (status, said) = ask(&agent, method, body);
        assert_eq!(status, expect, "{body}: {said}");
        assert!(said.to_string().contains(part), "{body}: {said}");
    }
    let (status, said) = ask(&agent, "DELETE", r#"{"by":"monitor"}"#);
    assert_eq!((status, &said["lifted"]), (200, &json!(["192.0.2.201"])));
    is_answered(&node, STRANGER_V4);
}
