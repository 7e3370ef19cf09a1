//! Classes of addresses: which sets hold an address, as a number.
//!
//! A *small* and a *big* class make one, the big one above the [`SMALL_BITS`](classes::SMALL_BITS) of the small one. Small sets are looked up in a
//! class space of their own. Big sets (the blacklist, and long ones) are in another, behind a *prefilter*: a bitmap of [`PREFILTER_WORDS`] words in the arena,
//! in which a bit is set if any prefix of a big set touches the addresses that share it. Where it is clear the big class is 0, for the price of
//! one cache line.
//!
//! Classes are numbered from 0, which is that of all addresses in no set. Those that were made after their space was begun have *parents*, see
//! [`crate::lineage`].

/// Bits of a class that the small sets take.
pub const SMALL_BITS: u32 = 24;
/// Small classes at the most.
pub const SMALL_CLASSES: u32 = 1 << SMALL_BITS;
/// Big classes at the most.
pub const BIG_CLASSES: u32 = 1 << (32 - SMALL_BITS);
/// Set in the number of a class space, it is the space of the parents of its classes: class → parent + 1.
pub const LINEAGE: u32 = 1 << 31;
/// In the space of parents under [`LINEAGE`]: number of classes that have none, plus 1.
pub const BASE: u32 = u32::MAX;
/// Parents that are asked for in a row.
pub const MAX_DEPTH: u32 = 8;
/// Bit of a value in the trie of the big sets: the blacklist holds these addresses. No part of the class.
pub const BLACKLISTED: u32 = 1 << 31;
/// Bits of an address that choose its bit in a prefilter.
pub const PREFILTER_BITS: u32 = 24;
/// Words of a prefilter.
pub const PREFILTER_WORDS: u32 = 1 << (PREFILTER_BITS - 6);
/// In the place of a prefilter's first word: there are big sets, but no room for their prefilter; every address is looked up.
pub const NO_PREFILTER: u32 = u32::MAX;
/// Leading bits of an IPv6 address that the prefilter does not look at: they are the same in all global addresses (2000::/3, RFC 4291).
pub const V6_SKIPPED_BITS: u32 = 3;
