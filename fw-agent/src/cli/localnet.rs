//! `fwctl localnet`: the lines of the reference.

use std::io::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use serde::Serialize;

use super::{Outcome, Place};
use crate::config::{self, Config};
use crate::inventory::facts::HostFacts;
use crate::policy::localnet::{LocalNetwork, UNKNOWN, detect, resolve_name};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed. Keys of the JSON object are added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Told {
    hostname: String,
    address: IpAddr,
    /// What the routes say, or what holds if they say nothing.
    detected: IpNet,
    /// What the configuration says.
    alias: Option<IpNet>,
    /// The one of them that holds.
    local_network: IpNet,
    /// The cluster's other nodes, by link; null without a cluster.
    corosync: Option<Vec<Peer>>,
}

#[derive(Debug, Serialize)]
struct Peer {
    node: String,
    address: IpAddr,
    link: String,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let facts = place.facts()?;
    let (config, _) = config::parse(&place.sources()?);
    let local = detect(&config, &facts);
    let told = told(&config, &facts, local)?;
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => {
            serde_json::to_writer_pretty(&mut out, &told)?;
            writeln!(out)?;
        }
        false => print(&mut out, &told)?,
    }
    Ok(Outcome::Done)
}

fn told(config: &Config, facts: &HostFacts, local: LocalNetwork) -> Result<Told> {
    let address = local.address.with_context(|| {
        format!(
            "the address of node {0} is not known: neither .members nor /etc/hosts has {0}",
            config.node
        )
    })?;
    let corosync = config.corosync.as_ref().map(|corosync| {
        let own = corosync.node(&config.node);
        let nodes = corosync.nodes.iter();
        let peers = nodes.filter(|node| node.name != config.node);
        let links = peers.flat_map(|node| {
            let links = node.links.iter();
            let shared =
                links.filter(|(link, _)| own.is_some_and(|own| own.links.contains_key(*link)));
            shared.filter_map(|(link, at)| {
                Some(Peer {
                    node: node.name.to_string(),
                    address: resolve_name(&at.text, config, facts)?,
                    link: link.to_string(),
                })
            })
        });
        links.collect()
    });
    Ok(Told {
        hostname: config.node.to_string(),
        address,
        detected: local.detected.unwrap_or(UNKNOWN),
        alias: local.alias,
        local_network: local.network(),
        corosync,
    })
}

fn print(out: &mut impl Write, told: &Told) -> std::io::Result<()> {
    writeln!(out, "local hostname: {}", told.hostname)?;
    writeln!(out, "local IP address: {}", told.address)?;
    writeln!(out, "network auto detect: {}", told.detected)?;
    match told.alias {
        Some(net) => writeln!(out, "using user defined local_network: {net}")?,
        None => writeln!(out, "using detected local_network: {}", told.local_network)?,
    }
    let Some(peers) = &told.corosync else {
        return Ok(());
    };
    writeln!(out, "\naccepting corosync traffic from/to:")?;
    for peer in peers {
        writeln!(
            out,
            " - {}: {} (link: {})",
            peer.node, peer.address, peer.link
        )?;
    }
    if peers.is_empty() {
        writeln!(out, " - no nodes found")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;
    use crate::inventory::facts::Route;

    fn check(files: &[(&str, &str)], expect: &str) {
        let sources = Sources {
            node: "a".into(),
            files: files
                .iter()
                .map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec().into()))
                .collect(),
            ..Sources::default()
        };
        let facts = HostFacts {
            routes: vec![Route {
                dest: "10.0.0.0/24".parse().unwrap(),
                connected: true,
            }],
            ..HostFacts::default()
        };
        let (config, _) = config::parse(&sources);
        let mut out = Vec::new();
        let told = told(&config, &facts, detect(&config, &facts)).unwrap();
        print(&mut out, &told).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn the_reference_s_lines() {
        let members = (".members", r#"{"nodelist":{"a":{"ip":"10.0.0.1"}}}"#);
        let head =
            "local hostname: a\nlocal IP address: 10.0.0.1\nnetwork auto detect: 10.0.0.0/24\n";
        check(
            &[members],
            &format!("{head}using detected local_network: 10.0.0.0/24\n"),
        );
        let nodes = "nodelist {\nnode {\nname: a\nring0_addr: 10.0.0.1\n}\nnode {\nname: b\nring0_addr: 10.0.0.2\nring1_addr: 10.1.0.2\n}\n}\n";
        check(
            &[
                members,
                ("corosync.conf", nodes),
                (
                    "firewall/cluster.fw",
                    "[ALIASES]\nlocal_network 10.0.0.9/16\n",
                ),
            ],
            &format!(
                "{head}using user defined local_network: 10.0.0.0/16\n\naccepting corosync traffic from/to:\n - b: 10.0.0.2 (link: 0)\n"
            ),
        );
        check(
            &[members, ("corosync.conf", "nodelist {\n}\n")],
            &format!(
                "{head}using detected local_network: 10.0.0.0/24\n\naccepting corosync traffic from/to:\n - no nodes found\n"
            ),
        );
    }
}
