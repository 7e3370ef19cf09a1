//! The sets that SDN makes: `+sdn/…`.
//!
//! In: `sdn/.running-config` (what the SDN configuration was when it was last applied) and the state of the built-in IPAM. Out: sets by name,
//! to be resolved as the cluster's own: per VNet `<vnet>-all` (its subnets), `<vnet>-gateway`, `<vnet>-no-gateway` (its subnets without the
//! gateways) and `<vnet>-dhcp` (its DHCP ranges), and per guest `guest-ipam-<vmid>`.
//!
//! A subnet's network is part of its identifier (`<zone>-<address>-<length>`). What cannot be read is reported and left out; nothing else
//! changes. Keys that do not concern these sets are not looked at.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::Sources;
use super::address::{parse_item, parse_net};
use super::document::{Entry, IpSet, Member};
use super::line::{Fault, Reporter, Span, quote};
use crate::diagnostic::Diagnostic;

/// The applied configuration of SDN.
pub const RUNNING_CONFIG: &str = "sdn/.running-config";
/// The state of the built-in IPAM …
pub const IPAM_STATE: &str = "sdn/pve-ipam-state.json";
/// … and where older versions kept it.
pub const LEGACY_IPAM_STATE: &str = "priv/ipam.db";

/// Every file that [`parse`] reads.
pub(super) const FILES: [&str; 3] = [RUNNING_CONFIG, IPAM_STATE, LEGACY_IPAM_STATE];

/// Sets by name.
pub type SdnSets = BTreeMap<Arc<str>, IpSet>;

const LEFT_OUT: &str = "the SDN sets are made without it";

/// Reads both files.
pub(super) fn parse(sources: &Sources, found: &mut Vec<Diagnostic>) -> SdnSets {
    let mut sets = SdnSets::new();
    if let Some(config) = read_json(sources, RUNNING_CONFIG, found) {
        let mut reporter = Reporter::new(RUNNING_CONFIG.into(), found);
        vnets(&config, &mut sets, &mut reporter);
    }
    let state = match sources.files.contains_key(IPAM_STATE) {
        true => IPAM_STATE,
        false => LEGACY_IPAM_STATE,
    };
    if let Some(config) = read_json(sources, state, found) {
        let mut reporter = Reporter::new(state.into(), found);
        ipam(&config, &mut sets, &mut reporter);
    }
    sets
}

/// A file of JSON, if it exists and is one.
pub(crate) fn read_json(
    sources: &Sources,
    path: &str,
    found: &mut Vec<Diagnostic>,
) -> Option<Value> {
    let bytes = sources.files.get(path).filter(|bytes| !bytes.is_empty())?;
    match serde_json::from_slice(bytes) {
        Ok(value) => Some(value),
        Err(error) => {
            let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
            let fault = Fault {
                span: Span {
                    column: number(error.column()),
                    length: 1,
                },
                message: format!("the file is not JSON: {error}"),
                hint: None,
            };
            Reporter::new(path.into(), found).error(
                number(error.line()),
                fault,
                "the file counts as empty",
            );
            None
        }
    }
}

fn vnets(config: &Value, sets: &mut SdnSets, reporter: &mut Reporter<'_>) {
    let zones: BTreeMap<&str, Option<&str>> = ids(config, "vnets")
        .map(|(vnet, value)| (vnet, value.get("zone").and_then(Value::as_str)))
        .collect();
    for vnet in zones.keys() {
        for kind in ["all", "gateway", "no-gateway", "dhcp"] {
            sets.insert(set_name(vnet, kind), IpSet::default());
        }
    }
    for (id, subnet) in ids(config, "subnets") {
        let vnet = subnet.get("vnet").and_then(Value::as_str);
        let Some((vnet, zone)) = vnet.and_then(|vnet| zones.get_key_value(vnet)) else {
            report(reporter, format!("subnet {} has no known VNet", quote(id)));
            continue;
        };
        let Some(net) = network(id, *zone) else {
            report(reporter, format!("{} is not a subnet", quote(id)));
            continue;
        };
        let mut add = |kind: &str, nomatch: bool, net: IpNet| {
            let set = sets.entry(set_name(vnet, kind)).or_default();
            set.entries.push(entry(net, nomatch));
        };
        add("all", false, net);
        add("no-gateway", false, net);
        if let Some(gateway) = subnet.get("gateway").and_then(Value::as_str) {
            match gateway.parse::<IpAddr>() {
                Ok(gateway) => {
                    add("gateway", false, gateway.into());
                    add("no-gateway", true, gateway.into());
                }
                Err(_) => report(reporter, format!("{} is not a gateway", quote(gateway))),
            }
        }
        for range in subnet.get("dhcp-range").into_iter().flat_map(items) {
            let read = dhcp_range(range)
                .is_some_and(|range| parse_item(&range, |net| add("dhcp", false, net)).is_ok());
            if !read {
                report(
                    reporter,
                    format!("a DHCP range of {} cannot be read", quote(id)),
                );
            }
        }
    }
}

fn ipam(state: &Value, sets: &mut SdnSets, reporter: &mut Reporter<'_>) {
    let below = |value: &'_ Value, key: &str| object(value.get(key)).cloned().unwrap_or_default();
    for (_, zone) in &below(state, "zones") {
        for (_, subnet) in &below(zone, "subnets") {
            for (address, of) in object(subnet.get("ips")).into_iter().flatten() {
                let vmid = match of.get("vmid") {
                    Some(Value::String(text)) => text.parse().ok(),
                    Some(Value::Number(number)) => number.as_u64(),
                    Some(Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_))
                    | None => None,
                };
                let Some(vmid) = vmid else { continue };
                match address.parse::<IpAddr>() {
                    Ok(address) => sets
                        .entry(format!("guest-ipam-{vmid}").into())
                        .or_default()
                        .entries
                        .push(entry(address.into(), false)),
                    Err(_) => report(reporter, format!("{} is not an address", quote(address))),
                }
            }
        }
    }
}

fn report(reporter: &mut Reporter<'_>, message: String) {
    let fault = Fault {
        span: Span::default(),
        message,
        hint: None,
    };
    reporter.error(0, fault, LEFT_OUT);
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// The objects of one kind by identifier.
fn ids<'a>(config: &'a Value, kind: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let of_kind = config.get(kind).and_then(|kind| kind.get("ids"));
    object(of_kind)
        .into_iter()
        .flatten()
        .map(|(id, value)| (id.as_str(), value))
}

/// The elements of a list; anything else is a list of one.
fn items(value: &Value) -> &[Value] {
    value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice)
}

fn set_name(vnet: &str, kind: &str) -> Arc<str> {
    format!("{}-{kind}", vnet.to_ascii_lowercase()).into()
}

fn entry(net: IpNet, nomatch: bool) -> Entry {
    Entry {
        line: 0,
        nomatch,
        member: Member::Net(net),
    }
}

/// The network in a subnet's identifier.
fn network(id: &str, zone: Option<&str>) -> Option<IpNet> {
    let rest = match zone {
        Some(zone) => id.strip_prefix(zone)?.strip_prefix('-')?,
        None => id.split_once('-')?.1,
    };
    let (address, length) = rest.rsplit_once('-')?;
    parse_net(&format!("{address}/{length}")).ok()
}

/// `start-address=…,end-address=…`, as text or as an object, becomes `first-last`.
fn dhcp_range(value: &Value) -> Option<String> {
    let part = |key: &str| match value.as_str() {
        Some(text) => text
            .split(',')
            .filter_map(|item| item.trim_ascii().split_once('='))
            .find_map(|(name, value)| (name == key).then_some(value)),
        None => value.get(key)?.as_str(),
    };
    Some(format!(
        "{}-{}",
        part("start-address")?,
        part("end-address")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: &str, state: &str, expect: &[&str], reports: &[&str]) {
        let mut sources = Sources::default();
        for (path, text) in [(RUNNING_CONFIG, config), (IPAM_STATE, state)] {
            sources.files.insert(path.into(), text.to_owned().into());
        }
        let mut found = Vec::new();
        let sets = parse(&sources, &mut found);
        let text = |(name, set): (&Arc<str>, &IpSet)| {
            let entries = set.entries.iter().map(|entry| match &entry.member {
                Member::Net(net) if entry.nomatch => format!(" !{net}"),
                Member::Net(net) => format!(" {net}"),
                Member::Alias(_) => unreachable!("SDN has no aliases"),
            });
            format!("{name}:{}", entries.collect::<String>())
        };
        assert_eq!(sets.iter().map(text).collect::<Vec<_>>(), expect);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, reports);
    }

    #[test]
    fn sets_of_vnets_and_guests() {
        check(
            r#"{"version":3,"zones":{"ids":{"z-1":{"type":"simple"}}},"vnets":{"ids":{"Blue":{"zone":"z-1","type":"vnet"},"empty":{"zone":"z-1"}}},
               "subnets":{"ids":{
                 "z-1-10.0.0.0-24":{"vnet":"Blue","gateway":"10.0.0.1","dhcp-range":["start-address=10.0.0.8,end-address=10.0.0.11"]},
                 "z-1-fd00::-64":{"vnet":"Blue","gateway":"fd00::1","dhcp-range":[{"start-address":"fd00::10","end-address":"fd00::1f"}]}}}}"#,
            r#"{"zones":{"z-1":{"subnets":{"10.0.0.0/24":{"ips":{"10.0.0.1":{"gateway":1},"10.0.0.9":{"vmid":"100","mac":"x"},"10.0.0.10":{"vmid":101}}},
               "fd00::/64":{"ips":{"fd00::9":{"vmid":100}}}}}}}"#,
            &[
                "blue-all: 10.0.0.0/24 fd00::/64",
                "blue-dhcp: 10.0.0.8/30 fd00::10/124",
                "blue-gateway: 10.0.0.1/32 fd00::1/128",
                "blue-no-gateway: 10.0.0.0/24 !10.0.0.1/32 fd00::/64 !fd00::1/128",
                "empty-all:",
                "empty-dhcp:",
                "empty-gateway:",
                "empty-no-gateway:",
                "guest-ipam-100: 10.0.0.9/32 fd00::9/128",
                "guest-ipam-101: 10.0.0.10/32",
            ],
            &[],
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let out = "the SDN sets are made without it";
        check(
            r#"{"vnets":{"ids":{"v1":{"zone":"z1"}}},"subnets":{"ids":{"z1-10.0.0.0-24":{"vnet":"v1","gateway":"x","dhcp-range":["start-address=1"]},"z1-x-24":{"vnet":"v1"},"z1-10.1.0.0-24":{}}}}"#,
            r#"{"zones":{"z1":{"subnets":{"s":{"ips":{"y":{"vmid":1}}}}}}}"#,
            &[
                "v1-all: 10.0.0.0/24",
                "v1-dhcp:",
                "v1-gateway:",
                "v1-no-gateway: 10.0.0.0/24",
            ],
            &[
                &format!("{RUNNING_CONFIG}: error: `x` is not a gateway; {out}"),
                &format!(
                    "{RUNNING_CONFIG}: error: a DHCP range of `z1-10.0.0.0-24` cannot be read; {out}"
                ),
                &format!(
                    "{RUNNING_CONFIG}: error: subnet `z1-10.1.0.0-24` has no known VNet; {out}"
                ),
                &format!("{RUNNING_CONFIG}: error: `z1-x-24` is not a subnet; {out}"),
                &format!("{IPAM_STATE}: error: `y` is not an address; {out}"),
            ],
        );
        check(
            "[]",
            "{\n  oops",
            &[],
            &[&format!(
                "{IPAM_STATE}:2:3: error: the file is not JSON: key must be a string at line 2 column 3; the file counts as empty"
            )],
        );
    }
}
