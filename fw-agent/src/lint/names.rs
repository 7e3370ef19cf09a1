//! Names: defined and never used, or used before the line that defines them.
//!
//! What is defined in `cluster.fw` counts as used if a file of this node, a VNet's file or the file of a guest elsewhere mentions it; other
//! nodes' `host.fw` are not known here. A guest's own name hides the cluster's.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Place, warn};
use crate::config::Config;
use crate::config::address::{AddressSpec, Name, Scope};
use crate::config::document::{Document, Member};
use crate::config::line::{SUPERSET, Span, quote};
use crate::config::rule::{Action, Filter, RuleLine};
use crate::diagnostic::Diagnostic;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Alias,
    Set,
    Group,
}

/// A use of a name.
#[derive(Clone, Copy, Debug)]
struct Use<'a> {
    kind: Kind,
    name: &'a Arc<str>,
    scope: Option<Scope>,
    line: u32,
    span: Span,
    /// The line is not disabled by `|`.
    enabled: bool,
}

type Used<'a> = HashSet<(Kind, &'a str)>;

pub(super) fn run(config: &Config, out: &mut Vec<Diagnostic>) {
    let cluster = &config.cluster;
    let mut used: Used<'_> = Used::new();
    let own = uses(cluster);
    order(cluster, &own, |_| false, out);
    let vnets = config.vnets.values().flat_map(|vnet| uses(vnet));
    let others = uses(&config.host).into_iter().chain(vnets);
    used.extend(
        own.iter()
            .copied()
            .chain(others)
            .map(|of| (of.kind, &**of.name)),
    );
    for guest in config.guests.values() {
        let document = &guest.firewall;
        let uses = uses(document);
        let is_cluster = |of: &Use<'_>| match of.kind {
            Kind::Alias => cluster.aliases.contains_key(of.name),
            Kind::Set => cluster.sets.contains_key(of.name) || config.sdn.contains_key(of.name),
            Kind::Group => true,
        };
        order(document, &uses, is_cluster, out);
        let (local, global): (Vec<_>, Vec<_>) = uses
            .into_iter()
            .partition(|of| defines(document, of) && of.scope != Some(Scope::Cluster));
        used.extend(global.iter().map(|of| (of.kind, &**of.name)));
        let local = local.iter().map(|of| (of.kind, &**of.name)).collect();
        unused(document, &local, is_ipfilter, out);
        ip_filters(config, guest.guest.vmid, out);
    }
    let elsewhere = |name: &str| {
        matches!(name, "management" | "blacklist" | "local_network")
            || config.elsewhere.contains(name)
    };
    unused(cluster, &used, elsewhere, out);
}

fn defines<O>(document: &Document<O>, of: &Use<'_>) -> bool {
    match of.kind {
        Kind::Alias => document.aliases.contains_key(of.name),
        Kind::Set => document.sets.contains_key(of.name),
        Kind::Group => document.groups.contains_key(of.name),
    }
}

fn is_ipfilter(name: &str) -> bool {
    name.strip_prefix("ipfilter-net")
        .is_some_and(|number| number.parse::<u16>().is_ok())
}

fn named(kind: Kind, name: &Name, line: u32, enabled: bool) -> Use<'_> {
    Use {
        kind,
        name: &name.name,
        scope: name.scope,
        line,
        span: name.span,
        enabled,
    }
}

/// Every use of a name in a file.
fn uses<O>(document: &Document<O>) -> Vec<Use<'_>> {
    let mut out = Vec::new();
    let groups = document.groups.values().flat_map(|group| &group.rules);
    for rule in document.rules.iter().chain(groups) {
        rule_uses(rule, &mut out);
    }
    for set in document.sets.values() {
        for entry in &set.entries {
            if let Member::Alias(name) = &entry.member {
                out.push(named(Kind::Alias, name, entry.line, true));
            }
        }
    }
    out
}

fn rule_uses<'a>(rule: &'a RuleLine, out: &mut Vec<Use<'a>>) {
    let (line, enabled) = (rule.line, rule.enabled);
    match &rule.action {
        Action::Group { name, span } => out.push(Use {
            kind: Kind::Group,
            name,
            scope: None,
            line,
            span: *span,
            enabled,
        }),
        Action::Filter(Filter { source, dest, .. }) => {
            for spec in [source, dest].into_iter().flatten() {
                let (kind, name) = match spec {
                    AddressSpec::Set(name) => (Kind::Set, name),
                    AddressSpec::Alias(name) => (Kind::Alias, name),
                    AddressSpec::Nets { .. } => continue,
                };
                out.push(named(kind, name, line, enabled));
            }
        }
    }
}

/// Reports names that stand before their definition; `is_known` tells of names that another file defines.
fn order<O>(
    document: &Document<O>,
    uses: &[Use<'_>],
    is_known: impl Fn(&Use<'_>) -> bool,
    out: &mut Vec<Diagnostic>,
) {
    for of in uses.iter().filter(|of| of.enabled && !is_known(of)) {
        let defined = match of.kind {
            Kind::Alias => document.aliases.get(of.name).map(|alias| alias.line),
            Kind::Set => document.sets.get(of.name).map(|set| set.line),
            Kind::Group => None,
        };
        let Some(defined) = defined.filter(|defined| *defined > of.line) else {
            continue;
        };
        let place = Place {
            file: Arc::clone(&document.file),
            line: of.line,
            span: of.span,
        };
        let message = format!(
            "{} is defined further down, in line {defined}",
            quote(of.name)
        );
        let hint = "move the definition before its first use".to_owned();
        warn(out, place, message, SUPERSET, Some(hint));
    }
}

/// Reports what is defined and not used.
fn unused<O>(
    document: &Document<O>,
    used: &Used<'_>,
    is_special: impl Fn(&str) -> bool,
    out: &mut Vec<Diagnostic>,
) {
    let aliases = document.aliases.iter();
    let aliases = aliases.map(|(name, of)| (Kind::Alias, "alias", name, of.line, of.span));
    let sets = document.sets.iter();
    let sets = sets.map(|(name, of)| (Kind::Set, "set", name, of.line, of.span));
    let groups = document.groups.iter();
    let groups = groups.map(|(name, of)| (Kind::Group, "security group", name, of.line, of.span));
    for (kind, what, name, line, span) in aliases.chain(sets).chain(groups) {
        if used.contains(&(kind, &**name)) || is_special(name) {
            continue;
        }
        let place = Place {
            file: Arc::clone(&document.file),
            line,
            span,
        };
        let hint = match (kind, &**name) {
            (Kind::Set, "blacklist" | "management") => {
                format!(
                    "{} has a meaning of its own in cluster.fw only",
                    quote(name)
                )
            }
            _ => "remove it, or use it in a rule".to_owned(),
        };
        let message = format!("nothing uses the {what} {}", quote(name));
        warn(out, place, message, "it has no effect", Some(hint));
    }
}

/// Reports `ipfilter-netN` sets of NICs that are not filtered.
fn ip_filters(config: &Config, vmid: u32, out: &mut Vec<Diagnostic>) {
    let Some(guest) = config.guests.get(&vmid) else {
        return;
    };
    for (name, set) in &guest.firewall.sets {
        let number = name.strip_prefix("ipfilter-net");
        let Some(net) = number.and_then(|number| number.parse::<u16>().ok()) else {
            continue;
        };
        if guest
            .guest
            .nics
            .iter()
            .any(|nic| nic.net == net && nic.firewall)
        {
            continue;
        }
        let place = Place {
            file: Arc::clone(&guest.firewall.file),
            line: set.line,
            span: set.span,
        };
        let message = format!("the guest has no firewalled NIC `net{net}`");
        let hint = format!("set firewall=1 on net{net}, or remove the set");
        warn(out, place, message, "the set filters nothing", Some(hint));
    }
}
