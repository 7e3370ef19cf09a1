//! The prefilters of the big sets: where in the address space they have anything at all.
//!
//! In: the big sets' prefixes. Out: per IP version a bitmap of [`PREFILTER_WORDS`] words, or none if there are no prefixes of that version. A bit is
//! set if a prefix touches any of the addresses that the bit speaks for.
//!
//! Invariant: an address whose bit is clear is in no prefix.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fw_common::address::prefilter_bit;
use fw_common::maps::classes::{PREFILTER_BITS, PREFILTER_WORDS, V6_SKIPPED_BITS};
use fw_common::wire::{Address, IpVersion};

use super::Prefixes;

impl Prefixes {
    /// The prefilters, IPv4 and IPv6; empty where there are no prefixes.
    pub fn prefilters(&self) -> [Vec<u64>; 2] {
        let [v4, v6] = self.bits();
        [bitmap(v4), bitmap(v6)]
    }

    /// What each prefix touches: a first bit, and the prefix length that counts from it.
    fn bits(&self) -> [Vec<(u32, u32)>; 2] {
        let v4 = self.v4.iter().map(|(net, _)| {
            let address = Address::from(IpAddr::V4(net.network()));
            let first = prefilter_bit(IpVersion::V4, &address);
            (first, u32::from(net.prefix_len()))
        });
        let v6 = self.v6.iter().map(|(net, _)| {
            let first = prefilter_bit(IpVersion::V6, &Address::from(IpAddr::V6(net.network())));
            // A prefix within the bits that are not looked at touches what its shortest extension beyond them does, or everything.
            let length = u32::from(net.prefix_len()).saturating_sub(V6_SKIPPED_BITS);
            (first, length)
        });
        [v4.collect(), v6.collect()]
    }
}

/// Sets the bits from each first one on: as many as a prefix of that length has.
fn bitmap(prefixes: Vec<(u32, u32)>) -> Vec<u64> {
    let mut words = Vec::new();
    for (first, length) in prefixes {
        words.resize(PREFILTER_WORDS as usize, 0_u64);
        let count = 1_u32 << PREFILTER_BITS.saturating_sub(length);
        set_bits(&mut words, first, first + count);
    }
    words
}

/// Sets the bits of more prefixes in prefilters that there are (not in one that is empty), and answers which words changed.
pub(crate) fn add_bits(filters: &mut [Vec<u64>; 2], prefixes: &Prefixes) -> [BTreeSet<u32>; 2] {
    let mut changed = [BTreeSet::new(), BTreeSet::new()];
    let filters = filters.iter_mut().zip(&mut changed);
    for ((words, changed), prefixes) in filters.zip(prefixes.bits()) {
        if words.is_empty() {
            continue;
        }
        for (first, length) in prefixes {
            let end = first + (1_u32 << PREFILTER_BITS.saturating_sub(length));
            let touched = (first >> 6) as usize..=((end - 1) >> 6) as usize;
            let before = words[touched.clone()].to_vec();
            set_bits(words, first, end);
            let after = words[touched.clone()].iter().zip(&before);
            let indices = touched.zip(after).filter(|(_, (now, then))| now != then);
            changed.extend(indices.map(|(index, _)| index as u32));
        }
    }
    changed
}

/// Sets the bits from `first` to before `end`.
fn set_bits(words: &mut [u64], first: u32, end: u32) {
    let mut bit = first;
    while bit < end {
        let index = (bit >> 6) as usize;
        let next = ((bit >> 6) + 1) << 6;
        let upper = u64::MAX << (bit & 63);
        let lower = match next > end {
            true => u64::MAX >> (next - end),
            false => u64::MAX,
        };
        words[index] |= upper & lower;
        bit = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits that are set, as inclusive ranges.
    fn ranges(words: &[u64]) -> Vec<(u32, u32)> {
        let mut found: Vec<(u32, u32)> = Vec::new();
        for bit in 0..words.len() as u32 * 64 {
            if words[(bit >> 6) as usize] >> (bit & 63) & 1 == 1 {
                match found.last_mut() {
                    Some((_, last)) if *last + 1 == bit => *last = bit,
                    _ => found.push((bit, bit)),
                }
            }
        }
        found
    }

    fn bits(prefixes: &str) -> [Vec<(u32, u32)>; 2] {
        let mut classes = Prefixes::default();
        for prefix in prefixes.split_whitespace() {
            match prefix.parse().unwrap() {
                ipnet::IpNet::V4(net) => classes.v4.push((net, 1)),
                ipnet::IpNet::V6(net) => classes.v6.push((net, 1)),
            }
        }
        classes.prefilters().map(|words| ranges(&words))
    }

    #[test]
    fn a_prefix_sets_what_it_touches() {
        let all = (0, (1 << 24) - 1);
        for (prefixes, v4, v6) in [
            ("", vec![], vec![]),
            ("192.0.2.7/32", vec![(0xc0_0002, 0xc0_0002)], vec![]),
            ("192.0.2.0/24", vec![(0xc0_0002, 0xc0_0002)], vec![]),
            (
                "192.0.2.0/23 10.0.0.0/8",
                vec![(0x0a_0000, 0x0a_ffff), (0xc0_0002, 0xc0_0003)],
                vec![],
            ),
            ("0.0.0.0/0", vec![all], vec![]),
            ("255.255.255.255/32", vec![(0xff_ffff, 0xff_ffff)], vec![]),
            ("2001:db8::/32", vec![], vec![(0x00_086d, 0x00_086d)]),
            ("2001:da0::/27", vec![], vec![(0x00_086d, 0x00_086d)]),
            ("2001:d80::/26", vec![], vec![(0x00_086c, 0x00_086d)]),
            ("2000::/3", vec![], vec![all]),
            ("2000::/4", vec![], vec![(0, (1 << 23) - 1)]),
            ("e000::/2", vec![], vec![all]),
            ("::/0", vec![], vec![all]),
            ("fe80::/10", vec![], vec![(0xf4_0000, 0xf5_ffff)]),
        ] {
            assert_eq!(bits(prefixes), [v4, v6], "{prefixes}");
        }
    }
}
