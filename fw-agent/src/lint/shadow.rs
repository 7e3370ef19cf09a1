//! Rules that decide nothing: an earlier rule decides first, or no packet can match.
//!
//! 1. In each policy, each written rule is compared with the rules before it. 2. A line is reported if none of the rules it became, on any
//!    NIC, decides anything: one that is shadowed on `net0` but not on `net1` is fine.
//!
//! Exact for pairs of rules; a rule that only several others together make unreachable is not found. The number of comparisons is bounded,
//! so that a node with very many rules is checked in part only, which is said.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use fw_common::verdict::Reason;

use super::cover::Cover;
use super::{Place, Spans, warn};
use crate::config::Config;
use crate::config::line::quote;
use crate::diagnostic::Diagnostic;
use crate::policy::{NodePolicy, Rule, SourceLine};

/// What all comparisons may cost, see [`Cover::work`]: about a second.
const MOST: usize = 150_000_000;

/// What became of a line in the lists it stands in.
enum Fate {
    /// It decides something.
    Used,
    /// This rule decides before.
    Shadowed { by: SourceLine, same: bool },
    /// A rule that no line caused decides before.
    Standard(Arc<str>),
    /// No packet can match.
    Never(&'static str),
}

pub(super) fn run(config: &Config, policy: &NodePolicy, spans: &Spans, out: &mut Vec<Diagnostic>) {
    let ports = policy.ports.iter();
    let ports = ports.flat_map(|port| [&port.inbound, &port.outbound]);
    let host = policy.host.iter();
    let host = host.flat_map(|host| [&host.inbound, &host.outbound]);
    let forward = policy.forward.iter().map(|forward| &forward.policy);
    let mut search = Search::default();
    for list in host.chain(ports).chain(forward) {
        search.list(&list.rules);
    }
    report(config, search, spans, out);
}

#[derive(Default)]
struct Search<'a> {
    cover: Cover,
    fates: BTreeMap<&'a SourceLine, Fate>,
}

impl<'a> Search<'a> {
    fn list(&mut self, list: &'a [Rule]) {
        // Rules that are shadowed need not be looked at again: what they cover is covered already. By protocol, since only rules for the
        // same or for every protocol can cover a rule.
        let mut before: HashMap<Option<u8>, Vec<&'a Rule>> = HashMap::new();
        for rule in list {
            let line = rule.origin.line.as_ref();
            let line = line.filter(|_| rule.reason == Reason::Rule);
            let fate = match self.cover.never(&rule.matches) {
                Some(why) => Fate::Never(why),
                None => match self.shadow(rule, &before) {
                    None => Fate::Used,
                    Some(by) => match &by.origin.line {
                        Some(by_line) if by.reason == Reason::Rule => Fate::Shadowed {
                            by: by_line.clone(),
                            same: by.matches == rule.matches && by.verdict == rule.verdict,
                        },
                        Some(_) | None => Fate::Standard(Arc::clone(&by.origin.text)),
                    },
                },
            };
            if matches!(fate, Fate::Used) {
                let same = before.entry(rule.matches.protocol).or_default();
                same.push(rule);
            }
            if let Some(line) = line {
                self.record(line, fate);
            }
        }
    }

    /// The rule before this one that decides all its packets.
    fn shadow(
        &mut self,
        rule: &Rule,
        before: &HashMap<Option<u8>, Vec<&'a Rule>>,
    ) -> Option<&'a Rule> {
        let any = before.get(&None).into_iter().flatten();
        let same = rule
            .matches
            .protocol
            .and_then(|_| before.get(&rule.matches.protocol));
        for earlier in any.chain(same.into_iter().flatten()) {
            if self.cover.work > MOST {
                return None;
            }
            if self.cover.covers(&earlier.matches, &rule.matches) {
                return Some(earlier);
            }
        }
        None
    }

    fn record(&mut self, line: &'a SourceLine, fate: Fate) {
        let own = matches!(&fate, Fate::Shadowed { by, .. } if by == line);
        if own {
            // The other alternative of the same line is what counts.
            return;
        }
        match self.fates.get(line) {
            None => {
                self.fates.insert(line, fate);
            }
            Some(Fate::Used) => {}
            Some(Fate::Shadowed { .. } | Fate::Standard(_) | Fate::Never(_)) => match fate {
                Fate::Used | Fate::Shadowed { .. } => {
                    self.fates.insert(line, fate);
                }
                Fate::Standard(_) | Fate::Never(_) => {}
            },
        }
    }
}

fn report(config: &Config, search: Search<'_>, spans: &Spans, out: &mut Vec<Diagnostic>) {
    let was_bounded = search.cover.work > MOST;
    for (line, fate) in search.fates {
        let place = Place {
            file: Arc::clone(&line.file),
            line: line.line,
            span: spans.get(line).copied().unwrap_or_default(),
        };
        let name = |by: &SourceLine| match by.file == line.file {
            true => format!("line {}", by.line),
            false => format!("{}:{}", by.file, by.line),
        };
        let (message, effect, hint) = match fate {
            Fate::Used => continue,
            Fate::Shadowed { by, same: true } => (
                format!("this rule repeats {}", name(&by)),
                "it decides nothing",
                "remove one of them".to_owned(),
            ),
            Fate::Shadowed { by, same: false } => (
                format!("{} decides every packet of this rule before", name(&by)),
                "the rule is never reached",
                format!("move it before {}, or remove it", name(&by)),
            ),
            Fate::Standard(text) => (
                format!("{} decides every packet of this rule before", quote(&text)),
                "the rule is never reached",
                "remove it, or turn off the option behind the built-in rule".to_owned(),
            ),
            Fate::Never(why) => (
                format!("no packet can match this rule: {why}"),
                "the rule is never used",
                "remove it, or name other addresses".to_owned(),
            ),
        };
        warn(out, place, message, effect, Some(hint));
    }
    if was_bounded {
        let place = Place {
            file: Arc::clone(&config.cluster.file),
            ..Place::default()
        };
        let message = "the node has too many rules to compare all of them".to_owned();
        let effect = "some shadowed rules may not be reported";
        warn(out, place, message, effect, None);
    }
}
