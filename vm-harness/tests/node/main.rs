//! A day of a Proxmox-like node: the machine is the node, its guests are namespaces on real tap and veth devices.
//!
//! The agent runs without options on `/etc/pve`. Each step of the day is asserted by traffic from outside to guests and host. Needs a machine of
//! its own: run by `cargo xtask vm`, not by `cargo test`.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use fw_common::maps::ABI;
use tapwall_tests::netns::Netns;
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, connect};
use tapwall_tests::pve::{Guest, PINS, Plug, PveNode, TREE, words};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
/// Ports that have servers everywhere.
const PORTS: [u16; 3] = [80, 81, 82];
/// How long a step may take until it is enforced.
const SOON: Duration = Duration::from_secs(15);

const GUESTS: [(u32, Plug); 3] = [
    (100, Plug::TapOverFwbr),
    (101, Plug::VethOverFwbr),
    (102, Plug::Tap),
];

fn cluster(enable: u8) -> String {
    format!(
        "[OPTIONS]\nenable: {enable}\n[RULES]\nIN ACCEPT -p tcp -dport 80\nIN REJECT -p tcp -dport 82\n"
    )
}

/// A guest that accepts one port, rejects 82 and drops the rest.
fn guest_rules(port: u16) -> String {
    format!(
        "[OPTIONS]\nenable: 1\n[RULES]\nIN ACCEPT -p tcp -dport {port}\nIN REJECT -p tcp -dport 82\n"
    )
}

/// The node, a station outside, and the guests that run, each with its servers.
struct Day {
    outside: Netns,
    guests: Vec<(Guest, Vec<TcpServer>)>,
    _host: Vec<TcpServer>,
    node: PveNode,
}

impl Day {
    fn begin() -> Self {
        let node = PveNode::new("pve1", NODE).unwrap();
        let outside = Netns::new("outside").unwrap();
        node.host
            .ip(&format!(
                "link add eno1 type veth peer name eth0 netns {}\nlink set eno1 master vmbr0\nlink set eno1 up",
                outside.name()
            ))
            .unwrap();
        outside
            .ip(&format!("addr add {OUTSIDE}/24 dev eth0\nlink set eth0 up"))
            .unwrap();
        let host = PORTS
            .map(|port| TcpServer::start(&node.host, SocketAddr::new(NODE.into(), port)).unwrap());
        Self {
            outside,
            guests: Vec::new(),
            _host: host.into(),
            node,
        }
    }

    /// Starts a guest with a server behind each port.
    fn start(&mut self, (vmid, plug): (u32, Plug)) {
        let guest = self.node.start_guest(vmid, plug).unwrap();
        let servers =
            PORTS.map(|port| TcpServer::start(&guest.namespace, guest.port(port)).unwrap());
        self.guests.push((guest, servers.into()));
    }

    fn address(vmid: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, vmid.to_be_bytes()[3]))
    }

    /// Answers of a place's ports to somebody outside.
    fn seen(&self, place: IpAddr, timeout: Duration) -> [Answer; 3] {
        PORTS.map(|port| {
            connect(
                &self.outside,
                OUTSIDE,
                SocketAddr::new(place, port),
                timeout,
            )
        })
    }

    /// These answers are given now.
    #[track_caller]
    fn is(&self, step: &str, place: IpAddr, expect: &[Answer; 3]) {
        assert_eq!(
            self.seen(place, TIMEOUT),
            *expect,
            "{step}: {place}\n{}",
            words()
        );
    }

    /// These answers are given soon, and then stay.
    #[track_caller]
    fn becomes(&self, step: &str, place: IpAddr, expect: &[Answer; 3]) {
        let deadline = Instant::now() + patience(SOON);
        while self.seen(place, Duration::from_millis(400)) != *expect {
            if Instant::now() > deadline {
                break;
            }
        }
        self.is(step, place, expect);
    }

    fn reboot_without_tree(&self) {
        // What a boot leaves of an agent: its state directory, and nothing in the kernel.
        self.node.fwctl(&["stop"]).unwrap();
        assert!(!Path::new(PINS).exists());
        fs::rename(TREE, "/etc/pve-not-mounted").unwrap();
        fs::create_dir(TREE).unwrap();
    }

    fn mount_tree(&self) {
        fs::remove_dir(TREE).unwrap();
        fs::rename("/etc/pve-not-mounted", TREE).unwrap();
    }
}

const OPEN: [Answer; 3] = [Answered, Answered, Answered];
/// As the rules for port 80 say.
const JUDGED: [Answer; 3] = [Answered, Silent, Refused];
/// As the rules for port 81 say.
const EDITED: [Answer; 3] = [Silent, Answered, Refused];

#[test]
fn a_day_of_a_node() {
    let mut day = Day::begin();
    let host = IpAddr::V4(NODE);
    let [first, second, third] = GUESTS;
    for guest in [first, second] {
        day.node.configure_guest(guest.0, guest.1).unwrap();
        let file = format!("firewall/{}.fw", guest.0);
        day.node.write(&file, &guest_rules(80)).unwrap();
        day.start(guest);
    }

    println!("the cluster's firewall is off");
    day.node.write("firewall/cluster.fw", &cluster(0)).unwrap();
    let agent = day.node.start_agent().unwrap();
    for place in [host, Day::address(100), Day::address(101)] {
        day.becomes("off", place, &OPEN);
    }

    println!("enable");
    day.node.write("firewall/cluster.fw", &cluster(1)).unwrap();
    for place in [host, Day::address(100), Day::address(101)] {
        day.becomes("enabled", place, &JUDGED);
    }

    println!("a boot: the cached configuration, before the cluster file system is there");
    agent.stop().unwrap();
    day.reboot_without_tree();
    let agent = day.node.start_agent().unwrap();
    for place in [host, Day::address(100), Day::address(101)] {
        day.becomes("cached", place, &JUDGED);
    }
    day.mount_tree();

    println!("edit");
    day.node.write("firewall/100.fw", &guest_rules(81)).unwrap();
    day.becomes("edited", Day::address(100), &EDITED);
    day.is("not edited", Day::address(101), &JUDGED);

    println!("hot-plug");
    day.node.write("firewall/102.fw", &guest_rules(80)).unwrap();
    day.start(third);
    // Nothing gets in before its configuration is known.
    let early = day.seen(Day::address(102), Duration::from_millis(300));
    assert!(!early.contains(&Answered) || early == JUDGED, "{early:?}");
    day.node.configure_guest(third.0, third.1).unwrap();
    day.becomes("hot-plugged", Day::address(102), &JUDGED);

    println!("crash");
    agent.crash().unwrap();
    for (place, expect) in [
        (host, &JUDGED),
        (Day::address(100), &EDITED),
        (Day::address(101), &JUDGED),
        (Day::address(102), &JUDGED),
    ] {
        day.is("without an agent", place, expect);
    }
    day.node.write("firewall/100.fw", &guest_rules(80)).unwrap();
    let agent = day.node.start_agent().unwrap();
    day.becomes("after a crash", Day::address(100), &JUDGED);

    println!("upgrade to another layout of maps");
    agent.stop().unwrap();
    let (own, other) = (format!("{PINS}/v{ABI}"), format!("{PINS}/v{}", ABI + 1000));
    fs::rename(own, other).unwrap();
    let agent = day.node.start_agent().unwrap();
    let deadline = Instant::now() + patience(SOON);
    let pins = || {
        fs::read_dir(PINS)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name())
    };
    while pins().collect::<Vec<_>>() != [format!("v{ABI}").as_str()] {
        // The whole time each guest is judged by one of both.
        day.is("while it is upgraded", Day::address(101), &JUDGED);
        assert!(
            Instant::now() < deadline,
            "{:?}\n{}",
            pins().collect::<Vec<_>>(),
            words()
        );
    }
    for place in [
        host,
        Day::address(100),
        Day::address(101),
        Day::address(102),
    ] {
        day.is("upgraded", place, &JUDGED);
    }

    println!("migrate away");
    let file = day.node.guest_file(second.0, second.1);
    let other = Path::new(TREE).join("nodes/pve2/lxc");
    fs::create_dir_all(&other).unwrap();
    fs::rename(Path::new(TREE).join(&file), other.join("101.conf")).unwrap();
    day.is("while it leaves", Day::address(101), &JUDGED);
    let at = day.guests.iter().position(|(guest, _)| guest.vmid == 101);
    let (guest, servers) = day.guests.remove(at.unwrap());
    drop(servers);
    day.node.stop_guest(guest).unwrap();
    let left = day.seen(Day::address(101), Duration::from_millis(400));
    let nobody = left.iter().all(|seen| !matches!(seen, Answered | Refused));
    assert!(nobody, "{left:?}");
    day.is("those who stay", Day::address(100), &JUDGED);

    println!("disable");
    day.node.write("firewall/cluster.fw", &cluster(0)).unwrap();
    for place in [host, Day::address(100), Day::address(102)] {
        day.becomes("disabled", place, &OPEN);
    }
    agent.stop().unwrap();
    day.node.fwctl(&["stop"]).unwrap();
    assert!(!Path::new(PINS).exists());
}
