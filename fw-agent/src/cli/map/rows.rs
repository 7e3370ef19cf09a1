//! One map as rows of cells. In: the pins and a map's name. Out: [`Rows`], sorted where the map itself has no order.

mod counts;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use aya::maps::{MapError, MapInfo};
use fw_common::classify::Head;
use fw_common::conntrack::{ANSWERED, State};
use fw_common::flow_filter::{BITS, Half};
use fw_common::limit::{Bucket, EPOCH};
use fw_common::maps::classes::BLACKLISTED;
use fw_common::maps::{
    ANY_VLAN, ClassKeyV4, ClassKeyV6, FragmentKey, FragmentValue, NO_VLAN, Port, PortKey, RuleWord,
    SPACE_BITS, Settings, Station, VLAN_WORDS, name, policy, port_flag, station_flag,
};
use fw_common::verdict::Direction;
use fw_common::wire::{Address, IpVersion};
use serde_json::{Value, json};

use crate::config::registry;
use crate::datapath::flow_filter::FlowFilter;
use crate::datapath::flows::{self, Entry};
use crate::datapath::pins::Pins;
use crate::datapath::{Bans, Words, monotonic};

/// A map's contents.
pub(super) struct Rows {
    /// Names of the columns; keys of the JSON objects.
    pub(super) header: &'static [&'static str],
    /// The rows.
    pub(super) cells: Vec<Vec<Value>>,
}

impl Rows {
    fn new(header: &'static [&'static str], cells: Vec<Vec<Value>>) -> Self {
        Self { header, cells }
    }

    pub(super) fn to_json(&self) -> Value {
        self.cells
            .iter()
            .map(|cells| {
                let fields = self.header.iter().zip(cells);
                let fields = fields.map(|(name, cell)| ((*name).to_owned(), cell.clone()));
                Value::Object(fields.collect())
            })
            .collect()
    }
}

/// A cell in a table.
pub(super) fn text(cell: &Value) -> String {
    match cell {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => cell.to_string(),
    }
}

/// The maps themselves.
pub(super) fn maps(pins: &Pins) -> Result<Rows> {
    let mut cells = Vec::new();
    for name in name::ALL {
        let info = MapInfo::from_pin(pins.map(name))?;
        cells.push(vec![
            json!(name),
            json!(format!("{:?}", info.map_type()?)),
            json!(info.max_entries()),
            json!(info.key_size()),
            json!(info.value_size()),
        ]);
    }
    let header = &["map", "type", "capacity", "key_bytes", "value_bytes"];
    Ok(Rows::new(header, cells))
}

/// One map.
pub(super) fn of(pins: &Pins, map: &str) -> Result<Rows> {
    match map {
        name::PORTS => ports(pins),
        name::ARENA => arena(pins),
        name::CLASSES_V4 | name::CLASSES_V6 => classes(pins, map == name::CLASSES_V6),
        name::FLOWS => flows(pins, true),
        name::HALF_OPEN => flows(pins, false),
        name::FLOW_FILTER => flow_filter(pins),
        name::FLOW_USAGE => flow_usage(pins),
        name::FRAGMENTS => fragments(pins),
        name::COUNTERS => counts::entries(pins),
        name::PORT_COUNTERS => counts::ports(pins),
        name::RULE_COUNTERS => counts::rules(pins),
        name::REJECTS => rejects(pins),
        name::LOG_LIMITS => counts::log_limits(pins),
        name::SYN_LIMITS => syn_limits(pins),
        name::LOCALS => locals(pins),
        name::STATIONS => stations(pins),
        name::BANS => bans(pins),
        name::HAS_BANS => has_bans(pins),
        name::SETTINGS => settings(pins),
        _ => Ok(Rows::new(&["records"], Vec::new())),
    }
}

fn ports(pins: &Pins) -> Result<Rows> {
    let map = pins.hash::<u32, Port>(name::PORTS)?;
    let mut ports: Vec<(u32, Port)> = map.iter().collect::<Result<_, MapError>>()?;
    ports.sort_by_key(|(ifindex, _)| *ifindex);
    let words = pins.words()?;
    let mut cells = Vec::new();
    for (ifindex, port) in ports {
        cells.push(vec![
            json!(ifindex),
            match port.flags & port_flag::HOST {
                0 => json!(port.vmid),
                _ => json!("host"),
            },
            json!(format!("net{}", port.net)),
            json!(mac(port.mac)),
            json!(port.flags & port_flag::MACFILTER != 0),
            json!(port.flags & port_flag::DHCP != 0),
            json!(port.flags & port_flag::BLACKLIST != 0),
            json!(port.flags & port_flag::REEVALUATE != 0),
            json!(port.policy[Direction::In as usize]),
            json!(port.policy[Direction::Out as usize]),
            json!(port.guard),
            json!(port.guard_epoch),
            vlans(&words, port.vlans)?,
            json!(port.space),
            json!(port.big_space),
            json!(port.prefilter),
            json!(port.epoch),
        ]);
    }
    let header = &[
        "ifindex",
        "guest",
        "nic",
        "mac",
        "macfilter",
        "dhcp",
        "blacklist",
        "reevaluate",
        "policy_in",
        "policy_out",
        "guard",
        "guard_epoch",
        "vlans",
        "space",
        "big_space",
        "prefilters",
        "epoch",
    ];
    Ok(Rows::new(header, cells))
}

/// VLANs that a port may use: `none`, `any`, or their numbers.
fn vlans(words: &Words, start: u32) -> Result<Value> {
    match start {
        NO_VLAN => return Ok(json!("none")),
        ANY_VLAN => return Ok(json!("any")),
        _ => {}
    }
    let mut numbers = Vec::new();
    for (index, word) in (0..).zip(words.read(start, VLAN_WORDS)?) {
        let set = (0..64).filter(|bit| word >> bit & 1 == 1);
        numbers.extend(set.map(|bit| index * 64 + bit));
    }
    Ok(json!(numbers))
}

/// The policies that ports refer to, rule by rule.
fn arena(pins: &Pins) -> Result<Rows> {
    let words = pins.words()?;
    let map = pins.hash::<u32, Port>(name::PORTS)?;
    let mut starts = std::collections::BTreeSet::new();
    for port in map.iter() {
        let port = port?.1;
        starts.extend(port.policy);
        starts.insert(port.guard);
    }
    let mut cells = Vec::new();
    for start in starts.into_iter().filter(|start| *start != 0) {
        let head = words.get(start)?;
        let rules = words.read(start + policy::HEAD as u32, Head(head).rules())?;
        for (number, word) in (0..).zip(rules) {
            let judgement = RuleWord(word).judgement();
            cells.push(vec![
                json!(start),
                json!(head as u32),
                json!(number + 1),
                json!(format!("{:08x}", judgement.rule)),
                json!(judgement.verdict.name()),
                json!(judgement.reason.name()),
                match judgement.log {
                    fw_common::verdict::NO_LOG => Value::Null,
                    level => json!(level),
                },
            ]);
        }
    }
    let header = &[
        "policy", "words", "number", "rule", "verdict", "reason", "log",
    ];
    Ok(Rows::new(header, cells))
}

fn classes(pins: &Pins, v6: bool) -> Result<Rows> {
    let mut rows: Vec<(u32, IpAddr, u32, u32)> = Vec::new();
    if v6 {
        for entry in pins.trie::<ClassKeyV6, u32>(name::CLASSES_V6)?.iter() {
            let (key, class) = entry?;
            let [space, a, b, c, d] = key.data();
            let address = address(IpVersion::V6, &Address([a, b, c, d]));
            let length = key.prefix_len().saturating_sub(SPACE_BITS);
            rows.push((u32::from_be(space), address, length, class));
        }
    } else {
        for entry in pins.trie::<ClassKeyV4, u32>(name::CLASSES_V4)?.iter() {
            let (key, class) = entry?;
            let [space, word] = key.data();
            let address = address(IpVersion::V4, &Address::v4(word));
            let length = key.prefix_len().saturating_sub(SPACE_BITS);
            rows.push((u32::from_be(space), address, length, class));
        }
    }
    rows.sort();
    let cells = rows.into_iter().map(|(space, address, length, class)| {
        vec![
            json!(space),
            json!(format!("{address}/{length}")),
            json!(class & !BLACKLISTED),
            json!(class & BLACKLISTED != 0),
        ]
    });
    let header = &["space", "prefix", "class", "blacklisted"];
    Ok(Rows::new(header, cells.collect()))
}

fn flows(pins: &Pins, settled: bool) -> Result<Rows> {
    let now = monotonic();
    let mut cells = Vec::new();
    for Entry { key, flow, .. } in flows::list(pins, |entry| entry.settled == settled)? {
        let version = version(key.version);
        cells.push(vec![
            json!(key.vmid),
            json!(format!("net{}", key.net)),
            json!(protocol_name(key.protocol)),
            json!(address(version, &key.local).to_string()),
            json!(key.local_port),
            json!(address(version, &key.remote).to_string()),
            json!(key.remote_port),
            json!(Direction::from_u8(flow.origin).name()),
            json!(State::from_u32(flow.state).name()),
            json!(flow.state & ANSWERED != 0),
            json!(now.saturating_sub(flow.seen) / 1_000_000_000),
            json!(flow.epoch),
            json!(format!("{:08x}", flow.rule)),
        ]);
    }
    cells.sort_by_cached_key(|cells| cells.iter().map(text).collect::<Vec<_>>());
    let header = &[
        "guest",
        "nic",
        "protocol",
        "local",
        "local_port",
        "remote",
        "remote_port",
        "origin",
        "state",
        "answered",
        "idle_seconds",
        "epoch",
        "rule",
    ];
    Ok(Rows::new(header, cells))
}

fn flow_filter(pins: &Pins) -> Result<Rows> {
    let filter = FlowFilter::open(pins)?;
    let asked = filter.asked();
    let cells = Half::ALL.map(|half| {
        vec![
            json!(half as u32),
            json!(asked == Some(half)),
            json!(filter.bits(half)),
            json!(BITS),
        ]
    });
    let header = &["half", "asked", "bits_set", "bits"];
    Ok(Rows::new(header, cells.into()))
}

fn flow_usage(pins: &Pins) -> Result<Rows> {
    let map = pins.hash::<PortKey, u64>(name::FLOW_USAGE)?;
    let mut rows: Vec<(PortKey, u64)> = map.iter().collect::<Result<_, MapError>>()?;
    rows.sort();
    let cells = rows.into_iter().map(|(port, flows)| {
        vec![
            json!(port.vmid),
            json!(format!("net{}", port.net)),
            json!(flows),
        ]
    });
    Ok(Rows::new(&["guest", "nic", "flows"], cells.collect()))
}

fn fragments(pins: &Pins) -> Result<Rows> {
    let mut cells = Vec::new();
    for entry in pins
        .hash::<FragmentKey, FragmentValue>(name::FRAGMENTS)?
        .iter()
    {
        let (key, value) = entry?;
        let is_v4 = key.source.0[..3] == Address::v4(0).0[..3];
        let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
        cells.push(vec![
            json!(key.vmid),
            json!(format!("net{}", key.net)),
            json!(Direction::from_u8(key.direction).name()),
            json!(protocol_name(key.protocol)),
            json!(address(version, &key.source).to_string()),
            json!(address(version, &key.dest).to_string()),
            json!(key.id),
            json!(value.sport),
            json!(value.dport),
        ]);
    }
    let header = &[
        "guest",
        "nic",
        "direction",
        "protocol",
        "source",
        "dest",
        "id",
        "sport",
        "dport",
    ];
    Ok(Rows::new(header, cells))
}

fn rejects(pins: &Pins) -> Result<Rows> {
    let map = pins.per_cpu::<Bucket>(name::REJECTS)?;
    let values = map.get(&0, 0)?;
    let cells = values.iter().enumerate();
    let cells =
        cells.map(|(cpu, bucket)| vec![json!(cpu), json!(bucket.empty_at.saturating_sub(EPOCH))]);
    Ok(Rows::new(&["cpu", "empty_at_ns"], cells.collect()))
}

fn syn_limits(pins: &Pins) -> Result<Rows> {
    let mut cells = Vec::new();
    for entry in pins.hash::<Address, Bucket>(name::SYN_LIMITS)?.iter() {
        let (source, bucket) = entry?;
        let is_v4 = source.0[..3] == Address::v4(0).0[..3];
        let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
        let source = address(version, &source);
        let length = if is_v4 { 32 } else { 64 };
        cells.push(vec![
            json!(format!("{source}/{length}")),
            json!(bucket.empty_at),
        ]);
    }
    Ok(Rows::new(&["source", "empty_at_ns"], cells))
}

/// The host's addresses, in order.
fn locals(pins: &Pins) -> Result<Rows> {
    let map = pins.hash::<Address, u32>(name::LOCALS)?;
    let keys = map.keys().collect::<Result<Vec<Address>, MapError>>()?;
    let mut addresses: Vec<IpAddr> = keys
        .iter()
        .map(|key| match address(IpVersion::V6, key) {
            IpAddr::V6(found) => found.to_canonical(),
            found @ IpAddr::V4(_) => found,
        })
        .collect();
    addresses.sort_unstable();
    let cells = addresses.iter().map(|found| vec![json!(found.to_string())]);
    Ok(Rows::new(&["address"], cells.collect()))
}

fn stations(pins: &Pins) -> Result<Rows> {
    let map = pins.hash::<u64, Station>(name::STATIONS)?;
    let mut stations: Vec<(u64, Station)> = map.iter().collect::<Result<_, MapError>>()?;
    stations.sort_by_key(|(mac, _)| *mac);
    let cells = stations.into_iter().map(|(number, station)| {
        let blacklist = station.flags & station_flag::BLACKLIST != 0;
        vec![json!(mac(number)), json!(blacklist)]
    });
    Ok(Rows::new(&["mac", "blacklist"], cells.collect()))
}

fn bans(pins: &Pins) -> Result<Rows> {
    let now = monotonic();
    let cells = Bans::open(pins)?.list()?.into_iter().map(|(net, ban)| {
        let left = ban.until.saturating_sub(now) / 1_000_000_000;
        vec![
            json!(net.to_string()),
            json!(ban.lasts(now)),
            match ban.until {
                0 => Value::Null,
                _ => json!(left),
            },
            json!(ban.reason),
        ]
    });
    let header = &["prefix", "lasts", "seconds_left", "reason"];
    Ok(Rows::new(header, cells.collect()))
}

fn has_bans(pins: &Pins) -> Result<Rows> {
    let some = pins.array::<u32>(name::HAS_BANS)?.get(&0, 0)?;
    Ok(Rows::new(&["has_bans"], vec![vec![json!(some != 0)]]))
}

fn settings(pins: &Pins) -> Result<Rows> {
    let settings = pins.array::<Settings>(name::SETTINGS)?.get(&0, 0)?;
    let cells = vec![
        vec![
            json!("tcp_established_seconds"),
            json!(settings.tcp_established),
        ],
        vec![json!("tcp_syn_recv_seconds"), json!(settings.tcp_syn_recv)],
        vec![json!("log_interval_ns"), json!(settings.log_interval)],
        vec![json!("log_burst"), json!(settings.log_burst)],
        vec![json!("big_space"), json!(settings.space)],
        vec![json!("prefilters"), json!(settings.prefilter)],
        vec![json!("flow_quota"), json!(settings.flow_quota)],
        vec![json!("syn_interval_ns"), json!(settings.syn_interval)],
        vec![json!("syn_burst"), json!(settings.syn_burst)],
    ];
    Ok(Rows::new(&["setting", "value"], cells))
}

fn mac(number: u64) -> String {
    let [_, _, bytes @ ..] = number.to_be_bytes();
    let parts: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

fn version(number: u8) -> IpVersion {
    match number {
        4 => IpVersion::V4,
        _ => IpVersion::V6,
    }
}

fn address(version: IpVersion, address: &Address) -> IpAddr {
    match version {
        IpVersion::V4 => Ipv4Addr::from(u32::from_be(address.0[3])).into(),
        IpVersion::V6 | IpVersion::None => {
            let number = address.0.iter().fold(0_u128, |number, word| {
                number << 32 | u128::from(u32::from_be(*word))
            });
            Ipv6Addr::from(number).into()
        }
    }
}

fn protocol_name(number: u8) -> String {
    registry::protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}
