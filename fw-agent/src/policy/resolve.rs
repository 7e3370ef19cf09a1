//! From a configuration to policies.
//!
//! 1. Resolve the cluster's names and security groups. 2. Resolve the rules of the host and the cluster, which make the host's policies.
//! 3. Resolve each guest. 4. Resolve what is forwarded.
//!
//! Pure: equal configurations, facts and times give equal policies. A [`Resolver`] that has resolved another configuration before gives the same
//! policies, and leaves out the work for what is as it was.
//!
//! Invariant: a file that exists but cannot be read opens nothing. Without `cluster.fw` the firewall counts as on and every firewalled NIC is
//! closed; without a guest's file that guest's are.

use std::collections::BTreeMap;
use std::sync::Arc;

use fw_common::conntrack::SECOND;
use fw_common::maps::{Settings, settings_flag};

use super::cluster::Cluster;
use super::lines;
use super::names::View;
use super::node::Node;
use super::remembered::{Common, Remembered};
use super::sets::Sets;
use super::{NodePolicy, PortId, PortPolicy, SourceLine, forward, guest};
use crate::config::line::Reporter;
use crate::config::options::{ClusterOptions, HostOptions};
use crate::config::{Config, GuestConfig};
use crate::diagnostic::Diagnostic;
use crate::inventory::facts::HostFacts;

/// Seconds that a time in the cluster's `enable` keeps the firewall on.
const TEST_SECONDS: u64 = 60;

/// Whether the cluster's `enable` means on at the time `now` (UNIX, seconds).
///
/// 0 is off and 1 is on; a larger number is a time, and the firewall is on until a minute after it.
pub fn is_enabled(enable: u64, now: u64) -> bool {
    match enable {
        0 => false,
        1 => true,
        since => now.saturating_sub(since) <= TEST_SECONDS,
    }
}

/// The policies of the host and of every firewalled guest NIC of the node, at the time `now` (UNIX, seconds).
pub fn resolve(config: &Config, facts: &HostFacts, now: u64) -> (NodePolicy, Vec<Diagnostic>) {
    Resolver::default().resolve(config, facts, now)
}

/// Resolves configurations, and remembers what did not change from one to the next.
#[derive(Debug, Default)]
pub struct Resolver {
    sets: Sets,
    cluster: Option<Cluster>,
    common: Option<Common>,
    guests: BTreeMap<u32, Remembered>,
}

impl Resolver {
    /// As [`resolve`], which gives equal results. What is as it was is the same [`Arc`]: a guest's policies, and sets.
    pub fn resolve(
        &mut self,
        config: &Config,
        facts: &HostFacts,
        now: u64,
    ) -> (NodePolicy, Vec<Diagnostic>) {
        let mut found = Vec::new();
        self.sets.forget_unused();
        let last = self.cluster.take();
        let same_cluster = last.as_ref().is_some_and(|last| last.holds(config));
        let resolved = match last {
            Some(last) if same_cluster => last,
            last => Cluster::resolve(config, last.as_ref(), &mut self.sets),
        };
        let cluster_part = self.cluster.insert(resolved);
        let Cluster { names, groups, .. } = &*cluster_part;
        found.extend_from_slice(&cluster_part.found);
        let sets = &mut self.sets;
        let Config { cluster, host, .. } = config;
        let view = View {
            cluster: names,
            guest: None,
        };
        let mut reporter = Reporter::new(Arc::clone(&host.file), &mut found);
        let mut of_host = lines::resolve(&host.rules, None, groups, view, sets, &mut reporter);
        let mut of_cluster = cluster_part.items.clone();
        for item in of_cluster.iter_mut().chain(&mut of_host) {
            let real =
                |name: &Arc<str>| facts.altnames.get(&**name).map(|name| name.as_str().into());
            if let Some(real) = item.interface.as_ref().and_then(real) {
                item.interface = Some(real);
            }
        }
        let lists = [of_host.as_slice(), of_cluster.as_slice()];

        let blacklist = cluster.sets.get("blacklist").and_then(|written| {
            let line = SourceLine {
                file: Arc::clone(&cluster.file),
                line: written.line,
            };
            names
                .set("blacklist")
                .map(|set| (Arc::clone(set), Some(line)))
        });
        let node = Node {
            host,
            readable: cluster.readable,
            layer2: cluster.options.ebtables.value,
            cluster: names,
            groups,
            blacklist,
        };
        let own = super::host::resolve(config, facts, &node, lists, sets, &mut found);
        let forward = forward::resolve(config, &node, lists, sets, &mut found);
        let common = Common::of(&node);
        let same_common = self.common.as_ref() == Some(&common);
        self.common = Some(common);
        let mut ports = Vec::new();
        let mut known = std::mem::take(&mut self.guests);
        for (vmid, config) in &config.guests {
            let known = known.remove(vmid);
            let guest = match known {
                Some(known) if same_common && known.holds(config, &node, same_cluster) => known,
                known => resolve_guest(config, &node, sets, known),
            };
            ports.extend_from_slice(&guest.ports);
            found.extend_from_slice(&guest.found);
            self.guests.insert(*vmid, guest);
        }
        let policy = NodePolicy {
            enabled: !cluster.readable || is_enabled(cluster.options.enable.value, now),
            host: own,
            ports,
            bridges: bridges(config),
            forward,
            settings: settings(&cluster.options, &host.options),
            flow_capacity: flow_capacity(&host.options),
        };
        (policy, found)
    }
}

/// Resolves a guest. Policies that turn out to be those of `last` are the same ones.
fn resolve_guest(
    config: &GuestConfig,
    node: &Node<'_>,
    sets: &mut Sets,
    last: Option<Remembered>,
) -> Remembered {
    let mut found = Vec::new();
    let last = last.map(|last| last.ports).unwrap_or_default();
    let share = |port: PortPolicy| {
        let same = last.iter().find(|last| ***last == port);
        match same {
            Some(same) => Arc::clone(same),
            None => Arc::new(port),
        }
    };
    let ports = guest::resolve(config, node, sets, &mut found);
    let ports = ports.into_iter().map(share).collect();
    Remembered::new(config, node, ports, found)
}

fn bridges(config: &Config) -> BTreeMap<PortId, Arc<str>> {
    let guests = config.guests.values().map(|config| &config.guest);
    let nics = guests.flat_map(|guest| guest.nics.iter().map(|nic| (guest.vmid, nic)));
    let named = nics.filter_map(|(vmid, nic)| {
        let net = nic.net;
        Some((PortId { vmid, net }, nic.bridge.as_deref()?.into()))
    });
    named.collect()
}

/// What the kernel programs need of the cluster's and the host's options. The parser keeps the values in range.
fn settings(cluster: &ClusterOptions, host: &HostOptions) -> Settings {
    let limit = cluster.log_ratelimit.value;
    let interval = u64::from(limit.seconds) * SECOND / u64::from(limit.count.max(1));
    let number = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Settings {
        tcp_established: number(host.nf_conntrack_tcp_timeout_established.value),
        tcp_syn_recv: number(host.nf_conntrack_tcp_timeout_syn_recv.value),
        log_interval: if limit.enable { interval } else { 0 },
        log_burst: limit.burst,
        flow_quota: flow_capacity(host) / 2,
        syn_interval: match host.protection_synflood.value {
            true => SECOND / host.protection_synflood_rate.value.max(1),
            false => 0,
        },
        syn_burst: number(host.protection_synflood_burst.value),
        flags: match host.log_nf_conntrack.value {
            true => settings_flag::LOG_FLOWS,
            false => 0,
        },
        ..Settings::default()
    }
}

/// Flows that the node remembers; a port may have half of them.
fn flow_capacity(host: &HostOptions) -> u32 {
    u32::try_from(host.nf_conntrack_max.value).unwrap_or(u32::MAX)
}
