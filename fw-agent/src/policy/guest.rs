//! The policies of one guest's NICs.
//!
//! In: a guest with its firewall file, the node's options, the resolved groups. Out: one [`PortPolicy`] per NIC with `firewall=1`. The order of
//! the steps is the reference's:
//!
//! - In: invalid, blacklist, smurfs, TCP flags; then, if the guest's firewall is on, DHCP, NDP, the guest's rules, noise, policy.
//! - Out: invalid; then, if the guest's firewall is on, DHCP, router advertisements, IP filter, NDP, the guest's rules, noise, policy.
//!
//! The implicit members of an `ipfilter-netN` set follow its entries: of equal networks the last decides.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fw_common::verdict::Direction;
use ipnet::{IpNet, Ipv6Net};

use super::lines;
use super::names::{Names, View};
use super::node::Node;
use super::sets::Sets;
use super::{
    AddressSet, Family, MAX_RULES, Policy, PortId, PortPolicy, Rule, SetEntry, SourceLine, standard,
};
use crate::config::GuestConfig;
use crate::config::address::link_local;
use crate::config::document::Document;
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::options::GuestOptions;
use crate::config::rule::{Flow, Interface};
use crate::diagnostic::Diagnostic;
use crate::inventory::{Guest, Nic};

/// Addresses that a NIC may use, if its IP filter is on, and the line that turned it on.
type Own = BTreeMap<u16, (Arc<AddressSet>, SourceLine)>;

/// Resolves a guest's file and builds the policy of each of its firewalled NICs.
pub(super) fn resolve(
    config: &GuestConfig,
    node: &Node<'_>,
    sets: &mut Sets,
    found: &mut Vec<Diagnostic>,
) -> Vec<PortPolicy> {
    let GuestConfig { guest, firewall } = config;
    let mut names = Names::guest(firewall, node.cluster, sets, found);
    let own = own_addresses(guest, firewall, &mut names, sets);
    let view = View {
        cluster: node.cluster,
        guest: Some(&names),
    };
    let mut reporter = Reporter::new(Arc::clone(&firewall.file), found);
    let items = lines::resolve(
        &firewall.rules,
        None,
        node.groups,
        view,
        sets,
        &mut reporter,
    );
    warn(guest, firewall, &own, &mut reporter);
    let options = &firewall.options;
    let readable = node.readable && firewall.readable;
    let firewalled = guest.nics.iter().filter(|nic| nic.firewall);
    firewalled
        .map(|nic| {
            let port = PortId {
                vmid: guest.vmid,
                net: nic.net,
            };
            if !readable {
                return unreadable(guest, nic);
            }
            let applying = items
                .iter()
                .filter(|item| item.net.is_none_or(|only| only == nic.net));
            let list =
                |direction| lines::collect(applying.clone(), node.groups, Flow::Local(direction));
            PortPolicy {
                port,
                kind: guest.kind,
                mac: nic.mac,
                macfilter: options.enable.value && options.macfilter.value && nic.mac.is_some(),
                dhcp: options.dhcp.value,
                inbound: bounded(
                    inbound(node, firewall, list(Direction::In)),
                    port,
                    &mut reporter,
                ),
                outbound: bounded(
                    outbound(
                        node,
                        firewall,
                        own.get(&nic.net),
                        list(Direction::Out),
                        sets,
                    ),
                    port,
                    &mut reporter,
                ),
            }
        })
        .collect()
}

/// A NIC whose rules are not known.
fn unreadable(guest: &Guest, nic: &Nic) -> PortPolicy {
    let policy = Policy {
        rules: vec![standard::closed(
            "standard: the configuration cannot be read",
        )],
    };
    PortPolicy {
        port: PortId {
            vmid: guest.vmid,
            net: nic.net,
        },
        kind: guest.kind,
        mac: nic.mac,
        macfilter: false,
        dhcp: false,
        inbound: policy.clone(),
        outbound: policy,
    }
}

fn set_name(net: u16) -> String {
    format!("ipfilter-net{net}")
}

/// The `ipfilter-netN` sets of the NICs whose IP filter is on; named sets get their implicit members.
fn own_addresses(
    guest: &Guest,
    firewall: &Document<GuestOptions>,
    names: &mut Names,
    sets: &mut Sets,
) -> Own {
    let mut own = Own::new();
    for nic in guest.nics.iter().filter(|nic| nic.firewall) {
        let name = set_name(nic.net);
        let written = names.set(&name).map(|set| set.entries.clone());
        let header = firewall.sets.get(name.as_str()).map(|set| set.line);
        let option = &firewall.options.ipfilter;
        if written.is_none() && !option.value {
            continue;
        }
        let is_named = written.is_some();
        let set = sets.share(
            written
                .unwrap_or_default()
                .into_iter()
                .chain(implicit(nic))
                .collect(),
        );
        if is_named {
            names.replace(&name, Arc::clone(&set));
        }
        let line = SourceLine {
            file: Arc::clone(&firewall.file),
            line: header.or(option.line).unwrap_or_default(),
        };
        own.insert(nic.net, (set, line));
    }
    own
}

/// What a NIC may always use: its link-local address, no other link-local address, a container's fixed addresses.
fn implicit(nic: &Nic) -> impl Iterator<Item = SetEntry> {
    let link_locals = SetEntry {
        net: IpNet::V6(Ipv6Net::new_assert(
            [0xfe80, 0, 0, 0, 0, 0, 0, 0].into(),
            10,
        )),
        nomatch: true,
    };
    let mac = nic.mac.map(|mac| IpAddr::V6(link_local(mac)));
    let addresses = nic.addresses.iter().copied().chain(mac);
    std::iter::once(link_locals).chain(addresses.map(|address| SetEntry::member(address.into())))
}

fn inbound(node: &Node<'_>, firewall: &Document<GuestOptions>, list: Vec<Rule>) -> Vec<Rule> {
    let options = &firewall.options;
    let allow_invalid = node.host.options.nf_conntrack_allow_invalid.value;
    let mut rules = Vec::new();
    if !allow_invalid {
        rules.push(standard::invalid());
    }
    rules.extend(node.checks(allow_invalid));
    if !options.enable.value {
        rules.push(standard::guest_off());
        return rules;
    }
    if options.dhcp.value {
        rules.extend(standard::dhcp(Direction::In));
    }
    if options.ndp.value {
        rules.push(standard::ndp(true));
    }
    rules.extend(list);
    rules.extend(standard::end(
        options.policy_in.value,
        "policy_in",
        options.log_level_in.value,
        firewall.line_of(&options.policy_in),
    ));
    rules
}

fn outbound(
    node: &Node<'_>,
    firewall: &Document<GuestOptions>,
    own: Option<&(Arc<AddressSet>, SourceLine)>,
    list: Vec<Rule>,
    sets: &mut Sets,
) -> Vec<Rule> {
    let options = &firewall.options;
    let mut rules = Vec::new();
    if !node.host.options.nf_conntrack_allow_invalid.value {
        rules.push(standard::invalid());
    }
    if !options.enable.value {
        rules.push(standard::guest_off());
        return rules;
    }
    if options.dhcp.value {
        rules.extend(standard::dhcp(Direction::Out));
    }
    if !options.radv.value {
        rules.push(standard::router_advertisement());
    }
    if let Some((own, line)) = own {
        rules.extend(standard::ip_filter(
            own,
            options.ndp.value,
            Some(line.clone()),
            sets,
        ));
    }
    if options.ndp.value {
        rules.push(standard::ndp(options.radv.value));
    }
    rules.extend(list);
    rules.extend(standard::end(
        options.policy_out.value,
        "policy_out",
        options.log_level_out.value,
        firewall.line_of(&options.policy_out),
    ));
    rules
}

/// A policy that fits, or one that drops everything.
fn bounded(rules: Vec<Rule>, port: PortId, reporter: &mut Reporter<'_>) -> Policy {
    if rules.len() <= MAX_RULES {
        return Policy { rules };
    }
    let message = format!(
        "net{} of guest {} has more than {MAX_RULES} rules in one direction",
        port.net, port.vmid
    );
    reporter.error(0, whole(message), "the NIC is closed in that direction");
    Policy {
        rules: vec![standard::closed("standard: too many rules")],
    }
}

fn whole(message: String) -> Fault {
    Fault {
        span: Span::default(),
        message,
        hint: None,
    }
}

/// Reports what is valid but hardly meant.
fn warn(guest: &Guest, firewall: &Document<GuestOptions>, own: &Own, reporter: &mut Reporter<'_>) {
    let options = &firewall.options;
    if !options.enable.value {
        return;
    }
    if options.ips.value {
        let fault = whole("intrusion prevention (`ips`) is not supported".into());
        reporter.warning(
            options.ips.line.unwrap_or_default(),
            fault,
            "packets are judged by the rules only",
        );
    }
    for line in &firewall.rules {
        let Some(Interface::Net(net, span)) = &line.interface else {
            continue;
        };
        if line.enabled && !guest.nics.iter().any(|nic| nic.net == *net && nic.firewall) {
            let fault = Fault {
                span: *span,
                message: format!(
                    "the guest has no firewalled NIC {}",
                    quote(&format!("net{net}"))
                ),
                hint: Some("set firewall=1 on the NIC".to_owned()),
            };
            reporter.warning(line.line, fault, "the rule matches nothing");
        }
    }
    for (net, (set, line)) in own {
        if !set.has(Family::V4) {
            let fault = whole(format!("{} holds no IPv4 address", set_name(*net)));
            reporter.warning(
                line.line,
                fault,
                "the guest can send no IPv4 but DHCP on this NIC",
            );
        }
    }
}
