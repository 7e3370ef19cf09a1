//! A bridge with something outside and one guest, under one of the firewalls that are compared.
//!
//! ```text
//!  outside: eth0 .200 ── eno1 [vmbr0 .1] veth101i0 ── eth0 .101 :guest       all but iptables
//!                             [vmbr0] fwpr101p0 ── fwln101i0 [fwbr101i0] veth101i0      iptables, as pve-firewall has it
//! ```
//!
//! All in 192.0.2.0/24. Bridge netfilter is on for iptables (and for nftables on kernels whose
//! bridge family cannot follow flows) and off for all others. Everything is made in namespaces of its own and goes with the value.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tapwall_tests::agent::Agent;
use tapwall_tests::netns::Netns;
use tapwall_tests::tree::ConfigTree;

use crate::line::Subject;
use crate::programs;
use crate::raw::{Hook, Link};
use crate::rules::{self, Guest, OPEN, Rule, TRIAL, Tracking};

/// The guest's NIC on the host.
pub const DEVICE: &str = "veth101i0";
/// The guest's number.
pub const VMID: u32 = 101;
/// The port of the bridge to the outside.
pub const UPLINK: &str = "eno1";
/// The guest's address.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 101);
/// The outside's.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
/// The guest's hardware address, which the tree's container has.
pub const GUEST_MAC: [u8; 6] = [0xbc, 0x24, 0x11, 0, 1, 0x01];
/// The outside's.
pub const OUTSIDE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xc8];

/// How long traffic that must pass may take to do so for the first time.
const PATIENCE: Duration = Duration::from_secs(2);

/// The firewall of a bed, kept in force by what this holds.
enum Firewall {
    /// Nothing, or rules that are in the namespace.
    Namespace,
    /// Programs that do nothing.
    Empty { _links: [Link; 2] },
    /// The agent and its configuration.
    Tapwall {
        _agent: Box<Agent>,
        _tree: Box<ConfigTree>,
    },
}

/// The bridge and what is connected to it.
pub struct Bed {
    // The agent goes first, then the links, then the namespaces.
    firewall: Firewall,
    /// Something that sends.
    pub outside: Netns,
    /// Something that receives.
    pub guest: Netns,
    /// What is between.
    pub host: Netns,
    /// Index of the port to the outside.
    pub uplink: u32,
    /// Index of the guest's own device, in its namespace.
    pub nic: u32,
}

impl Bed {
    /// Under a firewall with these rules for the guest.
    pub fn new(subject: Subject, rules: &[Rule]) -> Result<Self> {
        let mut bed = Self::bare(subject == Subject::Iptables)?;
        let tracking = match subject {
            Subject::Nftables => tracking(&bed.host)?,
            Subject::None | Subject::Empty | Subject::Iptables | Subject::Tapwall => {
                Tracking::Bridge
            }
        };
        if subject == Subject::Iptables || tracking == Tracking::Marks {
            for family in ["ip", "ip6"] {
                let key = format!("net/bridge/bridge-nf-call-{family}tables");
                bed.host.sysctl(&key, "1")?;
            }
        }
        let guest = [Guest {
            device: DEVICE,
            rules,
        }];
        match subject {
            Subject::None => {}
            Subject::Empty => {
                let links = bed.host.run(|| {
                    let device = bed.host.ifindex(DEVICE)?;
                    let program = programs::empty()?;
                    Ok([Hook::Ingress, Hook::Egress].map(|hook| program.attach(device, hook)))
                })?;
                let [ingress, egress] = links;
                bed.firewall = Firewall::Empty {
                    _links: [ingress?, egress?],
                };
            }
            Subject::Iptables => {
                load(
                    &bed.host,
                    "iptables-legacy-restore",
                    &[],
                    &rules::iptables(&guest),
                )?;
            }
            Subject::Nftables => {
                let text = rules::nftables(&guest, tracking);
                let text = format!("{}{text}", tracking.preamble());
                load(&bed.host, "nft", &["-f", "-"], &text)?;
            }
            Subject::Tapwall => {
                let tree = ConfigTree::with_demo_guests()?;
                tree.write_firewall(VMID, &rules::firewall(rules))?;
                bed.guard(tree)?;
            }
        }
        bed.warm()
            .with_context(|| format!("the guest behind {subject:?}"))?;
        Ok(bed)
    }

    /// Starts the agent on a tree.
    fn guard(&mut self, tree: ConfigTree) -> Result<()> {
        let agent = Agent::start(&self.host, &tree)?;
        agent.wait_attached(DEVICE, None)?;
        self.firewall = Firewall::Tapwall {
            _agent: Box::new(agent),
            _tree: Box::new(tree),
        };
        Ok(())
    }

    /// Without a firewall; with the further bridge that pve-firewall needs if `split`.
    pub fn bare(split: bool) -> Result<Self> {
        let [outside, guest, host] = ["outside", "guest", "host"].map(Netns::new);
        let (outside, guest, host) = (outside?, guest?, host?);
        for namespace in [&outside, &guest, &host] {
            namespace.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            namespace.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
            for key in ["all", "default"] {
                namespace.sysctl(&format!("net/ipv4/conf/{key}/rp_filter"), "0")?;
            }
            namespace.sysctl("net/ipv4/ip_local_port_range", "10000 65000")?;
        }
        host.sysctl("net/ipv4/ip_forward", "0")?;
        for family in ["ip", "ip6"] {
            let key = format!("net/bridge/bridge-nf-call-{family}tables");
            host.sysctl(&key, "0")?;
        }
        let (to_outside, to_guest) = (outside.name(), guest.name());
        host.ip(&format!(
            "link add vmbr0 type bridge stp_state 0 forward_delay 0\n\
             link set vmbr0 up\naddr add 192.0.2.1/24 dev vmbr0\n\
             link add {UPLINK} type veth peer name eth0 netns {to_outside}\n\
             link set {UPLINK} master vmbr0\nlink set {UPLINK} up\n\
             link add {DEVICE} type veth peer name eth0 netns {to_guest}\n"
        ))?;
        host.ip(&match split {
            false => format!("link set {DEVICE} master vmbr0\nlink set {DEVICE} up\n"),
            true => format!(
                "link add fwbr101i0 type bridge stp_state 0 forward_delay 0\nlink set fwbr101i0 up\n\
                 link add fwpr101p0 type veth peer name fwln101i0\n\
                 link set fwpr101p0 master vmbr0\nlink set fwln101i0 master fwbr101i0\n\
                 link set {DEVICE} master fwbr101i0\n\
                 link set fwpr101p0 up\nlink set fwln101i0 up\nlink set {DEVICE} up\n"
            ),
        })?;
        for (namespace, mac, address) in
            [(&outside, OUTSIDE_MAC, OUTSIDE), (&guest, GUEST_MAC, GUEST)]
        {
            let mac = tapwall_tests::node::hex(mac);
            namespace.ip(&format!(
                "link set eth0 address {mac}\naddr add {address}/24 dev eth0\nlink set eth0 up\n"
            ))?;
        }
        guest.ip(&format!("route add default via {OUTSIDE}\n"))?;
        Ok(Self {
            firewall: Firewall::Namespace,
            uplink: host.ifindex(UPLINK)?,
            nic: guest.ifindex("eth0")?,
            outside,
            guest,
            host,
        })
    }

    /// Lets a datagram to the open port cross, and its answer: addresses are known to all, and the flow from this source port is to the firewall.
    pub fn warm(&self) -> Result<u16> {
        let server = self.server(OPEN)?;
        let client = self.outside.run(|| {
            let client = UdpSocket::bind((OUTSIDE, 0))?;
            client.connect((GUEST, OPEN))?;
            Ok(client)
        })?;
        server.set_read_timeout(Some(PATIENCE))?;
        client.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = [0; 100];
        // Twice: netfilter calls a flow established with its first answer, and assured with what comes then.
        for _ in 0..2 {
            client.send(b"bench")?;
            let (length, from) = server
                .recv_from(&mut buffer)
                .context("nothing came through to the guest")?;
            ensure!(from.ip() == IpAddr::V4(OUTSIDE), "this came from {from}");
            server.send_to(&buffer[..length], from)?;
            client
                .recv(&mut buffer)
                .context("no answer came back from the guest")?;
        }
        Ok(client.local_addr()?.port())
    }

    /// A socket of the guest.
    pub fn server(&self, port: u16) -> Result<UdpSocket> {
        self.guest
            .run(|| Ok(UdpSocket::bind(SocketAddr::from((GUEST, port)))?))
    }
}

/// Who can follow flows for nft's bridge family on this kernel.
pub fn tracking(namespace: &Netns) -> Result<Tracking> {
    match load(namespace, "nft", &["-c", "-f", "-"], TRIAL) {
        Ok(()) => Ok(Tracking::Bridge),
        Err(error) if format!("{error:#}").contains("Protocol error") => Ok(Tracking::Marks),
        Err(error) => Err(error).context("trying nft"),
    }
}

/// Runs a program in a namespace with this text as its input.
pub fn load(namespace: &Netns, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut child = namespace
        .command(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    if let Some(mut input) = child.stdin.take() {
        // A program that ends before it has read everything says why.
        input.write_all(text.as_bytes()).unwrap_or_default();
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
