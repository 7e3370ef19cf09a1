//! What files define under a name, compared: options, sets, aliases.
//!
//! In: two configurations, and the rules whose lines stay while they mean something else. Out: the options, sets and aliases that are others, with the places
//! where rules mention them, and the rules that none of them explains.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::{NameChange, OptionChange, Place, RuleChange, View};
use crate::config::document::{Document, IpSet, Member};
use crate::config::options::OptionTable;
use crate::config::{Config, Sources};
use crate::policy::{NodePolicy, Policy};

/// Entries that are named.
const NAMED: usize = 3;

/// An entry of a set; excluded ones are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry<'a> {
    Net(IpNet, bool),
    Alias(&'a str, bool),
}

impl Entry<'_> {
    fn text(&self) -> String {
        let (text, excluded) = match self {
            Self::Net(net, excluded) if net.prefix_len() == net.max_prefix_len() => {
                (net.addr().to_string(), excluded)
            }
            Self::Net(net, excluded) => (net.to_string(), excluded),
            Self::Alias(name, excluded) => ((*name).to_owned(), excluded),
        };
        let mark = if *excluded { "!" } else { "" };
        format!("{mark}{text}")
    }
}

/// What a file defines: kind and name, with line and entries.
type Defined<'a> = BTreeMap<(&'static str, &'a Arc<str>), (u32, Vec<Entry<'a>>)>;

/// The options that have other values.
pub(super) fn options(before: View<'_>, after: View<'_>) -> Vec<OptionChange> {
    let (old, new) = (before.config, after.config);
    let sources = [before.sources, after.sources];
    let mut found = changes(sources, &old.cluster, &new.cluster);
    found.extend(changes(sources, &old.host, &new.host));
    for (vmid, guest) in &new.guests {
        if let Some(was) = old.guests.get(vmid) {
            found.extend(changes(sources, &was.firewall, &guest.firewall));
        }
    }
    let names: BTreeSet<&Arc<str>> = old.vnets.keys().chain(new.vnets.keys()).collect();
    for name in names {
        let file = |config: &Config| config.vnets.get(name).map(|vnet| Arc::clone(&vnet.file));
        let empty = Document::empty(
            file(new)
                .or_else(|| file(old))
                .unwrap_or_else(|| Arc::clone(name)),
        );
        let [was, is] = [old, new].map(|config| config.vnets.get(name).map_or(&empty, |vnet| vnet));
        found.extend(changes(sources, was, is));
    }
    found
}

fn changes<O: OptionTable>(
    sources: [&Sources; 2],
    before: &Document<O>,
    after: &Document<O>,
) -> Vec<OptionChange> {
    let value = |sources: &Sources, line: Option<u32>| {
        let text = sources.text(&after.file)?;
        let line = usize::try_from(line?).ok()?.checked_sub(1)?;
        let (_, value) = text.lines().nth(line)?.split_once(':')?;
        Some(value.trim_ascii().to_owned())
    };
    let changes = before.options.changes(&after.options).into_iter();
    let change = |(name, lines): (&'static str, [Option<u32>; 2])| OptionChange {
        file: Arc::clone(&after.file),
        line: lines[1],
        name,
        before: value(sources[0], lines[0]),
        after: value(sources[1], lines[1]),
    };
    changes.map(change).collect()
}

/// The sets and aliases that stand for other addresses, and what of `affected` none of them explains.
pub(super) fn names(
    before: View<'_>,
    after: View<'_>,
    mut affected: Vec<RuleChange>,
) -> (Vec<NameChange>, Vec<RuleChange>) {
    let (old, new) = (before.config, after.config);
    let mut found = Vec::new();
    if !Arc::ptr_eq(&old.cluster, &new.cluster) {
        let [was, is] = [&old.cluster, &new.cluster].map(|file| defined(file));
        found.extend(compared(&new.cluster.file, None, &was, &is));
    }
    for (vmid, guest) in &new.guests {
        let is = &guest.firewall;
        if let Some(was) = old.guests.get(vmid).map(|guest| &guest.firewall)
            && !Arc::ptr_eq(was, is)
        {
            let [was, now] = [was, is].map(|file| defined(file));
            found.extend(compared(&is.file, Some(*vmid), &was, &now));
        }
    }
    if found.is_empty() {
        return (Vec::new(), affected);
    }
    let texts = texts([before.policy, after.policy]);
    let of_scope = |place: &Place, vmid: Option<u32>| match place {
        Place::Nic(port) => vmid.is_none_or(|vmid| vmid == port.vmid),
        Place::Host | Place::Vnet(_) => vmid.is_none(),
    };
    for named in &mut found {
        let names = &named.names;
        let is_meant = |text: &str| names.iter().any(|name| mentions(text, name));
        let places = texts.iter().filter(|(text, _)| is_meant(text));
        let places = places.flat_map(|(_, places)| places);
        let places: BTreeSet<&Place> = places.filter(|place| of_scope(place, named.vmid)).collect();
        named.change.places = places.into_iter().cloned().collect();
        for rule in &mut affected {
            if rule.after.as_ref().is_some_and(|line| is_meant(&line.text)) {
                rule.places.retain(|place| !of_scope(place, named.vmid));
            }
        }
    }
    affected.retain(|rule| !rule.places.is_empty());
    (
        found.into_iter().map(|named| named.change).collect(),
        affected,
    )
}

/// A name that stands for something else.
struct Named {
    change: NameChange,
    /// Whose file defines it; none: the cluster's.
    vmid: Option<u32>,
    /// The name, and those of sets that list it.
    names: Vec<String>,
}

/// The names of one file that stand for something else.
fn compared(
    file: &Arc<str>,
    vmid: Option<u32>,
    old: &Defined<'_>,
    new: &Defined<'_>,
) -> Vec<Named> {
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let [was, is] = [old, new].map(|defined| defined.get(key));
        let [had, has] = [was, is].map(|one| one.map(|(_, entries)| &entries[..]));
        if had == has {
            continue;
        }
        let (kind, name) = *key;
        let lists = |entries: &[Entry<'_>]| {
            let is_it = |entry: &Entry<'_>| match entry {
                Entry::Alias(alias, _) => **alias == **name,
                Entry::Net(..) => false,
            };
            kind == ALIAS && entries.iter().any(is_it)
        };
        let listing = new
            .iter()
            .filter(|((kind, _), (_, list))| *kind == SET && lists(list));
        let listing = listing.map(|((_, set), _)| set.to_string());
        let (had_any, has_any) = (had.unwrap_or_default(), has.unwrap_or_default());
        let change = NameChange {
            file: Arc::clone(file),
            line: is.or(was).map_or(0, |(line, _)| *line),
            kind,
            name: Arc::clone(name),
            before: had.map(<[_]>::len),
            after: has.map(<[_]>::len),
            gained: only(has_any, had_any),
            lost: only(had_any, has_any),
            places: Vec::new(),
        };
        found.push(Named {
            change,
            vmid,
            names: listing.chain([name.to_string()]).collect(),
        });
    }
    found
}

/// The texts of all rules in force before or after, with their places.
fn texts<'a>(policies: [&'a NodePolicy; 2]) -> BTreeMap<&'a str, BTreeSet<Place>> {
    let mut found: BTreeMap<&str, BTreeSet<Place>> = BTreeMap::new();
    let mut add = |place: Place, policy: &'a Policy| {
        for rules in policy
            .rules
            .chunk_by(|a, b| Arc::ptr_eq(&a.origin.text, &b.origin.text))
        {
            let text = rules.first().map(|rule| &*rule.origin.text);
            let places = found.entry(text.unwrap_or_default()).or_default();
            places.insert(place.clone());
        }
    };
    for policy in policies {
        if let Some(host) = &policy.host {
            add(Place::Host, &host.inbound);
            add(Place::Host, &host.outbound);
        }
        for port in &policy.ports {
            add(Place::Nic(port.port), &port.inbound);
            add(Place::Nic(port.port), &port.outbound);
        }
    }
    found
}

const SET: &str = "set";
const ALIAS: &str = "alias";

fn defined<O>(file: &Document<O>) -> Defined<'_> {
    let sets = file.sets.iter();
    let sets = sets.map(|(name, set)| ((SET, name), (set.line, entries(set))));
    let aliases = file.aliases.iter().map(|(name, alias)| {
        let entry = Entry::Net(alias.net, false);
        ((ALIAS, name), (alias.line, vec![entry]))
    });
    sets.chain(aliases).collect()
}

/// The entries of a set in order, each once.
fn entries(set: &IpSet) -> Vec<Entry<'_>> {
    let written = set.entries.iter().map(|entry| match &entry.member {
        Member::Net(net) => Entry::Net(*net, entry.nomatch),
        Member::Alias(name) => Entry::Alias(&name.name, entry.nomatch),
    });
    let long = set.long.iter().flat_map(|long| &long.set.entries);
    let long = long.map(|entry| Entry::Net(entry.net, entry.nomatch));
    let mut found: Vec<_> = written.chain(long).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What only the first of two ordered lists has: how much, and its beginning.
fn only(of: &[Entry<'_>], other: &[Entry<'_>]) -> (usize, Vec<String>) {
    let mut others = other.iter().peekable();
    let mut count = 0;
    let mut named = Vec::new();
    for entry in of {
        while others.next_if(|other| *other < entry).is_some() {}
        if others.peek().is_none_or(|other| *other != entry) {
            count += 1;
            if named.len() < NAMED {
                named.push(entry.text());
            }
        }
    }
    (count, named)
}

/// Whether a rule's text names a set or an alias, or is the built-in rule that one of this name makes.
fn mentions(text: &str, name: &str) -> bool {
    let fits = |char: char| char.is_ascii_alphanumeric() || char == '-' || char == '_';
    let mut words = text.split(|char| !fits(char));
    words.any(|word| word.eq_ignore_ascii_case(name))
        || name == "local_network" && text == "standard: local network"
        || name.starts_with("ipfilter-net") && text.ends_with("the NIC's own")
}
