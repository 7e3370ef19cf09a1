//! A node with many guests of which one is real: the guest of a bed, and devices with the names of the others' NICs.
//!
//! The other devices are pairs of veth, both ends of which are guests' NICs, outside of the bridge. Each guest has its own rules.

use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::{ConfigTree, NODE};

use crate::bed::{Bed, DEVICE, VMID};
use crate::rules::{
    Guest, Rule, Tracking, firewall, iptables, nftables, open_port, rules_of_guest,
};
use crate::traffic::sender::Sender;

/// Rules of each guest.
pub const RULES: usize = 20;
/// Number of the first guest that is not real.
const FIRST: usize = 1_000;
/// Time between two packets that ask whether a change is enforced.
const PACE: Duration = Duration::from_micros(200);
/// How long a start or a change may take until the bench gives up.
pub const LIMIT: Duration = Duration::from_secs(180);

/// The node.
pub struct Crowd {
    /// The bridge with the real guest.
    pub bed: Bed,
    guests: usize,
}

impl Crowd {
    /// With this many guests.
    pub fn new(guests: usize) -> Result<Self> {
        let bed = Bed::bare(false)?;
        let others: Vec<String> = Self::others(guests).map(Self::device).collect();
        let mut lines = String::new();
        for pair in others.chunks(2) {
            let spare = "spare0".to_owned();
            let (one, other) = (&pair[0], pair.get(1).unwrap_or(&spare));
            lines.push_str(&format!("link add {one} type veth peer name {other}\n"));
        }
        bed.host.ip(&lines)?;
        Ok(Self { bed, guests })
    }

    /// Numbers of the guests that are not real.
    fn others(guests: usize) -> impl Iterator<Item = usize> {
        FIRST..FIRST + guests - 1
    }

    fn device(vmid: usize) -> String {
        format!("veth{vmid}i0")
    }

    /// A configuration with all guests.
    pub fn tree(&self) -> Result<ConfigTree> {
        let tree = ConfigTree::with_demo_guests()?;
        // There is no such machine here.
        tree.remove(&format!("nodes/{NODE}/qemu-server/100.conf"))?;
        for vmid in Self::others(self.guests) {
            let [high, low] = (vmid as u16).to_be_bytes();
            let config = format!(
                "arch: amd64\nhostname: guest{vmid}\nnet0: name=eth0,bridge=vmbr0,firewall=1,hwaddr=BC:24:11:01:{high:02X}:{low:02X},type=veth\n"
            );
            // Not by the tree, which makes every file durable.
            let path = tree.path().join(format!("nodes/{NODE}/lxc/{vmid}.conf"));
            fs::write(path, config)?;
            let path = tree.path().join(format!("firewall/{vmid}.fw"));
            fs::write(path, firewall(&rules_of_guest(vmid, RULES)))?;
        }
        tree.write_firewall(VMID, &Self::real(None))?;
        Ok(tree)
    }

    /// The real guest's rules; `open` is the port that the last one accepts.
    fn real_rules(open: Option<u16>) -> Vec<Rule> {
        let mut rules = rules_of_guest(0, RULES - 1);
        rules.push(open_port(open.unwrap_or(1)));
        rules
    }

    /// The real guest's file.
    pub fn real(open: Option<u16>) -> String {
        firewall(&Self::real_rules(open))
    }

    /// The same node for the other firewalls, in whole.
    pub fn rulesets(&self, open: u16, tracking: Tracking) -> (String, String) {
        let own = Self::real_rules(Some(open));
        let others: Vec<(String, Vec<Rule>)> = Self::others(self.guests)
            .map(|vmid| (Self::device(vmid), rules_of_guest(vmid, RULES)))
            .collect();
        let others = others.iter().map(|(device, rules)| Guest { device, rules });
        let real = Guest {
            device: DEVICE,
            rules: &own,
        };
        let guests: Vec<Guest<'_>> = std::iter::once(real).chain(others).collect();
        (iptables(&guests), nftables(&guests, tracking))
    }

    /// Starts an agent; returns when it has all guests under policy, with the time since its start.
    pub fn start(&self, tree: &ConfigTree) -> Result<(Agent, Duration)> {
        let started = Instant::now();
        let agent = Agent::spawn(&self.bed.host, tree)?;
        agent.wait_for(LIMIT, "all guests under policy", |record| {
            record.ports.iter().filter(|port| port.attached).count() >= self.guests
        })?;
        Ok((agent, started.elapsed()))
    }

    /// Replaces a file of the tree and returns when a packet from the outside, made of this frame, gets through to the socket, with the time since.
    pub fn until_enforced(
        &self,
        tree: &ConfigTree,
        file: &str,
        text: &[&str],
        frame: Vec<u8>,
        server: &UdpSocket,
    ) -> Result<Duration> {
        let partial = tree.path().join("new");
        fs::write(&partial, text.concat()).context("writing a file")?;
        // Not by the socket's timeout, which is as coarse as the kernel's tick.
        server.set_nonblocking(true)?;
        let arrived = |buffer: &mut [u8]| {
            std::thread::sleep(PACE);
            server.recv(buffer).is_ok()
        };
        self.bed.outside.run(|| {
            let mut sender = Sender::new(self.bed.outside.ifindex("eth0")?, frame, 1)?;
            sender.roams = false;
            let mut buffer = [0; 100];
            sender.send()?;
            if arrived(&mut buffer) {
                bail!("the packet gets through before the change");
            }
            let started = Instant::now();
            fs::rename(&partial, tree.path().join(file)).context("replacing a file")?;
            loop {
                sender.send()?;
                if arrived(&mut buffer) {
                    return Ok(started.elapsed());
                }
                if started.elapsed() > LIMIT {
                    bail!("the change is not enforced");
                }
            }
        })
    }
}

/// Lets a program load a file in a namespace; says how long it took.
pub fn load_file(namespace: &Netns, program: &str, arguments: &[&str]) -> Result<Duration> {
    let mut command = namespace.command(program);
    command.args(arguments);
    let started = Instant::now();
    tapwall_tests::netns::run(&mut command)?;
    Ok(started.elapsed())
}
