//! Guests' policies of last time, for those of whom nothing changed.
//!
//! In: a guest's files and what the node's part means now. Out: the policies of its NICs as they were, if resolving it again would give the same.
//!
//! A guest's policies follow from its two files, from what every guest has of the node ([`Common`]), and from those of the cluster's names that
//! its file mentions. If anything was wrong with its file, from all of the cluster's part: what is reported suggests other names.
//!
//! Invariant: when in doubt it is resolved again. What is remembered is held by identity, so a file that was parsed again counts as another.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::lines::{Groups, Item};
use super::names::Names;
use super::node::Node;
use super::{AddressSet, PortPolicy, Rule};
use crate::config::GuestConfig;
use crate::config::address::AddressSpec;
use crate::config::document::{Document, Member};
use crate::config::options::GuestOptions;
use crate::config::rule::{Action, Filter};
use crate::diagnostic::Diagnostic;

/// What every guest has of the node.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Common {
    readable: bool,
    layer2: bool,
    allow_invalid: bool,
    checks: Vec<Rule>,
}

impl Common {
    pub(super) fn of(node: &Node<'_>) -> Self {
        let allow_invalid = node.host.options.nf_conntrack_allow_invalid.value;
        Self {
            readable: node.readable,
            layer2: node.layer2,
            allow_invalid,
            checks: node.checks(allow_invalid),
        }
    }
}

/// What a name of the cluster means, in every place where it could be looked for.
#[derive(Debug)]
struct Meaning {
    alias: Option<IpNet>,
    set: Option<Arc<AddressSet>>,
    sdn: Option<Arc<AddressSet>>,
    group: Option<Arc<Vec<Item>>>,
}

impl Meaning {
    fn of(name: &str, names: &Names, groups: &Groups) -> Self {
        Self {
            alias: names.alias(name),
            set: names.set(name).cloned(),
            sdn: names.sdn_set(name).cloned(),
            group: groups.get(name).cloned(),
        }
    }

    fn holds(&self, name: &str, names: &Names, groups: &Groups) -> bool {
        self.alias == names.alias(name)
            && is_same(self.set.as_ref(), names.set(name))
            && is_same(self.sdn.as_ref(), names.sdn_set(name))
            && is_same(self.group.as_ref(), groups.get(name))
    }
}

fn is_same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// A guest, resolved.
#[derive(Debug)]
pub(super) struct Remembered {
    config: GuestConfig,
    /// What its names mean in the cluster's part.
    names: BTreeMap<Arc<str>, Meaning>,
    /// Its policies.
    pub(super) ports: Vec<Arc<PortPolicy>>,
    /// What is wrong with its file.
    pub(super) found: Vec<Diagnostic>,
}

impl Remembered {
    /// Remembers what a guest was resolved to.
    pub(super) fn new(
        config: &GuestConfig,
        node: &Node<'_>,
        ports: Vec<Arc<PortPolicy>>,
        found: Vec<Diagnostic>,
    ) -> Self {
        let mut names = BTreeMap::new();
        for name in mentioned(&config.firewall) {
            let meaning = || Meaning::of(name, node.cluster, node.groups);
            names.entry(Arc::clone(name)).or_insert_with(meaning);
        }
        Self {
            config: config.clone(),
            names,
            ports,
            found,
        }
    }

    /// Whether it would be resolved to the same now, if what every guest has of the node is the same. `same_cluster`: all of the cluster's part is.
    pub(super) fn holds(&self, config: &GuestConfig, node: &Node<'_>, same_cluster: bool) -> bool {
        let Self { names, found, .. } = self;
        let mut names = names.iter();
        Arc::ptr_eq(&self.config.guest, &config.guest)
            && Arc::ptr_eq(&self.config.firewall, &config.firewall)
            && (same_cluster
                || found.is_empty()
                    && names.all(|(name, meaning)| meaning.holds(name, node.cluster, node.groups)))
    }
}

/// Every name in a guest's file that may be one of the cluster's.
fn mentioned(firewall: &Document<GuestOptions>) -> Vec<&Arc<str>> {
    let mut out = Vec::new();
    for line in &firewall.rules {
        match &line.action {
            Action::Group { name, .. } => out.push(name),
            Action::Filter(Filter { source, dest, .. }) => {
                for spec in [source, dest].into_iter().flatten() {
                    match spec {
                        AddressSpec::Set(name) | AddressSpec::Alias(name) => out.push(&name.name),
                        AddressSpec::Nets { .. } => {}
                    }
                }
            }
        }
    }
    for entry in firewall.sets.values().flat_map(|set| &set.entries) {
        match &entry.member {
            Member::Alias(name) => out.push(&name.name),
            Member::Net(_) => {}
        }
    }
    out
}
