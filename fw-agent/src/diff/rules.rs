//! The rules of two policies, compared in order.
//!
//! In: the policies of a node, twice. Out: which rules were removed, changed, moved, added, at which places; and those whose line is the same while it means
//! something else, for [`super::named`] to explain.
//!
//! 1. Rules that come from one line (a macro's) are one item; an item is known by its text, file and group, not by its line's number. 2. Items that both
//!    policies have keep their order as far as possible (the longest common part, by patience); those left over have moved. 3. An item that is gone and one that is new
//!    between the same neighbours, in the same file, are a change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use similar::{Algorithm, DiffTag, capture_diff_slices};

use super::{Fate, Line, Place, RuleChange, Way, pairs};
use crate::policy::{NodePolicy, OriginKind, Policy, Rule};

/// What a rule is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    group: Option<Arc<str>>,
    file: Option<Arc<str>>,
    text: String,
}

/// The rules of one line.
struct Item<'a> {
    key: Key,
    rules: &'a [Rule],
}

impl Item<'_> {
    fn line(&self) -> Line {
        let line = self
            .rules
            .first()
            .and_then(|rule| rule.origin.line.as_ref());
        Line {
            file: self.key.file.clone(),
            line: line.map(|line| line.line),
            text: self.key.text.clone(),
        }
    }

    /// A written rule; others follow from options and other files.
    fn is_written(&self) -> bool {
        let kind = self.rules.first().map(|rule| &rule.origin.kind);
        matches!(kind, Some(OriginKind::Rule | OriginKind::Group(_)))
    }
}

/// A change without its places.
type Told = (Way, Fate, Option<Line>, Option<Line>, Option<Arc<str>>);

/// Changes, and the places of each.
#[derive(Default)]
struct Changes(BTreeMap<Told, Vec<Place>>);

impl Changes {
    fn add(&mut self, way: Way, fate: Fate, pair: [Option<&Item<'_>>; 2], place: &Place) {
        let [before, after] = pair;
        let group = after.or(before).and_then(|item| item.key.group.clone());
        let told = (
            way,
            fate,
            before.map(Item::line),
            after.map(Item::line),
            group,
        );
        let places = self.0.entry(told).or_default();
        if places.last() != Some(place) {
            places.push(place.clone());
        }
    }

    fn into_rules(self) -> Vec<RuleChange> {
        let changes = self.0.into_iter();
        let change = |((way, fate, before, after, group), places)| RuleChange {
            way,
            fate,
            before,
            after,
            group,
            places,
        };
        changes.map(change).collect()
    }
}

/// What happened to the rules of all places that both have, and which of them mean something else.
pub(super) fn compare(
    before: &NodePolicy,
    after: &NodePolicy,
) -> (Vec<RuleChange>, Vec<RuleChange>) {
    let mut changes = Changes::default();
    let mut affected = Changes::default();
    let mut pair = |way, place: Place, old: &Policy, new: &Policy| {
        if old != new {
            policies(way, &place, old, new, &mut changes, &mut affected);
        }
    };
    for (way, place, old, new) in pairs(before, after) {
        pair(way, place, old, new);
    }
    let nothing = Policy::default();
    let vnets = [before, after].map(|node| {
        let forward = node.forward.iter();
        let named = forward.map(|forward| (forward.vnet.clone(), &forward.policy));
        named.collect::<BTreeMap<_, _>>()
    });
    let mut names: Vec<_> = vnets[0].keys().chain(vnets[1].keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let [old, new] = [0, 1].map(|at| *vnets[at].get(name).unwrap_or(&&nothing));
        let place = name.clone().map_or(Place::Host, Place::Vnet);
        pair(Way::Forward, place, old, new);
    }
    (changes.into_rules(), affected.into_rules())
}

fn policies(
    way: Way,
    place: &Place,
    before: &Policy,
    after: &Policy,
    changes: &mut Changes,
    affected: &mut Changes,
) {
    let (old, new) = (items(before), items(after));
    let kept = kept(&old, &new);
    for &(was, is) in &kept {
        let (was, is) = (&old[was], &new[is]);
        if means_something_else(was, is) {
            affected.add(way, Fate::Affected, [Some(was), Some(is)], place);
        }
    }
    let slots = |length: usize, of: fn(&(usize, usize)) -> usize| {
        let mut kept = kept.iter().map(of).peekable();
        let mut slot = 0_usize;
        let mut left = Vec::new();
        for at in 0..length {
            match kept.next_if_eq(&at) {
                Some(_) => slot += 1,
                None => left.push((slot, at)),
            }
        }
        left
    };
    let mut gone = slots(old.len(), |pair| pair.0);
    let mut come = slots(new.len(), |pair| pair.1);

    let mut waiting: HashMap<&Key, Vec<usize>> = HashMap::new();
    for &(_, at) in gone.iter().rev() {
        waiting.entry(&old[at].key).or_default().push(at);
    }
    let mut moved = Vec::new();
    come.retain(
        |&(_, at)| match waiting.get_mut(&new[at].key).and_then(Vec::pop) {
            Some(from) => {
                moved.push((from, at));
                false
            }
            None => true,
        },
    );
    for &(from, to) in &moved {
        let pair = [Some(&old[from]), Some(&new[to])];
        changes.add(way, Fate::Moved, pair, place);
        if means_something_else(&old[from], &new[to]) {
            affected.add(way, Fate::Affected, pair, place);
        }
    }
    let away: HashSet<usize> = moved.iter().map(|&(from, _)| from).collect();
    gone.retain(|(_, at)| !away.contains(at));

    let home = |slot: usize, item: &Item<'_>| {
        let key = &item.key;
        (slot, item.is_written(), key.group.clone(), key.file.clone())
    };
    let mut replaced: HashMap<_, Vec<usize>> = HashMap::new();
    for &(slot, at) in come.iter().rev() {
        replaced.entry(home(slot, &new[at])).or_default().push(at);
    }
    let mut taken = HashSet::new();
    for &(slot, at) in &gone {
        // What is built in has no place that another could take.
        let by = replaced.get_mut(&home(slot, &old[at]));
        let by = by.filter(|_| old[at].key.file.is_some()).and_then(Vec::pop);
        match by {
            Some(by) => {
                taken.insert(by);
                changes.add(way, Fate::Changed, [Some(&old[at]), Some(&new[by])], place);
            }
            None => changes.add(way, Fate::Removed, [Some(&old[at]), None], place),
        }
    }
    for &(_, at) in &come {
        if !taken.contains(&at) {
            changes.add(way, Fate::Added, [None, Some(&new[at])], place);
        }
    }
}

fn items(policy: &Policy) -> Vec<Item<'_>> {
    let chunks = policy.rules.chunk_by(|a, b| a.origin == b.origin);
    let item = |rules: &'_ [Rule]| {
        let origin = &rules.first()?.origin;
        let group = match &origin.kind {
            OriginKind::Group(name) => Some(Arc::clone(name)),
            OriginKind::Rule
            | OriginKind::Policy
            | OriginKind::Standard
            | OriginKind::Blacklist
            | OriginKind::Smurf
            | OriginKind::TcpFlags => None,
        };
        let words: Vec<&str> = origin.text.split_ascii_whitespace().collect();
        // A policy's text says all; which line sets it is told with the option.
        let file = origin.line.as_ref().map(|line| Arc::clone(&line.file));
        let file = file.filter(|_| !matches!(origin.kind, OriginKind::Policy));
        let text = words.join(" ");
        Some(Key { group, file, text })
    };
    let keyed = chunks.filter_map(|rules| Some((item(rules)?, rules)));
    keyed.map(|(key, rules)| Item { key, rules }).collect()
}

/// Pairs of items that stay in order.
fn kept(old: &[Item<'_>], new: &[Item<'_>]) -> Vec<(usize, usize)> {
    // Keys as numbers, and only those that both have: what is left of two lists that have little in common is short.
    let mut numbers: HashMap<&Key, (usize, bool)> = HashMap::new();
    for item in old {
        let next = numbers.len();
        numbers.entry(&item.key).or_insert((next, false));
    }
    let mut later = Vec::new();
    for (item, at) in new.iter().zip(0..) {
        if let Some((number, shared)) = numbers.get_mut(&item.key) {
            *shared = true;
            later.push((*number, at));
        }
    }
    let earlier: Vec<(usize, usize)> = old
        .iter()
        .zip(0..)
        .filter_map(|(item, at)| {
            let (number, shared) = numbers.get(&item.key)?;
            shared.then_some((*number, at))
        })
        .collect();
    let of = |list: &[(usize, usize)]| list.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    let ops = capture_diff_slices(Algorithm::Patience, &of(&earlier), &of(&later));
    let mut kept = Vec::new();
    for op in ops.iter().filter(|op| op.tag() == DiffTag::Equal) {
        for (was, is) in op.old_range().zip(op.new_range()) {
            kept.push((earlier[was].1, later[is].1));
        }
    }
    kept
}

fn means_something_else(was: &Item<'_>, is: &Item<'_>) -> bool {
    // The level of what no line of rules logs is an option's.
    let log = was.is_written();
    let differ = |(a, b): (&Rule, &Rule)| {
        (&a.matches, a.verdict, a.reason) != (&b.matches, b.verdict, b.reason)
            || log && a.log != b.log
    };
    was.rules.len() != is.rules.len() || was.rules.iter().zip(is.rules).any(differ)
}
