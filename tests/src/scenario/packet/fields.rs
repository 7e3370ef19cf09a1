//! The words of a packet: ends, protocols, fields and their values.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use super::{ICMP, ICMPV6, TCP, UDP};
use crate::frame::Extension;

const PROTOCOLS: [(&str, u8); 9] = [
    ("icmp", ICMP),
    ("igmp", 2),
    ("tcp", TCP),
    ("udp", UDP),
    ("dccp", 33),
    ("gre", 47),
    ("icmpv6", ICMPV6),
    ("sctp", 132),
    ("udplite", 136),
];

const FLAGS: [(&str, u8); 6] = [
    ("FIN", 1),
    ("SYN", 2),
    ("RST", 4),
    ("PSH", 8),
    ("ACK", 16),
    ("URG", 32),
];

/// One end of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// The number of a protocol by name or number.
pub(super) fn protocol_number(said: &str) -> Result<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == said);
    match known {
        Some((_, number)) => Ok(*number),
        None => said
            .parse()
            .with_context(|| format!("{said} is no protocol")),
    }
}

/// A list of IPv6 extension headers.
pub(super) fn extensions(said: &str) -> Result<Vec<Extension>> {
    let mut extensions = Vec::new();
    for said in said.split(',') {
        let (name, count) = said.split_once('*').unwrap_or((said, "1"));
        let extension = match name {
            "hopbyhop" => Extension::HopByHop,
            "routing" => Extension::Routing,
            "destination" => Extension::Destination,
            "authentication" => Extension::Authentication,
            _ => bail!("{name} is no extension header"),
        };
        extensions.extend(std::iter::repeat_n(extension, number(count)?));
    }
    Ok(extensions)
}

/// Where packets to an IP group go (RFC 1112, RFC 2464).
pub(super) fn group_mac(address: IpAddr) -> Option<[u8; 6]> {
    match address {
        IpAddr::V4(address) if address.is_broadcast() => Some([0xff; 6]),
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            Some([0x01, 0x00, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(address) if address.is_multicast() => {
            let [.., a, b, c, d] = address.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

pub(super) const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | 33 | 132 | 136)
}

pub(super) fn end(said: &str, protocol: u8) -> Result<End> {
    if has_ports(protocol) {
        let end: SocketAddr = said
            .parse()
            .with_context(|| format!("{said} is no address with a port"))?;
        return Ok(End {
            address: end.ip(),
            port: end.port(),
        });
    }
    let address = said
        .parse()
        .with_context(|| format!("{said} is no address"))?;
    Ok(End { address, port: 0 })
}

/// What the name of a field of the quoted packet begins with.
pub(super) const QUOTED: &str = "quote_";

/// Fields that there are.
const KNOWN: [&str; 22] = [
    "tcp_flags",
    "sequence",
    "acknowledge",
    "quote",
    "quote_cut",
    "icmp_type",
    "icmp_code",
    "id",
    "target",
    "data",
    "mac_source",
    "mac_dest",
    "arp_mac",
    "arp_operation",
    "vlan",
    "fragment",
    "fragment_id",
    "ext",
    "options",
    "payload",
    "set",
    "cut",
];

pub(super) fn fields(words: &[&str]) -> Result<Vec<(String, String)>> {
    let field = |word: &&str| {
        let (name, value) = word
            .split_once('=')
            .with_context(|| format!("{word} is no field"))?;
        let quoted = name.strip_prefix(QUOTED).filter(|name| {
            KNOWN.contains(name) && !name.starts_with("quote") && !name.starts_with("mac")
        });
        let is_known = KNOWN.contains(&name) || quoted.is_some();
        ensure!(is_known, "there is no field {name}");
        Ok((name.to_owned(), value.to_owned()))
    };
    words.iter().map(field).collect()
}

pub(super) fn flags(said: &str) -> Result<u8> {
    if said == "NONE" {
        return Ok(0);
    }
    said.split(',').try_fold(0, |flags, word| {
        let known = FLAGS.iter().find(|(name, _)| *name == word);
        let (_, bit) = known.with_context(|| format!("{word} is no TCP flag"))?;
        Ok(flags | bit)
    })
}

pub(super) fn number<T: TryFrom<u64>>(said: &str) -> Result<T> {
    let number = match said.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => said.parse(),
    };
    let number = number.with_context(|| format!("{said} is no number"))?;
    T::try_from(number)
        .ok()
        .with_context(|| format!("{said} is too large"))
}

pub(super) fn hex(said: &str) -> Result<Vec<u8>> {
    ensure!(
        said.len().is_multiple_of(2) && said.is_ascii(),
        "{said}: two hexadecimal digits a byte"
    );
    (0..said.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(&said[at..at + 2], 16)
                .with_context(|| format!("{said} is not hexadecimal"))
        })
        .collect()
}
