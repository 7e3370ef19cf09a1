//! What the names of aliases and sets mean at one place of the configuration.
//!
//! A rule or a set entry of a guest sees the guest's names first, then the cluster's; anything in `cluster.fw` or `host.fw` (security groups
//! too) sees the cluster's only. `dc/` and `guest/` look in one place. Every set is resolved once; its bad entries are reported then.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::sets::Sets;
use super::{AddressSet, Family, SetEntry, localnet};
use crate::config::SdnSets;
use crate::config::address::{AddressSpec, Name, Scope, family};
use crate::config::did_you_mean;
use crate::config::document::{Document, IpSet, Member};
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::diagnostic::Diagnostic;

/// Set that the reference adds to every cluster.
pub(super) const MANAGEMENT: &str = "management";

/// The names of one file.
#[derive(Debug, Default)]
pub(super) struct Names {
    aliases: BTreeMap<Arc<str>, IpNet>,
    sets: BTreeMap<Arc<str>, Arc<AddressSet>>,
    /// Sets made by SDN; only the cluster has some.
    sdn: BTreeMap<Arc<str>, Arc<AddressSet>>,
}

/// The names that a line can use.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) cluster: &'a Names,
    pub(super) guest: Option<&'a Names>,
}

impl Names {
    /// Resolves the cluster's names; `local_network` is the detected network, which an alias of that name overrides.
    pub(super) fn cluster<O>(
        document: &Document<O>,
        local_network: Option<IpNet>,
        sets: &mut Sets,
        found: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut names = Self::default();
        names
            .aliases
            .extend(local_network.map(|net| (Arc::from(localnet::ALIAS), net.trunc())));
        names.aliases.extend(
            document
                .aliases
                .iter()
                .map(|(name, alias)| (Arc::clone(name), alias.net)),
        );
        names.resolve_sets(document, None, sets, found);
        let management = names
            .sets
            .get(MANAGEMENT)
            .map(|set| set.entries.clone())
            .unwrap_or_default();
        let local = names
            .aliases
            .get(localnet::ALIAS)
            .copied()
            .filter(|net| net.prefix_len() > 0);
        let own = local.map(SetEntry::member).into_iter();
        names.sets.insert(
            MANAGEMENT.into(),
            sets.share(management.into_iter().chain(own).collect()),
        );
        names
    }

    /// Adds the sets that SDN makes, which any rule can name.
    pub(super) fn with_sdn(mut self, of: &SdnSets, sets: &mut Sets) -> Self {
        let resolve = |(name, set): (&Arc<str>, &IpSet)| {
            let entries = set.entries.iter().filter_map(|entry| match &entry.member {
                Member::Net(net) => Some(SetEntry {
                    net: *net,
                    nomatch: entry.nomatch,
                }),
                Member::Alias(_) => None,
            });
            (Arc::clone(name), sets.share(entries.collect()))
        };
        self.sdn = of.iter().map(resolve).collect();
        self
    }

    /// Resolves a guest's names.
    pub(super) fn guest<O>(
        document: &Document<O>,
        cluster: &Names,
        sets: &mut Sets,
        found: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut names = Self::default();
        names.aliases.extend(
            document
                .aliases
                .iter()
                .map(|(name, alias)| (Arc::clone(name), alias.net)),
        );
        names.resolve_sets(document, Some(cluster), sets, found);
        names
    }

    /// An alias by its name.
    pub(super) fn alias(&self, name: &str) -> Option<IpNet> {
        self.aliases.get(name).copied()
    }

    /// A set by its name.
    pub(super) fn set(&self, name: &str) -> Option<&Arc<AddressSet>> {
        self.sets.get(name)
    }

    /// A set made by SDN.
    pub(super) fn sdn_set(&self, name: &str) -> Option<&Arc<AddressSet>> {
        self.sdn.get(name)
    }

    /// Puts another set under a name.
    pub(super) fn replace(&mut self, name: &str, set: Arc<AddressSet>) {
        self.sets.insert(name.into(), set);
    }

    fn resolve_sets<O>(
        &mut self,
        document: &Document<O>,
        cluster: Option<&Names>,
        sets: &mut Sets,
        found: &mut Vec<Diagnostic>,
    ) {
        let mut reporter = Reporter::new(Arc::clone(&document.file), found);
        let mut resolved = BTreeMap::new();
        let view = View {
            cluster: cluster.unwrap_or(&*self),
            guest: cluster.map(|_| &*self),
        };
        for (name, set) in &document.sets {
            if let Some(long) = &set.long {
                resolved.insert(Arc::clone(name), sets.adopt(&long.set));
                continue;
            }
            let mut entries = Vec::with_capacity(set.entries.len());
            for entry in &set.entries {
                let net = match &entry.member {
                    Member::Net(net) => Ok(*net),
                    Member::Alias(alias) => {
                        view.alias(alias).and_then(|net| match net.prefix_len() {
                            0 => Err(fault(alias.span, "a set cannot hold every address".into())),
                            _ => Ok(net),
                        })
                    }
                };
                match net {
                    Ok(net) => entries.push(SetEntry {
                        net,
                        nomatch: entry.nomatch,
                    }),
                    Err(fault) => reporter.error(entry.line, fault, "the entry is not in the set"),
                }
            }
            resolved.insert(Arc::clone(name), sets.share(entries));
        }
        self.sets = resolved;
    }
}

fn fault(span: Span, message: String) -> Fault {
    Fault {
        span,
        message,
        hint: None,
    }
}

impl<'a> View<'a> {
    /// Where a name of this scope is looked for, in order.
    fn places(self, scope: Option<Scope>) -> impl Iterator<Item = &'a Names> + Clone {
        let (guest, cluster) = match scope {
            None => (self.guest, Some(self.cluster)),
            Some(Scope::Guest) => (self.guest, None),
            Some(Scope::Cluster) => (None, Some(self.cluster)),
            Some(Scope::Sdn) => (None, None),
        };
        guest.into_iter().chain(cluster)
    }

    /// The network of an alias.
    fn alias(self, name: &Name) -> Result<IpNet, Fault> {
        let known = self
            .places(name.scope)
            .find_map(|names| names.aliases.get(&name.name));
        known.copied().ok_or_else(|| {
            let candidates = self
                .places(name.scope)
                .flat_map(|names| names.aliases.keys());
            let is_set = self
                .places(None)
                .any(|names| names.sets.contains_key(&name.name));
            let hint = if &*name.name == "cluster_network" {
                Some(format!("did you mean `{}`?", localnet::ALIAS))
            } else if is_set {
                Some(format!("a set is written `+{}`", name.name))
            } else {
                did_you_mean(&name.name, texts(candidates))
            };
            fault(
                name.span,
                format!(
                    "there is no alias {}{}",
                    quote(&name.name),
                    place(name.scope)
                ),
            )
            .hint(hint)
        })
    }

    /// The addresses that a set's name stands for.
    fn named_set(self, name: &Name) -> Result<&'a Arc<AddressSet>, Fault> {
        let written = self.places(name.scope).map(|names| &names.sets);
        let made = matches!(name.scope, None | Some(Scope::Sdn)).then_some(&self.cluster.sdn);
        let mut places = written.chain(made);
        places
            .clone()
            .find_map(|sets| sets.get(&name.name))
            .ok_or_else(|| {
                let candidates = places.by_ref().flat_map(BTreeMap::keys);
                fault(
                    name.span,
                    format!("there is no set {}{}", quote(&name.name), place(name.scope)),
                )
                .hint(did_you_mean(&name.name, texts(candidates)))
            })
    }

    /// The addresses that a rule names, and the family if they have only one.
    pub(super) fn addresses(
        self,
        spec: &AddressSpec,
        sets: &mut Sets,
    ) -> Result<(Option<Family>, Arc<AddressSet>), Fault> {
        match spec {
            AddressSpec::Set(name) => Ok((None, Arc::clone(self.named_set(name)?))),
            AddressSpec::Alias(name) => {
                let net = self.alias(name)?;
                Ok((Some(family(&net)), sets.nets([net])))
            }
            AddressSpec::Nets { family, nets, .. } => {
                Ok((Some(*family), sets.nets(nets.iter().copied())))
            }
        }
    }
}

/// Names as text.
fn texts<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> impl Iterator<Item = &'a str> {
    names.map(|name| &**name)
}

fn place(scope: Option<Scope>) -> &'static str {
    match scope {
        None => "",
        Some(Scope::Cluster) => " in the cluster's file",
        Some(Scope::Guest) => " in the guest's file",
        Some(Scope::Sdn) => " of SDN",
    }
}
