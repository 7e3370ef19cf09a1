//! The policies of one guest's NICs.
//!
//! In: a guest with its firewall file, the node's options, the resolved groups. Out: one [`PortPolicy`] per NIC with `firewall=1`. The order of
//! the steps is the reference's:
//!
//! - In: invalid, blacklist, smurfs, TCP flags; then, if the guest's firewall is on, DHCP, NDP, the guest's rules, noise, policy.
//! - Out: invalid; then, if the guest's firewall is on, DHCP, router advertisements, IP filter, NDP, the guest's rules, noise, policy.
//!
//! Known difference: the reference appends the implicit members of an `ipfilter-netN` set; here an entry in the file wins over them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use fw_common::verdict::{Direction, Verdict};
use ipnet::{IpNet, Ipv6Net};

use super::lines::{self, Groups, Item, Step};
use super::names::{Names, View};
use super::sets::Sets;
use super::{
    AddressSet, Family, MAX_RULES, Policy, PortId, PortPolicy, Rule, SetEntry, SourceLine, standard,
};
use crate::config::GuestConfig;
use crate::config::address::link_local;
use crate::config::document::Document;
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::options::{GuestOptions, HostOptions, Setting};
use crate::config::rule::Interface;
use crate::diagnostic::Diagnostic;
use crate::inventory::{Guest, Nic};

/// What every guest of the node has in common.
#[derive(Debug)]
pub(super) struct Node<'a> {
    /// The cluster's file could be read.
    pub(super) readable: bool,
    pub(super) host: &'a Document<HostOptions>,
    pub(super) cluster: &'a Names,
    pub(super) groups: &'a Groups,
    /// The cluster's blacklist and the line of its header.
    pub(super) blacklist: Option<(Arc<AddressSet>, Option<SourceLine>)>,
}

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
            let list = |direction| collect(&items, node.groups, nic.net, direction);
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
        let set = sets.share(implicit(nic).chain(written.unwrap_or_default()).collect());
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

/// The rules that hold for one NIC and direction, groups in place; one more than fit at most.
fn collect(items: &[Item], groups: &Groups, net: u16, direction: Direction) -> Vec<Rule> {
    let applies = |item: &&Item| item.net.is_none_or(|only| only == net);
    let mut rules = Vec::new();
    for item in items.iter().filter(applies) {
        match &item.step {
            Step::Rule(of, rule) if *of == direction => rules.push(rule.clone()),
            Step::Rule(..) => {}
            Step::Group(name) => {
                let room = (MAX_RULES + 1).saturating_sub(rules.len());
                let members = groups.get(name).into_iter().flatten();
                let members = members.filter_map(|member| match &member.step {
                    Step::Rule(of, rule) if *of == direction => Some(rule.clone()),
                    Step::Rule(..) | Step::Group(_) => None,
                });
                rules.extend(members.take(room));
            }
        }
    }
    rules
}

fn inbound(node: &Node<'_>, firewall: &Document<GuestOptions>, list: Vec<Rule>) -> Vec<Rule> {
    let host = &node.host.options;
    let options = &firewall.options;
    let allow_invalid = host.nf_conntrack_allow_invalid.value;
    let mut rules = Vec::new();
    if !allow_invalid {
        rules.push(standard::invalid());
    }
    if let Some((set, line)) = &node.blacklist {
        rules.push(standard::blacklist(
            Arc::clone(set),
            host.log_level_in.value,
            line.clone(),
        ));
    }
    if host.nosmurfs.value {
        rules.extend(standard::smurfs(
            allow_invalid,
            host.smurf_log_level.value,
            place(node.host, &host.nosmurfs),
        ));
    }
    if host.tcpflags.value {
        rules.push(standard::tcp_flags(
            host.tcp_flags_log_level.value,
            place(node.host, &host.tcpflags),
        ));
    }
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
    rules.extend(end(
        firewall,
        &options.policy_in,
        "policy_in",
        options.log_level_in.value,
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
    rules.extend(end(
        firewall,
        &options.policy_out,
        "policy_out",
        options.log_level_out.value,
    ));
    rules
}

/// Noise and policy.
fn end(
    firewall: &Document<GuestOptions>,
    policy: &Setting<Verdict>,
    option: &str,
    log: Option<u8>,
) -> Vec<Rule> {
    let mut rules = match policy.value {
        Verdict::Accept => Vec::new(),
        Verdict::Drop | Verdict::Reject => standard::noise(policy.value),
    };
    rules.push(standard::policy(
        policy.value,
        option,
        log,
        place(firewall, policy),
    ));
    rules
}

/// The line that set an option.
fn place<O, T>(document: &Document<O>, setting: &Setting<T>) -> Option<SourceLine> {
    setting.line.map(|line| SourceLine {
        file: Arc::clone(&document.file),
        line,
    })
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
