//! Identities of rules: numbers that stay the same while the rule does.
//!
//! A rule's identity is its text and kind, and which of several equal ones in its policy it is; not its place. So counters and log lines keep
//! their meaning when rules around it change, and guests with equal rules share them (counters are kept per port). The number is a hash;
//! of two rules with one hash the later takes the next free number, and keeps it as long as a policy has the rule ([`Identities`]).

use std::collections::HashMap;
use std::sync::Arc;

use fw_common::verdict::NO_RULE;
use rustc_hash::FxHashMap;

use crate::policy::{OriginKind, Policy, Rule};

/// What is known of every rule identity. Copies share what they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTable {
    rules: Arc<FxHashMap<u32, RuleInfo>>,
}

/// What is known of a rule, wherever it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// What it was expanded from.
    pub kind: OriginKind,
    /// Its text.
    pub text: Arc<str>,
    /// Which of several equal ones in a policy it is, from 0 (a macro expands to several).
    pub repetition: u32,
}

impl RuleTable {
    /// What is known of a rule.
    pub fn get(&self, rule: u32) -> Option<&RuleInfo> {
        self.rules.get(&rule)
    }

    /// Whether two tables are copies of one.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules)
    }
}

/// The rules of all policies, each as often as policies have it.
#[derive(Debug, Default)]
pub(super) struct Identities {
    table: RuleTable,
    uses: FxHashMap<u32, u32>,
}

impl Identities {
    /// What is known of them.
    pub(super) fn table(&self) -> RuleTable {
        self.table.clone()
    }

    /// One more policy has these rules, which others have.
    pub(super) fn keep(&mut self, rules: &[u32]) {
        for rule in rules {
            *self.uses.entry(*rule).or_default() += 1;
        }
    }

    /// One policy less has these rules.
    pub(super) fn release(&mut self, rules: &[u32]) {
        for rule in rules {
            let Some(uses) = self.uses.get_mut(rule) else {
                continue;
            };
            *uses -= 1;
            if *uses == 0 {
                self.uses.remove(rule);
                Arc::make_mut(&mut self.table.rules).remove(rule);
            }
        }
    }

    /// Numbers the rules of one more policy, in order.
    pub(super) fn identify(&mut self, policy: &Policy) -> Vec<u32> {
        let mut repetitions: HashMap<(&str, String), u32> = HashMap::new();
        policy
            .rules
            .iter()
            .map(|rule| {
                let kind = format!("{:?}", rule.origin.kind);
                let repetition = repetitions.entry((&rule.origin.text, kind)).or_default();
                let info = info(rule, *repetition);
                *repetition += 1;
                let number = self.number(info);
                *self.uses.entry(number).or_default() += 1;
                number
            })
            .collect()
    }

    fn number(&mut self, info: RuleInfo) -> u32 {
        let mut number = hash(&info);
        loop {
            if number == NO_RULE {
                number = 0;
            }
            match self.table.get(number) {
                Some(known) if *known == info => return number,
                Some(_) => number = number.wrapping_add(1),
                None => {
                    Arc::make_mut(&mut self.table.rules).insert(number, info);
                    return number;
                }
            }
        }
    }
}

fn info(rule: &Rule, repetition: u32) -> RuleInfo {
    RuleInfo {
        kind: rule.origin.kind.clone(),
        text: Arc::clone(&rule.origin.text),
        repetition,
    }
}

/// FNV-1a, folded to 32 bits: the same on every build, since counters outlive the agent.
fn hash(info: &RuleInfo) -> u32 {
    let text = format!("{:?} {} {}", info.kind, info.repetition, info.text);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    (hash ^ hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Matches, Origin};
    use fw_common::verdict::{Reason, Verdict};

    fn policy(texts: &[&str]) -> Policy {
        let rules = texts.iter().map(|text| Rule {
            matches: Matches::default(),
            verdict: Verdict::Accept,
            reason: Reason::Rule,
            log: None,
            origin: Origin {
                line: None,
                kind: OriginKind::Rule,
                text: (*text).into(),
            },
        });
        Policy {
            rules: rules.collect(),
        }
    }

    #[test]
    fn a_rule_is_known_as_long_as_a_policy_has_it() {
        let mut rules = Identities::default();
        let nothing = rules.table();
        let one = rules.identify(&policy(&["a", "b", "a"]));
        let before = rules.table();
        let other = rules.identify(&policy(&["b", "c"]));
        assert_eq!((one[1], one[0] == one[2]), (other[0], false));
        rules.keep(&other);
        rules.release(&other);
        let both = rules.table();
        rules.release(&other);
        assert_eq!(rules.table(), before);
        assert!(both.get(other[1]).is_some() && before.get(other[1]).is_none());
        // What did not change is the same memory.
        rules.keep(&one);
        rules.release(&one);
        assert!(!rules.table().is_same(&before), "it was changed in between");
        let now = rules.table();
        rules.keep(&one);
        assert!(rules.table().is_same(&now));
        rules.release(&one);
        rules.release(&one);
        assert_eq!(rules.table(), nothing);
    }

    #[test]
    fn a_number_that_another_rule_has_is_not_taken() {
        let mut rules = Identities::default();
        let [first] = rules.identify(&policy(&["a"]))[..] else {
            panic!("one rule")
        };
        // As if another text had the hash.
        let mut taken = Identities::default();
        let other = taken.identify(&policy(&["b"]));
        let info = taken.table().get(other[0]).unwrap().clone();
        Arc::make_mut(&mut taken.table.rules).insert(first, info);
        let numbers = taken.identify(&policy(&["a", "a"]));
        assert_eq!(numbers[0], first.wrapping_add(1));
        assert_eq!(taken.identify(&policy(&["a", "a"])), numbers);
    }
}
