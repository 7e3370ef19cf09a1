//! Checks that hold for every packet a guest sends, whatever flow it belongs to.
//!
//! In: the port and the parsed headers. Out: nothing, or the [`Reason`] the packet dies of. Checks that need rules (addresses, router
//! advertisements) are rules of the port's policies.

use crate::maps::{Port, port_flag};
use crate::verdict::Reason;
use crate::wire::{ETHERTYPE_ARP, Headers, IpVersion, protocol};

/// Checks on everything a guest sends. DHCP requests are exempt where the guest may use DHCP, as in the reference.
#[inline(always)]
pub fn guard(port: &Port, headers: &Headers) -> Result<(), Reason> {
    if port.flags & port_flag::MACFILTER == 0 {
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
