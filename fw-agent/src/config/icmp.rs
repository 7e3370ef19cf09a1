//! ICMP and ICMPv6 types as they are written: name, number, `type/code`.

use crate::policy::Family;

/// What an ICMP message must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpType {
    /// The type; none: any.
    pub kind: Option<u8>,
    /// The code; none: any.
    pub code: Option<u8>,
}

type Entry = (&'static str, u8, Option<u8>);

const V4: &[Entry] = &[
    ("echo-reply", 0, None),
    ("destination-unreachable", 3, None),
    ("network-unreachable", 3, Some(0)),
    ("host-unreachable", 3, Some(1)),
    ("protocol-unreachable", 3, Some(2)),
    ("port-unreachable", 3, Some(3)),
    ("fragmentation-needed", 3, Some(4)),
    ("source-route-failed", 3, Some(5)),
    ("network-unknown", 3, Some(6)),
    ("host-unknown", 3, Some(7)),
    ("network-prohibited", 3, Some(9)),
    ("host-prohibited", 3, Some(10)),
    ("TOS-network-unreachable", 3, Some(11)),
    ("TOS-host-unreachable", 3, Some(12)),
    ("communication-prohibited", 3, Some(13)),
    ("host-precedence-violation", 3, Some(14)),
    ("precedence-cutoff", 3, Some(15)),
    ("source-quench", 4, None),
    ("redirect", 5, None),
    ("network-redirect", 5, Some(0)),
    ("host-redirect", 5, Some(1)),
    ("TOS-network-redirect", 5, Some(2)),
    ("TOS-host-redirect", 5, Some(3)),
    ("echo-request", 8, None),
    ("router-advertisement", 9, None),
    ("router-solicitation", 10, None),
    ("time-exceeded", 11, None),
    ("ttl-zero-during-transit", 11, Some(0)),
    ("ttl-zero-during-reassembly", 11, Some(1)),
    ("parameter-problem", 12, None),
    ("ip-header-bad", 12, Some(0)),
    ("required-option-missing", 12, Some(1)),
    ("timestamp-request", 13, None),
    ("timestamp-reply", 14, None),
    ("info-request", 15, None),
    ("info-reply", 16, None),
    ("address-mask-request", 17, None),
    ("address-mask-reply", 18, None),
];

const V6: &[Entry] = &[
    ("destination-unreachable", 1, None),
    ("no-route", 1, Some(0)),
    ("communication-prohibited", 1, Some(1)),
    ("beyond-scope", 1, Some(2)),
    ("address-unreachable", 1, Some(3)),
    ("port-unreachable", 1, Some(4)),
    ("failed-policy", 1, Some(5)),
    ("reject-route", 1, Some(6)),
    ("packet-too-big", 2, None),
    ("time-exceeded", 3, None),
    ("ttl-zero-during-transit", 3, Some(0)),
    ("ttl-zero-during-reassembly", 3, Some(1)),
    ("parameter-problem", 4, None),
    ("bad-header", 4, Some(0)),
    ("unknown-header-type", 4, Some(1)),
    ("unknown-option", 4, Some(2)),
    ("echo-request", 128, None),
    ("echo-reply", 129, None),
    ("router-solicitation", 133, None),
    ("router-advertisement", 134, None),
    ("neighbor-solicitation", 135, None),
    ("neighbour-solicitation", 135, None),
    ("neighbor-advertisement", 136, None),
    ("neighbour-advertisement", 136, None),
    ("redirect", 137, None),
];

const fn table(family: Family) -> &'static [Entry] {
    match family {
        Family::V4 => V4,
        Family::V6 => V6,
    }
}

/// Types that the reference has no names for.
const OURS: [&str; 2] = ["info-request", "info-reply"];

/// Whether the reference has this name, written like this.
pub fn is_plain_name(text: &str, family: Family) -> bool {
    let any = text == "any" && family == Family::V4;
    any || names(family).any(|name| name == text) && !OURS.contains(&text)
}

/// Every name of a family's types.
pub fn names(family: Family) -> impl Iterator<Item = &'static str> {
    table(family).iter().map(|(name, _, _)| *name)
}

/// Reads a name (any case), a number, `type/code` or `any`. Number 255 means any type in IPv4, as in iptables.
pub fn parse(text: &str, family: Family) -> Option<IcmpType> {
    if text.eq_ignore_ascii_case("any") {
        return Some(IcmpType {
            kind: None,
            code: None,
        });
    }
    if let Some((_, kind, code)) = table(family)
        .iter()
        .find(|(name, _, _)| name.eq_ignore_ascii_case(text))
    {
        return Some(IcmpType {
            kind: Some(*kind),
            code: *code,
        });
    }
    let (kind, code) = match text.split_once('/') {
        Some((kind, code)) => (number(kind)?, Some(number(code)?)),
        None => (number(text)?, None),
    };
    let kind = match (family, kind, code) {
        (Family::V4, 255, None) => None,
        _ => Some(kind),
    };
    Some(IcmpType { kind, code })
}

fn number(text: &str) -> Option<u8> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_pairs() {
        let is = |kind, code| Some(IcmpType { kind, code });
        for (text, family, expect) in [
            ("echo-request", Family::V4, is(Some(8), None)),
            ("echo-request", Family::V6, is(Some(128), None)),
            ("tos-host-redirect", Family::V4, is(Some(5), Some(3))),
            ("any", Family::V4, is(None, None)),
            ("255", Family::V4, is(None, None)),
            ("255", Family::V6, is(Some(255), None)),
            ("0", Family::V4, is(Some(0), None)),
            ("3/4", Family::V4, is(Some(3), Some(4))),
            ("256", Family::V4, None),
            ("3/", Family::V4, None),
            ("+3", Family::V4, None),
            ("", Family::V4, None),
            ("no-route", Family::V4, None),
        ] {
            assert_eq!(parse(text, family), expect, "{text} {family:?}");
        }
    }
}
