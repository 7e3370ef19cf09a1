//! Files that no administrator would write: nothing panics, the work stays linear, and what is good in them keeps its meaning.

mod junk;
mod large;

use fw_agent::config::{Config, Sources, parse};
use fw_agent::diagnostic::{Diagnostic, render};
use fw_agent::inventory::facts::HostFacts;
use fw_agent::policy::{NodePolicy, resolve};

/// A time at which a plain `enable: 1` is on.
const NOW: u64 = 1_700_000_000;

/// Every kind of file that is read.
const FILES: [&str; 12] = [
    "firewall/cluster.fw",
    "nodes/n/host.fw",
    "firewall/100.fw",
    "firewall/101.fw",
    "firewall/999.fw",
    "nodes/n/qemu-server/100.conf",
    "nodes/n/lxc/101.conf",
    "sdn/firewall/v1.fw",
    "sdn/.running-config",
    "sdn/pve-ipam-state.json",
    ".vmlist",
    "corosync.conf",
];

fn sources<'a>(files: impl IntoIterator<Item = (&'a str, Vec<u8>)>) -> Sources {
    Sources {
        node: "n".into(),
        files: files
            .into_iter()
            .map(|(path, bytes)| (path.to_owned(), bytes.into()))
            .collect(),
        ..Sources::default()
    }
}

/// Parses and resolves.
fn read(sources: &Sources) -> (Config, NodePolicy, Vec<Diagnostic>) {
    let (config, mut found) = parse(sources);
    let (policy, more) = resolve(&config, &HostFacts::default(), NOW);
    found.extend(more);
    (config, policy, found)
}

/// Everything that `fwctl check` does.
fn check(sources: &Sources) -> (Vec<Diagnostic>, String) {
    let (config, policy, mut found) = read(sources);
    found.extend(fw_agent::lint::run(&config, &policy));
    let text = render(&found, sources, false);
    (found, text)
}
