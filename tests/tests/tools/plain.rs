//! A plain host with two NICs, its rules in one file: no node of Proxmox, no guests.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;

use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange, ping};
use tapwall_tests::tree::{ConfigTree, temporary_directory};

use crate::{done, fwctl};

/// Its file.
pub const FILE: &str = "firewall/host.fw";

/// Ports that it serves, by TCP and UDP.
const PORTS: [u16; 5] = [22, 53, 80, 8080, 9000];

/// A host between two others.
pub struct Plain {
    pub host: Netns,
    /// What is at its NICs `lan0` and `wan0`, with its address and the host's.
    pub peers: [(Netns, IpAddr, IpAddr); 2],
    _tcp: Vec<TcpServer>,
    _udp: Vec<UdpServer>,
}

impl Plain {
    pub fn new() -> Self {
        let host = Netns::new("plain").unwrap();
        let peers = [("lan", 10), ("wan", 20)].map(|(name, net)| {
            let peer = Netns::new(name).unwrap();
            let address = |last| IpAddr::V4(Ipv4Addr::new(10, net, 0, last));
            host.ip(&format!(
                "link add {name}0 type veth peer name eth0 netns {}\naddr add {}/24 dev {name}0\nlink set {name}0 up\n",
                peer.name(),
                address(1)
            ))
            .unwrap();
            peer.ip(&format!("addr add {}/24 dev eth0\nlink set eth0 up\n", address(2)))
                .unwrap();
            peer.sysctl("net/ipv4/ping_group_range", "0 2147483647").unwrap();
            (peer, address(2), address(1))
        });
        let any = |port| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let tcp = PORTS.map(|port| TcpServer::start(&host, any(port)).unwrap());
        let udp = PORTS.map(|port| UdpServer::start(&host, any(port)).unwrap());
        Self {
            _tcp: tcp.into(),
            _udp: udp.into(),
            host,
            peers,
        }
    }

    /// What becomes of everything that is tried, in words. All at once: what is dropped takes its time.
    pub fn table(&self) -> Vec<String> {
        let tries = |(peer, own, host): &(Netns, IpAddr, IpAddr)| -> Vec<String> {
            let (peer, own, host) = (&peer, *own, *host);
            thread::scope(|scope| {
                let port = |port| {
                    let to = SocketAddr::new(host, port);
                    let tcp = scope.spawn(move || connect(peer, own, to, TIMEOUT));
                    let udp = scope.spawn(move || exchange(peer, own, to, b"?", TIMEOUT));
                    [(format!("tcp {port}"), tcp), (format!("udp {port}"), udp)]
                };
                let ping = scope.spawn(move || ping(peer, own, host, TIMEOUT));
                let tries = PORTS.map(port).into_iter().flatten();
                let tries: Vec<_> = tries.chain([("ping".to_owned(), ping)]).collect();
                let said = tries.into_iter().map(|(what, answer)| {
                    let answer = answer.join().unwrap();
                    format!("{own} {what}: {answer:?}")
                });
                said.collect()
            })
        };
        self.peers.iter().flat_map(tries).collect()
    }

    /// One connection, from the peer at a NIC.
    fn tcp(&self, nic: usize, port: u16) -> Answer {
        let (peer, own, host) = &self.peers[nic];
        connect(peer, *own, SocketAddr::new(*host, port), TIMEOUT)
    }
}

#[test]
fn one_file_rules_two_nics() {
    let plain = Plain::new();
    let tree = ConfigTree::plain().unwrap();
    let agent = Agent::spawn(&plain.host, &tree).unwrap();
    agent
        .wait_said("firewall/host.fw is not there either")
        .unwrap();
    assert_eq!(
        [plain.tcp(0, 9000), plain.tcp(1, 9000)],
        [Answered, Answered],
        "nothing turns it on"
    );
    let off = "[RULES]\nIN DROP\n";
    agent.after(|| tree.write(FILE, off)).unwrap();
    assert_eq!(plain.tcp(0, 9000), Answered, "nor rules without `enable`");

    let text = "[OPTIONS]\nenable: 1\npolicy_in: DROP\n[ALIASES]\ninside 10.10.0.0/24\n[RULES]\nIN ACCEPT -p tcp -dport 22 -source inside\nIN REJECT -i wan0 -p tcp -dport 80\nIN ACCEPT -p tcp -dport 80\nGROUP web -i wan0\n[group web]\nIN ACCEPT -p tcp -dport 8080\n";
    agent.after(|| tree.write(FILE, text)).unwrap();
    let seen = |nic| [22, 80, 8080, 9000].map(|port| plain.tcp(nic, port));
    assert_eq!(seen(0), [Answered, Answered, Silent, Silent]);
    assert_eq!(seen(1), [Silent, Refused, Answered, Silent]);

    assert!(done(&agent, &["check"]).contains("0 errors"));
    let status = done(&agent, &["status"]);
    assert!(status.starts_with("Status: enabled/running"), "{status}");
    let rules = done(&agent, &["rules", "host"]);
    assert!(rules.contains("firewall/host.fw:9"), "{rules}");
    let words = [
        "rule", "add", "host", "IN", "ACCEPT", "-p", "tcp", "-dport", "9000",
    ];
    agent
        .after(|| {
            done(&agent, &words);
            Ok(())
        })
        .unwrap();
    assert_eq!(
        [plain.tcp(0, 9000), plain.tcp(1, 9000)],
        [Answered, Answered]
    );
    // What the datacenter's file has elsewhere is edited in the one file that there is.
    let words = [
        "rule",
        "add",
        "group/web",
        "IN",
        "DROP",
        "-p",
        "tcp",
        "-dport",
        "53",
    ];
    agent
        .after(|| {
            done(&agent, &words);
            Ok(())
        })
        .unwrap();
    assert!(!tree.path().join("firewall/cluster.fw").exists());

    // A trial of another file leaves the tree a plain host's.
    let place = temporary_directory("candidate").unwrap();
    let candidate = place.path().join("host.fw");
    fs::write(&candidate, text.replace("8080", "9000")).unwrap();
    let words = ["apply", candidate.to_str().unwrap()];
    agent
        .after(|| {
            done(&agent, &words);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen(1), [Silent, Refused, Silent, Answered]);
    assert!(!tree.path().join("nodes").exists());
    agent.after(|| tree.write(FILE, text)).unwrap();

    // A file that is gone turns nothing off; one that says so does.
    tree.remove(FILE).unwrap();
    agent.fwctl(&["reload"]).unwrap();
    assert_eq!(seen(0)[2], Silent);
    let (status, _) = fwctl(&agent, &["status"]);
    assert!(
        status.contains("firewall/host.fw is not there either"),
        "{status}"
    );
    let off = text.replace("enable: 1", "enable: 0");
    agent.after(|| tree.write(FILE, &off)).unwrap();
    assert_eq!(seen(1), [Answered, Answered, Answered, Answered]);
}
