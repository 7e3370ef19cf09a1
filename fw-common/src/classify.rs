//! Which rule of a policy a packet satisfies first: aggregated bit vectors.
//!
//! In: the arena, where a policy begins, and the packet's value in each field. Out: the rule word of the first rule that all fields satisfy.
//!
//! 1. Classes that the policy does not know are replaced by their ancestors ([`crate::lineage`]). Then, in each field that some rule looks at, the
//!    value's interval is found by two bitmaps with ranks (no search), and with it a reference that says which rules the interval satisfies. 2. The
//!    references of all fields are ANDed. Of a policy of few rules that is the answer: they are the rules themselves. 3. Of others it is the groups of
//!    512 rules worth looking at; of each group, the words of 64 rules worth looking at; the first bit set in the AND of these words is the rule.
//!    What this came to is remembered ([`crate::decision`]).
//!
//! The cost does not depend on the number of rules but for step 3, one round per group that every field satisfies *somewhere* in it.
//! The last rule of a policy matches everything, so there is always an answer; an inconsistent arena is answered with none, which callers
//! close. After Lakshman and Stiliadis (SIGCOMM 1998) and Baboescu and Varghese (SIGCOMM 2001). Layout: [`crate::maps::policy`].
//!
//! The kernel has no instruction that counts bits, and every count is a dozen that wait for each other: so bitmaps are 32 bits wide, with the rank of
//! the first bit beside them.

use core::hint::black_box;

use crate::maps::RuleWord;
use crate::maps::classes::{SMALL_BITS, SMALL_CLASSES};
use crate::maps::policy::{
    DEST, DPORT, ENTRIES, FEW_RULES, FIELDS, GROUP_WORDS, GROUPS, HEAD, IDENTITY, KNOWN,
    PLACE_BITS, PROTOCOL, SOURCE, SPACES, SPORT, TRAITS,
};
use crate::tables::{Tables, Words};

/// A packet's value in every field of [`crate::maps::policy`].
pub type Values = [u32; FIELDS];

/// The code once per field: of a loop, the compiler would make one with variable places on the stack.
macro_rules! each_field {
    ($field:ident => $code:block) => {
        each_field!($field => $code, SOURCE, DEST, SPORT, DPORT, PROTOCOL, TRAITS)
    };
    ($field:ident => $code:block, $($number:ident),*) => {
        $({
            const $field: usize = $number;
            $code
        })*
    };
}

/// Finds the first rule that a packet satisfies. `start` is the index of the policy's first word.
#[inline(always)]
pub fn classify<T: Tables>(tables: T, start: u32, values: &Values) -> Option<RuleWord> {
    let words = tables.words()?;
    let policy = Policy {
        words,
        start,
        head: Head(words.word(start)?),
    };
    // Of a constant the kernel's compiler would make a call of a loop over bytes.
    let mut references = [black_box(0); FIELDS];
    let mut all = u64::MAX;
    each_field!(FIELD => {
        if policy.looks_at(FIELD) {
            let value = match FIELD {
                SOURCE | DEST => policy.known_class(tables, values[FIELD])?,
                _ => values[FIELD],
            };
            let mut reference = policy.reference(FIELD, value)?;
            references[FIELD] = reference;
            if policy.has_common(FIELD) {
                reference |= policy.common(FIELD)?;
            }
            all &= reference;
        }
    });
    let rule = match policy.head.rules() <= FEW_RULES {
        true if all == 0 => return None,
        true => lowest(all),
        false => {
            let identity = policy.word(IDENTITY as u32)?;
            match tables.decided(identity, &references) {
                Some(rule) => rule,
                None => {
                    let rule = first_rule(tables, start, &references, all as u32)?;
                    tables.remember(identity, &references, rule);
                    rule
                }
            }
        }
    };
    if rule >= policy.head.rules() {
        return None;
    }
    policy.word(HEAD as u32 + rule).map(RuleWord)
}

/// A policy's first word.
#[derive(Clone, Copy)]
pub struct Head(pub u64);

impl Head {
    /// Rules of the policy.
    #[inline(always)]
    pub const fn rules(self) -> u32 {
        (self.0 >> 32) as u16 as u32
    }

    /// Whether any rule looks at a field.
    #[inline(always)]
    pub const fn looks_at(self, field: usize) -> bool {
        self.0 >> (48 + field) & 1 != 0
    }

    /// Whether the field has a common vector.
    #[inline(always)]
    pub const fn has_common(self, field: usize) -> bool {
        self.0 >> (56 + field) & 1 != 0
    }
}

/// A policy in the arena.
#[derive(Clone, Copy)]
struct Policy<W> {
    words: W,
    /// Index of the first word.
    start: u32,
    head: Head,
}

impl<W: Words> Policy<W> {
    /// The same, which to the compiler is another: what it would work out ahead of a loop for each field has no place on the stack.
    #[inline(always)]
    fn again(self) -> Self {
        Self {
            words: self.words,
            start: black_box(self.start),
            head: Head(black_box(self.head.0)),
        }
    }

    /// A word of the policy.
    #[inline(always)]
    fn word(self, place: u32) -> Option<u64> {
        self.words.word(self.start + place)
    }

    #[inline(always)]
    fn looks_at(self, field: usize) -> bool {
        self.head.looks_at(field)
    }

    #[inline(always)]
    fn has_common(self, field: usize) -> bool {
        self.head.has_common(field)
    }

    /// What stands for a class in the policy's maps.
    #[inline(always)]
    fn known_class<T: Tables>(self, tables: T, class: u32) -> Option<u32> {
        let known = self.word(KNOWN as u32)?;
        let (mut small, mut big) = (class % SMALL_CLASSES, class >> SMALL_BITS);
        let (smalls, bigs) = (known as u32, (known >> 32) as u16);
        if small >= smalls {
            let space = self.word(SPACES as u32)? as u32;
            small = ancestor(tables, space, small, smalls)?;
        }
        if big >= u32::from(bigs) {
            let space = (self.word(SPACES as u32)? >> 32) as u32;
            big = ancestor(tables, space, big, u32::from(bigs))?;
        }
        Some(small | big << ((known >> 48) & 31))
    }

    /// The reference of the interval that holds `value`.
    #[inline(always)]
    fn reference(self, field: usize, value: u32) -> Option<u64> {
        const PLACE: u64 = (1 << PLACE_BITS) - 1;
        let entry = self.word((ENTRIES + field) as u32)?;
        let map = (entry & PLACE) as u32;
        let tops = (entry >> PLACE_BITS & PLACE) as u32;
        let references = (entry >> (2 * PLACE_BITS) & PLACE) as u32;
        let top = self.word(map + core::cmp::min(value >> 10, tops))?;
        let bit = value >> 5 & 31;
        let before = (top >> 32) as u32 + ones(top as u32 & ((1 << bit) - 1));
        let block = self.word(map + tops + 1 + before)?;
        let has_starts = (top as u32 >> bit & 1).wrapping_neg();
        let up_to_value = u32::MAX >> (31 - (value & 31));
        let interval = (block >> 32) as u32 + ones(block as u32 & up_to_value & has_starts);
        self.word(references + interval)
    }

    /// The reference of a field's common vector.
    #[inline(always)]
    fn common(self, field: usize) -> Option<u64> {
        self.word(HEAD as u32 + self.head.rules() + field as u32)
    }

    /// The record of a group in a vector, or 0. No branch: where there is none, word 0 of the arena is read.
    #[inline(always)]
    fn record(self, reference: u64, group: u32) -> Option<u64> {
        let groups = reference as u32;
        let present = (groups >> group & 1).wrapping_neg();
        let before = ones(groups & ((1 << group) - 1));
        let at = self.start + (reference >> 32) as u32 + before;
        self.words.word(at & present)
    }

    /// The word of 64 rules that a record announces, or 0, likewise.
    #[inline(always)]
    fn rules(self, record: u64, word: u32) -> Option<u64> {
        let present = (record >> word & 1).wrapping_neg() as u32;
        let before = (record >> (8 + 3 * word)) as u32 & 7;
        let at = self.start + (record >> 32) as u32 + before;
        self.words.word(at & present)
    }
}

/// The ancestor of a class that a policy which knows `known` ones takes it for.
#[inline(always)]
fn ancestor<T: Tables>(tables: T, space: u32, class: u32, known: u32) -> Option<u32> {
    match known {
        1 => Some(0),
        _ => tables.ancestor(space, class, known),
    }
}

/// The first rule that all fields satisfy, in any of `groups`. None: the arena is inconsistent.
#[inline(always)]
fn first_rule<T: Tables>(
    tables: T,
    start: u32,
    references: &[u64; FIELDS],
    groups: u32,
) -> Option<u32> {
    let mut groups = groups;
    for _ in 0..GROUPS {
        if groups == 0 {
            return None;
        }
        let rule = tables.first_of_group(start, references, lowest_of(groups))?;
        if rule != NOT_HERE {
            return Some(rule);
        }
        groups &= groups - 1;
    }
    None
}

/// In the place of a rule: the group has none that all fields satisfy.
pub const NOT_HERE: u32 = u32::MAX;

/// The first rule of a group that all fields satisfy, or [`NOT_HERE`]. None: the arena is inconsistent.
#[inline(always)]
pub fn first_of_group<T: Tables>(
    tables: T,
    start: u32,
    references: &[u64; FIELDS],
    group: u32,
) -> Option<u32> {
    let words = tables.words()?;
    let policy = Policy {
        words,
        start,
        head: Head(words.word(start)?),
    };
    let group = group & (GROUPS - 1);
    let mut records = [black_box(0); FIELDS];
    let mut candidates = u64::MAX;
    each_field!(FIELD => {
        if policy.looks_at(FIELD) {
            let mut record = policy.record(references[FIELD], group)?;
            records[FIELD] = record;
            if policy.has_common(FIELD) {
                record |= policy.record(policy.common(FIELD)?, group)?;
            }
            candidates &= record;
        }
    });
    let mut candidates = u32::from(candidates as u8);
    for _ in 0..GROUP_WORDS {
        if candidates == 0 {
            break;
        }
        let word = lowest_of(candidates);
        candidates &= candidates - 1;
        let mut all = u64::MAX;
        let policy = policy.again();
        each_field!(FIELD => {
            if policy.looks_at(FIELD) {
                let mut rules = policy.rules(records[FIELD], word)?;
                if policy.has_common(FIELD) {
                    let common = policy.record(policy.common(FIELD)?, group)?;
                    rules |= policy.rules(common, word)?;
                }
                all &= rules;
            }
        });
        if all != 0 {
            return Some((group * GROUP_WORDS + word) * 64 + lowest(all));
        }
    }
    Some(NOT_HERE)
}

/// Set bits of a word.
#[inline(always)]
const fn ones(word: u32) -> u32 {
    word.count_ones()
}

/// Number of the lowest set bit of a word that is not 0. In other forms the compiler sees what is meant, and makes a table of it: a map more.
#[inline(always)]
const fn lowest_of(word: u32) -> u32 {
    (ones(word ^ word.wrapping_sub(1)).wrapping_sub(1)) & 31
}

/// Likewise.
#[inline(always)]
const fn lowest(word: u64) -> u32 {
    ((word ^ word.wrapping_sub(1)).count_ones().wrapping_sub(1)) & 63
}
