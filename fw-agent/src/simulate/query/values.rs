//! What belongs into a query's fields, in words and as parsers.
//!
//! In: a field's text. Out: its value; none if the text is not what the constant of that field says.

use super::{DestType, SYN};
use crate::simulate::State;
use crate::simulate::endpoint::number;

pub(super) const PLACE: &str =
    "host, outside, vm<ID>, ct<ID>, vm<ID>i<N>, ct<ID>i<N> or <bridge>/<port>";
pub(super) const PROTOCOL: &str = "a protocol's name or number (0 to 255)";
pub(super) const ADDRESS: &str = "an IP address";
pub(super) const PORT: &str = "a port (0 to 65535)";
pub(super) const BYTE: &str = "a number from 0 to 255";
pub(super) const FLAGS: &str =
    "flags such as SYN,ACK (FIN SYN RST PSH ACK URG ECE CWR), ALL or NONE";
pub(super) const MAC: &str = "a hardware address such as bc:24:11:00:00:01";
pub(super) const DEST_TYPE: &str = "UNICAST, BROADCAST or MULTICAST";
pub(super) const VLAN: &str = "a VLAN's number (0 to 4094)";
pub(super) const STATE: &str = "NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED";
pub(super) const WITH_PORTS: &str = "tcp, udp, sctp, dccp and udplite";
pub(super) const WITH_TYPE: &str = "icmp and icmpv6";

/// Flag names and their bits in a TCP header.
const TCP_FLAGS: [(&str, u8); 8] = [
    ("FIN", 0x01),
    ("SYN", SYN),
    ("RST", 0x04),
    ("PSH", 0x08),
    ("ACK", 0x10),
    ("URG", 0x20),
    ("ECE", 0x40),
    ("CWR", 0x80),
];

/// What `ALL` means: the six flags that a rule can ask for.
const TCP_ALL: u8 = 0x3f;

pub(super) fn vlan(text: &str) -> Option<u16> {
    number(text).filter(|&vlan| vlan <= 4094)
}

pub(super) fn tcp_flags(text: &str) -> Option<u8> {
    if text.eq_ignore_ascii_case("NONE") {
        return Some(0);
    }
    if text.eq_ignore_ascii_case("ALL") {
        return Some(TCP_ALL);
    }
    text.split([',', ' ']).try_fold(0, |flags, word| {
        let known = TCP_FLAGS
            .iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name));
        known.map(|&(_, bit)| flags | bit)
    })
}

pub(super) fn mac(text: &str) -> Option<[u8; 6]> {
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut parts = text.split(separator);
    let mut mac = [0; 6];
    for byte in &mut mac {
        let part = parts.next()?;
        let hex = part.bytes().all(|byte| byte.is_ascii_hexdigit());
        *byte = u8::from_str_radix(part, 16)
            .ok()
            .filter(|_| hex && part.len() == 2)?;
    }
    parts.next().is_none().then_some(mac)
}

pub(super) fn dest_type(text: &str) -> Option<DestType> {
    pick(
        text,
        [
            ("UNICAST", DestType::Unicast),
            ("BROADCAST", DestType::Broadcast),
            ("MULTICAST", DestType::Multicast),
        ],
    )
}

pub(super) fn state(text: &str) -> Option<State> {
    pick(
        text,
        [
            ("NEW", State::New),
            ("ESTABLISHED", State::Established),
            ("RELATED", State::Related),
            ("INVALID", State::Invalid),
            ("UNTRACKED", State::Untracked),
        ],
    )
}

fn pick<T, const N: usize>(text: &str, words: [(&str, T); N]) -> Option<T> {
    let mut words = words.into_iter();
    words
        .find(|(word, _)| text.eq_ignore_ascii_case(word))
        .map(|(_, value)| value)
}
