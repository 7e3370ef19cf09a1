//! From a configuration to policies.
//!
//! 1. Resolve the cluster's names and security groups. 2. Check the rules of the cluster and the host (their zone has no policy here).
//! 3. Resolve each guest. Pure: equal configurations and times give equal policies.
//!
//! Invariant: a file that exists but cannot be read opens nothing. Without `cluster.fw` the firewall counts as on and every firewalled NIC is
//! closed; without a guest's file that guest's are.

use std::collections::BTreeMap;
use std::sync::Arc;

use fw_common::maps::Settings;

use super::lines::{self, Groups};
use super::names::{Names, View};
use super::sets::Sets;
use super::{NodePolicy, SourceLine, guest};
use crate::config::Config;
use crate::config::line::Reporter;
use crate::config::options::HostOptions;
use crate::diagnostic::Diagnostic;

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

/// The policy of every firewalled guest NIC of the node, at the time `now` (UNIX, seconds).
pub fn resolve(config: &Config, now: u64) -> (NodePolicy, Vec<Diagnostic>) {
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
    lines::resolve(
        &cluster.rules,
        None,
        &groups,
        view,
        &mut sets,
        &mut reporter,
    );
    let mut reporter = Reporter::new(Arc::clone(&host.file), &mut found);
    lines::resolve(&host.rules, None, &groups, view, &mut sets, &mut reporter);
    for vnet in config.vnets.values() {
        let mut reporter = Reporter::new(Arc::clone(&vnet.file), &mut found);
        lines::resolve(&vnet.rules, None, &groups, view, &mut sets, &mut reporter);
    }

    let blacklist = cluster.sets.get("blacklist").and_then(|written| {
        let line = SourceLine {
            file: Arc::clone(&cluster.file),
            line: written.line,
        };
        names
            .set("blacklist")
            .map(|set| (Arc::clone(set), Some(line)))
    });
    let node = guest::Node {
        host,
        readable: cluster.readable,
        cluster: &names,
        groups: &groups,
        blacklist,
    };
    let mut ports = Vec::new();
    for config in config.guests.values() {
        ports.extend(guest::resolve(config, &node, &mut sets, &mut found));
    }
    let policy = NodePolicy {
        enabled: !cluster.readable || is_enabled(cluster.options.enable.value, now),
        ports,
        settings: settings(&host.options),
    };
    (policy, found)
}

/// What the kernel programs need of the host's options. The parser keeps the values in range.
fn settings(host: &HostOptions) -> Settings {
    let seconds = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    Settings {
        tcp_established: seconds(host.nf_conntrack_tcp_timeout_established.value),
        tcp_syn_recv: seconds(host.nf_conntrack_tcp_timeout_syn_recv.value),
    }
}
