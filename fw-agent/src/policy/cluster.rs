//! The cluster's part of the policies: its names, its security groups, its rules.
//!
//! In: `cluster.fw`, the sets that SDN makes, the network that `local_network` stands for. Out: a [`Cluster`], which holds as long as all of them
//! do. Security groups that come out as they were are the same [`Arc`] as before.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::AddressSet;
use super::lines::{self, Groups, Item};
use super::names::{MANAGEMENT, Names, View};
use super::sets::Sets;
use crate::config::document::Document;
use crate::config::line::Reporter;
use crate::config::options::ClusterOptions;
use crate::config::{Config, SdnSets};
use crate::diagnostic::Diagnostic;

/// The addresses that may administer the nodes: the set of that name, and the local network.
pub fn management(config: &Config) -> Arc<AddressSet> {
    let mut sets = Sets::default();
    let found = &mut Vec::new();
    let names = Names::cluster(&config.cluster, config.local_network, &mut sets, found);
    names.set(MANAGEMENT).cloned().unwrap_or_default()
}

/// What follows from the cluster's files alone.
#[derive(Debug)]
pub(super) struct Cluster {
    document: Arc<Document<ClusterOptions>>,
    sdn: Arc<SdnSets>,
    local_network: Option<IpNet>,
    pub(super) names: Names,
    pub(super) groups: Groups,
    /// The rules for the nodes.
    pub(super) items: Vec<Item>,
    /// What is wrong with it.
    pub(super) found: Vec<Diagnostic>,
}

impl Cluster {
    /// Whether it follows from this configuration too.
    pub(super) fn holds(&self, config: &Config) -> bool {
        Arc::ptr_eq(&self.document, &config.cluster)
            && Arc::ptr_eq(&self.sdn, &config.sdn)
            && self.local_network == config.local_network
    }

    /// Resolves it; `last` is what it was before.
    pub(super) fn resolve(config: &Config, last: Option<&Self>, sets: &mut Sets) -> Self {
        let mut found = Vec::new();
        let document = &config.cluster;
        let names = Names::cluster(document, config.local_network, sets, &mut found)
            .with_sdn(&config.sdn, sets);
        let view = View {
            cluster: &names,
            guest: None,
        };
        let mut reporter = Reporter::new(Arc::clone(&document.file), &mut found);
        let mut groups = Groups::new();
        let none = BTreeMap::new();
        for (name, group) in &document.groups {
            let items = lines::resolve(&group.rules, Some(name), &none, view, sets, &mut reporter);
            let last = last.and_then(|last| last.groups.get(name));
            let items = match last.filter(|last| ***last == items) {
                Some(last) => Arc::clone(last),
                None => Arc::new(items),
            };
            groups.insert(Arc::clone(name), items);
        }
        let rules = &document.rules;
        let items = lines::resolve(rules, None, &groups, view, sets, &mut reporter);
        Self {
            document: Arc::clone(document),
            sdn: Arc::clone(&config.sdn),
            local_network: config.local_network,
            names,
            groups,
            items,
            found,
        }
    }
}
