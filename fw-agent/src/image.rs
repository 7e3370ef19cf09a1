//! What goes in each map: policies as bit vectors, address sets as classes, ports.
//!
//! In: a [`NodePolicy`]. Out: a [`MapImage`], position-independent and complete: `datapath` decides where in the maps it goes, [`Memory`]
//! answers the packet pipeline from it without a kernel. Pure: equal policies give equal images.
//!
//! 1. `classes`: all address sets of the node become one class space, as much as can be the one that is in force.
//! 2. `vectors`: each policy becomes words of the arena; equal policies become one.
//! 3. `rules`: rules get identities that survive reloads ([`RuleTable`]).
//!
//! [`Builder`] makes images one after the other; [`MapImage::build`] makes one on nothing.
//!
//! The host has one pair of policies per interface that some of its rules name, and one for all others: the pipeline knows no names.
//!
//! Invariant: a port whose policy cannot be built is missing from `ports` and named in `failures`; nobody else is affected.

mod books;
mod builder;
mod classes;
mod guard;
mod memory;
mod print;
mod rules;
mod vectors;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fw_common::maps::{Settings, VLAN_WORDS, policy, port_flag};
use fw_common::verdict::{Direction, Reason};

pub use books::{Books, Counted, Logged};
pub use builder::Builder;
pub(crate) use classes::add_bits;
pub use classes::{Books as Spaces, ClassSpace, Classes, Prefixes, Step};
pub use memory::{Memory, ban_prefix};
pub(crate) use memory::{PlacedSpace, Places, port_value};
pub use rules::{RuleInfo, RuleTable};
pub use vectors::PolicyError;

use crate::policy::{NodePolicy, Policy, PortId, PortPolicy, Vlans};

/// The contents of all maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapImage {
    /// Classes of addresses.
    pub space: ClassSpace,
    /// Distinct policies.
    pub policies: Vec<Arc<PolicyImage>>,
    /// Ports by guest and NIC.
    pub ports: BTreeMap<PortId, PortImage>,
    /// The host's policies, if it has any.
    pub host: Option<HostImage>,
    /// What is known of each rule.
    pub rules: RuleTable,
    /// Node-wide settings.
    pub settings: Settings,
    /// Entries of the flow table; 0: as many as it has.
    pub flow_capacity: u32,
    /// Ports whose policy could not be built, and why; guest 0 is the host.
    pub failures: Vec<(PortId, Direction, PolicyError)>,
    /// Ports that look at sets whose contents change at once, by a step of `space` and nothing else.
    pub moved: BTreeSet<PortId>,
}

/// One policy, laid out as `fw_common::maps::policy` says; offsets count from its first word.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PolicyImage {
    /// The words.
    pub words: Vec<u64>,
    /// Identity of each rule, in order.
    pub rules: Vec<u32>,
}

impl PolicyImage {
    /// The words as they stand in the arena, for classes of these spaces of small and of big sets.
    pub(crate) fn placed(&self, small: u32, big: u32) -> Vec<u64> {
        let mut words = self.words.clone();
        let known = words[policy::KNOWN];
        // Who knows one class asks for no ancestors.
        let small = if known as u32 > 1 { small } else { 0 };
        let big = if (known >> 32) as u16 > 1 { big } else { 0 };
        words[policy::SPACES] = u64::from(small) | u64::from(big) << 32;
        words
    }
}

/// The host's policies by interface: indices in [`MapImage::policies`], by direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostImage {
    /// Interfaces that some rule names.
    pub interfaces: BTreeMap<Arc<str>, [usize; 2]>,
    /// All others.
    pub elsewhere: [usize; 2],
    /// Bits of [`port_flag`].
    pub flags: u16,
}

impl HostImage {
    /// An interface as a port. `bare`: its frames have no Ethernet header.
    pub fn port(&self, interface: &str, bare: bool) -> PortImage {
        let link = if bare { port_flag::NO_LINK } else { 0 };
        PortImage {
            device: interface.to_owned(),
            mac: 0,
            flags: self.flags | port_flag::HOST | link,
            policies: self.on(interface),
            guard: None,
            guard_epoch: guard::epoch(None),
            vlans: VlanImage::Any,
        }
    }

    /// The policies of an interface.
    pub fn on(&self, interface: &str) -> [usize; 2] {
        let known = self.interfaces.get(interface);
        known.copied().unwrap_or(self.elsewhere)
    }
}

/// The host among ports: no guest has this number.
pub const HOST: PortId = PortId { vmid: 0, net: 0 };

/// One port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortImage {
    /// Name of the device.
    pub device: String,
    /// Hardware address as a number; 0 if not known.
    pub mac: u64,
    /// Bits of [`port_flag`].
    pub flags: u16,
    /// Indices in [`MapImage::policies`], by direction.
    pub policies: [usize; 2],
    /// Index of the policy for flows that run, if the port has one.
    pub guard: Option<usize>,
    /// Stands for what that policy says; see [`fw_common::maps::Port::guard_epoch`].
    pub guard_epoch: u32,
    /// VLANs that the NIC may use.
    pub vlans: VlanImage,
}

/// VLANs that a NIC may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VlanImage {
    /// No tags.
    None,
    /// Any tag.
    Any,
    /// Those with a bit in these [`fw_common::maps::VLAN_WORDS`] words.
    Words(Vec<u64>),
}

impl MapImage {
    /// Builds the image of a node's policies, on nothing.
    pub fn build(node: &NodePolicy) -> Self {
        Builder::default().build(node, &Spaces::default(), |_| false)
    }

    /// Has flows that were accepted under other rules judged again, on every guest's NIC. The host's are left alone: among them are those that it
    /// forwards with its own address, which no rule has accepted.
    pub fn reevaluate(&mut self) {
        for port in self.ports.values_mut() {
            port.flags |= port_flag::REEVALUATE;
        }
    }
}

/// What a port's flags say of the blacklist's rule in its policy for what comes in, if the blacklist holds any address.
fn blacklist_flags(policy: &Policy) -> u16 {
    let mut rules = policy.rules.iter();
    match rules.find(|rule| rule.reason == Reason::Blacklist) {
        None => 0,
        Some(rule) if rule.log.is_some() => port_flag::BLACKLIST,
        Some(_) => port_flag::BLACKLIST | port_flag::QUIET_BLACKLIST,
    }
}

/// A port's two policies.
pub fn directions(port: &PortPolicy) -> [(Direction, &Policy); 2] {
    [
        (Direction::In, &port.inbound),
        (Direction::Out, &port.outbound),
    ]
}

/// A port whose policies have no place yet.
fn port_image(port: &PortPolicy) -> PortImage {
    let mut flags = 0;
    if port.macfilter {
        flags |= port_flag::MACFILTER;
    }
    if port.dhcp {
        flags |= port_flag::DHCP;
    }
    if port.macfilter_layer2 {
        flags |= port_flag::MACFILTER_LAYER2;
    }
    if port.outbound.rules.iter().any(|rule| rule.matches.not_ip) {
        flags |= port_flag::LAYER2;
    }
    PortImage {
        device: port.device(),
        mac: port.mac.map_or(0, mac_number),
        flags,
        policies: [0; 2],
        guard: None,
        guard_epoch: guard::epoch(port.guard.as_ref()),
        vlans: match &port.vlans {
            Vlans::None => VlanImage::None,
            Vlans::Any => VlanImage::Any,
            Vlans::Only(ranges) => VlanImage::Words(vlan_words(ranges)),
        },
    }
}

fn vlan_words(ranges: &[(u16, u16)]) -> Vec<u64> {
    let mut words = vec![0; VLAN_WORDS as usize];
    for vlan in ranges.iter().flat_map(|(first, last)| *first..=*last) {
        if let Some(word) = words.get_mut(usize::from(vlan / 64)) {
            *word |= 1 << (vlan % 64);
        }
    }
    words
}

/// A hardware address as the number that the pipeline compares.
pub fn mac_number(mac: [u8; 6]) -> u64 {
    mac.iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
