//! The reference model: what a policy means, as plainly as it can be written.
//!
//! In: a resolved [`Policy`] and one packet's headers. Out: the index of the first rule whose conditions hold. The model walks the rules in order
//! and scans every set and range from its start; it knows no maps, classes or bit vectors, and nothing of it may be shared with the pipeline that
//! it is compared with.
//!
//! Deliberately absent: flows, guards, verdicts of anything but rules. Ports are those of the packet, or for ICMP and ICMPv6 the type in the
//! place of the source port and the code in that of the destination port; a packet without them (another protocol, a later fragment) meets no
//! rule that asks for them.

mod traits;

use std::net::{IpAddr, Ipv6Addr};

pub use self::traits::{Segment, first_state, traits_of};

use fw_common::verdict::Reason;

use fw_agent::policy::{AddressSet, Family, Matches, Policy};

/// What rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP version; that of both addresses.
    pub family: Family,
    /// IP protocol, for IPv6 that of the final header.
    pub protocol: u8,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub dest: IpAddr,
    /// Source port, or ICMP type.
    pub sport: Option<u16>,
    /// Destination port, or ICMP code.
    pub dport: Option<u16>,
    /// Bits of `fw_common::maps::traits`.
    pub traits: u8,
}

/// Index of the rule that decides; the number of rules if none does, which a policy's last rule excludes.
pub fn judge(policy: &Policy, packet: &Packet) -> usize {
    judge_on(policy, packet, None)
}

/// Whether a packet of a running flow, one that is ESTABLISHED or RELATED, passes without a look at the rules: unless it comes in from where the
/// blacklist is.
pub fn passes_by_its_flow(policy: &Policy, inbound: bool, source: IpAddr) -> bool {
    let blacklisted = policy.rules.iter().any(|rule| {
        let set = rule.matches.source.as_ref();
        rule.reason == Reason::Blacklist && set.is_some_and(|set| contains(set, source))
    });
    !(inbound && blacklisted)
}

/// Likewise for a packet on an interface of the host; without one no rule holds that asks for one.
pub fn judge_on(policy: &Policy, packet: &Packet, interface: Option<&str>) -> usize {
    for (index, rule) in policy.rules.iter().enumerate() {
        if let Some(only) = &rule.matches.interface
            && Some(&**only) != interface
        {
            continue;
        }
        if holds(&rule.matches, packet) {
            return index;
        }
    }
    policy.rules.len()
}

/// Whether all conditions but that on the interface hold for the packet.
pub fn holds(matches: &Matches, packet: &Packet) -> bool {
    if matches.not_ip {
        return false;
    }
    if let Some(family) = matches.family
        && family != packet.family
    {
        return false;
    }
    if let Some(protocol) = matches.protocol
        && protocol != packet.protocol
    {
        return false;
    }
    if let Some(set) = &matches.source
        && !contains(set, packet.source)
    {
        return false;
    }
    if let Some(set) = &matches.dest
        && !contains(set, packet.dest)
    {
        return false;
    }
    in_ranges(&matches.sport, packet.sport)
        && in_ranges(&matches.dport, packet.dport)
        && packet.traits & matches.traits_mask == matches.traits_value
}

/// A frame that is not IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// EtherType.
    pub ethertype: u16,
    /// Who sends an ARP, and whom it asks for or tells; nobody does with anything else. Of ARP that cannot be read both are 0.0.0.0.
    pub arp: Option<[IpAddr; 2]>,
}

/// Index of the rule that decides a frame that is not IP; the number of rules if none does.
pub fn judge_frame(policy: &Policy, frame: &Frame) -> usize {
    for (index, rule) in policy.rules.iter().enumerate() {
        let matches = &rule.matches;
        if !matches.not_ip || !in_ranges(&matches.dport, Some(frame.ethertype)) {
            continue;
        }
        let holds = match frame.arp {
            Some([sender, target]) => {
                let senders = matches.source.as_ref();
                let targets = matches.dest.as_ref();
                senders.is_none_or(|set| contains(set, sender))
                    && targets.is_none_or(|set| contains(set, target))
            }
            None => matches.source.is_none() && matches.dest.is_none(),
        };
        if holds {
            return index;
        }
    }
    policy.rules.len()
}

/// The packet whose judgement decides whether a guest may claim an address by neighbour discovery: one from that address.
pub fn claim(address: Ipv6Addr) -> Packet {
    Packet {
        family: Family::V6,
        protocol: 58,
        source: address.into(),
        dest: Ipv6Addr::UNSPECIFIED.into(),
        sport: None,
        dport: None,
        traits: 0,
    }
}

/// Whether the longest prefix that holds `address` is there and is not a `nomatch`.
pub fn contains(set: &AddressSet, address: IpAddr) -> bool {
    let mut longest = None;
    let mut member = false;
    for entry in &set.entries {
        let length = entry.net.prefix_len();
        if entry.net.contains(&address) && longest.is_none_or(|known| length > known) {
            longest = Some(length);
            member = !entry.nomatch;
        }
    }
    member
}

fn in_ranges(ranges: &[(u16, u16)], value: Option<u16>) -> bool {
    if ranges.is_empty() {
        return true;
    }
    let Some(value) = value else {
        return false;
    };
    for &(first, last) in ranges {
        if first <= value && value <= last {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
