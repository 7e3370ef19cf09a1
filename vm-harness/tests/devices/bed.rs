//! A node with an agent, and a second network behind a device of the kind under test.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::{Netns, run};
use tapwall_tests::node::DemoNode;
use tapwall_tests::probe::Answer::{self, Answered, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, TcpServer, UdpServer, connect, exchange};
use tapwall_tests::tree::ConfigTree;

/// Addresses of the host in the second network.
pub const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];
/// Addresses of the other end.
pub const FAR: [&str; 2] = ["198.51.100.2", "2001:db8:2::2"];
/// How long the agent may take to see a device.
const SEEN: Duration = Duration::from_secs(20);

/// The host's rules for a device, besides those that `rules` adds: in 80 is open, 82 is rejected; out 90 is rejected, 91 is dropped.
pub fn rules(device: &str, rules: &str) -> String {
    let mut text = String::from("[OPTIONS]\nenable: 1\n[RULES]\n");
    text.push_str(rules);
    for protocol in ["tcp", "udp"] {
        text.push_str(&format!(
            "IN ACCEPT -i {device} -p {protocol} -dport 80\nIN REJECT -i {device} -p {protocol} -dport 82\n\
             OUT REJECT -i {device} -p {protocol} -dport 90\nOUT DROP -i {device} -p {protocol} -dport 91\n"
        ));
    }
    text
}

/// What becomes of connections to the host with [`rules`], whose policy is to drop.
pub const IN: [(u16, Answer); 3] = [(80, Answered), (81, Silent), (82, Refused)];
/// What becomes of connections of the host, whose policy is to accept.
pub const OUT: [(u16, Answer); 3] = [(90, Refused), (91, Silent), (92, Answered)];

/// A node, its configuration and an agent; the agent goes first.
pub struct Bed {
    pub agent: Agent,
    pub tree: ConfigTree,
    pub node: DemoNode,
}

impl Bed {
    /// A node whose cluster has this firewall; both guests accept everything.
    pub fn new(cluster: &str) -> Self {
        let node = DemoNode::new().unwrap();
        let tree = ConfigTree::with_demo_guests().unwrap();
        for vmid in [100, 101] {
            let text = "[OPTIONS]\nenable: 1\npolicy_in: ACCEPT\n";
            tree.write_firewall(vmid, text).unwrap();
        }
        tree.write("firewall/cluster.fw", cluster).unwrap();
        let agent = Agent::start(&node.host.namespace, &tree).unwrap();
        Self { agent, tree, node }
    }

    /// The host's namespace.
    pub fn host(&self) -> &Netns {
        &self.node.host.namespace
    }

    /// Waits until the agent judges what passes a device of the host.
    pub fn attached(&self, device: &str) {
        self.agent
            .wait_for(SEEN, device, |record| {
                let mut rows = record.host.iter();
                rows.any(|row| row.device == device && row.attached)
            })
            .unwrap();
    }

    /// A namespace behind `wires` pairs of devices: `eno2` here and `eth0` there, `eno3` and `eth1`, and so on; all down.
    pub fn far(&self, wires: usize) -> Netns {
        let far = Netns::new("far").unwrap();
        for key in ["all", "default"] {
            let key = format!("net/ipv6/conf/{key}/accept_dad");
            far.sysctl(&key, "0").unwrap();
        }
        for wire in 0..wires {
            let name = far.name();
            let line = format!(
                "link add eno{} type veth peer name eth{wire} netns {name}",
                wire + 2
            );
            self.host().ip(&line).unwrap();
        }
        far
    }

    /// Connections and datagrams between two addresses, one of them the host's.
    #[track_caller]
    pub fn judged(&self, from: (&Netns, &str), to: (&Netns, &str), ports: &[(u16, Answer)]) {
        let (source, dest) = (address(from.1), address(to.1));
        for (port, expect) in ports {
            let to_port = SocketAddr::new(dest, *port);
            let _tcp = TcpServer::start(to.0, to_port).unwrap();
            let _udp = UdpServer::start(to.0, to_port).unwrap();
            let seen = connect(from.0, source, to_port, TIMEOUT);
            self.expect(&format!("tcp {to_port}"), seen, expect);
            let seen = exchange(from.0, source, to_port, b"device", TIMEOUT);
            self.expect(&format!("udp {to_port}"), seen, expect);
        }
    }

    /// The host's rules of [`rules`] hold in both directions at a device to `far`, over v4 and v6.
    #[track_caller]
    pub fn judged_both_ways(&self, far: &Netns) {
        for (own, other) in HOST.into_iter().zip(FAR) {
            self.judged((far, other), (self.host(), own), &IN);
            self.judged((self.host(), own), (far, other), &OUT);
        }
    }

    #[track_caller]
    pub fn expect(&self, what: &str, seen: Answer, expect: &Answer) {
        assert_eq!(
            seen,
            *expect,
            "{what}; the agent said:\n{}",
            self.agent.stderr()
        );
    }
}

/// An address.
pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Gives a device the addresses of one end and sets it up.
pub fn configure(namespace: &Netns, device: &str, addresses: [&str; 2]) {
    let [v4, v6] = addresses;
    namespace
        .ip(&format!(
            "addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\nlink set {device} up"
        ))
        .unwrap();
}

/// Runs a program of iproute2 in a namespace.
pub fn tool(namespace: &Netns, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = namespace.command(words.next().unwrap());
    let done: Result<String> = run(command.args(words));
    done.unwrap()
}
