//! IP protocols by number and name.
//!
//! In: a number from 0 to 255 or a name in any case. Out: the number, and back the name for printing. Names are those of the IANA registry as
//! Linux distributions write them in `/etc/protocols`, and the firewall's own `icmpv6`.

/// Internet control messages of IPv4.
pub const ICMP: u8 = 1;
/// Group management.
pub const IGMP: u8 = 2;
/// IPv4 in IP.
pub const IPIP: u8 = 4;
/// Transmission control.
pub const TCP: u8 = 6;
/// User datagrams.
pub const UDP: u8 = 17;
/// Datagram congestion control.
pub const DCCP: u8 = 33;
/// IPv6 in IP.
pub const IPV6: u8 = 41;
/// Generic routing encapsulation.
pub const GRE: u8 = 47;
/// Encapsulating security payload.
pub const ESP: u8 = 50;
/// Authentication header.
pub const AH: u8 = 51;
/// Internet control messages of IPv6.
pub const ICMPV6: u8 = 58;
/// Stream control transmission.
pub const SCTP: u8 = 132;
/// User datagrams with partial checksums.
pub const UDPLITE: u8 = 136;

/// Names in the order of their number; of several, the one to print comes first.
const NAMES: &[(&str, u8)] = &[
    ("hopopt", 0),
    ("icmp", ICMP),
    ("igmp", IGMP),
    ("ggp", 3),
    ("ipencap", IPIP),
    ("st", 5),
    ("tcp", TCP),
    ("egp", 8),
    ("igp", 9),
    ("pup", 12),
    ("udp", UDP),
    ("hmp", 20),
    ("xns-idp", 22),
    ("rdp", 27),
    ("iso-tp4", 29),
    ("dccp", DCCP),
    ("xtp", 36),
    ("ddp", 37),
    ("idpr-cmtp", 38),
    ("ipv6", IPV6),
    ("ipv6-route", 43),
    ("ipv6-frag", 44),
    ("idrp", 45),
    ("rsvp", 46),
    ("gre", GRE),
    ("esp", ESP),
    ("ah", AH),
    ("skip", 57),
    ("icmpv6", ICMPV6),
    ("ipv6-icmp", ICMPV6),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("rspf", 73),
    ("vmtp", 81),
    ("eigrp", 88),
    ("ospf", 89),
    ("ospfigp", 89),
    ("ax.25", 93),
    ("ipip", 94),
    ("etherip", 97),
    ("encap", 98),
    ("pim", 103),
    ("ipcomp", 108),
    ("vrrp", 112),
    ("l2tp", 115),
    ("isis", 124),
    ("sctp", SCTP),
    ("fc", 133),
    ("mobility-header", 135),
    ("udplite", UDPLITE),
    ("mpls-in-ip", 137),
    ("manet", 138),
    ("hip", 139),
    ("shim6", 140),
    ("wesp", 141),
    ("rohc", 142),
    ("ethernet", 143),
];

/// The number of a name, or of a number as text.
pub fn number(text: &str) -> Option<u8> {
    let named = || {
        let entry = NAMES
            .iter()
            .find(|(name, _)| text.eq_ignore_ascii_case(name));
        entry.map(|&(_, number)| number)
    };
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    named()
}

/// The name of a number.
pub fn name(number: u8) -> Option<&'static str> {
    let entry = NAMES.iter().find(|&&(_, listed)| listed == number);
    entry.map(|&(name, _)| name)
}

/// Whether the protocol's packets carry a source and a destination port.
pub const fn has_ports(number: u8) -> bool {
    matches!(number, TCP | UDP | DCCP | SCTP | UDPLITE)
}

/// Whether the protocol's packets carry a type and a code.
pub const fn has_type(number: u8) -> bool {
    matches!(number, ICMP | ICMPV6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_text() {
        let cases = [
            ("tcp", Some(6)),
            ("TCP", Some(6)),
            ("ipv6-icmp", Some(58)),
            ("IPv6-ICMP", Some(58)),
            ("icmpv6", Some(58)),
            ("gre", Some(47)),
            ("0", Some(0)),
            ("94", Some(94)),
            ("255", Some(255)),
            ("256", None),
            ("-1", None),
            ("+6", None),
            ("", None),
            ("tcp ", None),
            ("nonsense", None),
        ];
        for (text, expect) in cases {
            assert_eq!(number(text), expect, "{text:?}");
        }
    }

    #[test]
    fn every_name_means_its_number_and_the_table_is_ordered() {
        assert!(NAMES.is_sorted_by_key(|&(_, listed)| listed));
        for &(text, listed) in NAMES {
            assert_eq!(number(text), Some(listed));
            assert_eq!(name(listed).and_then(number), Some(listed));
        }
        assert_eq!(name(58), Some("icmpv6"));
        assert_eq!(name(253), None);
    }
}
