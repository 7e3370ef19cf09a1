//! Names of protocols, services and Ethernet types.
//!
//! The tables are those of Debian's netbase package (`/etc/protocols`, `/etc/services`, `/etc/ethertypes`), kept in `data/` so that a
//! configuration means the same on every machine. Invariant: the embedded tables parse; a test reads all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP.
pub const ICMP: u8 = 1;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// IGMP.
pub const IGMP: u8 = 2;

/// Protocols that have ports: tcp, udp, dccp, sctp, udplite.
pub const WITH_PORTS: [u8; 5] = [TCP, UDP, 33, 132, 136];

static PROTOCOLS: LazyLock<HashMap<String, u8>> = LazyLock::new(|| {
    rows(include_str!("../../data/protocols.csv"))
        .map(|row| {
            (
                row[0].to_owned(),
                row[1]
                    .parse()
                    .expect("protocols.csv holds numbers below 256"),
            )
        })
        .collect()
});

/// One name of each number: `icmpv6`, not `ipv6-icmp`; `hopopt`, not `ip`.
static NAMES: LazyLock<BTreeMap<u8, &'static str>> = LazyLock::new(|| {
    let hidden = ["ipv6-icmp", "ip"];
    let shown = PROTOCOLS
        .iter()
        .filter(|(name, _)| !hidden.contains(&name.as_str()));
    shown
        .map(|(name, number)| (*number, name.as_str()))
        .collect()
});

static SERVICES: LazyLock<HashMap<(String, u8), u16>> = LazyLock::new(|| {
    rows(include_str!("../../data/services.csv"))
        .map(|row| {
            let protocol =
                protocol(&row[1]).expect("services.csv names protocols of protocols.csv");
            let port = row[2].parse().expect("services.csv holds ports");
            ((row[0].to_owned(), protocol), port)
        })
        .collect()
});

static ETHERTYPES: LazyLock<HashMap<String, u16>> = LazyLock::new(|| {
    rows(include_str!("../../data/ethertypes.csv"))
        .map(|row| {
            let number =
                u16::from_str_radix(&row[1], 16).expect("ethertypes.csv holds hexadecimal numbers");
            (row[0].to_ascii_lowercase(), number)
        })
        .collect()
});

/// Rows of an embedded table without its header.
pub(super) fn rows(text: &'static str) -> impl Iterator<Item = csv::StringRecord> {
    csv::Reader::from_reader(text.as_bytes())
        .into_records()
        .map(|row| row.expect("embedded tables are well-formed CSV"))
}

/// Number of a protocol by its primary name (lower case, except where the registry has it otherwise).
pub fn protocol(name: &str) -> Option<u8> {
    PROTOCOLS.get(name).copied()
}

/// Whether a protocol number is in the registry.
pub fn protocol_is_listed(number: u8) -> bool {
    NAMES.contains_key(&number)
}

/// The name of a protocol.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    NAMES.get(&number).copied()
}

/// All protocol names.
pub fn protocol_names() -> impl Iterator<Item = &'static str> {
    PROTOCOLS.keys().map(String::as_str)
}

/// Port of a service for one protocol.
pub fn service(name: &str, protocol: u8) -> Option<u16> {
    SERVICES.get(&(name.to_owned(), protocol)).copied()
}

/// Names of the services of one protocol.
pub fn service_names(protocol: u8) -> impl Iterator<Item = &'static str> {
    SERVICES
        .keys()
        .filter(move |(_, of)| *of == protocol)
        .map(|(name, _)| name.as_str())
}

/// Whether the reference can read an Ethernet type: a name as written in the registry whose number has decimal digits only, or such a
/// number.
pub fn ethertype_is_decimal(text: &str) -> bool {
    let is_decimal =
        |number: &str| number.len() == 4 && number.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal(text) || DECIMAL_ETHERTYPES.contains(text)
}

static DECIMAL_ETHERTYPES: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    rows(include_str!("../../data/ethertypes.csv"))
        .filter(|row| row[1].bytes().all(|byte| byte.is_ascii_digit()))
        .map(|row| row[0].to_owned())
        .collect()
});

/// An Ethernet type by name (any case) or hexadecimal number, with or without `0x`.
pub fn ethertype(text: &str) -> Option<u16> {
    let lower = text.to_ascii_lowercase();
    if let Some(number) = ETHERTYPES.get(&lower) {
        return Some(*number);
    }
    let digits = lower.strip_prefix("0x").unwrap_or(&lower);
    let hex =
        (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex {
        u16::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        assert_eq!(protocol("tcp"), Some(TCP));
        assert_eq!(protocol("TCP"), None);
        assert_eq!(protocol("icmpv6"), Some(ICMPV6));
        assert_eq!(protocol("ipv6-icmp"), Some(ICMPV6));
        assert!(protocol_is_listed(47) && !protocol_is_listed(253));
        assert_eq!(protocol_name(58), Some("icmpv6"));
        assert_eq!(protocol_name(0), Some("hopopt"));
        assert_eq!(protocol_name(253), None);
        for name in protocol_names() {
            let number = protocol(name).unwrap();
            assert_eq!(protocol_name(number).and_then(protocol), Some(number));
        }
        assert_eq!(service("https", TCP), Some(443));
        assert_eq!(service("bootpc", UDP), Some(68));
        assert_eq!(service("bootpc", TCP), None);
        assert_eq!(service("ssh", UDP), None);
        for (text, expect) in [
            ("ARP", Some(0x0806)),
            ("arp", Some(0x0806)),
            ("8100", Some(0x8100)),
            ("0x88cc", Some(0x88cc)),
            ("zz", None),
            ("+123", None),
        ] {
            assert_eq!(ethertype(text), expect, "{text}");
        }
    }
}
