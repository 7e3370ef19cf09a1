//! Which devices stand for wires: what packets come into the node by.
//!
//! Network cards; and, where the node itself is a container or a namespace of a test, the veth devices that stand for them. Not those of guests, nor
//! those that Proxmox puts between a guest's own bridge and the others (`fwpr`, `fwln`).

use std::collections::BTreeMap;

use super::devices::{Device, Devices, Layer};

/// Name and interface index of the devices that stand for wires.
pub fn uplinks(devices: &Devices) -> BTreeMap<String, u32> {
    devices
        .0
        .iter()
        .filter(|(name, device)| is_uplink(name, device))
        .map(|(name, device)| (name.clone(), device.ifindex))
        .collect()
}

fn is_uplink(name: &str, device: &Device) -> bool {
    let is_wire = match device.kind.as_str() {
        "" => true,
        "veth" => !is_inner(name),
        _ => false,
    };
    is_wire && device.layer == Layer::Ethernet
}

/// Whether a veth device has a name that Proxmox gives: `veth<guest>i<NIC>`, `fwpr<guest>p<NIC>`, `fwln<guest>i<NIC>`.
fn is_inner(name: &str) -> bool {
    [("veth", 'i'), ("fwpr", 'p'), ("fwln", 'i')]
        .iter()
        .any(|(prefix, separator)| {
            let numbers = name.strip_prefix(prefix);
            let numbers = numbers.and_then(|rest| rest.split_once(*separator));
            numbers.is_some_and(|(guest, nic)| is_number(guest) && is_number(nic))
        })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_what_stands_for_them() {
        let device = |layer, kind: &str| Device {
            ifindex: 1,
            master: None,
            mac: 0,
            layer,
            kind: kind.to_owned(),
        };
        for (name, layer, kind, expect) in [
            ("eno1", Layer::Ethernet, "", true),
            ("lo", Layer::Loopback, "", false),
            ("can0", Layer::Monitor, "", false),
            ("wwan0", Layer::Other, "", false),
            ("vmbr0", Layer::Ethernet, "bridge", false),
            ("bond0", Layer::Ethernet, "bond", false),
            ("tap100i0", Layer::Ethernet, "tun", false),
            ("eth0", Layer::Ethernet, "veth", true),
            ("veth101i0", Layer::Ethernet, "veth", false),
            ("fwpr100p0", Layer::Ethernet, "veth", false),
            ("fwln100i0", Layer::Ethernet, "veth", false),
            ("vethernet", Layer::Ethernet, "veth", true),
            ("veth1a2b3i4", Layer::Ethernet, "veth", true),
            ("vethi", Layer::Ethernet, "veth", true),
        ] {
            assert_eq!(is_uplink(name, &device(layer, kind)), expect, "{name}");
        }
    }
}
