//! Which established flows there are not: a packet that belongs to none learns it from one bit, and need not look in a table whose buckets are in no cache.
//!
//! In: a flow's key. Out: whether a flow may be in the table under it. A Bloom filter with one bit per key, twice: two *halves*, and a word that says which
//! of them is *asked*, if any.
//!
//! 1. Whoever puts a flow in the table sets its bit in both halves, *after* the flow is there. 2. Nobody clears a bit. The sweep empties the half that is
//!    not asked, sets the bits of all flows that it then finds, and has that half asked from then on.
//!
//! Invariant: a flow that is in the table, and whose packet has been judged, has its bit in the half that is asked. For it was there before the half was
//! emptied, and then the sweep found it; or it came later, and then its bit was set later. Before a half is emptied nobody asks it any more:
//! the sweep waits for the programs that began when it was the one. While nobody sweeps, bits only become more: that costs time and no flow. While a table
//! of another size takes the place of one that programs still use, the sweep does not see all flows, and no half is asked that was emptied meanwhile
//! ([`PAUSED`]).

/// Bits of a half: eight per flow of a full table, and together with the packets' own memory they stay in a processor's second cache.
pub const BITS: u32 = 1 << 21;

/// Words of a half.
const HALF: u32 = BITS / 64;

/// Index of the word that says which half is asked: its number, and 0 if none is.
pub const ASKED: u32 = 2 * HALF;

/// Index of a word of the agent's: not 0 while no other half may come to be asked.
pub const PAUSED: u32 = ASKED + 1;

/// Words of the value: both halves, and these words with a cache line to themselves.
pub const WORDS: u32 = ASKED + 8;

/// One of the halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The first.
    First = 1,
    /// The second.
    Second = 2,
}

impl Half {
    /// Both.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    /// That which the word at [`ASKED`] names.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word {
            1 => Some(Self::First),
            2 => Some(Self::Second),
            _ => None,
        }
    }

    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }

    /// Indices of its words.
    pub const fn words(self) -> core::ops::Range<u32> {
        let start = self.start();
        start..start + HALF
    }

    #[inline(always)]
    const fn start(self) -> u32 {
        (self as u32 - 1) * HALF
    }

    /// Where the bit for a [digest](crate::flow::FlowKey::digest) is: index of the word, and the bit in it.
    #[inline(always)]
    pub const fn place(self, digest: u64) -> (u32, u64) {
        let bit = (digest >> 32) as u32 & (BITS - 1);
        (self.start() + bit / 64, 1 << (bit % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_digest_has_a_bit_in_each_half() {
        for digest in [0, 1 << 32, 63 << 32, 64 << 32, u64::MAX] {
            let places = Half::ALL.map(|half| half.place(digest));
            for (half, (word, mask)) in Half::ALL.into_iter().zip(places) {
                assert!(half.words().contains(&word), "{half:?} {digest:#x}");
                assert_eq!(mask.count_ones(), 1);
                assert_eq!(Half::from_word(half as u64), Some(half));
            }
            assert_eq!(places[1].0 - places[0].0, BITS / 64);
        }
        assert_eq!([0, 3].map(Half::from_word), [None; 2]);
    }
}
