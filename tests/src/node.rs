//! A demo node: a host with a bridge, something outside, a container and a virtual machine, each a network namespace.
//!
//! ```text
//!  host: vmbr0 .1 ── eno1 ─────── eth0 .200 (.201 on the same NIC) :outside
//!           │└────── veth101i0 ── eth0 .101                        :container, CT 101
//!           └─────── tap100i0  ≈≈ eth0 .100                        :vm, VM 100 (≈≈ is a tap peer)
//! ```
//!
//! All in 192.0.2.0/24 and 2001:db8:1::/64, with fixed hardware addresses. Nothing forwards, nothing detects duplicate addresses (so that all
//! is usable at once), the bridge runs no spanning tree.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::netns::Netns;
use crate::tap::{Offloads, Tap, TapPeer};

/// A place with a network stack.
pub struct Station {
    /// Its namespace.
    pub namespace: Netns,
    /// Its device.
    pub device: &'static str,
    /// Hardware address of the device.
    pub mac: [u8; 6],
    /// Last part of its addresses.
    number: u16,
}

impl Station {
    fn new(role: &str, device: &'static str, mac: [u8; 6], number: u16) -> Result<Self> {
        let namespace = Netns::new(role)?;
        for key in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{key}/accept_dad"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{key}/accept_ra"), "0")?;
            namespace.sysctl(&format!("net/ipv6/conf/{key}/forwarding"), "0")?;
        }
        namespace.sysctl("net/ipv4/ip_forward", "0")?;
        namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;
        Ok(Self {
            namespace,
            device,
            mac,
            number,
        })
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        v4(self.number)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        v6(self.number)
    }

    /// Its address of the same family as another.
    pub fn address_like(&self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() {
            self.v4()
        } else {
            self.v6()
        }
    }

    /// A port of its IPv4 address.
    pub fn v4_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    /// A port of its IPv6 address.
    pub fn v6_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6(), port)
    }

    /// Gives the device its addresses and sets it up.
    fn configure(&self) -> Result<()> {
        self.namespace.ip(&format!(
            "link set {device} address {mac}\n\
             addr add {v4}/24 dev {device}\n\
             addr add {v6}/64 dev {device} nodad\n\
             link set {device} up",
            device = self.device,
            mac = hex(self.mac),
            v4 = self.v4(),
            v6 = self.v6(),
        ))
    }
}

/// The second IPv4 address of [`DemoNode::outside`].
pub const STRANGER_V4: IpAddr = v4(201);
/// The second IPv6 address of [`DemoNode::outside`].
pub const STRANGER_V6: IpAddr = v6(201);

/// Device of the virtual machine's NIC on the host.
pub const TAP: &str = "tap100i0";
/// Device of the container's NIC on the host.
pub const VETH: &str = "veth101i0";

const fn v4(number: u16) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number.to_be_bytes()[1]))
}

const fn v6(number: u16) -> IpAddr {
    // Written like the IPv4 address: 2001:db8:1::200.
    let digits = (number / 100) * 0x100 + (number / 10 % 10) * 0x10 + number % 10;
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, digits))
}

/// The node and what is connected to it.
pub struct DemoNode {
    // The peer goes first: a namespace with an open tap device would linger.
    peer: Option<TapPeer>,
    offloads: Offloads,
    /// The virtual machine with id 100.
    pub vm: Station,
    /// The container with id 101.
    pub container: Station,
    /// A machine outside, with two addresses of each family.
    pub outside: Station,
    /// The host.
    pub host: Station,
}

impl DemoNode {
    /// Builds it; the VM's NIC has all offloads.
    pub fn new() -> Result<Self> {
        Self::with_offloads(Offloads::TcpUdp)
    }

    /// Builds it with a VM whose NIC has these offloads.
    pub fn with_offloads(offloads: Offloads) -> Result<Self> {
        let mut node = Self {
            peer: None,
            offloads,
            host: Station::new("node", "vmbr0", [0x02, 0, 0, 0, 0, 0x01], 1)?,
            outside: Station::new("outside", "eth0", [0x02, 0, 0, 0, 0, 0xc8], 200)?,
            container: Station::new("ct101", "eth0", [0xbc, 0x24, 0x11, 0, 1, 0x01], 101)?,
            vm: Station::new("vm100", "eth0", [0xbc, 0x24, 0x11, 0, 1, 0x00], 100)?,
        };
        node.host
            .namespace
            .ip("link add vmbr0 type bridge stp_state 0 forward_delay 0")?;
        node.host.configure()?;
        node.plug_veth("eno1", &node.outside)?;
        node.outside.namespace.ip(&format!(
            "addr add {STRANGER_V4}/24 dev eth0\n\
             addr add {STRANGER_V6}/64 dev eth0 nodad"
        ))?;
        node.plug_container()?;
        node.plug_vm()?;
        Ok(node)
    }

    /// Makes the container's NIC, as its start does.
    pub fn plug_container(&self) -> Result<()> {
        self.plug_veth(VETH, &self.container)
    }

    /// Removes the container's NIC, as its stop does.
    pub fn unplug_container(&self) -> Result<()> {
        self.host.namespace.ip(&format!("link delete {VETH}"))
    }

    /// Makes the VM's NIC, as its start does.
    pub fn plug_vm(&mut self) -> Result<()> {
        let near = Tap::new(&self.host.namespace, TAP, self.offloads)?;
        let far = Tap::new(&self.vm.namespace, self.vm.device, self.offloads)?;
        self.join_bridge(TAP)?;
        self.vm.configure()?;
        // Only now: what the devices said while they came up has waited in their queues, and none is down to lose it.
        self.peer = Some(TapPeer::start(near, far)?);
        Ok(())
    }

    /// Removes the VM's NIC, as its stop does.
    pub fn unplug_vm(&mut self) {
        self.peer = None;
    }

    /// What moves the VM's frames, while it is plugged.
    pub fn peer(&self) -> Option<&TapPeer> {
        self.peer.as_ref()
    }

    /// Everything that has a network stack, with its name in prose.
    pub fn stations(&self) -> [(&'static str, &Station); 4] {
        [
            ("host", &self.host),
            ("outside", &self.outside),
            ("VM 100", &self.vm),
            ("CT 101", &self.container),
        ]
    }

    fn plug_veth(&self, name: &str, station: &Station) -> Result<()> {
        self.host.namespace.ip(&format!(
            "link add {name} type veth peer name {} netns {}",
            station.device,
            station.namespace.name()
        ))?;
        self.join_bridge(name)?;
        station.configure()
    }

    fn join_bridge(&self, device: &str) -> Result<()> {
        self.host.namespace.ip(&format!(
            "link set {device} master vmbr0\nlink set {device} up"
        ))
    }
}

/// A hardware address as it is written: `02:00:00:00:00:01`.
pub fn hex(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
