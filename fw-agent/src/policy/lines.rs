//! From lines of rules to rules: names looked up, families settled, one rule per alternative of a macro.
//!
//! A line that cannot be resolved is reported and left out; no other line is affected. The family of a rule is that of its addresses and its
//! protocol, which must agree; a rule with sets only holds for both. Alternatives of a macro that do not fit the family are left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use fw_common::verdict::Reason;

use super::names::View;
use super::sets::Sets;
use super::{Family, MAX_RULES, Matches, Origin, OriginKind, Rule, SourceLine};
use crate::config::address::AddressSpec;
use crate::config::did_you_mean;
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::rule::{Action, Filter, Flow, Interface, RuleLine};

/// Resolved members of the security groups.
pub(super) type Groups = BTreeMap<Arc<str>, Arc<Vec<Item>>>;

/// What a line became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Only for this NIC of the guest.
    pub(super) net: Option<u16>,
    /// Only on this interface of the host.
    pub(super) interface: Option<Arc<str>>,
    /// What stands here.
    pub(super) step: Step,
}

/// A rule, or the place of a group's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Rule(Flow, Rule),
    Group(Arc<str>),
}

/// Resolves a list of lines; `group` is the name of the security group that the list is.
pub(super) fn resolve(
    lines: &[RuleLine],
    group: Option<&Arc<str>>,
    groups: &Groups,
    view: View<'_>,
    sets: &mut Sets,
    reporter: &mut Reporter<'_>,
) -> Vec<Item> {
    let mut items = Vec::new();
    for line in lines {
        let (net, interface) = match &line.interface {
            Some(Interface::Net(net, _)) => (Some(*net), None),
            Some(Interface::Host(name, _)) => (None, Some(name)),
            None => (None, None),
        };
        let steps = match &line.action {
            Action::Group { name, .. } if groups.contains_key(name) => {
                Ok(vec![Step::Group(Arc::clone(name))])
            }
            Action::Group { name, span } => Err(unknown_group(name, *span, groups)),
            Action::Filter(filter) => {
                resolve_filter(line, filter, group, view, sets, reporter.file())
            }
        };
        match steps {
            Ok(steps) if line.enabled => items.extend(steps.into_iter().map(|step| Item {
                net,
                interface: interface.cloned(),
                step,
            })),
            Ok(_) => {}
            Err(fault) => reporter.error(line.line, fault, "the rule is not enforced"),
        }
    }
    items
}

/// The rules of a flow among `items`, groups in place; one more than fit at most. Those for one interface of the host have that as a condition.
pub(super) fn collect<'a>(
    items: impl IntoIterator<Item = &'a Item>,
    groups: &Groups,
    flow: Flow,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for item in items {
        let room = (MAX_RULES + 1).saturating_sub(rules.len());
        let own = std::slice::from_ref(item);
        let members = match &item.step {
            Step::Rule(..) => own,
            Step::Group(name) => groups.get(name).map_or(&[][..], |group| group.as_slice()),
        };
        let members = members.iter().filter_map(|member| match &member.step {
            Step::Rule(of, rule) if *of == flow => Some(rule.clone()),
            Step::Rule(..) | Step::Group(_) => None,
        });
        let first = rules.len();
        rules.extend(members.take(room));
        if let Some(interface) = &item.interface {
            for rule in rules.iter_mut().skip(first) {
                rule.matches.interface = Some(Arc::clone(interface));
            }
        }
    }
    rules
}

fn unknown_group(name: &str, span: Span, groups: &Groups) -> Fault {
    Fault {
        span,
        message: format!("there is no security group {}", quote(name)),
        hint: did_you_mean(name, groups.keys().map(|name| &**name)),
    }
}

fn resolve_filter(
    line: &RuleLine,
    filter: &Filter,
    group: Option<&Arc<str>>,
    view: View<'_>,
    sets: &mut Sets,
    file: &Arc<str>,
) -> Result<Vec<Step>, Fault> {
    let mut lookup = |spec: &Option<AddressSpec>| match spec {
        Some(spec) => view
            .addresses(spec, sets)
            .map(|(family, set)| (family, Some(set))),
        None => Ok((None, None)),
    };
    let (source_family, source) = lookup(&filter.source)?;
    let (dest_family, dest) = lookup(&filter.dest)?;
    let span =
        |spec: &Option<AddressSpec>| spec.as_ref().map(AddressSpec::span).unwrap_or_default();
    let family = merge(source_family, dest_family).ok_or_else(|| Fault {
        span: span(&filter.dest),
        message: "source and destination are of different IP versions".into(),
        hint: None,
    })?;
    let origin = Origin {
        line: Some(SourceLine {
            file: Arc::clone(file),
            line: line.line,
        }),
        kind: group.map_or(OriginKind::Rule, |name| OriginKind::Group(Arc::clone(name))),
        text: Arc::clone(&line.text),
    };
    let mut steps = Vec::new();
    for service in &filter.services {
        let Some(family) = merge(family, service.family) else {
            continue;
        };
        let rule = Rule {
            matches: Matches {
                family,
                protocol: service.protocol,
                source: source.clone(),
                dest: dest.clone(),
                sport: service.sport.clone(),
                dport: service.dport.clone(),
                ..Matches::default()
            },
            verdict: filter.verdict,
            reason: Reason::Rule,
            log: filter.log,
            origin: origin.clone(),
        };
        steps.push(Step::Rule(filter.flow, rule));
    }
    if steps.is_empty() {
        let of = if source_family.is_some() {
            &filter.source
        } else {
            &filter.dest
        };
        return Err(Fault {
            span: span(of),
            message: "the address and the protocol are of different IP versions".into(),
            hint: None,
        });
    }
    Ok(steps)
}

/// The family that satisfies both; none if they contradict each other.
fn merge(a: Option<Family>, b: Option<Family>) -> Option<Option<Family>> {
    match (a, b) {
        (Some(a), Some(b)) if a != b => None,
        (a, b) => Some(a.or(b)),
    }
}
