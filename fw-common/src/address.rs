//! Which sets hold an address: its class, and whether it is blacklisted.
//!
//! In: a port (or the node's settings) and an address. Out: the class that policies know the address by.
//!
//! 1. The small sets' trie gives the lower part of the class. 2. The prefilter says whether any big set comes near the address; mostly none does.
//! 3. Only then the big sets' trie gives the upper part.
//!
//! Invariant: what a prefilter cannot answer (a word that is not there) is looked up in the trie, so that a broken one costs time and no
//! address its class. Layout: [`crate::maps::classes`].

use crate::maps::classes::{BLACKLISTED, PREFILTER_BITS, SMALL_BITS, V6_SKIPPED_BITS};
use crate::maps::{Port, Settings};
use crate::tables::Tables;
use crate::wire::{Address, ETHERTYPE_ARP, Headers, IpVersion};

/// Of which version a packet's addresses are; those of ARP are its sender and target.
#[inline(always)]
pub const fn version(headers: &Headers) -> IpVersion {
    match (headers.version, headers.ethertype) {
        (IpVersion::None, ETHERTYPE_ARP) => IpVersion::V4,
        (version, _) => version,
    }
}

/// The class of an address in a port's policies.
#[inline(always)]
pub fn class<T: Tables>(tables: T, port: &Port, version: IpVersion, address: &Address) -> u32 {
    let small = tables.longest_prefix(port.space, version, address);
    let big = big_value(tables, port.big_space, port.prefilter, version, address);
    small | (big & !BLACKLISTED) << SMALL_BITS
}

/// Whether the blacklist that a port's policies were built with holds an address.
#[inline(always)]
pub fn is_blacklisted<T: Tables>(
    tables: T,
    port: &Port,
    version: IpVersion,
    address: &Address,
) -> bool {
    big_value(tables, port.big_space, port.prefilter, version, address) & BLACKLISTED != 0
}

/// Whether the node's blacklist holds an address.
#[inline(always)]
pub fn is_blacklisted_here<T: Tables>(
    tables: T,
    settings: &Settings,
    version: IpVersion,
    address: &Address,
) -> bool {
    big_value(tables, settings.space, settings.prefilter, version, address) & BLACKLISTED != 0
}

/// The value in the big sets' trie.
#[inline(always)]
fn big_value<T: Tables>(
    tables: T,
    space: u32,
    prefilter: [u32; 2],
    version: IpVersion,
    address: &Address,
) -> u32 {
    let [v4, v6] = prefilter;
    let start = match version {
        IpVersion::None => return 0,
        IpVersion::V4 => v4,
        IpVersion::V6 => v6,
    };
    if start == 0 {
        return 0;
    }
    let bit = prefilter_bit(version, address);
    let word = tables.word(start.saturating_add(bit >> 6));
    if word.is_some_and(|word| word >> (bit & 63) & 1 == 0) {
        return 0;
    }
    tables.longest_prefix(space, version, address)
}

/// The bit of a prefilter that speaks for an address.
#[inline(always)]
pub fn prefilter_bit(version: IpVersion, address: &Address) -> u32 {
    match version {
        IpVersion::V4 | IpVersion::None => u32::from_be(address.0[3]) >> (32 - PREFILTER_BITS),
        IpVersion::V6 => u32::from_be(address.0[0]) << V6_SKIPPED_BITS >> (32 - PREFILTER_BITS),
    }
}
