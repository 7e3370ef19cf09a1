//! Rules for what the host routes and what VNets bridge. They are resolved and printed; nothing enforces them yet.
//!
//! In: the FORWARD rules of `host.fw` and `cluster.fw` with those of their groups, and the VNets' files. Out: one [`ForwardPolicy`] for the host
//! if any of its files has such a rule or a forward policy, one per VNet whose firewall is on; and a warning for each file that has rules here.

use std::sync::Arc;

use super::lines::{self, Item};
use super::names::View;
use super::node::Node;
use super::sets::Sets;
use super::{ForwardPolicy, Policy, Rule, standard};
use crate::config::Config;
use crate::config::line::{Fault, Reporter, Span};
use crate::config::rule::{Action, Flow, RuleLine};
use crate::diagnostic::Diagnostic;

/// Builds the forward policies from the host's rules, the cluster's, and the VNets' files.
pub(super) fn resolve(
    config: &Config,
    node: &Node<'_>,
    [host, cluster]: [&[Item]; 2],
    sets: &mut Sets,
    found: &mut Vec<Diagnostic>,
) -> Vec<ForwardPolicy> {
    let groups = config.cluster.groups.values();
    let lines = groups.flat_map(|group| &group.rules);
    let lines = lines.chain(&config.cluster.rules);
    warn(
        lines,
        Reporter::new(Arc::clone(&config.cluster.file), found),
    );
    warn(
        &node.host.rules,
        Reporter::new(Arc::clone(&node.host.file), found),
    );
    let mut policies = Vec::new();
    let rules = lines::collect(host.iter().chain(cluster), node.groups, Flow::Forward);
    let written = &config.cluster.options.policy_forward;
    if !rules.is_empty() || written.line.is_some() {
        let last = standard::policy(
            written.value,
            "policy_forward",
            node.host.options.log_level_forward.value,
            config.cluster.line_of(written),
        );
        policies.push(policy(None, rules, last));
    }
    for (name, document) in &config.vnets {
        let view = View {
            cluster: node.cluster,
            guest: None,
        };
        let mut reporter = Reporter::new(Arc::clone(&document.file), found);
        let items = lines::resolve(
            &document.rules,
            None,
            node.groups,
            view,
            sets,
            &mut reporter,
        );
        let options = &document.options;
        if options.enable.value == 0 {
            continue;
        }
        let rules = lines::collect(&items, node.groups, Flow::Forward);
        let fault = fault("the firewall of VNets is not enforced yet");
        reporter.warning(options.enable.line.unwrap_or_default(), fault, PRINTED);
        let last = standard::policy(
            options.policy_forward.value,
            "policy_forward",
            options.log_level_forward.value,
            document.line_of(&options.policy_forward),
        );
        policies.push(policy(Some(Arc::clone(name)), rules, last));
    }
    policies
}

const PRINTED: &str = "its rules are only printed, by `fwctl compile`";

fn fault(message: &str) -> Fault {
    Fault {
        span: Span::default(),
        message: message.into(),
        hint: None,
    }
}

/// Connection state, the rules, the policy. What belongs to a known flow is accepted before any rule is looked at.
fn policy(vnet: Option<Arc<str>>, list: Vec<Rule>, last: Rule) -> ForwardPolicy {
    let mut rules = vec![standard::invalid()];
    rules.extend(list);
    rules.push(last);
    ForwardPolicy {
        vnet,
        policy: Policy { rules },
    }
}

/// Reports the first FORWARD rule of a file.
fn warn<'a>(lines: impl IntoIterator<Item = &'a RuleLine>, mut reporter: Reporter<'_>) {
    let forward = |line: &&RuleLine| match &line.action {
        Action::Filter(filter) => line.enabled && filter.flow == Flow::Forward,
        Action::Group { .. } => false,
    };
    if let Some(first) = lines
        .into_iter()
        .filter(forward)
        .map(|line| line.line)
        .min()
    {
        let fault = fault("FORWARD rules are not enforced yet");
        reporter.warning(first, fault, "they are only printed, by `fwctl compile`");
    }
}
