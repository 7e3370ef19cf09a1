//! Which network devices are the host's own interfaces: those its stack sends and receives IP packets at.
//!
//! In: every device of the namespace. Out: those with a place in the host zone.
//!
//! - A port of a bridge, bond, team or Open vSwitch is none: what it receives is handed to its master before the stack looks. Members of a VRF
//!   keep their addresses and are; the VRF itself is not: only copies of what its members send and receive pass it.
//! - Loopback is the host talking to itself.
//! - The devices of guests are ports, also while they are not plugged into a bridge yet; so are the host's ends of their own bridges.
//! - IFB, macvtap, ipvtap and monitoring devices hand packets on, or to a process, without the stack.
//!
//! Whether a device is up or has an address does not matter: both can change without a moment in between. Everything else is the host's, so
//! that a kind of device that is not known here is filtered.

use std::collections::BTreeMap;

use super::devices::{Device, Devices, Layer};

/// One of the host's interfaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostDevice {
    /// Interface index.
    pub ifindex: u32,
    /// Its frames have no Ethernet header.
    pub bare: bool,
}

/// The host's interfaces by name.
pub fn host_devices(devices: &Devices) -> BTreeMap<String, HostDevice> {
    let by_index: BTreeMap<u32, &Device> = devices
        .0
        .values()
        .map(|device| (device.ifindex, device))
        .collect();
    let is_port = |device: &Device| {
        let master = device.master.map(|index| by_index.get(&index));
        master.is_some_and(|master| master.is_none_or(|master| master.kind != VRF))
    };
    devices
        .0
        .iter()
        .filter(|(name, device)| has_stack(device) && !is_port(device) && !is_guests(name))
        .map(|(name, device)| {
            let bare = device.layer != Layer::Ethernet;
            let ifindex = device.ifindex;
            (name.clone(), HostDevice { ifindex, bare })
        })
        .collect()
}

/// The kind of device that is a routing table (VRF).
const VRF: &str = "vrf";

/// Kinds of device (as in `ip -details link`) at which no IP packet is the host's.
const WITHOUT_STACK: [&str; 10] = [
    VRF, "ifb", "macvtap", "ipvtap", "nlmon", "vsockmon", "can", "vcan", "vxcan", "lowpan",
];

fn has_stack(device: &Device) -> bool {
    let carries_ip = match device.layer {
        Layer::Ethernet | Layer::Other => true,
        Layer::Loopback | Layer::Monitor => false,
    };
    carries_ip && !WITHOUT_STACK.contains(&device.kind.as_str())
}

/// A guest's device, or one of the pair that joins a guest's own bridge to the node's: `tap100i0`, `veth100i0`, `fwln100i0`, `fwpr100p0`.
fn is_guests(name: &str) -> bool {
    let shapes = [("tap", 'i'), ("veth", 'i'), ("fwln", 'i'), ("fwpr", 'p')];
    let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    shapes.iter().any(|(prefix, separator)| {
        let rest = name.strip_prefix(prefix);
        let parts = rest.and_then(|rest| rest.split_once(*separator));
        parts.is_some_and(|(vmid, net)| number(vmid) && number(net))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_host_has_a_stack() {
        use Layer::{Ethernet, Loopback, Monitor, Other};
        let cases = [
            ("lo", 1, None, Loopback, "", false),
            ("eno1", 2, Some(10), Ethernet, "", false),
            ("eno2", 3, None, Ethernet, "", true),
            ("eno3", 4, Some(11), Ethernet, "", false),
            ("vmbr0", 10, None, Ethernet, "bridge", true),
            ("bond0", 11, None, Ethernet, "bond", true),
            ("vmbr0.100", 12, None, Ethernet, "vlan", true),
            ("eno2.7", 13, Some(10), Ethernet, "vlan", false),
            ("ovs-system", 14, None, Ethernet, "openvswitch", true),
            ("vmbr1", 15, None, Ethernet, "openvswitch", true),
            ("eno4", 16, Some(14), Ethernet, "", false),
            ("vrf_red", 17, None, Ethernet, "vrf", false),
            ("vnet1", 18, Some(17), Ethernet, "bridge", true),
            // A master that is gone when the list is made: a port until it is known better.
            ("eno5", 19, Some(99), Ethernet, "", false),
            ("wg0", 20, None, Other, "wireguard", true),
            ("tun0", 21, None, Other, "tun", true),
            ("tap0", 22, None, Ethernet, "tun", true),
            ("ib0", 23, None, Other, "ipoib", true),
            ("new0", 24, None, Ethernet, "invented", true),
            ("tap100i0", 30, Some(31), Ethernet, "tun", false),
            ("fwbr100i0", 31, None, Ethernet, "bridge", true),
            ("fwln100i0", 32, Some(31), Ethernet, "veth", false),
            ("fwpr100p0", 33, Some(10), Ethernet, "veth", false),
            ("veth101i0", 34, None, Ethernet, "veth", false),
            ("tap102i1", 35, None, Ethernet, "tun", false),
            ("veth0", 36, None, Ethernet, "veth", true),
            ("vethi0", 37, None, Ethernet, "veth", true),
            ("tapi", 38, None, Ethernet, "tun", true),
            ("veth1a2i0", 39, None, Ethernet, "veth", true),
            ("ifb0", 40, None, Ethernet, "ifb", false),
            ("macvtap0", 41, None, Ethernet, "macvtap", false),
            ("nlmon0", 42, None, Monitor, "nlmon", false),
            ("can0", 43, None, Monitor, "", false),
        ];
        let devices = Devices(
            cases
                .iter()
                .map(|(name, ifindex, master, layer, kind, _)| {
                    let device = Device {
                        ifindex: *ifindex,
                        master: *master,
                        mac: 0,
                        layer: *layer,
                        kind: (*kind).to_owned(),
                    };
                    ((*name).to_owned(), device)
                })
                .collect(),
        );
        let own = host_devices(&devices);
        for (name, ifindex, _, layer, _, expect) in cases {
            let seen = own.get(name);
            assert_eq!(seen.is_some(), expect, "{name}");
            if let Some(seen) = seen {
                assert_eq!(
                    (seen.ifindex, seen.bare),
                    (ifindex, layer == Other),
                    "{name}"
                );
            }
        }
    }
}
