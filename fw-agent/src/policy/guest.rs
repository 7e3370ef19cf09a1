//! The policies of one guest's NICs.
//!
//! In: a guest with its firewall file, the node's options, the resolved groups. Out: one [`PortPolicy`] per NIC with `firewall=1`. The order of
//! the steps is the reference's:
//!
//! - In: invalid, blacklist, smurfs, TCP flags; then, if the guest's firewall is on, DHCP, NDP, the guest's rules, noise, policy.
//! - Out: what is not IP; invalid; then, if the guest's firewall is on, DHCP, router advertisements, IP filter, NDP, the guest's rules, noise,
//!   policy. The steps from DHCP to the IP filter are also the guard of flows that run, if there is an IP filter.
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
    AddressSet, Family, MAX_RULES, Policy, PortId, PortPolicy, Rule, SetEntry, SourceLine, Vlans,
    standard,
};
use crate::config::GuestConfig;
use crate::config::address::{family, link_local};
use crate::config::document::Document;
use crate::config::line::{Fault, Reporter, Span, quote};
use crate::config::options::GuestOptions;
use crate::config::rule::{Flow, Interface};
use crate::diagnostic::Diagnostic;
use crate::inventory::{Guest, Nic};

/// Addresses that a NIC may use, by NIC; only those whose IP filter is on.
type Own = BTreeMap<u16, OwnAddresses>;

/// Addresses that one NIC may use.
struct OwnAddresses {
    /// As sources of IP packets.
    sources: Arc<AddressSet>,
    /// As senders of ARP; none if that is not checked.
    senders: Option<Arc<AddressSet>>,
    /// The line that turned the filter on.
    line: SourceLine,
}

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
            let macfilter = options.enable.value && options.macfilter.value && nic.mac.is_some();
            let own = own.get(&nic.net);
            let layer2 = layer2(node, firewall, own, sets);
            let guard = guard_rules(firewall, own, sets);
            PortPolicy {
                port,
                kind: guest.kind,
                mac: nic.mac,
                macfilter,
                macfilter_layer2: macfilter && node.layer2,
                vlans: vlans(options, nic),
                dhcp: options.dhcp.value,
                inbound: bounded(
                    inbound(node, firewall, list(Direction::In)),
                    port,
                    &mut reporter,
                ),
                outbound: bounded(
                    outbound(node, firewall, layer2, guard.clone(), list(Direction::Out)),
                    port,
                    &mut reporter,
                ),
                guard: own.and(guard).map(|mut rules| {
                    rules.push(standard::own_address());
                    Policy { rules }
                }),
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
        macfilter_layer2: false,
        vlans: Vlans::None,
        dhcp: false,
        inbound: policy.clone(),
        outbound: policy,
        guard: None,
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
        let senders = senders(written.iter().flatten(), nic, option.value, sets);
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
        let addresses = OwnAddresses {
            sources: set,
            senders,
            line,
        };
        own.insert(nic.net, addresses);
    }
    own
}

/// What a NIC may speak ARP for: the set's IPv4 entries, and with the option `ipfilter` a container's fixed addresses. None if there are no such.
fn senders<'e>(
    written: impl Iterator<Item = &'e SetEntry>,
    nic: &Nic,
    option: bool,
    sets: &mut Sets,
) -> Option<Arc<AddressSet>> {
    let fixed = nic.addresses.iter().filter(|_| option);
    let fixed = fixed.map(|address| SetEntry::member((*address).into()));
    let entries: Vec<SetEntry> = written
        .copied()
        .chain(fixed)
        .filter(|entry| family(&entry.net) == Family::V4)
        .collect();
    (!entries.is_empty()).then(|| sets.share(entries))
}

/// VLANs that a NIC may use.
fn vlans(options: &GuestOptions, nic: &Nic) -> Vlans {
    if !options.enable.value || !options.vlan_filter.value {
        Vlans::Any
    } else if nic.trunks.is_empty() {
        Vlans::None
    } else {
        Vlans::Only(nic.trunks.clone())
    }
}

/// Rules for what is not IP.
fn layer2(
    node: &Node<'_>,
    firewall: &Document<GuestOptions>,
    own: Option<&OwnAddresses>,
    sets: &mut Sets,
) -> Vec<Rule> {
    let options = &firewall.options;
    if !node.layer2 || !options.enable.value {
        return Vec::new();
    }
    let listed = options.layer2_protocols.value.as_deref();
    let listed = listed.map(|listed| (listed, firewall.line_of(&options.layer2_protocols)));
    let senders = own.and_then(|own| Some((own.senders.as_ref()?, own.line.clone())));
    standard::layer2(listed, senders, sets)
}

/// As what a guest may send: DHCP, router advertisements, IP filter. None if its firewall is off.
fn guard_rules(
    firewall: &Document<GuestOptions>,
    own: Option<&OwnAddresses>,
    sets: &mut Sets,
) -> Option<Vec<Rule>> {
    let options = &firewall.options;
    if !options.enable.value {
        return None;
    }
    let mut rules = Vec::new();
    if options.dhcp.value {
        rules.extend(standard::dhcp(Direction::Out));
    }
    if !options.radv.value {
        rules.push(standard::router_advertisement());
    }
    if let Some(own) = own {
        let line = Some(own.line.clone());
        let filter = standard::ip_filter(&own.sources, options.ndp.value, line, sets);
        rules.extend(filter);
    }
    Some(rules)
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
    mut rules: Vec<Rule>,
    guard: Option<Vec<Rule>>,
    list: Vec<Rule>,
) -> Vec<Rule> {
    let options = &firewall.options;
    if !node.host.options.nf_conntrack_allow_invalid.value {
        rules.push(standard::invalid());
    }
    let Some(guard) = guard else {
        rules.push(standard::guest_off());
        return rules;
    };
    rules.extend(guard);
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

/// A policy; one that does not fit is reported, and cannot be built ([`crate::image`]).
fn bounded(rules: Vec<Rule>, port: PortId, reporter: &mut Reporter<'_>) -> Policy {
    if rules.len() > MAX_RULES {
        reporter.error(0, too_many(port), "its last policy stays, or it is closed");
    }
    Policy { rules }
}

fn too_many(port: PortId) -> Fault {
    let message = format!(
        "net{} of guest {} has more than {MAX_RULES} rules in one direction",
        port.net, port.vmid
    );
    whole(message)
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
    for (net, OwnAddresses { sources, line, .. }) in own {
        if !sources.has(Family::V4) {
            let fault = whole(format!("{} holds no IPv4 address", set_name(*net)));
            reporter.warning(
                line.line,
                fault,
                "the guest can send no IPv4 but DHCP on this NIC",
            );
        }
    }
}
