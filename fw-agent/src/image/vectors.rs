//! One policy as words of the arena: per field a map from values to the rules they satisfy.
//!
//! In: a policy, the identity of each of its rules, and the classes of address sets. Out: the words of `fw_common::maps::policy`.
//!
//! 1. Every rule's condition on a field becomes ranges of values.
//! 2. The ranges' ends cut the field into intervals; a sweep over them notes the rules that each interval satisfies.
//! 3. Rules without a condition on the field go to its common vector instead, so that the size is bounded by what rules say, not by the
//!    product of rules and values.
//! 4. Equal vectors are stored once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fw_common::maps::{RuleWord, policy};
use fw_common::verdict::NO_LOG;

use super::classes::Members;
use crate::policy::{AddressSet, Family, Matches, Policy};

/// Why a policy cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Too many rules after groups and macros are expanded.
    #[error("{rules} rules after expansion, but a policy takes {limit}")]
    TooManyRules {
        /// Expanded rules.
        rules: usize,
        /// The limit.
        limit: usize,
    },
}

/// Inclusive ranges of a field's values.
type Ranges = Vec<(u32, u32)>;

/// The classes that a policy knows: those up to the youngest that its sets need.
struct Known<'m> {
    members: &'m Members,
    small: u32,
    big: u32,
    /// Bits of a small class.
    bits: u32,
}

impl<'m> Known<'m> {
    fn new(policy: &Policy, members: &'m Members) -> Self {
        let (mut small, mut big) = (1, 1);
        let rules = policy.rules.iter().map(|rule| &rule.matches);
        let sets = rules.flat_map(|matches| [&matches.source, &matches.dest]);
        for set in sets.flatten().filter_map(|set| members.of(set)) {
            let known = if set.is_big { &mut big } else { &mut small };
            *known = set.known.max(*known);
        }
        Self {
            members,
            small,
            big,
            bits: u32::BITS - (small - 1).leading_zeros(),
        }
    }

    fn word(&self) -> u64 {
        u64::from(self.small) | u64::from(self.big) << 32 | u64::from(self.bits) << 48
    }

    /// The classes of a set, big and small ones as one number.
    fn ranges(&self, set: &Arc<AddressSet>) -> Ranges {
        let Some(set) = self.members.of(set) else {
            return Ranges::new();
        };
        let known = if set.is_big { self.big } else { self.small };
        let classes = set.ranges.iter().filter(|(first, _)| *first < known);
        let classes = classes.map(|(first, last)| (*first, (*last).min(known - 1)));
        if set.is_big {
            let whole = |(first, last)| {
                let end = (1 << self.bits) - 1;
                (first << self.bits, (last << self.bits) + end)
            };
            return classes.map(whole).collect();
        }
        let bigs = (0..self.big).map(|class| class << self.bits);
        let of_each = bigs.flat_map(|big| {
            let classes = classes.clone();
            classes.map(move |(first, last)| (big | first, big | last))
        });
        of_each.collect()
    }
}

/// Builds the words of `policy`.
pub(super) fn build(
    policy: &Policy,
    identities: &[u32],
    members: &Members,
) -> Result<Vec<u64>, PolicyError> {
    let count = policy.rules.len();
    if count > policy::MAX_RULES {
        return Err(PolicyError::TooManyRules {
            rules: count,
            limit: policy::MAX_RULES,
        });
    }
    let mut layout = Layout {
        words: vec![0; policy::HEAD],
        summaries: count.div_ceil(64).div_ceil(64),
        vectors: HashMap::new(),
    };
    let known = Known::new(policy, members);
    layout.words[policy::KNOWN] = known.word();
    for field in 0..policy::FIELDS {
        let conditions: Vec<Option<Ranges>> = policy
            .rules
            .iter()
            .map(|rule| ranges(field, &rule.matches, &known))
            .collect();
        layout.words[1 + field] = layout.field(&conditions);
    }
    layout.words[1 + policy::FIELDS] = layout.words.len() as u64;
    for (rule, identity) in policy.rules.iter().zip(identities) {
        let log = rule.log.unwrap_or(NO_LOG);
        let word = RuleWord::new(*identity, rule.verdict, rule.reason, log);
        layout.words.push(word.0);
    }
    let length = layout.words.len() as u64;
    layout.words[0] = length | (layout.summaries as u64) << 32 | (count as u64) << 40;
    Ok(layout.words)
}

/// A rule's condition on a field; none if every value satisfies it.
fn ranges(field: usize, matches: &Matches, known: &Known<'_>) -> Option<Ranges> {
    match field {
        policy::SOURCE => Some(known.ranges(matches.source.as_ref()?)),
        policy::DEST => Some(known.ranges(matches.dest.as_ref()?)),
        policy::SPORT => ports(&matches.sport),
        policy::DPORT => ports(&matches.dport),
        policy::PROTOCOL if matches.not_ip => Some(vec![(policy::NOT_IP, policy::NOT_IP)]),
        policy::PROTOCOL => protocols(matches.family, matches.protocol),
        _ => traits(matches.traits_mask, matches.traits_value),
    }
}

fn ports(ports: &[(u16, u16)]) -> Option<Ranges> {
    if ports.is_empty() {
        return None;
    }
    Some(
        ports
            .iter()
            .map(|(first, last)| (u32::from(*first), u32::from(*last)))
            .collect(),
    )
}

fn protocols(family: Option<Family>, protocol: Option<u8>) -> Option<Ranges> {
    let (first, last) = match protocol {
        Some(number) => (u32::from(number), u32::from(number)),
        None => (0, policy::PROTOCOL_V6 - 1),
    };
    let v4 = (first, last);
    let v6 = (first + policy::PROTOCOL_V6, last + policy::PROTOCOL_V6);
    match (family, protocol) {
        (None, None) => None,
        (None, Some(_)) => Some(vec![v4, v6]),
        (Some(Family::V4), _) => Some(vec![v4]),
        (Some(Family::V6), _) => Some(vec![v6]),
    }
}

fn traits(mask: u8, value: u8) -> Option<Ranges> {
    if mask == 0 {
        return None;
    }
    Some(
        (0..=u8::MAX)
            .filter(|bits| bits & mask == value)
            .map(|bits| (u32::from(bits), u32::from(bits)))
            .collect(),
    )
}

/// The words so far.
struct Layout {
    words: Vec<u64>,
    summaries: usize,
    /// Offsets of vectors that are already laid out.
    vectors: HashMap<Vec<u64>, u64>,
}

impl Layout {
    /// Lays out one field and returns its entry: offsets of its map and of its common vector.
    fn field(&mut self, conditions: &[Option<Ranges>]) -> u64 {
        let mut common = vec![0; conditions.len().div_ceil(64)];
        // Per boundary the rules whose range begins or ends there. A rule's ranges may touch or overlap, hence the depths.
        let mut changes: BTreeMap<u32, Vec<(usize, i32)>> = BTreeMap::new();
        for (rule, condition) in conditions.iter().enumerate() {
            match condition {
                None => set_bit(&mut common, rule),
                Some(ranges) => {
                    for (first, last) in ranges {
                        changes.entry(*first).or_default().push((rule, 1));
                        changes.entry(last + 1).or_default().push((rule, -1));
                    }
                }
            }
        }
        let common = self.vector(&common);
        let mut depths = vec![0; conditions.len()];
        let mut active = vec![0; conditions.len().div_ceil(64)];
        let mut boundaries = Vec::new();
        let mut references = Vec::new();
        if changes
            .first_key_value()
            .is_none_or(|(first, _)| *first > 0)
        {
            references.push(self.vector(&active));
        }
        for (boundary, rules) in &changes {
            for (rule, change) in rules {
                depths[*rule] += change;
                if depths[*rule] > 0 {
                    set_bit(&mut active, *rule);
                } else {
                    active[rule / 64] &= !(1 << (rule % 64));
                }
            }
            let reference = self.vector(&active);
            if *boundary > 0 {
                if references.last() == Some(&reference) {
                    continue;
                }
                boundaries.push(*boundary);
            }
            references.push(reference);
        }
        let map = self.map(&boundaries, &references);
        map | common << 32
    }

    /// Lays out a sparse vector, or finds an equal one.
    fn vector(&mut self, words: &[u64]) -> u64 {
        let mut sparse = vec![0; self.summaries];
        for (index, word) in words.iter().enumerate() {
            if *word != 0 {
                set_bit(&mut sparse, index);
                sparse.push(*word);
            }
        }
        let next = self.words.len() as u64;
        *self.vectors.entry(sparse).or_insert_with_key(|sparse| {
            self.words.extend(sparse);
            next
        })
    }

    /// Lays out the map from values to intervals to vectors. `boundaries` are the first values of all intervals but the first.
    fn map(&mut self, boundaries: &[u32], references: &[u64]) -> u64 {
        let tops = boundaries.last().map_or(0, |last| (last >> 12) + 1) as usize;
        let mut top_words = vec![[0_u64; 2]; tops + 1];
        let mut blocks: Vec<[u64; 2]> = Vec::new();
        let mut current = None;
        for (before, value) in boundaries.iter().enumerate() {
            let block = value >> 6;
            if current != Some(block) {
                current = Some(block);
                blocks.push([0, before as u64]);
                top_words[(block >> 6) as usize][0] |= 1 << (block & 63);
            }
            if let Some(last) = blocks.last_mut() {
                last[0] |= 1 << (value & 63);
            }
        }
        blocks.push([0, boundaries.len() as u64]);
        let mut before = 0;
        for top in &mut top_words {
            top[1] = before;
            before += u64::from(top[0].count_ones());
        }
        let offset = self.words.len() as u64;
        let blocks_at = 2 + top_words.len() as u64 * 2;
        let references_at = blocks_at + blocks.len() as u64 * 2;
        self.words.push(tops as u64 | blocks_at << 32);
        self.words.push(references_at);
        self.words.extend(top_words.as_flattened());
        self.words.extend(blocks.as_flattened());
        self.words.extend(references);
        offset
    }
}

fn set_bit(words: &mut [u64], index: usize) {
    words[index / 64] |= 1 << (index % 64);
}
