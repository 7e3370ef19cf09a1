//! IP protocols of queries: numbers that frames are made for, and reading a name or a number. The names are those of `config::registry`.

use crate::config::registry;

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

/// The number of a name in any case, or of a number as text.
pub fn number(text: &str) -> Option<u8> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    registry::protocol(&text.to_ascii_lowercase())
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
}
