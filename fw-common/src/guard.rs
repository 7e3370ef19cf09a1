//! Comparisons that hold for every packet, whatever flow it belongs to.
//!
//! In: the port and the parsed headers. Out: nothing, or the [`Reason`] the packet dies of.
//!
//! 1. [`check_vlan`], both directions: a tagged frame needs a NIC that may use its VLAN. 2. [`guard`], what a guest sends: it must carry the
//!    NIC's hardware address.
//!
//! Absent: checks that need addresses, EtherTypes or other lists; those are rules of the port's policies.

use crate::maps::{ANY_VLAN, NO_VLAN, Port, port_flag};
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::{ETHERTYPE_ARP, Headers, IpVersion, protocol};

/// Whether the port may use the frame's VLAN: that of the outermost tag that names one.
#[inline(always)]
pub fn check_vlan<T: Tables>(tables: T, port: &Port, headers: &Headers) -> Result<(), Reason> {
    let vlan = u32::from(headers.vlan);
    if vlan == 0 || port.vlans == ANY_VLAN {
        return Ok(());
    }
    if port.vlans == NO_VLAN {
        return Err(Reason::Vlan);
    }
    let word = port.vlans.wrapping_add(vlan >> 6 & 63);
    let bits = tables.word(word).ok_or(Reason::BadPolicy)?;
    match bits >> (vlan & 63) & 1 {
        0 => Err(Reason::Vlan),
        _ => Ok(()),
    }
}

/// Checks on everything a guest sends. DHCP requests are exempt where the guest may use DHCP, as in the reference.
#[inline(always)]
pub fn guard(port: &Port, headers: &Headers) -> Result<(), Reason> {
    let filter = match headers.version {
        IpVersion::None => port_flag::MACFILTER_LAYER2,
        IpVersion::V4 | IpVersion::V6 => port_flag::MACFILTER,
    };
    if port.flags & filter == 0 {
        return Ok(());
    }
    let arp_lies =
        headers.ethertype == ETHERTYPE_ARP && headers.arp_mac != 0 && headers.arp_mac != port.mac;
    if headers.source_mac == port.mac && !arp_lies {
        return Ok(());
    }
    if port.flags & port_flag::DHCP != 0 && is_dhcp_request(headers) {
        return Ok(());
    }
    Err(Reason::MacFilter)
}

/// DHCPv4 and DHCPv6 from a client.
fn is_dhcp_request(headers: &Headers) -> bool {
    headers.protocol == protocol::UDP
        && headers.has_ports == 1
        && matches!(
            (headers.version, headers.sport, headers.dport),
            (IpVersion::V4, 68, 67) | (IpVersion::V6, 546, 547)
        )
}
