//! The way of a packet through chains, written as one list of rules of which the first that matches decides.
//!
//! A chain that a rule jumps to is put in its place, under the conditions of the jump. What a packet meets after a `RETURN` with conditions, or after a rule with a
//! `!` that does not hold for it, cannot be said by conditions that all must hold; so there, under what led to it, all the rest of its way is written
//! out, up to the policy, and nothing that comes later in the list is about it any more. That multiplies rules: more than [`MAX_RULES`] are refused.
//!
//! Every packet is the first of its connection here: Tapwall accepts what belongs to one that was accepted, and drops what is invalid, before any rule.

use std::collections::BTreeSet;
use std::rc::Rc;

use fw_common::verdict::Verdict;

use super::condition::Condition;
use super::managed::manager;
use super::report::Why;
use super::rule::{Rule, Target};
use crate::policy::MAX_RULES;

/// A chain whose rules are understood.
#[derive(Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// What stands at one place of the list.
#[derive(Clone, Debug)]
pub struct Step {
    /// The packets that it is for; for what is left out, they and perhaps others.
    pub condition: Condition,
    /// Line of the rule; none: the chain's policy.
    pub line: Option<u32>,
    /// What it does.
    pub deed: Deed,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Deed {
    /// Decides.
    Decide(Verdict),
    /// Logs, with a syslog level.
    Log(u8),
    /// Nothing: the rule is left out. What it could have decided.
    LeftOut(Why, BTreeSet<Outcome>),
}

/// What may become of a packet in a rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Accepted.
    Passes,
    /// Dropped or rejected.
    Ends,
    /// It leaves the chain.
    Returns,
}

/// The list would be too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "written without chains these are more than {MAX_RULES} rules: too many RETURN rules, or rules with `!`, follow each other"
)]
pub struct TooLong;

/// Deepest nesting of chains, as in netfilter's own bound; iptables refuses loops anyway.
const DEEPEST: u32 = 64;

/// Whether it is for packets that Tapwall accepts before any rule.
fn is_loopback(condition: &Condition) -> bool {
    condition.interface.as_deref() == Some("lo")
}

/// Where a packet is, and where it goes on from there.
#[derive(Clone)]
struct Place {
    chain: usize,
    rule: usize,
    depth: u32,
    caller: Option<Rc<Place>>,
}

/// Writes the list.
pub struct Walk<'a> {
    chains: &'a [Chain],
    policy: Verdict,
    /// The list so far.
    pub steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    /// The way through the built-in chain `start`.
    pub fn through(
        chains: &'a [Chain],
        start: &str,
        policy: Verdict,
    ) -> Result<Vec<Step>, TooLong> {
        let mut walk = Self {
            chains,
            policy,
            steps: Vec::new(),
        };
        let chain = chains.iter().position(|chain| chain.name == start);
        let place = chain.map(|chain| Place {
            chain,
            rule: 0,
            depth: 0,
            caller: None,
        });
        walk.rest(place.map(Rc::new), &Condition::default())?;
        Ok(walk.steps)
    }

    /// Writes all of the way from a place on, up to the policy.
    fn rest(&mut self, place: Option<Rc<Place>>, condition: &Condition) -> Result<(), TooLong> {
        if is_loopback(condition) {
            return Ok(());
        }
        let mut place = place;
        while let Some(at) = place {
            if self.chain(&at, condition)? {
                return Ok(());
            }
            place = at.caller.clone();
        }
        self.push(condition.clone(), None, Deed::Decide(self.policy))
    }

    /// Writes the rules of a chain from a place on; whether they decide about every packet.
    fn chain(&mut self, at: &Place, condition: &Condition) -> Result<bool, TooLong> {
        let chains = self.chains;
        let rules = chains[at.chain].rules.iter().enumerate().skip(at.rule);
        for (index, rule) in rules {
            let next = Rc::new(Place {
                rule: index + 1,
                ..at.clone()
            });
            if self.rule(rule, &next, condition)? {
                return Ok(true);
            }
            // An unconditional RETURN ends the chain for all.
            let is_end = rule.target == Target::Return
                && rule.is_for_new()
                && rule.missing.is_empty()
                && rule.except.is_empty()
                && rule.alternatives.iter().any(|one| one.covers(condition));
            if is_end {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Writes one rule; whether every packet of `condition` is decided about. `next`: the place behind it.
    fn rule(
        &mut self,
        rule: &Rule,
        next: &Rc<Place>,
        condition: &Condition,
    ) -> Result<bool, TooLong> {
        if !rule.is_for_new() || rule.target == Target::Nothing {
            return Ok(false);
        }
        if let Some(why) = self.why_not(rule, next) {
            self.leave_out(rule, why, condition)?;
            return Ok(false);
        }
        let mut parts = Vec::new();
        for one in &rule.alternatives {
            match condition.and(one) {
                Ok(Some(part)) if is_loopback(&part) => {}
                Ok(Some(part)) => parts.push(part),
                Ok(None) => {}
                Err(_) => {
                    self.leave_out(rule, Why::TwoSets, condition)?;
                    return Ok(false);
                }
            }
        }
        let mut excepted = Vec::new();
        for (part, except) in parts
            .iter()
            .flat_map(|part| rule.except.iter().map(move |except| (part, except)))
        {
            match part.and(except) {
                Ok(part) => excepted.extend(part),
                Err(_) => {
                    self.leave_out(rule, Why::TwoSets, condition)?;
                    return Ok(false);
                }
            }
        }
        let decides = rule.except.is_empty() && parts.contains(condition);
        let none_is_left = excepted.contains(condition);
        for part in excepted {
            self.rest(Some(Rc::clone(next)), &part)?;
        }
        if none_is_left {
            return Ok(true);
        }
        let mut all = false;
        for part in parts {
            let is_all = decides && part == *condition;
            let line = Some(rule.line);
            all |= match &rule.target {
                Target::Accept => self.decide(part, line, Verdict::Accept)? && is_all,
                Target::Drop => self.decide(part, line, Verdict::Drop)? && is_all,
                Target::Reject => self.decide(part, line, Verdict::Reject)? && is_all,
                Target::Log(level) => {
                    self.push(part, line, Deed::Log(*level))?;
                    false
                }
                Target::Return if is_all => false,
                Target::Return => {
                    self.rest(next.caller.clone(), &part)?;
                    false
                }
                Target::Jump(name) => {
                    let place = self.enter(name, next, Some(Rc::clone(next)));
                    match place {
                        Some(place) => self.chain(&place, &part)? && is_all,
                        None => false,
                    }
                }
                Target::Goto(name) => {
                    let place = self.enter(name, next, next.caller.clone());
                    self.rest(place.map(Rc::new), &part)?;
                    is_all
                }
                // The first is written nowhere, the second is left out above.
                Target::Nothing | Target::Unknown(_) => false,
            };
        }
        Ok(all)
    }

    fn decide(
        &mut self,
        part: Condition,
        line: Option<u32>,
        verdict: Verdict,
    ) -> Result<bool, TooLong> {
        self.push(part, line, Deed::Decide(verdict))?;
        Ok(true)
    }

    fn push(&mut self, condition: Condition, line: Option<u32>, deed: Deed) -> Result<(), TooLong> {
        if self.steps.len() >= MAX_RULES {
            return Err(TooLong);
        }
        self.steps.push(Step {
            condition,
            line,
            deed,
        });
        Ok(())
    }

    fn enter(&self, name: &str, from: &Place, caller: Option<Rc<Place>>) -> Option<Place> {
        let chain = self.chains.iter().position(|chain| chain.name == name)?;
        Some(Place {
            chain,
            rule: 0,
            depth: from.depth + 1,
            caller,
        })
    }

    /// Why a rule is left out, if it is.
    fn why_not(&self, rule: &Rule, at: &Place) -> Option<Why> {
        if !rule.missing.is_empty() {
            return Some(Why::Missing(rule.missing.clone()));
        }
        match &rule.target {
            Target::Unknown(name) => Some(Why::Target(name.clone())),
            Target::Jump(name) | Target::Goto(name) => match manager(name) {
                Some(manager) => Some(Why::Managed(name.clone(), manager)),
                None if !self.chains.iter().any(|chain| chain.name == *name) => {
                    Some(Why::Target(name.clone()))
                }
                None if at.depth >= DEEPEST => Some(Why::Deep),
                None => None,
            },
            Target::Accept
            | Target::Drop
            | Target::Reject
            | Target::Return
            | Target::Log(_)
            | Target::Nothing => None,
        }
    }

    /// Leaves a rule out.
    fn leave_out(&mut self, rule: &Rule, why: Why, condition: &Condition) -> Result<(), TooLong> {
        if matches!(rule.target, Target::Log(_)) {
            return Ok(());
        }
        let mut outcomes = BTreeSet::new();
        self.outcomes(&rule.target, 0, &mut outcomes);
        for one in &rule.alternatives {
            let part = match condition.and(one) {
                Ok(Some(part)) => part,
                Ok(None) => continue,
                Err(_) => condition.clone(),
            };
            let deed = Deed::LeftOut(why.clone(), outcomes.clone());
            self.push(part, Some(rule.line), deed)?;
        }
        Ok(())
    }

    fn outcomes(&self, target: &Target, depth: u32, found: &mut BTreeSet<Outcome>) {
        match target {
            Target::Accept => drop(found.insert(Outcome::Passes)),
            Target::Drop | Target::Reject => drop(found.insert(Outcome::Ends)),
            Target::Return if depth == 0 => drop(found.insert(Outcome::Returns)),
            Target::Return | Target::Log(_) | Target::Nothing => {}
            Target::Unknown(_) => found.extend([Outcome::Passes, Outcome::Ends]),
            Target::Jump(name) | Target::Goto(name) => {
                let chain = self.chains.iter().find(|chain| chain.name == *name);
                match chain.filter(|_| depth < DEEPEST) {
                    Some(chain) => {
                        for rule in &chain.rules {
                            self.outcomes(&rule.target, depth + 1, found);
                        }
                    }
                    None => found.extend([Outcome::Passes, Outcome::Ends]),
                }
            }
        }
    }
}
