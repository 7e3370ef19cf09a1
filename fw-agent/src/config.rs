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
pub mod document;
mod entry;
pub mod icmp;
pub mod line;
pub mod macros;
pub mod options;
pub mod registry;
pub mod rule;
pub mod service;
mod sources;

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::closest::did_you_mean;
use self::document::{Document, Kind};
use self::line::{Fault, Reporter, Span};
use self::options::{ClusterOptions, GuestOptions, HostOptions};
pub use self::sources::{
    CLUSTER_FILE, Sources, guest_file, host_file, lxc_directory, node_name, qemu_directory,
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
        .collect();
    let config = Config {
        node: sources.node.clone(),
        cluster,
        host,
        local_network: None,
        guests,
    };
    (config, found)
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
