//! The filter table of one family: its chains as entries of the output, and what is told of them.
//!
//! In: the file. Out: per built-in chain the entries of its list, in order; remarks about what is left out, and about packets that do not begin a connection,
//! which no rule here is for.

use std::collections::{BTreeMap, BTreeSet};

use fw_common::verdict::Verdict;

use super::condition::Condition;
use super::report::{Effect, Remark, State, WHOLE, remark};
use super::rule::{Rule, States, Target};
use super::save::{Policy, Ruleset};
use super::text::{self, Entry, Saying};
use super::walk::{Chain, Deed, Step, Walk};
use super::{File, ImportError, Names, managed};
use crate::policy::Family;

/// More rules than this are not searched for such that decide nothing.
const SEARCHED: usize = 2000;

/// The ruleset of one family.
pub struct FilterTable<'a> {
    file: &'a str,
    family: Family,
    ruleset: Ruleset,
    chains: Vec<Chain>,
    rules: BTreeMap<u32, (String, Option<String>)>,
}

impl<'a> FilterTable<'a> {
    /// Reads a file.
    pub fn read(
        file: File<'a>,
        family: Family,
        names: &Names,
        remarks: &mut Vec<Remark>,
    ) -> Result<Self, ImportError> {
        let ruleset = Ruleset::parse(file.text).ok_or_else(|| ImportError::NoFilter {
            file: file.name.to_owned(),
        })?;
        for (line, text, why) in &ruleset.faults {
            remarks.push(remark(
                file.name,
                (Some(*line), Some(text)),
                State::LeftOut,
                why,
                Effect::UNKNOWN,
            ));
        }
        for (table, line) in &ruleset.others {
            let why = format!(
                "the table {table} stays where it is: leave it in iptables. Rules here see packets as they are on the wire: before it on the way in, after it on the way out"
            );
            let place = (Some(*line), None);
            remarks.push(remark(
                file.name,
                place,
                State::LeftOut,
                &why,
                Effect::UNKNOWN,
            ));
        }
        let chains: Vec<Chain> = ruleset
            .chains
            .iter()
            .map(|chain| Chain {
                name: chain.name.clone(),
                rules: chain
                    .rules
                    .iter()
                    .map(|line| Rule::parse(line, family, names))
                    .collect(),
            })
            .collect();
        let rules = chains
            .iter()
            .flat_map(|chain| &chain.rules)
            .map(|rule| (rule.line, (rule.text.clone(), rule.comment.clone())))
            .collect();
        let read = Self {
            file: file.name,
            family,
            ruleset,
            chains,
            rules,
        };
        Ok(read)
    }

    /// What a built-in chain does at its end.
    pub fn policy(&self, chain: &str) -> Verdict {
        match self.ruleset.chain(chain).and_then(|chain| chain.policy) {
            Some(Policy::Drop) => Verdict::Drop,
            Some(Policy::Accept) | None => Verdict::Accept,
        }
    }

    /// Whether the chain does nothing at all.
    fn is_open(&self, chain: &str) -> bool {
        self.policy(chain) == Verdict::Accept
            && self
                .ruleset
                .chain(chain)
                .is_none_or(|chain| chain.rules.is_empty())
    }

    /// The entries of a built-in chain.
    pub fn list(
        &self,
        chain: &'static str,
        direction: &str,
        remarks: &mut Vec<Remark>,
    ) -> Result<Vec<Entry>, ImportError> {
        if self.is_open(chain) && direction == "FORWARD" {
            return Ok(Vec::new());
        }
        let policy = self.policy(chain);
        let steps =
            Walk::through(&self.chains, chain, policy).map_err(|source| ImportError::TooLong {
                file: self.file.to_owned(),
                chain,
                source,
            })?;
        self.states(chain, remarks);
        Ok(self.entries(&steps, direction, remarks))
    }

    fn entries(&self, steps: &[Step], direction: &str, remarks: &mut Vec<Remark>) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut logs: Vec<(&Condition, u8, Option<u32>)> = Vec::new();
        let mut decided: Vec<&Condition> = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            match &step.deed {
                Deed::Log(level) => logs.push((&step.condition, *level, step.line)),
                Deed::Decide(verdict) => {
                    let mut log = None;
                    logs.retain(|(condition, level, line)| {
                        if **condition == step.condition {
                            log = Some(*level);
                            return false;
                        }
                        let stays = !condition.meets(&step.condition);
                        if !stays {
                            let why = "a log by itself has no counterpart: the next rule is not for the same packets";
                            self.tell(*line, State::LeftOut, why, Effect::default(), remarks);
                        }
                        stays
                    });
                    let is_dead = steps.len() <= SEARCHED
                        && decided
                            .iter()
                            .any(|earlier| earlier.covers(&step.condition));
                    if is_dead {
                        continue;
                    }
                    decided.push(&step.condition);
                    let rule = step.line.and_then(|line| self.rules.get(&line));
                    let saying = Saying {
                        direction,
                        verdict: *verdict,
                        log,
                        comment: rule.and_then(|(_, comment)| comment.as_deref()),
                    };
                    entries.push(text::rule(&step.condition, self.family, saying));
                    self.differences(step, *verdict, remarks);
                }
                Deed::LeftOut(why, outcomes) => {
                    let effect = Effect::of(steps, at, outcomes, direction == "IN");
                    let (line, why) = (step.line, why.to_string());
                    if let Some((text, _)) = line.and_then(|line| self.rules.get(&line)) {
                        let place = format!("{}:{}", self.file, line.unwrap_or_default());
                        let said = text::comment(&format!("left out ({place}: {why}): {text}"));
                        // At the first place where it would stand; behind a RETURN it may have others.
                        if !entries.contains(&said) {
                            entries.push(said);
                        }
                    }
                    self.tell(line, State::LeftOut, &why, effect, remarks);
                }
            }
        }
        entries
    }

    /// Tells what is different in a rule that is translated.
    fn differences(&self, step: &Step, verdict: Verdict, remarks: &mut Vec<Remark>) {
        let rules = self.chains.iter().flat_map(|chain| &chain.rules);
        let rule = rules.into_iter().find(|rule| Some(rule.line) == step.line);
        let effect = match verdict {
            Verdict::Accept => Effect::OPENS,
            Verdict::Drop | Verdict::Reject => Effect::CLOSES,
        };
        for why in rule.into_iter().flat_map(|rule| &rule.remarks) {
            self.tell(step.line, State::Differs, why, effect, remarks);
        }
    }

    fn tell(
        &self,
        line: Option<u32>,
        state: State,
        why: &str,
        effect: Effect,
        remarks: &mut Vec<Remark>,
    ) {
        let text = line
            .and_then(|line| self.rules.get(&line))
            .map(|(text, _)| text.as_str());
        let new = remark(self.file, (line, text), state, why, effect);
        let known = remarks.iter_mut().find(|known| {
            (&known.file, known.line, known.state, &known.why)
                == (&new.file, new.line, new.state, &new.why)
        });
        match known {
            Some(known) => known.effect = known.effect.or(new.effect),
            None => remarks.push(new),
        }
    }

    /// Tells what is different for packets that do not begin a connection, in a built-in chain and those that it leads to.
    fn states(&self, start: &str, remarks: &mut Vec<Remark>) {
        let mut accepts_running = self.policy(start) == Verdict::Accept;
        let mut first_block: Option<u32> = None;
        let mut allows = States::default();
        for rule in self.reachable(start) {
            let states = rule.states;
            let blocks = matches!(rule.target, Target::Drop | Target::Reject);
            let is_running = states.is_none_or(|states| states.established && states.related);
            let is_for_all = rule.except.is_empty() && rule.alternatives == [Condition::default()];
            if rule.target == Target::Accept && is_running && is_for_all && rule.missing.is_empty()
            {
                accepts_running = true;
                allows.established = true;
            }
            if blocks && states.is_none() && !allows.established && !is_loopback(rule) {
                first_block = first_block.or(Some(rule.line));
            }
            let Some(states) = states else { continue };
            if rule.target == Target::Accept && states.invalid {
                let why = "packets of the state INVALID are dropped before any rule";
                self.tell(
                    Some(rule.line),
                    State::Differs,
                    why,
                    Effect::CLOSES,
                    remarks,
                );
            }
            if blocks && (states.established || states.related) {
                let why = "what belongs to an accepted connection is accepted before any rule";
                self.tell(Some(rule.line), State::Differs, why, Effect::OPENS, remarks);
            }
            if blocks && states.untracked && !states.new {
                let why = "rules are not for the state UNTRACKED";
                self.tell(Some(rule.line), State::LeftOut, why, Effect::OPENS, remarks);
            }
            if rule.target == Target::Accept && states.untracked && !states.new {
                let why = "rules are not for the state UNTRACKED";
                self.tell(
                    Some(rule.line),
                    State::LeftOut,
                    why,
                    Effect::CLOSES,
                    remarks,
                );
            }
        }
        if start == "FORWARD" {
            let why = "FORWARD rules are translated but not enforced yet: leave them in iptables";
            let place = (self.ruleset.chain(start).map(|chain| chain.line), None);
            remarks.push(remark(self.file, place, State::Differs, why, Effect::OPENS));
            return;
        }
        if start == "INPUT" && self.family == Family::V4 && self.policy(start) == Verdict::Drop {
            let why = "IGMP is accepted before any rule";
            remarks.push(remark(self.file, WHOLE, State::Differs, why, Effect::OPENS));
        }
        if !accepts_running {
            let why = format!(
                "replies, and what is related to an accepted connection, are always accepted; {start} did not accept them"
            );
            remarks.push(remark(
                self.file,
                WHOLE,
                State::Differs,
                &why,
                Effect::OPENS,
            ));
        }
        if let Some(line) = first_block {
            let why = "it was for running connections, too; here only new ones are looked at (a ban, `fwctl ban`, or the set `blacklist` cuts running ones)";
            self.tell(Some(line), State::Differs, why, Effect::OPENS, remarks);
        }
    }

    /// The rules of a chain and of those that it leads to, each once, in the order of the walk.
    fn reachable(&self, start: &str) -> Vec<&Rule> {
        let mut found = Vec::new();
        self.reach(start, &mut BTreeSet::new(), &mut found);
        found
    }

    fn reach<'s>(&'s self, name: &str, seen: &mut BTreeSet<String>, found: &mut Vec<&'s Rule>) {
        if managed::manager(name).is_some() || !seen.insert(name.to_owned()) {
            return;
        }
        let chain = self.chains.iter().find(|chain| chain.name == name);
        for rule in chain.into_iter().flat_map(|chain| &chain.rules) {
            found.push(rule);
            if let Target::Jump(to) | Target::Goto(to) = &rule.target {
                self.reach(to, seen, found);
            }
        }
    }
}

/// Whether a rule is for the loopback interface only.
fn is_loopback(rule: &Rule) -> bool {
    let is = |one: &Condition| one.interface.as_deref() == Some("lo");
    rule.alternatives.iter().all(is)
}
