//! Identities of rules: numbers that stay the same while the rule does.
//!
//! A rule's identity is its text and kind, and which of several equal ones in its policy it is; not its place. So counters and log lines keep
//! their meaning when rules around it change, and guests with equal rules share them (counters are kept per port). The number is a hash;
//! of two rules with one hash the later takes the next free number.

use std::collections::HashMap;
use std::sync::Arc;

use fw_common::verdict::NO_RULE;
use rustc_hash::FxHashMap;

use crate::policy::{OriginKind, Policy, Rule};

/// What is known of every rule identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleTable {
    rules: FxHashMap<u32, RuleInfo>,
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

    /// Takes in rules with the numbers that they were given in another table; false if some of them are other rules' here.
    pub(super) fn adopt(&mut self, numbers: &[u32], rules: &[RuleInfo]) -> bool {
        numbers.iter().zip(rules).all(|(number, info)| {
            let known = self.rules.entry(*number).or_insert_with(|| info.clone());
            known == info
        })
    }

    /// Numbers the rules of a policy, in order.
    pub(super) fn identify(&mut self, policy: &Policy) -> (Vec<u32>, Vec<RuleInfo>) {
        let mut repetitions: HashMap<(&str, String), u32> = HashMap::new();
        policy
            .rules
            .iter()
            .map(|rule| {
                let kind = format!("{:?}", rule.origin.kind);
                let repetition = repetitions.entry((&rule.origin.text, kind)).or_default();
                let info = info(rule, *repetition);
                *repetition += 1;
                (self.number(&info), info)
            })
            .unzip()
    }

    fn number(&mut self, info: &RuleInfo) -> u32 {
        let mut number = hash(info);
        loop {
            if number == NO_RULE {
                number = 0;
            }
            match self.rules.get(&number) {
                Some(known) if known == info => return number,
                Some(_) => number = number.wrapping_add(1),
                None => {
                    self.rules.insert(number, info.clone());
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
