//! Which rule of a policy a packet satisfies first: aggregated bit vectors.
//!
//! In: the arena, where a policy begins, and the packet's value in each field. Out: the rule word of the first rule that all fields satisfy.
//!
//! 1. Classes that the policy does not know are replaced by their ancestors ([`crate::lineage`]). Then per field, the value's interval is found by two bitmaps with ranks (no search), and with it the vector of rules that the interval
//!    satisfies. 2. The summary words of all fields are ANDed; each set bit is a word of 64 rules worth looking at. 3. The words are ANDed;
//!    the first set bit is the rule.
//!
//! The cost does not depend on the number of rules but for step 2, one round per 64 rules that every field satisfies *somewhere* in them.
//! The last rule of a policy matches everything, so there is always an answer; an inconsistent arena is answered with none, which callers
//! close. After Lakshman and Stiliadis (SIGCOMM 1998) and Baboescu and Varghese (SIGCOMM 2001). Layout: [`crate::maps::policy`].

use crate::maps::RuleWord;
use crate::maps::classes::{SMALL_BITS, SMALL_CLASSES};
use crate::maps::policy::{DEST, FIELDS, KNOWN, MAX_SUMMARY, SOURCE, SPACES};
use crate::tables::{Step, Tables};

/// A packet's value in every field of [`crate::maps::policy`].
pub type Values = [u32; FIELDS];

/// Finds the first rule that a packet satisfies. `policy` is the index of the policy's first word.
#[inline(always)]
pub fn classify<T: Tables>(tables: T, policy: u32, values: &Values) -> Option<RuleWord> {
    let head = tables.word(policy)?;
    // Not constants: see [`Step`].
    let zero = tables.word(0)?;
    let mut search = Search {
        tables,
        summaries: (head >> 32) as u16 & 0xff,
        loaded: zero as u16,
        candidates: zero,
        // Of a constant the kernel's compiler would make a call of a loop over bytes.
        fields: [[Vector::at(zero as u32, 0); 2]; FIELDS],
        found: NOT_FOUND ^ zero as u32,
    };
    let mut values = *values;
    let known = tables.word(policy + KNOWN as u32)?;
    values[SOURCE] = known_class(tables, policy, known, values[SOURCE])?;
    values[DEST] = known_class(tables, policy, known, values[DEST])?;
    let mut entry_at = policy;
    for (value, field) in values.iter().zip(&mut search.fields) {
        entry_at += 1;
        let entry = tables.word(entry_at)?;
        let common = (entry >> 32) as u32;
        let specific = interval_vector(tables, policy + entry as u32, *value)?;
        *field = [common, specific]
            .map(|offset| Vector::at(policy + offset, u32::from(search.summaries)));
    }
    T::repeat(MAX_ROUNDS, &mut search);
    if search.found == NOT_FOUND {
        return None;
    }
    let rules = tables.word(policy + 1 + FIELDS as u32)? as u32;
    tables.word(policy + rules + search.found).map(RuleWord)
}

/// What stands for a class in the policy's maps.
#[inline(always)]
fn known_class<T: Tables>(tables: T, policy: u32, known: u64, class: u32) -> Option<u32> {
    let (mut small, mut big) = (class % SMALL_CLASSES, class >> SMALL_BITS);
    let (smalls, bigs) = (known as u32, (known >> 32) as u16);
    if small >= smalls {
        let space = tables.word(policy + SPACES as u32)? as u32;
        small = ancestor(tables, space, small, smalls)?;
    }
    if big >= u32::from(bigs) {
        let space = (tables.word(policy + SPACES as u32)? >> 32) as u32;
        big = ancestor(tables, space, big, u32::from(bigs))?;
    }
    Some(small | big << ((known >> 48) & 31))
}

/// The ancestor of a class that a policy which knows `known` ones takes it for.
#[inline(always)]
fn ancestor<T: Tables>(tables: T, space: u32, class: u32, known: u32) -> Option<u32> {
    match known {
        1 => Some(0),
        _ => tables.ancestor(space, class, known),
    }
}

/// Offset (from the policy's first word) of the vector for the interval that holds `value`.
#[inline(always)]
fn interval_vector<T: Tables>(tables: T, map: u32, value: u32) -> Option<u32> {
    let head = tables.word(map)?;
    let references = map + tables.word(map + 1)? as u32;
    let blocks = map + (head >> 32) as u32;
    let top = map + 2 + core::cmp::min(value >> 12, head as u32) * 2;
    let bitmap = tables.word(top)?;
    let blocks_before = tables.word(top + 1)? as u32;
    let bit = value >> 6 & 63;
    let block = blocks + (blocks_before + (bitmap & ((1 << bit) - 1)).count_ones()) * 2;
    let starts = tables.word(block)?;
    let intervals_before = tables.word(block + 1)? as u32;
    let up_to_value = u64::MAX >> (63 - (value & 63));
    let has_starts = (bitmap >> bit & 1).wrapping_neg();
    let interval = intervals_before + (starts & up_to_value & has_starts).count_ones();
    tables
        .word(references + interval)
        .map(|reference| reference as u32)
}

const NOT_FOUND: u32 = u32::MAX;

/// Rounds of the longest search: each summary word is loaded once, and each of its bits looked at once.
const MAX_ROUNDS: u32 = (MAX_SUMMARY * (64 + 1)) as u32 + 1;

/// A sparse bit vector at one of its summary words.
#[derive(Clone, Copy, Default)]
struct Vector {
    /// Index of the summary word.
    summary: u32,
    /// Index of the first word that the summary word announces.
    words: u32,
}

impl Vector {
    #[inline(always)]
    fn at(index: u32, summaries: u32) -> Self {
        Self {
            summary: index,
            words: index + summaries,
        }
    }

    /// The word that bit `bit` of the summary announces, or 0. No branch: where it announces none, word 0 of the arena is read.
    #[inline(always)]
    fn word<T: Tables>(self, tables: T, bit: u32) -> Option<u64> {
        let summary = tables.word(self.summary)?;
        let present = (summary >> bit & 1).wrapping_neg() as u32;
        let index = self.words + (summary & ((1 << bit) - 1)).count_ones();
        tables.word(index & present)
    }
}

/// The search for the first rule; see the steps above. Straight-line code wherever it can be: a branch per field and vector would multiply
/// in the verifier. Its size counts: with the stack of its caller it is most of what kernel 6.1 allows the longest chain of calls.
struct Search<T> {
    tables: T,
    /// Number of the rule, or [`NOT_FOUND`].
    found: u32,
    /// Summary words of every vector of the policy.
    summaries: u16,
    /// Summary words that were loaded.
    loaded: u16,
    /// Words, announced by the loaded summary word in every field, that are still to be looked at.
    candidates: u64,
    /// The common and the specific vector of each field.
    fields: [[Vector; 2]; FIELDS],
}

impl<T: Tables> Step for Search<T> {
    #[inline(always)]
    fn step(&mut self) -> bool {
        let more = if self.candidates == 0 {
            self.next_summary()
        } else {
            self.next_candidate()
        };
        more.unwrap_or(false)
    }
}

impl<T: Tables> Search<T> {
    /// ANDs the next summary words of all fields. None: the arena is inconsistent.
    #[inline(always)]
    fn next_summary(&mut self) -> Option<bool> {
        if self.loaded >= self.summaries {
            return Some(false);
        }
        let again = u32::from(self.loaded > 0);
        let mut all = u64::MAX;
        for field in &mut self.fields {
            let mut either = 0;
            for vector in field {
                // Behind the first summary word: the next one, and the words behind those that the last one announced.
                let announced = self.tables.word(vector.summary)?.count_ones();
                vector.words += announced * again;
                vector.summary += again;
                either |= self.tables.word(vector.summary)?;
            }
            all &= either;
        }
        self.candidates = all;
        self.loaded += 1;
        Some(true)
    }

    /// ANDs one word of 64 rules of all fields. None: the arena is inconsistent.
    #[inline(always)]
    fn next_candidate(&mut self) -> Option<bool> {
        let bit = lowest(self.candidates);
        self.candidates &= self.candidates.wrapping_sub(1);
        let mut all = u64::MAX;
        for [common, specific] in &self.fields {
            all &= common.word(self.tables, bit)? | specific.word(self.tables, bit)?;
        }
        if all == 0 {
            return Some(true);
        }
        self.found = ((u32::from(self.loaded) - 1) * 64 + bit) * 64 + lowest(all);
        Some(false)
    }
}

/// Number of the lowest set bit of a word that is not 0 (in a form that the BPF back end compiles without a branch).
const fn lowest(word: u64) -> u32 {
    ((word & word.wrapping_neg()).wrapping_sub(1)).count_ones() & 63
}
