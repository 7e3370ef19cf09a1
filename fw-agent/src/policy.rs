//! What the configuration means: each port's ordered rules, with every name resolved.
//!
//! In: the parsed configuration and the node's guests. Out: a [`NodePolicy`]. Groups and macros are expanded, standard chains are ordinary
//! rules of the list, and a policy's last rule matches everything; the first rule whose [`Matches`] hold decides. This is the form that the
//! reference model walks, that `fwctl compile` prints and that `image` turns into maps.

mod cluster;
mod forward;
mod guest;
mod host;
mod lines;
pub mod localnet;
mod names;
mod node;
mod print;
mod remembered;
mod resolve;
mod sets;
mod standard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use fw_common::verdict::{Reason, Verdict};
use ipnet::IpNet;

pub use self::cluster::management;
pub use self::host::HostPolicy;
pub use self::print::print;
pub use self::resolve::{Resolver, is_enabled, resolve};

/// Rules that a policy can have.
pub const MAX_RULES: usize = 16_384;

/// Every policy of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePolicy {
    /// The cluster's `enable` after its timestamp rule: off means that nothing is filtered and nothing attached.
    pub enabled: bool,
    /// The host's own traffic; none if `host.fw` says `enable: 0`.
    pub host: Option<HostPolicy>,
    /// One entry per guest NIC with `firewall=1`, ordered by [`PortId`].
    pub ports: Vec<Arc<PortPolicy>>,
    /// The bridge of every guest NIC that has one, firewalled or not: the interface that the host sees the guest on.
    pub bridges: BTreeMap<PortId, Arc<str>>,
    /// Rules for forwarded packets, of the host and of VNets; nothing enforces them yet.
    pub forward: Vec<ForwardPolicy>,
    /// Settings of the host that the kernel programs look at.
    pub settings: fw_common::maps::Settings,
    /// Established flows that the node remembers (`nf_conntrack_max`); 0: as many as before.
    pub flow_capacity: u32,
}

impl NodePolicy {
    /// What is resolved here and enforced by nothing yet, in words.
    pub fn not_enforced(&self) -> Vec<String> {
        let forward = self.forward.iter().map(|forward| match &forward.vnet {
            Some(vnet) => format!("traffic within VNet {vnet}"),
            None => "forwarded traffic".to_owned(),
        });
        forward.collect()
    }
}

/// A guest's NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId {
    /// The guest.
    pub vmid: u32,
    /// Number of the NIC: `net0` is 0.
    pub net: u16,
}

/// Whether a guest is a virtual machine or a container; decides the name of its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// QEMU: `tap<vmid>i<net>`.
    Vm,
    /// LXC: `veth<vmid>i<net>`.
    Container,
}

impl GuestKind {
    /// Name of a NIC's device on the host.
    pub fn device(self, port: PortId) -> String {
        let kind = match self {
            Self::Vm => "tap",
            Self::Container => "veth",
        };
        format!("{kind}{}i{}", port.vmid, port.net)
    }
}

impl PortId {
    /// The NIC whose device on the host has this name, and what the guest is; none if it is no name of a guest's device.
    pub fn of_device(name: &str) -> Option<(GuestKind, Self)> {
        let (kind, rest) = match (name.strip_prefix("tap"), name.strip_prefix("veth")) {
            (Some(rest), _) => (GuestKind::Vm, rest),
            (None, Some(rest)) => (GuestKind::Container, rest),
            (None, None) => return None,
        };
        let (vmid, net) = rest.split_once('i')?;
        let port = Self {
            vmid: vmid.parse().ok().filter(|vmid| *vmid != 0)?,
            net: net.parse().ok()?,
        };
        // Not `tap0100i+0`.
        (kind.device(port) == name).then_some((kind, port))
    }
}

/// What holds for one guest NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// The NIC.
    pub port: PortId,
    /// VM or container.
    pub kind: GuestKind,
    /// The NIC's hardware address, six bytes; none if the configuration has none.
    pub mac: Option<[u8; 6]>,
    /// Frames that the guest sends must carry `mac` as their source. Never true without `mac`.
    pub macfilter: bool,
    /// Likewise for frames that are not IP (also the cluster's option `ebtables`).
    pub macfilter_layer2: bool,
    /// VLANs that the guest may use.
    pub vlans: Vlans,
    /// The guest accepts and sends DHCP whatever its MAC filter says (option `dhcp`).
    pub dhcp: bool,
    /// Rules for packets to the guest.
    pub inbound: Policy,
    /// Rules for packets from the guest. Those for frames that are not IP come first.
    pub outbound: Policy,
    /// Those of `outbound` that also hold for flows that run: as what the guest may speak. None: it may as anything.
    pub guard: Option<Policy>,
}

/// VLANs that a guest may use by tags of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// No tags.
    None,
    /// Any tag.
    Any,
    /// These, as inclusive ranges.
    Only(Vec<(u16, u16)>),
}

impl PortPolicy {
    /// Name of the NIC's device on the host: `tap100i0` or `veth100i0`.
    pub fn device(&self) -> String {
        self.kind.device(self.port)
    }
}

/// Rules for forwarded packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardPolicy {
    /// The VNet; none for what the host routes.
    pub vnet: Option<Arc<str>>,
    /// The rules.
    pub policy: Policy,
}

/// Ordered rules; the first that matches decides, and the last matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The rules in order.
    pub rules: Vec<Rule>,
}

/// One rule: conditions and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// All of these must hold.
    pub matches: Matches,
    /// What happens then.
    pub verdict: Verdict,
    /// Why, for counters and traces.
    pub reason: Reason,
    /// Syslog level (0 to 7) at which a match is logged.
    pub log: Option<u8>,
    /// Where the rule comes from.
    pub origin: Origin,
}

/// Conditions of a rule; an empty one holds for every packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Only on this interface of the host. Always empty in a guest's policy, and in those of [`HostPolicy::on`].
    pub interface: Option<Arc<str>>,
    /// Only frames that are neither IPv4 nor IPv6: `dport` is their EtherType, `source` and `dest` are sender and target of an ARP. Rules without
    /// this are for IP; in a guest's policy they come behind one that takes all other frames.
    pub not_ip: bool,
    /// Only this IP version.
    pub family: Option<Family>,
    /// IP protocol number (for IPv6 that of the final header).
    pub protocol: Option<u8>,
    /// Source address.
    pub source: Option<Arc<AddressSet>>,
    /// Destination address.
    pub dest: Option<Arc<AddressSet>>,
    /// Source ports, inclusive ranges, any of which; empty: not restricted. For ICMP and ICMPv6: types.
    pub sport: Vec<(u16, u16)>,
    /// Destination ports likewise. For ICMP and ICMPv6: codes.
    pub dport: Vec<(u16, u16)>,
    /// Traits of the packet (`fw_common::maps::traits`) that are looked at …
    pub traits_mask: u8,
    /// … and the value they must have.
    pub traits_value: u8,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A set of addresses: the longest prefix that holds an address decides whether it is in the set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// Entries, sorted by network, each network once; host bits are zero.
    pub entries: Vec<SetEntry>,
}

/// Of long sets a sample only: sets that differ elsewhere differ by [`Eq`].
impl Hash for AddressSet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        const SAMPLE: usize = 16;
        self.entries.len().hash(state);
        let step = self.entries.len().div_ceil(SAMPLE).max(1);
        for entry in self.entries.iter().step_by(step).chain(self.entries.last()) {
            entry.hash(state);
        }
    }
}

/// One prefix of an [`AddressSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetEntry {
    /// The prefix.
    pub net: IpNet,
    /// Addresses whose longest prefix this is are *not* in the set (`!` in the file).
    pub nomatch: bool,
}

/// Where a rule comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The line that caused it; none for standard chains and policies that no option names.
    pub line: Option<SourceLine>,
    /// The kind of thing it was expanded from.
    pub kind: OriginKind,
    /// The line as written, without comment, or for built-in rules what they do ("standard: DHCP").
    pub text: Arc<str>,
}

/// A line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceLine {
    /// Path as given to the parser.
    pub file: Arc<str>,
    /// Line number, from 1.
    pub line: u32,
}

/// What a rule was expanded from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// A rule line of the guest's (or host's) own list.
    Rule,
    /// A member of a security group; logged under the group's chain.
    Group(Arc<str>),
    /// A default policy (`policy_in`, `policy_out`); logged as `policy DROP: `.
    Policy,
    /// A standard chain: DHCP, neighbour discovery, noise, invalid …
    Standard,
    /// The cluster's blacklist, logged under `PVEFW-blacklist`.
    Blacklist,
    /// The smurf filter, logged under `PVEFW-smurflog`.
    Smurf,
    /// The TCP flag filter, logged under `PVEFW-logflags`.
    TcpFlags,
}
