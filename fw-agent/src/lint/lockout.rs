//! Rules that cut the node's own services off from those who administer it.
//!
//! The reference accepts the management ports after the written rules, so a rule for everyone comes first. For SSH and the web
//! interface the lint walks the host's inbound rules in order and keeps the `management` addresses that no rule has decided yet. A DROP or
//! REJECT that takes some of them is reported.
//!
//! A rule for one interface or one destination counts as one for all: for an ACCEPT because it is there to let the administrator in, for the
//! others because it cuts off those who come that way. Rules on source ports are not looked at.

use std::sync::Arc;

use fw_common::verdict::Verdict;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::ranges::{Ranges, difference, everything, intersection, of_set};
use super::{Place, Spans, warn};
use crate::config::Config;
use crate::config::registry::TCP;
use crate::diagnostic::Diagnostic;
use crate::policy::{Family, HostRules, Matches, Origin};

/// What must stay reachable.
const SERVICES: [(u16, &str); 2] = [(22, "SSH"), (8006, "the web interface")];

/// Networks named in one message.
const NAMED: usize = 3;

pub(super) fn run(config: &Config, host: &HostRules, spans: &Spans, out: &mut Vec<Diagnostic>) {
    if !config.host.options.enable.value {
        return;
    }
    let mut cuts: Vec<Cut<'_>> = Vec::new();
    for family in [Family::V4, Family::V6] {
        let management = of_set(&host.management, family);
        for (port, service) in SERVICES {
            let mut open = management.clone();
            for listed in &host.inbound {
                let matches = &listed.rule.matches;
                if open.is_empty() || !concerns(matches, family, port) {
                    continue;
                }
                let from = match &matches.source {
                    Some(set) => of_set(set, family),
                    None => everything(family),
                };
                let taken = intersection(&open, &from);
                if taken.is_empty() {
                    continue;
                }
                open = difference(&open, &from);
                match listed.rule.verdict {
                    Verdict::Accept => {}
                    Verdict::Drop | Verdict::Reject => cuts.push(Cut {
                        origin: &listed.rule.origin,
                        service: format!("{service} (port {port})"),
                        networks: networks(&taken, family),
                    }),
                }
            }
        }
    }
    report(cuts, spans, out);
}

/// A rule that takes a service away from somebody.
struct Cut<'a> {
    origin: &'a Origin,
    service: String,
    networks: Vec<IpNet>,
}

/// Whether the rule decides about connections to a TCP port of the node.
fn concerns(matches: &Matches, family: Family, port: u16) -> bool {
    let holds = |ports: &[(u16, u16)]| {
        ports.is_empty() || ports.iter().any(|(from, to)| (from..=to).contains(&&port))
    };
    matches.family.is_none_or(|of| of == family)
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
fn report(mut cuts: Vec<Cut<'_>>, spans: &Spans, out: &mut Vec<Diagnostic>) {
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
            span: spans.get(line).copied().unwrap_or_default(),
        };
        let message = format!(
            "this rule cuts {} off from {}{more} of the management set",
            services.join(" and "),
            named.join(", ")
        );
        let hint = "accept the management ports in a rule before it, for example with `IN SSH(ACCEPT) -source +management`".to_owned();
        warn(
            out,
            place,
            message,
            "who administers the node from there is locked out",
            Some(hint),
        );
    }
}
