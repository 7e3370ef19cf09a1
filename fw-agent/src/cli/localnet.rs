//! `fwctl localnet`: the lines of the reference.

use std::io::Write;

use anyhow::{Context, Result};

use super::{Outcome, Place};
use crate::config::{self, Config};
use crate::inventory::facts::HostFacts;
use crate::policy::localnet::{LocalNetwork, UNKNOWN, detect, resolve_name};

pub(super) fn run(place: &Place) -> Result<Outcome> {
    let facts = place.facts()?;
    let (config, _) = config::parse(&place.sources()?);
    let local = detect(&config, &facts);
    print(&mut std::io::stdout().lock(), &config, &facts, local)?;
    Ok(Outcome::Done)
}

fn print(
    out: &mut impl Write,
    config: &Config,
    facts: &HostFacts,
    local: LocalNetwork,
) -> Result<()> {
    let address = local
        .address
        .with_context(|| format!("the address of node {} is not known", config.node))?;
    writeln!(out, "local hostname: {}", config.node)?;
    writeln!(out, "local IP address: {address}")?;
    writeln!(
        out,
        "network auto detect: {}",
        local.detected.unwrap_or(UNKNOWN)
    )?;
    match local.alias {
        Some(net) => writeln!(out, "using user defined local_network: {net}")?,
        None => writeln!(out, "using detected local_network: {}", local.network())?,
    }
    let Some(corosync) = &config.corosync else {
        return Ok(());
    };
    writeln!(out, "\naccepting corosync traffic from/to:")?;
    let own = corosync.node(&config.node);
    let peers = corosync
        .nodes
        .iter()
        .filter(|node| node.name != config.node);
    let mut found = false;
    for node in peers {
        for (link, at) in &node.links {
            let is_shared = own.is_some_and(|own| own.links.contains_key(link));
            if let Some(address) = resolve_name(&at.text, config, facts).filter(|_| is_shared) {
                found = true;
                writeln!(out, " - {}: {address} (link: {link})", node.name)?;
            }
        }
    }
    if !found {
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
        print(&mut out, &config, &facts, detect(&config, &facts)).unwrap();
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
