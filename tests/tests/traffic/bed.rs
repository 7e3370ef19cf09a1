//! What every test of real traffic starts with: a node, a configuration with the same rules for both guests, a running agent.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;
use tapwall_tests::agent::Agent;
use tapwall_tests::node::{DemoNode, Station};
use tapwall_tests::patience::patience;
use tapwall_tests::probe::Answer::{self, Refused, Silent};
use tapwall_tests::probe::{TIMEOUT, connect, exchange, ping};
use tapwall_tests::tap::Offloads;
use tapwall_tests::tree::ConfigTree;

/// How long an edit may take until it is enforced; the promise is a second, of which a busy machine may take two.
const EDIT: Duration = Duration::from_secs(2);

/// A guest that has this policy for everything but these rules.
pub fn firewall(policy_in: &str, rules: &str) -> String {
    format!("[OPTIONS]\nenable: 1\npolicy_in: {policy_in}\nlog_level_in: info\n\n[RULES]\n{rules}")
}

/// A cluster that is on, with these options and this text behind them.
pub fn cluster(options: &str, text: &str) -> String {
    format!("[OPTIONS]\nenable: 1\n{options}\n{text}")
}

/// A node, its configuration and an agent; the agent goes first.
pub struct Bed {
    pub agent: Agent,
    pub tree: ConfigTree,
    pub node: DemoNode,
}

impl Bed {
    /// The VM has these rules and drops the rest; the container has them too and rejects the rest.
    pub fn new(rules: &str) -> Result<Self> {
        Self::with(Offloads::TcpUdp, rules)
    }

    /// Likewise, with a VM whose NIC has these offloads.
    pub fn with(offloads: Offloads, rules: &str) -> Result<Self> {
        let node = DemoNode::with_offloads(offloads)?;
        let tree = ConfigTree::with_demo_guests()?;
        tree.write_firewall(100, &firewall("DROP", rules))?;
        tree.write_firewall(101, &firewall("REJECT", rules))?;
        let agent = Agent::start(&node.host.namespace, &tree)?;
        Ok(Self { agent, tree, node })
    }

    /// The cluster has these options and this text for the host; both guests accept everything.
    pub fn of_host(options: &str, text: &str) -> Result<Self> {
        let node = DemoNode::new()?;
        let tree = ConfigTree::with_demo_guests()?;
        for vmid in [100, 101] {
            tree.write_firewall(vmid, &firewall("ACCEPT", ""))?;
        }
        tree.write("firewall/cluster.fw", &cluster(options, text))?;
        let agent = Agent::start(&node.host.namespace, &tree)?;
        Ok(Self { agent, tree, node })
    }

    /// Both guests.
    pub fn guests(&self) -> [&Station; 2] {
        [&self.node.vm, &self.node.container]
    }

    /// What the rest of the traffic gets: dropped by the VM's policy, rejected by the container's.
    pub fn policy_of(&self, guest: &Station) -> Answer {
        if guest.v4() == self.node.vm.v4() {
            Silent
        } else {
            Refused
        }
    }

    /// Tries to connect.
    pub fn tcp(&self, from: &Station, to: SocketAddr) -> Answer {
        connect(&from.namespace, from.address_like(to.ip()), to, TIMEOUT)
    }

    /// Sends a datagram to be echoed.
    pub fn udp(&self, from: &Station, to: SocketAddr) -> Answer {
        let source = from.address_like(to.ip());
        exchange(&from.namespace, source, to, b"traffic", TIMEOUT)
    }

    /// Sends an echo request.
    pub fn ping(&self, from: &Station, to: IpAddr) -> Answer {
        ping(&from.namespace, from.address_like(to), to, TIMEOUT)
    }

    /// Repeats an attempt until it gives this answer.
    #[track_caller]
    pub fn becomes(&self, expect: &Answer, attempt: impl Fn(Duration) -> Answer) {
        let started = Instant::now();
        loop {
            let seen = attempt(Duration::from_millis(200));
            if seen == *expect {
                return;
            }
            assert!(
                started.elapsed() < patience(EDIT),
                "still {seen}, not {expect}; the agent said:\n{}",
                self.agent.stderr()
            );
        }
    }

    /// What was seen must be what was expected.
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

/// A port of both addresses of a station.
pub fn both(station: &Station, port: u16) -> [SocketAddr; 2] {
    [station.v4_port(port), station.v6_port(port)]
}
