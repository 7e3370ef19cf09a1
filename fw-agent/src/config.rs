//! What the administrator wrote: the firewall files and the guests' network settings of one node.
//!
//! In: [`Sources`], the files as bytes. Out: a [`Config`] and what is wrong with the files. [`parse`] never fails: a line that cannot be read
//! is reported and left out, and changes what no other line means. Names of addresses, sets and groups are not looked up here, so the order of
//! definitions is free; `policy` does that.
//!
//! A [`Parser`] remembers what it made of each file, and gives the same [`Arc`] for a file that is the same.
//!
//! Architecture invariant: only [`Sources::read`], [`Reader::read`] and [`node_name`] touch the disk; nothing here depends on the machine, the time or the
//! running guests.

pub mod address;
mod closest;
pub mod corosync;
pub mod document;
mod elsewhere;
mod entry;
pub mod icmp;
pub mod line;
pub mod long_set;
pub mod macros;
pub(crate) mod memo;
pub mod options;
mod plain;
pub mod registry;
pub mod rule;
mod sdn;
pub mod service;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

pub use self::closest::did_you_mean;
use self::corosync::Corosync;
use self::document::{Document, Kind};
use self::elsewhere::Elsewhere;
use self::line::{Fault, Reporter, Span};
use self::memo::{Input, Memo};
use self::options::{ClusterOptions, GuestOptions, HostOptions, VnetOptions};
use self::plain::PlainHost;
pub(crate) use self::sdn::read_json;
pub use self::sdn::{IPAM_STATE, RUNNING_CONFIG, SdnSets};
pub use self::sources::{
    CLUSTER_FILE, COROSYNC_FILE, Changed, FIREWALL_DIRECTORY, MEMBERS_FILE, PLAIN_HOST_FILE,
    Reader, Sources, VNET_DIRECTORY, guest_file, host_file, is_plain, lxc_directory, node_name,
    qemu_directory,
};
use crate::diagnostic::Diagnostic;
use crate::inventory::{Guest, Inventory};

/// The configuration of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node.
    pub node: String,
    /// `cluster.fw`.
    pub cluster: Arc<Document<ClusterOptions>>,
    /// The node's `host.fw`.
    pub host: Arc<Document<HostOptions>>,
    /// The network of this node's own address; stands for the alias `local_network` unless the cluster's file defines that. [`parse`] leaves it
    /// empty, because no file says it.
    pub local_network: Option<IpNet>,
    /// The guests of this node by number.
    pub guests: BTreeMap<u32, GuestConfig>,
    /// Firewall files of SDN VNets by the VNet's name.
    pub vnets: BTreeMap<Arc<str>, Arc<Document<VnetOptions>>>,
    /// The sets that SDN makes.
    pub sdn: Arc<SdnSets>,
    /// Names of the cluster's file that firewall files of other nodes' guests mention, in lower case.
    pub elsewhere: Arc<BTreeSet<Arc<str>>>,
    /// `corosync.conf`, if there is one.
    pub corosync: Option<Corosync>,
    /// Addresses of the cluster's members by name.
    pub members: BTreeMap<String, IpAddr>,
}

/// A guest and its firewall file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Kind and NICs.
    pub guest: Arc<Guest>,
    /// `<vmid>.fw`; empty if there is none.
    pub firewall: Arc<Document<GuestOptions>>,
}

/// Reads every file. Firewall files of guests that are not on this node are left alone.
pub fn parse(sources: &Sources) -> (Config, Vec<Diagnostic>) {
    Parser::default().parse(sources)
}

/// Reads files, and remembers what they meant.
#[derive(Debug, Default)]
pub struct Parser {
    cluster: Memo<Document<ClusterOptions>>,
    host: Memo<Document<HostOptions>>,
    plain: PlainHost,
    guests: Memo<Document<GuestOptions>>,
    vnets: Memo<Document<VnetOptions>>,
    sdn: Memo<SdnSets, 3>,
    inventory: Inventory,
    elsewhere: Elsewhere,
}

impl Parser {
    /// As [`parse`], which gives equal results.
    pub fn parse(&mut self, sources: &Sources) -> (Config, Vec<Diagnostic>) {
        let mut found = Vec::new();
        report_unread(sources, &mut found);
        let of = |path: &str| Input::of(sources, path);
        let cluster = document(
            &mut self.cluster,
            of(CLUSTER_FILE),
            CLUSTER_FILE,
            Kind::Cluster,
            &mut found,
        );
        let path = sources.host_file();
        let (cluster, host) = match sources.plain {
            true => self
                .plain
                .of(of(&path), cluster, of(CLUSTER_FILE), &mut found),
            false => {
                let host = document(&mut self.host, of(&path), &path, Kind::Host, &mut found);
                (cluster, host)
            }
        };
        let mut guests = BTreeMap::new();
        for guest in self.inventory.guests(sources, &mut found) {
            let path = guest_file(guest.vmid);
            let memo = &mut self.guests;
            let firewall = document(memo, of(&path), &path, Kind::Guest, &mut found);
            guests.insert(guest.vmid, GuestConfig { guest, firewall });
        }
        let elsewhere = self.elsewhere.of(sources, &cluster, &guests);
        let vnets = sources
            .named(VNET_DIRECTORY, ".fw")
            .map(|(name, path)| {
                let memo = &mut self.vnets;
                let vnet = document(memo, of(path), path, Kind::Vnet, &mut found);
                (name.into(), vnet)
            })
            .collect();
        let sdn = self.sdn.of(
            RUNNING_CONFIG,
            sdn::FILES.map(of),
            &mut found,
            |_, found| sdn::parse(sources, found),
        );
        self.cluster.end_round();
        self.host.end_round();
        self.plain.end_round();
        self.guests.end_round();
        self.vnets.end_round();
        self.sdn.end_round();
        let config = Config {
            node: sources.node.clone(),
            cluster,
            host,
            local_network: None,
            guests,
            vnets,
            sdn,
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
}

fn report_unread(sources: &Sources, found: &mut Vec<Diagnostic>) {
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
        Reporter::new(path.as_str().into(), found).error(0, fault, effect);
    }
}

fn document<O: options::OptionTable>(
    memo: &mut Memo<Document<O>>,
    input: Input,
    path: &str,
    kind: Kind,
    found: &mut Vec<Diagnostic>,
) -> Arc<Document<O>> {
    memo.of(path, [input.clone()], found, |last, found| {
        let file: Arc<str> = path.into();
        let absent = |readable| Document {
            readable,
            ..Document::empty(Arc::clone(&file))
        };
        match input {
            Input::Text(text) => {
                let mut reporter = Reporter::new(Arc::clone(&file), found);
                let last = last.map(|last| &*last.value);
                Document::parse_again(&text, kind, last, &mut reporter)
            }
            Input::Absent => absent(true),
            Input::Unreadable => absent(false),
        }
    })
}
