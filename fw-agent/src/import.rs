//! A host's iptables rules as a firewall file: `fwctl import iptables-save`.
//!
//! ```text
//! iptables-save ─save→ chains, words ─rule→ conditions, targets ─walk→ one list per built-in chain ─text→ host.fw
//!                              what is different ─report→ remarks, each with line, reason and what it opens or closes
//! ```
//!
//! In: the text of `iptables-save`, perhaps of `ip6tables-save` and `ipset save`. Out: a [`Translation`]. Nothing is read or written here.
//!
//! Invariant: what the translation accepts and the original does not is told, in a remark that [opens](report::Effect::opens). A rule that cannot be
//! translated stands as a comment where it would be. Each chain ends in a rule for all, which takes the place of its policy: `policy_in` stands behind the
//! rules that let the local network in, and a file of one node cannot set it.
//!
//! Deliberately absent: other tables (nat, mangle, raw), which decide about no packet. Rules of a family that is not given are not guessed: its packets to the
//! host are dropped.
//!
//! What the rules do with the first packet of a connection is the same, test `import::tests::random_rules_decide_the_same`; what belongs to an accepted connection is
//! accepted before any rule here, and what is invalid is dropped.

pub mod condition;
pub mod ipset;
mod managed;
pub mod report;
pub mod rule;
pub mod save;
#[cfg(test)]
mod tests;
pub mod text;
pub mod walk;

use std::collections::{BTreeMap, BTreeSet};

use fw_common::verdict::Verdict;

use self::condition::Condition;
use self::ipset::Sets;
use self::report::{Effect, Remark, State};
use self::rule::{Rule, States, Target};
use self::save::{Policy, Ruleset};
use self::text::{Entry, Saying};
use self::walk::{Chain, Deed, Step, TooLong, Walk};
use crate::policy::Family;

/// Names of sets in firewall files by the names they had, or why there is none.
pub type Names = BTreeMap<String, Result<String, String>>;

/// A file to translate.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// How it is called in remarks.
    pub name: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// What there is to translate.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// `iptables-save`.
    pub v4: File<'a>,
    /// `ip6tables-save`.
    pub v6: Option<File<'a>>,
    /// `ipset save`.
    pub sets: Option<File<'a>>,
    /// The file is for a node of Proxmox, where sets stand in another.
    pub for_proxmox: bool,
}

/// A firewall file, and what is different in it.
#[derive(Clone, Debug)]
pub struct Translation {
    /// The file.
    pub text: String,
    /// Rules in it.
    pub rules: usize,
    /// What is different.
    pub remarks: Vec<Remark>,
}

/// Why there is no translation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It is no output of iptables-save, or of another table.
    #[error("{file}: there is no table `*filter`: is this the output of iptables-save?")]
    NoFilter {
        /// The file.
        file: String,
    },
    /// Too many rules.
    #[error("{file}: chain {chain}: {source}")]
    TooLong {
        /// The file.
        file: String,
        /// The built-in chain.
        chain: &'static str,
        /// What is too long.
        #[source]
        source: TooLong,
    },
}

/// A built-in chain, and the direction that its rules have in a firewall file.
const CHAINS: [(&str, &str); 3] = [("INPUT", "IN"), ("OUTPUT", "OUT"), ("FORWARD", "FORWARD")];

/// More rules than this are not searched for such that decide nothing.
const SEARCHED: usize = 2000;

/// Translates.
///
/// # Errors
/// A file has no filter table, or would become too long.
pub fn translate(input: &Input<'_>) -> Result<Translation, ImportError> {
    let mut remarks = Vec::new();
    let sets = match &input.sets {
        Some(file) => {
            let sets = Sets::parse(file.text);
            for (line, text, why) in &sets.faults {
                remarks.push(remark(
                    file.name,
                    (Some(*line), Some(text)),
                    State::Differs,
                    why,
                    UNKNOWN,
                ));
            }
            sets
        }
        None => Sets::default(),
    };
    let v4 = FilterTable::read(input.v4, Family::V4, &sets.names, &mut remarks)?;
    let v6 = input
        .v6
        .map(|file| FilterTable::read(file, Family::V6, &sets.names, &mut remarks))
        .transpose()?;
    let mut lists = Vec::new();
    for (chain, direction) in CHAINS {
        let first = v4.list(chain, direction, &mut remarks)?;
        let second = match &v6 {
            Some(v6) => v6.list(chain, direction, &mut remarks)?,
            None => missing_family(chain, direction, &v4),
        };
        lists.push((chain, text::merge(first, second)));
    }
    if v6.is_none() {
        let why = "no rules of ip6tables are given (--ipv6), so IPv6 packets to the host are dropped, but for replies and neighbour discovery";
        remarks.push(remark(
            input.v4.name,
            WHOLE,
            State::Differs,
            why,
            Effect::CLOSES,
        ));
    }
    Ok(written(input, &sets, &lists, v6.is_some(), remarks))
}

/// Both: what follows is not known.
const UNKNOWN: Effect = Effect {
    opens: true,
    closes: true,
    ssh: false,
};

fn remark(
    file: &str,
    (line, text): (Option<u32>, Option<&str>),
    state: State,
    why: &str,
    effect: Effect,
) -> Remark {
    Remark {
        file: file.to_owned(),
        line,
        text: text.map(str::to_owned),
        state,
        why: why.to_owned(),
        effect,
    }
}

/// A remark about the whole file.
const WHOLE: (Option<u32>, Option<&str>) = (None, None);

/// The ruleset of one family.
struct FilterTable<'a> {
    file: &'a str,
    family: Family,
    ruleset: Ruleset,
    chains: Vec<Chain>,
    rules: BTreeMap<u32, (String, Option<String>)>,
}

impl<'a> FilterTable<'a> {
    fn read(
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
                UNKNOWN,
            ));
        }
        for (table, line) in &ruleset.others {
            let why = format!(
                "the table {table} stays where it is: leave it in iptables. Rules here see packets as they are on the wire: before it on the way in, after it on the way out"
            );
            let place = (Some(*line), None);
            remarks.push(remark(file.name, place, State::LeftOut, &why, UNKNOWN));
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

    fn policy(&self, chain: &str) -> Verdict {
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
    fn list(
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
            let why = "it was for running connections, too; here only new ones are looked at (the set `blacklist` cuts running ones)";
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

/// The rules of IPv6 if they are not given.
fn missing_family(chain: &str, direction: &str, v4: &FilterTable<'_>) -> Vec<Entry> {
    let verdict = match direction {
        "IN" => Verdict::Drop,
        "OUT" => v4.policy(chain),
        _ => return Vec::new(),
    };
    let saying = Saying {
        direction,
        verdict,
        log: None,
        comment: None,
    };
    vec![text::rule(&Condition::default(), Family::V6, saying)]
}

/// The whole file.
fn written(
    input: &Input<'_>,
    sets: &Sets,
    lists: &[(&str, Vec<Entry>)],
    has_v6: bool,
    mut remarks: Vec<Remark>,
) -> Translation {
    let files = [Some(input.v4), input.v6, input.sets];
    let files: Vec<_> = files.iter().flatten().map(|file| file.name).collect();
    let mut text = format!(
        "# Translated from {} by `fwctl import iptables-save`. Read its report, then write `enable: 1`.\n[OPTIONS]\nenable: 0\n",
        files.join(", ")
    );
    // Checks that iptables does not make by itself.
    text.push_str("nosmurfs: 0\n");
    if has_v6 {
        text.push_str("ndp: 0\n");
    }
    let used = |name: &String| {
        lists.iter().flat_map(|(_, list)| list).any(|entry| {
            let is = |word: &str| word.strip_prefix('+') == Some(name);
            entry.rules > 0 && entry.lines.iter().any(|line| line.split(' ').any(is))
        })
    };
    let mut has_sets = false;
    for (name, entries) in sets.entries.iter().filter(|(name, _)| used(name)) {
        has_sets = true;
        let mark = if input.for_proxmox { "# " } else { "" };
        text.push_str(&format!("\n{mark}[IPSET {name}]\n"));
        for entry in entries {
            text.push_str(&format!("{mark}{entry}\n"));
        }
    }
    if has_sets && input.for_proxmox {
        let why = "sets stand in cluster.fw on a Proxmox node: put the sections that are comments here into that file, or rules that name them are not enforced";
        remarks.push(remark(input.v4.name, WHOLE, State::Differs, why, UNKNOWN));
    }
    text.push_str("\n[RULES]\n");
    let mut rules = 0;
    for (chain, entries) in lists.iter().filter(|(_, entries)| !entries.is_empty()) {
        text.push_str(&format!("# {chain}\n"));
        for entry in entries {
            rules += entry.rules;
            for line in &entry.lines {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    remarks.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Translation {
        text,
        rules,
        remarks,
    }
}
