//! Two nodes of one cluster, each a machine of its own, with one configuration and a guest on each: the same program runs on both.
//!
//! `eth0` of both machines is one network, on which `vmbr0` is; `eth1` is another one, for the two programs to wait for each other. Which node
//! this is says `TAPWALL_NODE`. Run by `cargo xtask vm`, not by `cargo test`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use tapwall_tests::netns::Netns;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange};
use tapwall_tests::pve::{Plug, PveNode, words};

/// How long one node may be behind the other.
const BEHIND: Duration = Duration::from_secs(60);
/// How long the agent may take to enforce the configuration.
const SOON: Duration = Duration::from_secs(20);

/// A node and its guest.
struct Site {
    node: &'static str,
    host: Ipv4Addr,
    guest: (u32, Plug),
    control: Ipv4Addr,
}

const SITES: [Site; 2] = [
    Site {
        node: "pve1",
        host: Ipv4Addr::new(192, 0, 2, 1),
        guest: (101, Plug::VethOverFwbr),
        control: Ipv4Addr::new(203, 0, 113, 1),
    },
    Site {
        node: "pve2",
        host: Ipv4Addr::new(192, 0, 2, 2),
        guest: (201, Plug::Tap),
        control: Ipv4Addr::new(203, 0, 113, 2),
    },
];

const CLUSTER: &str = "[OPTIONS]\nenable: 1\n[ALIASES]\nlocal_network 192.0.2.0/24\n\
    [IPSET web]\n192.0.2.101\n192.0.2.201\n[RULES]\nIN ACCEPT -i eth1\nOUT DROP -p tcp -dport 8443\n";

/// Both guests: 80 is open to the guests only, 82 is rejected; nothing may go out to 81.
const GUEST: &str = "[OPTIONS]\nenable: 1\npolicy_out: ACCEPT\n[RULES]\nIN ACCEPT -source +web -p tcp -dport 80\n\
    IN ACCEPT -p tcp -dport 81\nIN REJECT -p tcp -dport 82\nOUT DROP -p tcp -dport 81\n";

const COROSYNC: &str = "totem {\n  version: 2\n  cluster_name: pair\n  interface {\n    linknumber: 0\n  }\n}\n\
    nodelist {\n  node {\n    name: pve1\n    nodeid: 1\n    quorum_votes: 1\n    ring0_addr: 192.0.2.1\n  }\n\
    node {\n    name: pve2\n    nodeid: 2\n    quorum_votes: 1\n    ring0_addr: 192.0.2.2\n  }\n}\n";

/// TCP ports that have servers on hosts and guests.
const TCP: [u16; 6] = [80, 81, 82, 8006, 8443, 9000];
/// Corosync's.
const COROSYNC_PORT: u16 = 5405;

/// From a host to the other host: management is open in the local network, other things are not, and some do not leave.
const HOST_TO_HOST: [(u16, Answer); 3] = [(8006, Answered), (9000, Silent), (8443, Silent)];
/// From a host to the other's guest.
const HOST_TO_GUEST: [(u16, Answer); 3] = [(80, Silent), (81, Answered), (82, Refused)];
/// From a guest to the other host.
const GUEST_TO_HOST: [(u16, Answer); 2] = [(8006, Answered), (9000, Silent)];
/// From a guest to the other guest: 81 is dropped where it leaves, though the other end would accept it.
const GUEST_TO_GUEST: [(u16, Answer); 3] = [(80, Answered), (81, Silent), (82, Refused)];

fn guest_address(site: &Site) -> IpAddr {
    let [a, b, c, _] = site.host.octets();
    IpAddr::V4(Ipv4Addr::new(a, b, c, site.guest.0.to_be_bytes()[3]))
}

/// The other program.
struct Other {
    reader: BufReader<TcpStream>,
}

impl Other {
    fn meet(number: usize) -> Self {
        let [first, _] = &SITES;
        let deadline = Instant::now() + patience(BEHIND);
        let address = SocketAddr::new(first.control.into(), 9999);
        let stream = if number == 0 {
            TcpListener::bind(address).unwrap().accept().unwrap().0
        } else {
            loop {
                match TcpStream::connect_timeout(&address, Duration::from_secs(2)) {
                    Ok(stream) => break stream,
                    Err(error) => assert!(Instant::now() < deadline, "{error}"),
                }
            }
        };
        stream.set_read_timeout(Some(patience(BEHIND))).unwrap();
        Self {
            reader: BufReader::new(stream),
        }
    }

    /// Waits until both are here.
    fn wait(&mut self, place: &str) {
        writeln!(self.reader.get_mut(), "{place}").unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), place, "the other node is elsewhere");
    }
}

#[track_caller]
fn try_ports(what: &str, from: (&Netns, IpAddr), to: IpAddr, ports: &[(u16, Answer)]) {
    for (port, expect) in ports {
        let seen = connect(from.0, from.1, SocketAddr::new(to, *port), TIMEOUT);
        assert_eq!(seen, *expect, "{what}: {to} port {port}\n{}", words());
    }
}

#[test]
fn traffic_between_nodes_is_judged_on_both() {
    let number: usize = std::env::var("TAPWALL_NODE").unwrap().parse().unwrap();
    let (own, other) = (&SITES[number], &SITES[1 - number]);
    let node = PveNode::new(own.node, own.host).unwrap();
    node.host
        .ip(&format!(
            "link set eth0 master vmbr0\nlink set eth0 up\naddr add {}/24 dev eth1\nlink set eth1 up",
            own.control
        ))
        .unwrap();
    // One tree: each node has the files of both.
    node.write("corosync.conf", COROSYNC).unwrap();
    node.write("firewall/cluster.fw", CLUSTER).unwrap();
    for site in &SITES {
        node.write(&format!("firewall/{}.fw", site.guest.0), GUEST)
            .unwrap();
    }
    let (vmid, plug) = own.guest;
    node.configure_guest(vmid, plug).unwrap();
    let guest = node.start_guest(vmid, plug).unwrap();
    let places = [
        (&node.host, IpAddr::V4(own.host)),
        (&guest.namespace, guest.address()),
    ];
    let mut servers = Vec::new();
    for (namespace, address) in places {
        for port in TCP {
            servers.push(TcpServer::start(namespace, SocketAddr::new(address, port)).unwrap());
        }
    }
    let corosync = SocketAddr::new(own.host.into(), COROSYNC_PORT);
    let _corosync = UdpServer::start(&node.host, corosync).unwrap();

    let mut peer = Other::meet(number);
    peer.wait("servers");
    // Without the firewall everything is reachable: what fails later fails because of it.
    for ((namespace, address), to) in places
        .into_iter()
        .zip([IpAddr::V4(other.host), guest_address(other)])
    {
        let open = TCP.map(|port| (port, Answered));
        try_ports("without a firewall", (namespace, address), to, &open);
    }
    peer.wait("open");
    let agent = node.start_agent().unwrap();
    let deadline = Instant::now() + patience(SOON);
    while !node
        .fwctl(&["status"])
        .is_ok_and(|text| text.contains("enabled/running"))
    {
        assert!(Instant::now() < deadline, "{}", words());
    }
    peer.wait("enforced");
    let [host, inside] = places;
    let there = IpAddr::V4(other.host);
    try_ports("host to host", host, there, &HOST_TO_HOST);
    try_ports("host to guest", host, guest_address(other), &HOST_TO_GUEST);
    try_ports(
        "guest to guest",
        inside,
        guest_address(other),
        &GUEST_TO_GUEST,
    );
    let to = SocketAddr::new(there, COROSYNC_PORT);
    let seen = exchange(host.0, host.1, to, b"token", TIMEOUT);
    assert_eq!(seen, Answered, "corosync\n{}", words());
    // Guests are in the local network, which may manage a node; its cluster is the nodes' alone.
    try_ports("guest to host", inside, there, &GUEST_TO_HOST);
    let seen = exchange(inside.0, inside.1, to, b"token", TIMEOUT);
    assert_eq!(seen, Silent, "corosync from a guest\n{}", words());
    peer.wait("judged");
    agent.stop().unwrap();
    node.fwctl(&["stop"]).unwrap();
    peer.wait("end");
}
