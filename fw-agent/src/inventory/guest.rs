//! A guest's configuration file: its `netN` lines.
//!
//! Only the part before the first section counts; snapshots and pending changes follow it. A value is a comma-separated list of `key=value`;
//! for a VM a bare first word is the model, and `model=address` gives both. Keys that do not concern a filter are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Guest, Nic};
use crate::config::did_you_mean;
use crate::config::line::{Fault, Line, Reporter, decode, lines, quote};
use crate::config::options::switch;
use crate::policy::GuestKind;

const MODELS: &[&str] = &[
    "e1000",
    "e1000-82540em",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "i82551",
    "i82557b",
    "i82559er",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "rtl8139",
    "virtio",
    "vmxnet3",
];

/// Highest NIC number.
const LAST_NET: u16 = 31;

/// Reads a guest's file.
pub(super) fn parse(
    bytes: &[u8],
    vmid: u32,
    kind: GuestKind,
    reporter: &mut Reporter<'_>,
) -> Guest {
    let text = decode(bytes);
    let mut nics = BTreeMap::new();
    for line in lines(&text) {
        let body = line.text.trim_ascii();
        if body.starts_with('[') {
            break;
        }
        if body.starts_with('#') {
            continue;
        }
        let Some((key, value)) = body.split_once(':') else {
            continue;
        };
        let Some(net) = net_number(key) else { continue };
        let (nic, faults) = parse_nic(&line, value.trim_ascii(), net, kind);
        for (fault, effect) in faults {
            reporter.warning(line.number, fault, effect);
        }
        nics.insert(net, nic);
    }
    Guest {
        vmid,
        kind,
        file: Arc::clone(reporter.file()),
        nics: nics.into_values().collect(),
    }
}

fn net_number(key: &str) -> Option<u16> {
    let digits = key.strip_prefix("net")?;
    let plain = digits == "0"
        || !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain {
        digits.parse().ok().filter(|net| *net <= LAST_NET)
    } else {
        None
    }
}

const CLOSED: &str = "the NIC is treated as firewalled";
const NO_MAC_FILTER: &str = "its MAC filter is off";
const NO_VLAN: &str = "the NIC counts as one without it";
const NO_ADDRESS: &str = "the address is not added to the NIC's own";

/// Reads the value of a `netN` line; the first fault that hides whether the NIC is filtered makes it filtered.
fn parse_nic(
    line: &Line<'_>,
    value: &str,
    net: u16,
    kind: GuestKind,
) -> (Nic, Vec<(Fault, &'static str)>) {
    let mut nic = Nic {
        net,
        line: line.number,
        firewall: false,
        mac: None,
        bridge: None,
        tag: None,
        trunks: Vec::new(),
        addresses: Vec::new(),
    };
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    let mut closed = None;
    for (index, item) in value.split(',').map(str::trim_ascii).enumerate() {
        let (key, value) = match (item.split_once('='), kind) {
            (Some((model, address)), GuestKind::Vm) if MODELS.contains(&model) => {
                seen.insert("model");
                ("macaddr", address)
            }
            (Some((model, address)), GuestKind::Vm)
                if index == 0 && parse_mac(address).is_some() && model != "macaddr" =>
            {
                seen.insert("model");
                closed.get_or_insert_with(|| {
                    Fault::new(
                        line,
                        model,
                        format!("{} is not a known model", quote(model)),
                    )
                    .hint(did_you_mean(model, MODELS.iter().copied()))
                });
                ("macaddr", address)
            }
            (Some(pair), _) => pair,
            (None, GuestKind::Vm) if index == 0 && MODELS.contains(&item) => ("model", item),
            (None, _) => {
                closed.get_or_insert_with(|| {
                    Fault::new(
                        line,
                        item,
                        format!("{} cannot be read as key=value", quote(item)),
                    )
                });
                continue;
            }
        };
        if !seen.insert(key) {
            closed.get_or_insert_with(|| {
                Fault::new(line, item, format!("{} is given twice", quote(key)))
            });
        }
        match (key, kind) {
            ("firewall", _) => match switch(value) {
                Some(firewall) => nic.firewall = firewall,
                None => {
                    closed.get_or_insert_with(|| {
                        Fault::new(line, item, format!("{} is neither 0 nor 1", quote(value)))
                    });
                }
            },
            ("model", GuestKind::Vm) if !MODELS.contains(&value) => {
                closed.get_or_insert_with(|| {
                    Fault::new(line, item, format!("{} is not a known model", quote(value)))
                });
            }
            ("macaddr", GuestKind::Vm) | ("hwaddr", GuestKind::Container) => match parse_mac(value)
            {
                Some(mac) => nic.mac = Some(mac),
                None => faults.push((
                    Fault::new(
                        line,
                        item,
                        format!("{} is not a hardware address of a NIC", quote(value)),
                    ),
                    NO_MAC_FILTER,
                )),
            },
            ("bridge", _) => nic.bridge = Some(value.to_owned()),
            ("tag", _) => match vlan(value) {
                Some(tag) => nic.tag = Some(tag),
                None => faults.push((not_a_vlan(line, item, value), NO_VLAN)),
            },
            ("trunks", _) => match value.split(';').map(vlans).collect() {
                Some(trunks) => nic.trunks = trunks,
                None => faults.push((not_a_vlan(line, item, value), NO_VLAN)),
            },
            ("ip" | "ip6", GuestKind::Container) => match parse_address(key, value) {
                Ok(address) => nic.addresses.extend(address),
                Err(()) => faults.push((
                    Fault::new(line, item, format!("{} is not an address", quote(value))),
                    NO_ADDRESS,
                )),
            },
            _ => {}
        }
    }
    if kind == GuestKind::Vm && !seen.contains("model") {
        closed.get_or_insert_with(|| Fault::new(line, value, "the NIC has no known model"));
    }
    if let Some(fault) = closed {
        nic.firewall = true;
        faults.push((fault, CLOSED));
    }
    if nic.firewall
        && nic.mac.is_none()
        && !faults.iter().any(|(_, effect)| *effect == NO_MAC_FILTER)
    {
        faults.push((
            Fault::new(
                line,
                line.text.trim_ascii(),
                format!("net{net} has no hardware address"),
            ),
            NO_MAC_FILTER,
        ));
    }
    (nic, faults)
}

/// Reads the number of a VLAN (IEEE 802.1Q: 0 and 4095 are reserved).
fn vlan(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && (1..=4_094).contains(number))
}

/// Reads one VLAN, or `first-last`.
fn vlans(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (vlan(first)?, vlan(last)?);
    (range.0 <= range.1).then_some(range)
}

fn not_a_vlan(line: &Line<'_>, item: &str, value: &str) -> Fault {
    Fault::new(
        line,
        item,
        format!("{} is not a VLAN (1 to 4094)", quote(value)),
    )
}

/// Reads six hexadecimal bytes; a group address is none that a NIC can have.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .filter(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// Reads a container's address; none for those that are not fixed.
fn parse_address(key: &str, text: &str) -> Result<Option<IpAddr>, ()> {
    let address = text.split('/').next().unwrap_or_default();
    match (key, text) {
        (_, "dhcp" | "manual") | ("ip6", "auto") => Ok(None),
        ("ip", _) => address
            .parse::<Ipv4Addr>()
            .map(|address| Some(address.into()))
            .or(Err(())),
        _ => address
            .parse::<Ipv6Addr>()
            .map(|address| Some(address.into()))
            .or(Err(())),
    }
}

#[cfg(test)]
mod tests;
