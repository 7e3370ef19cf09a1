//! The host's rules as they are written, resolved: for lints that look at the host before any default is added.
//!
//! In: the configuration. Out: the rules of `host.fw`, then those of `cluster.fw`, as the reference orders them, groups in place, and the
//! `management` set. What is wrong with the lines is not reported here; [`super::resolve`] does that.

use std::sync::Arc;

use fw_common::verdict::Direction;

use super::lines::{self, Groups, Step};
use super::names::{Names, View};
use super::sets::Sets;
use super::{AddressSet, MAX_RULES, Rule};
use crate::config::Config;
use crate::config::line::Reporter;
use crate::config::rule::{Interface, RuleLine};
use crate::diagnostic::Diagnostic;

/// The host's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// Addresses that may reach the node's services; empty if no network is known.
    pub management: Arc<AddressSet>,
    /// Rules for packets to the host.
    pub inbound: Vec<HostRule>,
    /// Rules for packets from the host.
    pub outbound: Vec<HostRule>,
}

/// A rule and the interface it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule {
    /// The rule.
    pub rule: Rule,
    /// Only on this interface.
    pub interface: Option<Arc<str>>,
}

/// Resolves the host's rules; at most [`MAX_RULES`] per direction.
pub fn host_rules(config: &Config) -> HostRules {
    let mut found = Vec::new();
    let mut sets = Sets::default();
    let Config { cluster, host, .. } = config;
    let names = Names::cluster(cluster, config.local_network, &mut sets, &mut found)
        .with_sdn(&config.sdn, &mut sets);
    let view = View {
        cluster: &names,
        guest: None,
    };
    let mut resolver = Resolver {
        view,
        sets: &mut sets,
        found: &mut found,
        groups: Groups::new(),
        out: [Vec::new(), Vec::new()],
    };
    for (name, group) in &cluster.groups {
        let mut reporter = Reporter::new(Arc::clone(&cluster.file), resolver.found);
        let none = Groups::new();
        let rules = &group.rules;
        let items = lines::resolve(rules, Some(name), &none, view, resolver.sets, &mut reporter);
        resolver.groups.insert(Arc::clone(name), items);
    }
    resolver.list(&host.file, &host.rules);
    resolver.list(&cluster.file, &cluster.rules);
    let [inbound, outbound] = resolver.out;
    HostRules {
        management: names.set("management").cloned().unwrap_or_default(),
        inbound,
        outbound,
    }
}

struct Resolver<'a> {
    view: View<'a>,
    sets: &'a mut Sets,
    found: &'a mut Vec<Diagnostic>,
    groups: Groups,
    out: [Vec<HostRule>; 2],
}

impl Resolver<'_> {
    /// Adds the rules of one file.
    fn list(&mut self, file: &Arc<str>, lines: &[RuleLine]) {
        for line in lines {
            let mut reporter = Reporter::new(Arc::clone(file), self.found);
            let items = lines::resolve(
                std::slice::from_ref(line),
                None,
                &self.groups,
                self.view,
                self.sets,
                &mut reporter,
            );
            let interface = match &line.interface {
                Some(Interface::Host(name, _)) => Some(Arc::clone(name)),
                Some(Interface::Net(..)) | None => None,
            };
            for item in items {
                match item.step {
                    Step::Rule(direction, rule) => {
                        push(&mut self.out, direction, rule, &interface);
                    }
                    Step::Group(name) => {
                        let members = self.groups.get(&name).into_iter().flatten();
                        for member in members {
                            match &member.step {
                                Step::Rule(direction, rule) => {
                                    push(&mut self.out, *direction, rule.clone(), &interface);
                                }
                                Step::Group(_) => {}
                            }
                        }
                    }
                }
            }
        }
    }
}

fn push(
    out: &mut [Vec<HostRule>; 2],
    direction: Direction,
    rule: Rule,
    interface: &Option<Arc<str>>,
) {
    let [inbound, outbound] = out;
    let list = match direction {
        Direction::In => inbound,
        Direction::Out => outbound,
    };
    if list.len() < MAX_RULES {
        list.push(HostRule {
            rule,
            interface: interface.clone(),
        });
    }
}
