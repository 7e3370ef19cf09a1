//! Addresses as they are written: networks, ranges, lists, and names of aliases and sets.
//!
//! In: one token. Out: an [`AddressSpec`], in which names are folded to lower case but not yet looked up, and networks have their host bits
//! cleared. What a name means depends on the scope and is decided by `policy`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Net, Ipv6Subnets};

use super::line::{Fault, Line, Note, Span, quote};
use crate::policy::Family;

/// Longest name of an alias or a set.
pub const LONGEST_NAME: usize = 64;
/// Longest name of a security group.
pub const LONGEST_GROUP: usize = 18;

/// Where a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// `dc/`: the cluster's file only.
    Cluster,
    /// `guest/`: the guest's file only.
    Guest,
    /// `sdn/`: sets made from the SDN configuration.
    Sdn,
}

/// A name of an alias or a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// Where to look; none: guest first, then cluster.
    pub scope: Option<Scope>,
    /// The name in lower case.
    pub name: Arc<str>,
    /// Where it stands in its line.
    pub span: Span,
}

/// Source or destination of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressSpec {
    /// `+name`.
    Set(Name),
    /// `name`.
    Alias(Name),
    /// Networks of one family; ranges are split into networks.
    Nets {
        /// The family of all of them.
        family: Family,
        /// The networks, host bits cleared.
        nets: Arc<[IpNet]>,
        /// Where the list stands in its line.
        span: Span,
    },
}

impl AddressSpec {
    /// Where it stands in its line.
    pub fn span(&self) -> Span {
        match self {
            Self::Set(name) | Self::Alias(name) => name.span,
            Self::Nets { span, .. } => *span,
        }
    }
}

/// The family of a network.
pub fn family(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

/// Whether `text` has the form of a name: a letter, then at least one letter, digit, `-` or `_`.
pub fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && text.len() >= 2
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Splits `dc/`, `guest/` or `sdn/` off a name.
fn scoped(text: &str) -> (Option<Scope>, &str) {
    for (prefix, scope) in [
        ("dc/", Scope::Cluster),
        ("guest/", Scope::Guest),
        ("sdn/", Scope::Sdn),
    ] {
        if let (Some(head), Some(tail)) = (text.get(..prefix.len()), text.get(prefix.len()..))
            && head.eq_ignore_ascii_case(prefix)
        {
            return (Some(scope), tail);
        }
    }
    (None, text)
}

/// Reads the reference to an alias (`name`, `dc/name`, `guest/name`), if `text` looks like one.
pub fn alias_name(line: &Line<'_>, text: &str) -> Option<Name> {
    let (scope, name) = scoped(text);
    (is_name(name) && scope != Some(Scope::Sdn) && text.len() <= LONGEST_NAME).then(|| Name {
        scope,
        name: name.to_ascii_lowercase().into(),
        span: line.span(text),
    })
}

/// Reads a rule's source or destination; what the reference would not accept is noted.
pub fn parse_spec(
    line: &Line<'_>,
    text: &str,
    notes: &mut Vec<Note>,
) -> Result<AddressSpec, Fault> {
    if let Some(set) = text.strip_prefix('+') {
        let (scope, name) = scoped(set);
        if !is_name(name) {
            return Err(Fault::new(
                line,
                text,
                format!("{} is not a name of a set", quote(text)),
            ));
        }
        if set.len() > LONGEST_NAME {
            return Err(Fault::new(
                line,
                text,
                format!("the name of a set has at most {LONGEST_NAME} characters"),
            ));
        }
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let message = "the name of a set has capital letters";
            let hint = format!("write {}", quote(&text.to_ascii_lowercase()));
            notes.push(Fault::new(line, text, message).hint(hint).superset());
        }
        return Ok(AddressSpec::Set(Name {
            scope,
            name: name.to_ascii_lowercase().into(),
            span: line.span(text),
        }));
    }
    if is_name(scoped(text).1) {
        return alias_name(line, text).map(AddressSpec::Alias).ok_or_else(|| {
            Fault::new(line, text, format!("{} is not a name of an alias (at most {LONGEST_NAME} characters; SDN has no aliases)", quote(text)))
        });
    }
    let mut nets = Vec::new();
    let mut of = None;
    let (mut bits_ok, mut ranges_ok) = (true, true);
    for item in text.split(',') {
        let first = nets.len();
        let is_range = parse_item(item, |net| nets.push(net))
            .map_err(|message| Fault::new(line, item, message))?;
        for net in nets.get(first..).unwrap_or_default() {
            if *of.get_or_insert(family(net)) != family(net) {
                return Err(Fault::new(line, item, "a list cannot mix IPv4 and IPv6")
                    .hint("write one rule per family".to_owned()));
            }
        }
        // One remark of a kind per list.
        if bits_ok && let Some(net) = with_host_bits(item) {
            bits_ok = false;
            let hint = format!("write {}", net.trunc());
            let fault = Fault::new(line, item, "the network has host bits").hint(hint);
            notes.push(fault.superset());
        }
        if ranges_ok && is_range && item.len() != text.len() {
            ranges_ok = false;
            notes.push(Fault::new(line, item, "a range stands in a list").superset());
        }
    }
    let family = of.ok_or_else(|| Fault::new(line, text, "an address is missing"))?;
    Ok(AddressSpec::Nets {
        family,
        nets: nets.into(),
        span: line.span(text),
    })
}

/// Reads one address, network or range and hands on its networks, host bits cleared. Answers whether it is a range.
pub fn parse_item(text: &str, mut add: impl FnMut(IpNet)) -> Result<bool, String> {
    if text.is_empty() {
        return Err("an item of the list is empty".into());
    }
    let Some((from, to)) = text.split_once('-') else {
        add(parse_net(text)?);
        return Ok(false);
    };
    let bad = |part: &str| format!("{} is not an address", quote(part));
    let from_address: IpAddr = from.parse().ok().ok_or_else(|| bad(from))?;
    let to_address: IpAddr = to.parse().ok().ok_or_else(|| bad(to))?;
    match (from_address, to_address) {
        (IpAddr::V4(from), IpAddr::V4(to)) if from <= to => {
            Ipv4Subnets::new(from, to, 0).map(IpNet::V4).for_each(add);
            Ok(true)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) if from <= to => {
            Ipv6Subnets::new(from, to, 0).map(IpNet::V6).for_each(add);
            Ok(true)
        }
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
            Err("the range ends before it begins".into())
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            Err("a range cannot mix IPv4 and IPv6".into())
        }
    }
}

/// Reads an address or a network and clears its host bits.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    let bad = || format!("{} is not an address", quote(text));
    let Some((address, length)) = text.split_once('/') else {
        return text.parse::<IpAddr>().map(IpNet::from).ok().ok_or_else(bad);
    };
    let digits =
        (1..=3).contains(&length.len()) && length.bytes().all(|byte| byte.is_ascii_digit());
    let length: u8 = if digits {
        length.parse().ok().ok_or_else(bad)?
    } else {
        return Err(bad());
    };
    let address = address
        .parse::<IpAddr>()
        .ok()
        .or_else(|| short_v4(address))
        .ok_or_else(bad)?;
    let net = match address {
        IpAddr::V4(address) => Ipv4Net::new(address, length).ok().map(IpNet::V4),
        IpAddr::V6(address) => Ipv6Net::new(address, length).ok().map(IpNet::V6),
    };
    net.map(|net| net.trunc())
        .ok_or_else(|| format!("{} has a prefix that is too long", quote(text)))
}

/// `10/8` and the like: missing octets are zero.
fn short_v4(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let parts: Vec<_> = text.splitn(5, '.').collect();
    if parts.len() >= octets.len() {
        return None;
    }
    for (octet, part) in octets.iter_mut().zip(parts) {
        let digits =
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        *octet = if digits {
            part.parse().ok()?
        } else {
            return None;
        };
    }
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn with_host_bits(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    (net.addr() != net.network()).then_some(net)
}

/// The link-local address that a NIC forms from its hardware address (RFC 4291, appendix A).
pub fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 0x02, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<&str, &str>) {
        let line = Line::alone(text);
        let found = match parse_spec(&line, text, &mut Vec::new()) {
            Ok(AddressSpec::Set(name)) => Ok(format!("set {:?} {}", name.scope, name.name)),
            Ok(AddressSpec::Alias(name)) => Ok(format!("alias {:?} {}", name.scope, name.name)),
            Ok(AddressSpec::Nets { nets, .. }) => Ok(nets
                .iter()
                .map(IpNet::to_string)
                .collect::<Vec<_>>()
                .join(" ")),
            Err(fault) => Err(fault.message),
        };
        assert_eq!(found.as_deref().map_err(String::as_str), expect, "{text}");
    }

    #[test]
    fn every_form_of_address() {
        check("10.0.0.1", Ok("10.0.0.1/32"));
        check("10.0.0.5/24", Ok("10.0.0.0/24"));
        check("10/8", Ok("10.0.0.0/8"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("2001:DB8::1", Ok("2001:db8::1/128"));
        check(
            "10.0.0.1-10.0.0.6",
            Ok("10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32"),
        );
        check("0.0.0.0-255.255.255.255", Ok("0.0.0.0/0"));
        check("fd00::-fd00::1,::/0", Ok("fd00::/127 ::/0"));
        check("10.0.0.1,10.2.0.0/16", Ok("10.0.0.1/32 10.2.0.0/16"));
        check("+Foo", Ok("set None foo"));
        check("+dc/ipfilter-net0", Ok("set Some(Cluster) ipfilter-net0"));
        check("+sdn/zone-all", Ok("set Some(Sdn) zone-all"));
        check("Local_Network", Ok("alias None local_network"));
        check("guest/a1", Ok("alias Some(Guest) a1"));
        check("face", Ok("alias None face"));
    }

    #[test]
    fn every_mistake_in_an_address() {
        check("10.0.0.1,", Err("an item of the list is empty"));
        check("10.0.0.1,fd00::1", Err("a list cannot mix IPv4 and IPv6"));
        check("10.0.0.9-10.0.0.1", Err("the range ends before it begins"));
        check("10.0.0.1-fd00::1", Err("a range cannot mix IPv4 and IPv6"));
        check(
            "10.0.0.0/33",
            Err("`10.0.0.0/33` has a prefix that is too long"),
        );
        check("10.0.0.0/+8", Err("`10.0.0.0/+8` is not an address"));
        check("10.0.0", Err("`10.0.0` is not an address"));
        check("1.2.3.4.5/8", Err("`1.2.3.4.5/8` is not an address"));
        check("a", Err("`a` is not an address"));
        check("+", Err("`+` is not a name of a set"));
        check("+1a", Err("`+1a` is not a name of a set"));
        check("dc/", Err("`dc/` is not an address"));
        check(
            "sdn/foo",
            Err("`sdn/foo` is not a name of an alias (at most 64 characters; SDN has no aliases)"),
        );
    }

    #[test]
    fn link_local_flips_the_universal_bit() {
        assert_eq!(
            link_local([0xbc, 0x24, 0x11, 0x00, 0x00, 0xac]).to_string(),
            "fe80::be24:11ff:fe00:ac"
        );
    }
}
