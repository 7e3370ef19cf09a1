//! Rules that cut the node's own services off from those who administer it.
//!
//! The reference accepts the management ports after the written rules, so a rule for everyone comes first. For SSH and the web
//! interface the lint walks the host's inbound rules in order and keeps the `management` addresses that no rule has decided yet. A DROP or
//! REJECT that takes some of them is reported.
//!
//! A rule for one interface or one destination counts as one for all: for an ACCEPT because it is there to let the administrator in, for the
//! others because it cuts off those who come that way. Rules on source ports are not looked at.

use std::sync::Arc;

use fw_common::verdict::{Reason, Verdict};
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::ranges::{Ranges, difference, everything, intersection, of_set};
use super::{Place, Spans, warn};
use crate::config::Config;
use crate::config::line::Span;
use crate::config::registry::TCP;
use crate::diagnostic::Diagnostic;
use crate::policy::{AddressSet, Family, NodePolicy, Origin, OriginKind, Rule};

/// What must stay reachable.
const SERVICES: [(u16, &str); 2] = [(22, "SSH"), (8006, "the web interface")];

/// Networks named in one message.
const NAMED: usize = 3;

pub(super) fn run(config: &Config, policy: &NodePolicy, spans: &Spans, out: &mut Vec<Diagnostic>) {
    let Some(host) = &policy.host else { return };
    let rules = &host.inbound.rules;
    let Some(management) = rules.iter().find_map(management_set) else {
        return;
    };
    let mut cuts: Vec<Cut<'_>> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let allowed = difference(&of_set(management, family), &loopback(family));
        for (port, service) in SERVICES {
            let mut open = allowed.clone();
            for rule in rules {
                if open.is_empty() || !concerns(rule, family, port) {
                    continue;
                }
                let from = match &rule.matches.source {
                    Some(set) => of_set(set, family),
                    None => everything(family),
                };
                let taken = intersection(&open, &from);
                if taken.is_empty() {
                    continue;
                }
                open = difference(&open, &from);
                match rule.verdict {
                    Verdict::Accept => {}
                    Verdict::Drop | Verdict::Reject => cuts.push(Cut {
                        origin: &rule.origin,
                        service: format!("{service} (port {port})"),
                        networks: networks(&taken, family),
                    }),
                }
            }
        }
    }
    let blacklist = config.cluster.sets.get("blacklist").map(|set| set.span);
    report(cuts, spans, blacklist.unwrap_or_default(), out);
}

/// The `management` set: what the built-in rule for the node's services accepts.
fn management_set(rule: &Rule) -> Option<&Arc<AddressSet>> {
    let is_management = &*rule.origin.text == "standard: management";
    rule.matches.source.as_ref().filter(|_| is_management)
}

/// Addresses that never come from outside; the host accepts them before any written rule.
fn loopback(family: Family) -> Ranges {
    match family {
        Family::V4 => vec![(0x7f00_0000, 0x7fff_ffff)],
        Family::V6 => vec![(1, 1)],
    }
}

/// A rule that takes a service away from somebody.
struct Cut<'a> {
    origin: &'a Origin,
    service: String,
    networks: Vec<IpNet>,
}

/// Whether the rule decides about connections to a TCP port of the node.
fn concerns(rule: &Rule, family: Family, port: u16) -> bool {
    let matches = &rule.matches;
    let holds = |ports: &[(u16, u16)]| {
        ports.is_empty() || ports.iter().any(|(from, to)| (from..=to).contains(&&port))
    };
    matches!(rule.reason, Reason::Rule | Reason::Blacklist)
        && matches.family.is_none_or(|of| of == family)
        && matches.protocol.is_none_or(|protocol| protocol == TCP)
        && matches.sport.is_empty()
        && holds(&matches.dport)
}

fn networks(ranges: &Ranges, family: Family) -> Vec<IpNet> {
    let nets = ranges.iter().flat_map(|(first, last)| -> Vec<IpNet> {
        match family {
            Family::V4 => {
                let address = |number: u128| u32::try_from(number).unwrap_or(u32::MAX).into();
                let nets = Ipv4Subnets::new(address(*first), address(*last), 0);
                nets.map(IpNet::V4).take(NAMED + 1).collect()
            }
            Family::V6 => {
                let nets = Ipv6Subnets::new((*first).into(), (*last).into(), 0);
                nets.map(IpNet::V6).take(NAMED + 1).collect()
            }
        }
    });
    nets.take(NAMED + 1).collect()
}

/// One warning per line.
fn report(mut cuts: Vec<Cut<'_>>, spans: &Spans, blacklist: Span, out: &mut Vec<Diagnostic>) {
    cuts.sort_by(|a, b| a.origin.line.cmp(&b.origin.line));
    for of_line in cuts.chunk_by(|a, b| a.origin.line == b.origin.line) {
        let Some(line) = of_line.first().and_then(|cut| cut.origin.line.as_ref()) else {
            continue;
        };
        let mut services: Vec<&str> = of_line.iter().map(|cut| cut.service.as_str()).collect();
        services.sort_unstable();
        services.dedup();
        let mut nets: Vec<IpNet> = of_line
            .iter()
            .flat_map(|cut| cut.networks.clone())
            .collect();
        nets.sort_unstable();
        nets.dedup();
        let more = if nets.len() > NAMED { ", …" } else { "" };
        let named: Vec<_> = nets.iter().take(NAMED).map(IpNet::to_string).collect();
        let place = Place {
            file: Arc::clone(&line.file),
            line: line.line,
            span: spans.get(line).copied().unwrap_or(blacklist),
        };
        let is_blacklist = of_line
            .iter()
            .any(|cut| cut.origin.kind == OriginKind::Blacklist);
        let what = if is_blacklist {
            "the blacklist"
        } else {
            "this rule"
        };
        let message = format!(
            "{what} cuts {} off from {}{more} of the management set",
            services.join(" and "),
            named.join(", ")
        );
        let hint = match is_blacklist {
            true => "take these addresses out of the blacklist",
            false => {
                "accept the management ports in a rule before it, for example with `IN SSH(ACCEPT) -source +management`"
            }
        };
        warn(
            out,
            place,
            message,
            "who administers the node from there is locked out",
            Some(hint.to_owned()),
        );
    }
}
