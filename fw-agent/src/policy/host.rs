//! The policies of the host's own traffic.
//!
//! In: `host.fw`, `cluster.fw` and the other nodes of the cluster. Out: a [`HostPolicy`], unless `host.fw` turns it off. The order of the steps
//! is the reference's:
//!
//! - In: loopback, invalid, NDP, blacklist, smurfs, TCP flags, IGMP, rules of `host.fw`, rules of `cluster.fw`, management, corosync, noise, policy.
//! - Out: loopback, invalid, NDP without router advertisements, IGMP, rules likewise, services in the local network, corosync, noise, policy.
//!
//! If one of the files exists but cannot be read, the standard steps stand, no rule does, and both policies are DROP. So it is in a direction
//! that has too many rules: management still reaches the node.
//!
//! A rule may be for one interface only. The packet pipeline knows no names of interfaces: [`HostPolicy::on`] gives the rules of an interface with
//! that condition taken away, and `image` builds one policy per interface that some rule names and one for all others.
//!
//! Known differences: corosync may use ports 5404 to 5412 on each link, migration is allowed outbound too (both are spec decisions), and only
//! names in `.members` and `/etc/hosts` are resolved.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use fw_common::verdict::{Direction, Verdict};

use super::lines::{self, Item};
use super::localnet::{self, resolve_name};
use super::node::Node;
use super::sets::Sets;
use super::{MAX_RULES, Matches, OriginKind, Policy, Rule, SourceLine, standard};
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::rule::Flow;
use crate::config::{COROSYNC_FILE, Config};
use crate::diagnostic::Diagnostic;
use crate::inventory::facts::HostFacts;

/// Rules for the host's own traffic, some of which may be for one interface only ([`Matches::interface`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Rules for packets to the host.
    pub inbound: Policy,
    /// Rules for packets from the host.
    pub outbound: Policy,
}

impl HostPolicy {
    /// The rules of a direction, on any interface.
    pub fn of(&self, direction: Direction) -> &Policy {
        match direction {
            Direction::In => &self.inbound,
            Direction::Out => &self.outbound,
        }
    }

    /// Names of the interfaces that some rule is for.
    pub fn interfaces(&self) -> BTreeSet<Arc<str>> {
        let rules = self.inbound.rules.iter().chain(&self.outbound.rules);
        rules
            .filter_map(|rule| rule.matches.interface.clone())
            .collect()
    }

    /// Inbound and outbound rules that apply on an interface, without the condition. An interface that no rule names (an empty name is none)
    /// gets the rules that apply everywhere.
    pub fn on(&self, interface: &str) -> (Policy, Policy) {
        let policy = |direction| Policy {
            rules: self
                .applying(interface, direction)
                .map(|(_, rule)| Rule {
                    matches: Matches {
                        interface: None,
                        ..rule.matches.clone()
                    },
                    ..rule.clone()
                })
                .collect(),
        };
        (policy(Direction::In), policy(Direction::Out))
    }

    /// The rules that apply on an interface, with their places among all rules of the direction.
    pub fn applying(
        &self,
        interface: &str,
        direction: Direction,
    ) -> impl Iterator<Item = (usize, &Rule)> {
        let rules = self.of(direction).rules.iter().enumerate();
        rules.filter(move |(_, rule)| {
            let only = rule.matches.interface.as_deref();
            only.is_none_or(|only| only == interface)
        })
    }
}

/// Builds the host's policies from its own rules (`host`) and the cluster's.
pub(super) fn resolve(
    config: &Config,
    facts: &HostFacts,
    node: &Node<'_>,
    [host, cluster]: [&[Item]; 2],
    sets: &mut Sets,
    found: &mut Vec<Diagnostic>,
) -> Option<HostPolicy> {
    let options = &node.host.options;
    if !options.enable.value {
        return None;
    }
    let readable = node.readable && node.host.readable;
    let peers = peers(config, facts, sets, found);
    let list = |direction| match readable {
        true => lines::collect(
            host.iter().chain(cluster),
            node.groups,
            Flow::Local(direction),
        ),
        false => Vec::new(),
    };
    let end = |policy, option, log, line| match readable {
        true => standard::end(policy, option, log, line),
        false => standard::end(
            Verdict::Drop,
            "standard: the configuration cannot be read",
            log,
            None,
        ),
    };

    let mut inbound = vec![standard::loopback(), standard::invalid()];
    if options.ndp.value {
        inbound.push(standard::ndp(true));
    }
    inbound.extend(node.checks(false));
    inbound.push(standard::igmp());
    inbound.extend(list(Direction::In));
    inbound.extend(
        node.cluster
            .set("management")
            .cloned()
            .map(standard::management),
    );
    inbound.extend(peers.rules(Direction::In));
    let written = &config.cluster.options.policy_in;
    let line = config.cluster.line_of(written);
    inbound.extend(end(
        written.value,
        "policy_in",
        options.log_level_in.value,
        line,
    ));

    let mut outbound = vec![standard::loopback(), standard::invalid()];
    if options.ndp.value {
        outbound.push(standard::ndp(false));
    }
    outbound.push(standard::igmp());
    outbound.extend(list(Direction::Out));
    let local = node.cluster.alias(localnet::ALIAS);
    outbound.extend(local.map(|net| standard::local_services(sets.nets([net]))));
    outbound.extend(peers.rules(Direction::Out));
    let written = &config.cluster.options.policy_out;
    let line = config.cluster.line_of(written);
    outbound.extend(end(
        written.value,
        "policy_out",
        options.log_level_out.value,
        line,
    ));

    let mut reporter = Reporter::new(Arc::clone(&node.host.file), found);
    let mut bounded = |rules: Vec<Rule>| {
        if rules.len() <= MAX_RULES {
            return Policy { rules };
        }
        let fault = Fault {
            span: Span::default(),
            message: format!("the host has more than {MAX_RULES} rules in one direction"),
            hint: None,
        };
        let effect = "what the standard rules do not accept in that direction is dropped";
        reporter.error(0, fault, effect);
        let standard = rules.into_iter().filter(|rule| match rule.origin.kind {
            OriginKind::Standard
            | OriginKind::Blacklist
            | OriginKind::Smurf
            | OriginKind::TcpFlags => true,
            OriginKind::Rule | OriginKind::Group(_) | OriginKind::Policy => false,
        });
        let closed = standard::closed("standard: too many rules");
        Policy {
            rules: standard.chain([closed]).collect(),
        }
    };
    Some(HostPolicy {
        inbound: bounded(inbound),
        outbound: bounded(outbound),
    })
}

/// The other nodes of the cluster: rules for what they send to this one, and the other way round.
#[derive(Default)]
struct Peers {
    inbound: Vec<Rule>,
    outbound: Vec<Rule>,
}

impl Peers {
    fn rules(&self, direction: Direction) -> impl Iterator<Item = Rule> {
        let rules = match direction {
            Direction::In => &self.inbound,
            Direction::Out => &self.outbound,
        };
        rules.iter().cloned()
    }
}

fn peers(
    config: &Config,
    facts: &HostFacts,
    sets: &mut Sets,
    found: &mut Vec<Diagnostic>,
) -> Peers {
    let mut peers = Peers::default();
    let Some(corosync) = &config.corosync else {
        return peers;
    };
    if corosync.transport == "udp" {
        let multicast = standard::corosync_multicast(sets);
        peers.inbound.push(multicast.clone());
        peers.outbound.push(multicast);
    }
    let mut reporter = Reporter::new(COROSYNC_FILE.into(), found);
    let Some(own) = corosync.node(&config.node) else {
        return peers;
    };
    let mut address = |at: &crate::config::corosync::LinkAddress| {
        let address = resolve_name(&at.text, config, facts);
        if address.is_none() {
            let fault = Fault {
                span: Span::default(),
                message: format!("{} has no known address", quote(&at.text)),
                hint: Some("give its address here, or in /etc/hosts".to_owned()),
            };
            reporter.warning(at.line, fault, "corosync is not accepted on this link");
        }
        address
    };
    for (link, own) in &own.links {
        let Some(own) = address(own) else { continue };
        for node in corosync
            .nodes
            .iter()
            .filter(|node| node.name != config.node)
        {
            let Some(at) = node.links.get(link) else {
                continue;
            };
            let Some(peer) = address(at).filter(|peer: &IpAddr| peer.is_ipv4() == own.is_ipv4())
            else {
                continue;
            };
            let text = format!("standard: corosync {} link {link}", node.name);
            let line = Some(SourceLine {
                file: COROSYNC_FILE.into(),
                line: at.line,
            });
            let (own, peer) = (sets.nets([own.into()]), sets.nets([peer.into()]));
            let from = standard::corosync(peer.clone(), own.clone(), &text, line.clone());
            peers.inbound.push(from);
            peers
                .outbound
                .push(standard::corosync(own, peer, &text, line));
        }
    }
    peers
}
