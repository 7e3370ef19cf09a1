//! One policy as words of the arena: per field a map from values to the rules they satisfy.
//!
//! In: a policy, the identity of each of its rules, and the classes of address sets. Out: the words of `fw_common::maps::policy`.
//!
//! 1. Every rule's condition on a field becomes ranges of values.
//! 2. The ranges' ends cut the field into intervals; a sweep over them notes the rules that each interval satisfies.
//! 3. Rules without a condition on the field satisfy every interval. Where they would take much room there they go to its common vector instead, so that
//!    the size is bounded by what rules say, not by the product of rules and values.
//! 4. Equal runs of words are stored once.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use fw_common::maps::{RuleWord, capacity, policy, traits};
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
    /// Its rules tell apart too many values.
    #[error("the policy takes {words} words, but the kernel map has {limit}")]
    TooManyWords {
        /// Words that it takes.
        words: usize,
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
    let known = Known::new(policy, members);
    let mut layout = Layout::new(count);
    for (rule, identity) in policy.rules.iter().zip(identities) {
        let log = rule.log.unwrap_or(NO_LOG);
        let word = RuleWord::new(*identity, rule.verdict, rule.reason, log);
        layout.words.push(word.0);
    }
    layout.words[policy::KNOWN] = known.word();
    let conditions: Vec<Vec<Option<Ranges>>> = (0..policy::FIELDS)
        .map(|field| {
            let rules = policy.rules.iter();
            rules
                .map(|rule| ranges(field, &rule.matches, &known))
                .collect()
        })
        .collect();
    let mut flags = 0;
    let fields: Vec<Field> = conditions
        .iter()
        .map(|of_rules| Field::new(of_rules))
        .collect();
    if fields.iter().any(Field::has_common) {
        layout
            .words
            .resize(policy::HEAD + count + policy::FIELDS, 0);
    }
    for (number, field) in fields.iter().enumerate() {
        if field.changes.is_empty() {
            continue;
        }
        flags |= 1 << (48 + number);
        layout.words[policy::ENTRIES + number] = layout.field(field);
        if field.has_common() {
            flags |= 1 << (56 + number);
            let common = layout.reference(&field.common);
            layout.words[policy::HEAD + count + number] = common;
        }
    }
    let length = layout.words.len();
    if length > capacity::ARENA as usize {
        return Err(PolicyError::TooManyWords {
            words: length,
            limit: capacity::ARENA as usize,
        });
    }
    layout.words[0] = length as u64 | (count as u64) << 32 | flags;
    if count > policy::FEW_RULES as usize {
        layout.words[policy::IDENTITY] = identity(&layout.words);
    }
    Ok(layout.words)
}

/// A digest of these words that is not 0.
fn identity(words: &[u64]) -> u64 {
    let mut hasher = DefaultHasher::new();
    words.hash(&mut hasher);
    hasher.finish().max(1)
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
        _ => trait_values(matches.traits_mask, matches.traits_value),
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

fn trait_values(mask: u8, value: u8) -> Option<Ranges> {
    if mask == 0 {
        return None;
    }
    Some(
        (0..=traits::ALL)
            .filter(|bits| bits & mask == value)
            .map(|bits| (u32::from(bits), u32::from(bits)))
            .collect(),
    )
}

/// What the rules of a policy want of a field.
struct Field {
    rules: usize,
    /// Rules without a condition on it.
    common: Vec<u64>,
    /// Per boundary the rules whose range begins or ends there. A rule's ranges may touch or overlap, hence the depths.
    changes: BTreeMap<u32, Vec<(usize, i32)>>,
}

impl Field {
    fn new(conditions: &[Option<Ranges>]) -> Self {
        let mut common = vec![0; conditions.len().div_ceil(64)];
        let mut changes: BTreeMap<u32, Vec<(usize, i32)>> = BTreeMap::new();
        for (rule, condition) in conditions.iter().enumerate() {
            let Some(ranges) = condition else {
                set_bit(&mut common, rule);
                continue;
            };
            // Of a set without addresses there is nothing to satisfy.
            changes.entry(0).or_default();
            for (first, last) in ranges {
                changes.entry(*first).or_default().push((rule, 1));
                changes.entry(last + 1).or_default().push((rule, -1));
            }
        }
        Self {
            rules: conditions.len(),
            common,
            changes,
        }
    }

    /// Whether the rules without a condition stay apart, because they would take too many words in the references of all intervals.
    fn has_common(&self) -> bool {
        /// Words per rule that they may take.
        const MOST: usize = 4;
        let words = self.common.iter().filter(|word| **word != 0).count();
        let groups = self
            .common
            .chunks(GROUP)
            .filter(|group| group.iter().any(|word| *word != 0));
        let groups = groups.count();
        // A record for each group, and the words of the one in which the interval has rules of its own.
        let of_each = groups + words.checked_div(groups).unwrap_or(0);
        self.rules > policy::FEW_RULES as usize && self.changes.len() * of_each > MOST * self.rules
    }
}

/// Words of 64 rules in a group.
const GROUP: usize = policy::GROUP_WORDS as usize;

/// The words so far.
struct Layout {
    words: Vec<u64>,
    /// Rules of the policy.
    rules: usize,
    /// Places of runs of words that may be referred to.
    runs: HashMap<Vec<u64>, u64>,
}

impl Layout {
    fn new(rules: usize) -> Self {
        Self {
            words: vec![0; policy::HEAD],
            rules,
            runs: HashMap::new(),
        }
    }

    /// Lays out one field and returns its entry.
    fn field(&mut self, field: &Field) -> u64 {
        let mut depths = vec![0; self.rules];
        let mut active = match field.has_common() {
            true => vec![0; self.rules.div_ceil(64)],
            false => field.common.clone(),
        };
        let mut boundaries = Vec::new();
        let mut references = Vec::new();
        for (boundary, rules) in &field.changes {
            for (rule, change) in rules {
                depths[*rule] += change;
                if depths[*rule] > 0 {
                    set_bit(&mut active, *rule);
                } else {
                    active[rule / 64] &= !(1 << (rule % 64));
                }
            }
            let reference = self.reference(&active);
            if *boundary > 0 {
                if references.last() == Some(&reference) {
                    continue;
                }
                boundaries.push(*boundary);
            }
            references.push(reference);
        }
        self.map(&boundaries, &references)
    }

    /// What says that these rules are satisfied.
    fn reference(&mut self, rules: &[u64]) -> u64 {
        if self.rules <= policy::FEW_RULES as usize {
            return rules.first().copied().unwrap_or(0);
        }
        let mut groups = 0;
        let mut records = Vec::new();
        for (number, group) in rules.chunks(GROUP).enumerate() {
            let (mut record, mut words) = (0, Vec::new());
            for (bit, word) in group.iter().enumerate() {
                record |= (words.len() as u64) << (8 + 3 * bit);
                if *word != 0 {
                    record |= 1 << bit;
                    words.push(*word);
                }
            }
            if !words.is_empty() {
                groups |= 1 << number;
                records.push(record | self.run(words) << 32);
            }
        }
        match groups {
            0 => 0,
            _ => groups | self.run(records) << 32,
        }
    }

    /// Lays out a run of words, or finds an equal one.
    fn run(&mut self, words: Vec<u64>) -> u64 {
        let next = self.words.len() as u64;
        *self.runs.entry(words).or_insert_with_key(|words| {
            self.words.extend(words);
            next
        })
    }

    /// Lays out the map from values to intervals to references. `boundaries` are the first values of all intervals but the first.
    fn map(&mut self, boundaries: &[u32], references: &[u64]) -> u64 {
        let tops = boundaries.last().map_or(0, |last| (last >> 10) + 1) as usize;
        let mut top_words = vec![0; tops + 1];
        let mut blocks: Vec<u64> = Vec::new();
        let mut current = None;
        for (before, value) in boundaries.iter().enumerate() {
            let block = value >> 5;
            if current != Some(block) {
                current = Some(block);
                blocks.push((before as u64) << 32);
                top_words[(block >> 5) as usize] |= 1_u64 << (block & 31);
            }
            if let Some(last) = blocks.last_mut() {
                *last |= 1 << (value & 31);
            }
        }
        blocks.push((boundaries.len() as u64) << 32);
        let mut before = 0;
        for top in &mut top_words {
            let count = u64::from(top.count_ones());
            *top |= before << 32;
            before += count;
        }
        let map = self.words.len() as u64;
        self.words.extend(top_words);
        self.words.extend(blocks);
        let references_at = self.words.len() as u64;
        self.words.extend(references);
        map | (tops as u64) << policy::PLACE_BITS | references_at << (2 * policy::PLACE_BITS)
    }
}

fn set_bit(words: &mut [u64], index: usize) {
    words[index / 64] |= 1 << (index % 64);
}
