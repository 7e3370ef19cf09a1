//! From a configuration to policies.
//!
//! 1. Resolve the cluster's names and security groups. 2. Resolve the rules of the host and the cluster, which make the host's policies.
//! 3. Resolve each guest. 4. Resolve what is forwarded. Pure: equal configurations, facts and times give equal policies.
//!
//! Invariant: a file that exists but cannot be read opens nothing. Without `cluster.fw` the firewall counts as on and every firewalled NIC is
//! closed; without a guest's file that guest's are.

use std::collections::BTreeMap;
use std::sync::Arc;

use fw_common::conntrack::SECOND;
use fw_common::maps::{Settings, settings_flag};

use super::lines::{self, Groups};
use super::names::{Names, View};
use super::node::Node;
use super::sets::Sets;
use super::{NodePolicy, PortId, SourceLine, forward, guest};
use crate::config::Config;
use crate::config::line::Reporter;
use crate::config::options::{ClusterOptions, HostOptions};
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
    let mut found = Vec::new();
    let mut sets = Sets::default();
    let Config { cluster, host, .. } = config;
    let names = Names::cluster(cluster, config.local_network, &mut sets, &mut found)
        .with_sdn(&config.sdn, &mut sets);
    let view = View {
        cluster: &names,
        guest: None,
    };
    let mut reporter = Reporter::new(Arc::clone(&cluster.file), &mut found);
    let mut groups = Groups::new();
    for (name, group) in &cluster.groups {
        let items = lines::resolve(
            &group.rules,
            Some(name),
            &BTreeMap::new(),
            view,
            &mut sets,
            &mut reporter,
        );
        groups.insert(Arc::clone(name), items);
    }
    let mut of_cluster = lines::resolve(
        &cluster.rules,
        None,
        &groups,
        view,
        &mut sets,
        &mut reporter,
    );
    let mut reporter = Reporter::new(Arc::clone(&host.file), &mut found);
    let mut of_host = lines::resolve(&host.rules, None, &groups, view, &mut sets, &mut reporter);
    for item in of_cluster.iter_mut().chain(&mut of_host) {
        let real = |name: &Arc<str>| facts.altnames.get(&**name).map(|name| name.as_str().into());
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
        cluster: &names,
        groups: &groups,
        blacklist,
    };
    let own = super::host::resolve(config, facts, &node, lists, &mut sets, &mut found);
    let forward = forward::resolve(config, &node, lists, &mut sets, &mut found);
    let mut ports = Vec::new();
    for config in config.guests.values() {
        let of_guest = guest::resolve(config, &node, &mut sets, &mut found);
        ports.extend(of_guest.into_iter().map(Arc::new));
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
