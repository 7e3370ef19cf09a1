//! What the administrator wrote: the firewall files and the guests' network settings of one node.
//!
//! In: [`Sources`], the files as bytes. Out: a [`Config`] and what is wrong with the files. [`parse`] never fails: a line that cannot be read
//! is reported and left out, and changes what no other line means. Names of addresses, sets and groups are not looked up here, so the order of
//! definitions is free; `policy` does that.
//!
//! Architecture invariant: only [`Sources::read`] and [`node_name`] touch the disk; nothing here depends on the machine, the time or the
//! running guests.

pub mod address;
mod closest;
pub mod corosync;
pub mod document;
mod entry;
pub mod icmp;
pub mod line;
pub mod macros;
pub mod options;
pub mod registry;
pub mod rule;
mod sdn;
pub mod service;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use self::address::{LONGEST_NAME, is_name};
pub use self::closest::did_you_mean;
use self::corosync::Corosync;
use self::document::{Document, Kind};
use self::line::{Fault, Reporter, Span};
use self::options::{ClusterOptions, GuestOptions, HostOptions, VnetOptions};
pub(crate) use self::sdn::read_json;
pub use self::sdn::{IPAM_STATE, RUNNING_CONFIG, SdnSets};
pub use self::sources::{
    CLUSTER_FILE, COROSYNC_FILE, FIREWALL_DIRECTORY, MEMBERS_FILE, Sources, VNET_DIRECTORY,
    guest_file, host_file, lxc_directory, node_name, qemu_directory,
};
use crate::diagnostic::Diagnostic;
use crate::inventory::{self, Guest};

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node.
    pub node: String,
    /// `cluster.fw`.
    pub cluster: Document<ClusterOptions>,
    /// The node's `host.fw`.
    pub host: Document<HostOptions>,
    /// The network of this node's own address; stands for the alias `local_network` unless the cluster's file defines that. [`parse`] leaves it
    /// empty, because no file says it.
    pub local_network: Option<IpNet>,
    /// The guests of this node by number.
    pub guests: BTreeMap<u32, GuestConfig>,
    /// Firewall files of SDN VNets by the VNet's name.
    pub vnets: BTreeMap<Arc<str>, Document<VnetOptions>>,
    /// The sets that SDN makes.
    pub sdn: SdnSets,
    /// Names of the cluster's file that firewall files of other nodes' guests mention, in lower case.
    pub elsewhere: BTreeSet<Arc<str>>,
    /// `corosync.conf`, if there is one.
    pub corosync: Option<Corosync>,
    /// Addresses of the cluster's members by name.
    pub members: BTreeMap<String, IpAddr>,
}

/// A guest and its firewall file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Kind and NICs.
    pub guest: Guest,
    /// `<vmid>.fw`; empty if there is none.
    pub firewall: Document<GuestOptions>,
}

/// Reads every file. Firewall files of guests that are not on this node are left alone.
pub fn parse(sources: &Sources) -> (Config, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let unreadable = sources.unreadable.iter();
    let unreadable = unreadable.map(|entry| (entry, "what depends on it stays closed"));
    let stale = sources.stale.iter();
    let stale = stale.map(|entry| (entry, "its last readable contents stay in force"));
    for ((path, error), effect) in unreadable.chain(stale) {
        let fault = Fault {
            span: Span::default(),
            message: format!("cannot be read: {error}"),
            hint: None,
        };
        Reporter::new(path.as_str().into(), &mut found).error(0, fault, effect);
    }
    let cluster = document(sources, CLUSTER_FILE, Kind::Cluster, &mut found);
    let host = document(sources, &host_file(&sources.node), Kind::Host, &mut found);
    let guests = inventory::guests(sources, &mut found)
        .into_iter()
        .map(|guest| {
            let firewall = document(sources, &guest_file(guest.vmid), Kind::Guest, &mut found);
            (guest.vmid, GuestConfig { guest, firewall })
        })
        .collect::<BTreeMap<_, _>>();
    let elsewhere = elsewhere(sources, &cluster, &guests);
    let vnets = sources
        .named(VNET_DIRECTORY, ".fw")
        .map(|(name, path)| (name.into(), document(sources, path, Kind::Vnet, &mut found)))
        .collect();
    let config = Config {
        node: sources.node.clone(),
        cluster,
        host,
        local_network: None,
        guests,
        vnets,
        sdn: sdn::parse(sources, &mut found),
        elsewhere,
        corosync: sources
            .files
            .get(COROSYNC_FILE)
            .map(|bytes| Corosync::parse(bytes)),
        members: sources
            .files
            .get(MEMBERS_FILE)
            .map(|bytes| corosync::members(bytes))
            .unwrap_or_default(),
    };
    (config, found)
}

/// The cluster's names among the words of the files of guests that are not this node's.
fn elsewhere(
    sources: &Sources,
    cluster: &Document<ClusterOptions>,
    guests: &BTreeMap<u32, GuestConfig>,
) -> BTreeSet<Arc<str>> {
    let names = cluster.aliases.keys();
    let names = names.chain(cluster.sets.keys());
    let names = names.chain(cluster.groups.keys());
    let mut missing: BTreeMap<&str, &Arc<str>> = names.map(|name| (&**name, name)).collect();
    let mut seen = BTreeSet::new();
    let files = sources.numbered(FIREWALL_DIRECTORY, ".fw");
    let foreign = files
        .into_iter()
        .filter(|(vmid, _)| !guests.contains_key(vmid));
    for (_, (_, bytes)) in foreign {
        if missing.is_empty() {
            break;
        }
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || *byte == b'_';
        let words = bytes.split(|byte| !is_part(byte));
        for word in words.filter_map(|word| std::str::from_utf8(word).ok()) {
            if !is_name(word) || word.len() > LONGEST_NAME {
                continue;
            }
            if let Some(name) = missing.remove(word.to_ascii_lowercase().as_str()) {
                seen.insert(Arc::clone(name));
            }
        }
    }
    seen
}

fn document<O: options::OptionTable>(
    sources: &Sources,
    path: &str,
    kind: Kind,
    found: &mut Vec<Diagnostic>,
) -> Document<O> {
    let file: Arc<str> = path.into();
    match sources.files.get(path) {
        Some(bytes) => Document::parse(bytes, kind, &mut Reporter::new(file, found)),
        None => Document {
            readable: !sources.is_unreadable(path),
            ..Document::empty(file)
        },
    }
}
