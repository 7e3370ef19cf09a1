//! What one configuration does differently from another, told by policy: `fwctl diff`.
//!
//! In: two configurations of one node, parsed and resolved. Out: a [`Difference`], plain data that prints itself in words.
//!
//! 1. [`named`] compares what files define under a name: options, sets, aliases. 2. [`rules`] compares the policy of the host and of every NIC, rule by rule
//!    in order; the same change at many places (a security group's) is one change with its places. 3. [`services`] says which ports become open or closed by that.
//!
//! Invariant: two policies that differ in anything that is enforced have a difference that is not empty. A rule whose line stays and that means something
//! else (other addresses, because a set changed) is told by the set, or else by itself. Lines that only shift are no difference.

mod named;
mod print;
mod rules;
mod services;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

pub use self::print::places;
use crate::config::{Config, Sources};
use crate::policy::{NodePolicy, Policy, PortId, PortPolicy};

/// One of the two configurations.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Its files.
    pub sources: &'a Sources,
    /// What they say.
    pub config: &'a Config,
    /// What it means.
    pub policy: &'a NodePolicy,
}

/// Whose policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's.
    Host,
    /// A guest's NIC's.
    Nic(PortId),
    /// A VNet's, for forwarded traffic.
    Vnet(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Nic(port) => write!(f, "{}/net{}", port.vmid, port.net),
            Self::Vnet(name) => write!(f, "vnet/{name}"),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which packets of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To it.
    In,
    /// From it.
    Out,
    /// Through it; not enforced yet.
    Forward,
}

impl Way {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Forward => "forward",
        }
    }
}

/// A line of a file, or a rule that is built in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Line {
    /// The file; none for what is built in.
    pub file: Option<Arc<str>>,
    /// Its line, from 1.
    pub line: Option<u32>,
    /// What it says.
    pub text: String,
}

/// What happened to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It is gone.
    Removed,
    /// Another stands in its place.
    Changed,
    /// It stands before or behind other rules than it did.
    Moved,
    /// It is new.
    Added,
    /// Its line is the same, and means something else.
    Affected,
}

/// A rule that is not what it was, at one place or many.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RuleChange {
    /// For which packets.
    pub way: Way,
    /// What happened.
    pub fate: Fate,
    /// The rule as it was.
    pub before: Option<Line>,
    /// The rule as it is.
    pub after: Option<Line>,
    /// The security group that it is a member of.
    pub group: Option<Arc<str>>,
    /// Whose policies it is in.
    pub places: Vec<Place>,
}

/// An option with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct OptionChange {
    /// The file.
    pub file: Arc<str>,
    /// The line that sets it now; none if no line does.
    pub line: Option<u32>,
    /// The option.
    pub name: &'static str,
    /// Its value as it was written; none: the default.
    pub before: Option<String>,
    /// Its value as it is written; none: the default.
    pub after: Option<String>,
}

/// A set or an alias that stands for other addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NameChange {
    /// The file.
    pub file: Arc<str>,
    /// The line that defines it now, or did.
    pub line: u32,
    /// Set or alias.
    pub kind: &'static str,
    /// The name.
    pub name: Arc<str>,
    /// Entries that it had; none: it was not defined.
    pub before: Option<usize>,
    /// Entries that it has; none: it is not defined.
    pub after: Option<usize>,
    /// New entries: how many, and the first of them.
    pub gained: (usize, Vec<String>),
    /// Entries that are gone, likewise.
    pub lost: (usize, Vec<String>),
    /// Whose policies have rules that mention it.
    pub places: Vec<Place>,
}

/// What a NIC is held to besides rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct NicChange {
    /// What.
    pub what: &'static str,
    /// As it was.
    pub before: String,
    /// As it is.
    pub after: String,
    /// The NICs.
    pub places: Vec<Place>,
}

/// Who reaches a port by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// Nobody.
    Closed,
    /// Those whom some rule's conditions let.
    Some,
    /// Everybody whom no rule excludes.
    Open,
}

/// Ports that become open or closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ServiceChange {
    /// For which packets.
    pub way: Way,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Who reached them.
    pub before: Reach,
    /// Who reaches them.
    pub after: Reach,
    /// The ports, as inclusive ranges.
    pub ports: Vec<(u16, u16)>,
    /// Where.
    pub places: Vec<Place>,
}

/// What one configuration does differently from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The cluster's firewall goes on (true) or off.
    pub enabled: Option<bool>,
    /// Places that come under the firewall.
    pub filtered: Vec<Place>,
    /// Places whose packets are not filtered any more.
    pub unfiltered: Vec<Place>,
    /// Options.
    pub options: Vec<OptionChange>,
    /// Sets and aliases.
    pub names: Vec<NameChange>,
    /// What NICs are held to.
    pub nics: Vec<NicChange>,
    /// Rules.
    pub rules: Vec<RuleChange>,
    /// Ports.
    pub services: Vec<ServiceChange>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares two configurations of one node.
pub fn diff(before: View<'_>, after: View<'_>) -> Difference {
    let (mut rules, affected) = rules::compare(before.policy, after.policy);
    let (names, unexplained) = named::names(before, after, affected);
    rules.extend(unexplained);
    rules.sort();
    let [old, new] = [before, after].map(|view| filtered(view.policy));
    let enabled = [before, after].map(|view| view.policy.enabled);
    Difference {
        enabled: (enabled[0] != enabled[1]).then_some(enabled[1]),
        filtered: new.difference(&old).cloned().collect(),
        unfiltered: old.difference(&new).cloned().collect(),
        options: named::options(before, after),
        names,
        nics: nics(before.policy, after.policy),
        rules,
        services: services::compare(before.policy, after.policy),
    }
}

/// The places that have a policy.
fn filtered(policy: &NodePolicy) -> BTreeSet<Place> {
    let host = policy.host.iter().map(|_| Place::Host);
    let nics = policy.ports.iter().map(|port| Place::Nic(port.port));
    host.chain(nics).collect()
}

/// The policies of the host and of every NIC that both configurations have, as they were and as they are.
fn pairs<'a>(
    before: &'a NodePolicy,
    after: &'a NodePolicy,
) -> Vec<(Way, Place, &'a Policy, &'a Policy)> {
    let mut pairs = Vec::new();
    if let (Some(old), Some(new)) = (&before.host, &after.host) {
        pairs.push((Way::In, Place::Host, &old.inbound, &new.inbound));
        pairs.push((Way::Out, Place::Host, &old.outbound, &new.outbound));
    }
    for (old, new) in both(before, after) {
        let place = Place::Nic(new.port);
        pairs.push((Way::In, place.clone(), &old.inbound, &new.inbound));
        pairs.push((Way::Out, place, &old.outbound, &new.outbound));
    }
    pairs
}

/// Ports of both configurations, as they were and as they are.
fn both<'a>(
    before: &'a NodePolicy,
    after: &'a NodePolicy,
) -> impl Iterator<Item = (&'a PortPolicy, &'a PortPolicy)> {
    after.ports.iter().filter_map(|new| {
        let at = before
            .ports
            .binary_search_by_key(&new.port, |port| port.port);
        let old = before.ports.get(at.ok()?)?;
        (!Arc::ptr_eq(old, new)).then_some((&**old, &**new))
    })
}

fn nics(before: &NodePolicy, after: &NodePolicy) -> Vec<NicChange> {
    let mut found: Vec<NicChange> = Vec::new();
    for (old, new) in both(before, after) {
        for ((what, was), (_, is)) in held_to(old).into_iter().zip(held_to(new)) {
            if was == is {
                continue;
            }
            let place = Place::Nic(new.port);
            let same = |known: &&mut NicChange| {
                (known.what, &known.before, &known.after) == (what, &was, &is)
            };
            match found.iter_mut().find(same) {
                Some(known) => known.places.push(place),
                None => found.push(NicChange {
                    what,
                    before: was,
                    after: is,
                    places: vec![place],
                }),
            }
        }
    }
    found.sort();
    found
}

fn held_to(port: &PortPolicy) -> [(&'static str, String); 5] {
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    let mac = port.mac.map_or_else(
        || "unknown".to_owned(),
        |mac| mac.map(|byte| format!("{byte:02x}")).join(":"),
    );
    [
        ("hardware address", mac),
        ("MAC filter", switch(port.macfilter)),
        (
            "MAC filter for what is not IP",
            switch(port.macfilter_layer2),
        ),
        ("VLANs", port.vlans.to_string()),
        ("DHCP", switch(port.dhcp)),
    ]
}
