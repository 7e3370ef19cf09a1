//! `fwctl rules`: the rules in force, in order, with what they have decided.
//!
//! In: the configuration (rules, lines, comments) and the pinned counters, which are kept by a rule's text: they are right although rules around
//! it were added or removed, and without an agent. Out: one table per port and direction, or one JSON list.
//!
//! Numbers are those of `fwctl compile`. Two rules with the same text that are for different interfaces of the host share a counter, and say so.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;

use anyhow::Result;
use fw_common::maps::{Counter, PortKey, RuleKey};
use fw_common::verdict::Direction;
use jiff::Timestamp;
use serde::Serialize;

use super::scope::{self, Scope};
use super::{Outcome, Place, duration, table};
use crate::compile::{Compiled, compile};
use crate::config::Sources;
use crate::datapath::pins::Pins;
use crate::datapath::{counters, sweep};
use crate::image::directions;
use crate::policy::{OriginKind, Policy};
use crate::reconcile::unix_time;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// `host`, a guest such as `100`, or one of its NICs such as `100/net0` [default: all].
    scope: Option<Scope>,
    /// Only rules that have decided nothing for this long, such as 30d or 12h. A rule that is younger than that is among them.
    #[arg(long, value_name = "TIME", value_parser = |text: &str| duration::seconds(text).map_err(|error| format!("{error:#}")))]
    unused: Option<u64>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON. Keys are added, never renamed or removed.
#[derive(Debug, Serialize)]
struct Listing {
    /// RFC 3339: when counting began; null if nothing is counted.
    since: Option<String>,
    rules: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// `host`, or the guest's number.
    guest: String,
    nic: Option<String>,
    device: Option<String>,
    direction: &'static str,
    number: usize,
    verdict: &'static str,
    reason: &'static str,
    /// Null: nothing counts, for the firewall is not loaded.
    packets: Option<u64>,
    bytes: Option<u64>,
    /// Null: never.
    last_hit_seconds_ago: Option<u64>,
    /// The numbers are those of this rule and of others with the same text.
    shared: bool,
    file: Option<String>,
    line: Option<u32>,
    text: String,
    group: Option<String>,
    comment: Option<String>,
    log: Option<u8>,
    /// The conditions, names resolved.
    matches: String,
}

/// A port's rules in one direction.
struct List<'a> {
    port: PortKey,
    device: Option<String>,
    direction: Direction,
    policy: &'a Policy,
    /// Numbers that each rule's counters have.
    identities: Vec<BTreeSet<u32>>,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let sources = place.sources()?;
    let compiled = compile(&sources, &place.facts()?, unix_time());
    let pins = Pins::new(&place.pin_dir);
    let counted = match pins.exist() {
        true => Some(counters::rules(&pins)?),
        false if arguments.unused.is_some() => return place.pins().map(|_| Outcome::Done),
        false => {
            eprintln!("fwctl: the firewall is not loaded, nothing is counted");
            None
        }
    };
    let since = counters::since(&pins).filter(|_| counted.is_some());
    let since = since.and_then(|since| Timestamp::try_from(since).ok());
    if let (Some(since), Some(unused)) = (since, arguments.unused) {
        let counting = Timestamp::now().duration_since(since).as_secs();
        if counting.unsigned_abs() < unused {
            let counting = duration::short(counting.unsigned_abs());
            eprintln!(
                "fwctl: has been counting for {counting} only: rules may have been used before"
            );
        }
    }
    let mut groups = Vec::new();
    for list in lists(&compiled) {
        if !scope::holds(arguments.scope, list.port) {
            continue;
        }
        let mut rows = rows(&list, counted.as_ref(), &sources);
        if let Some(unused) = arguments.unused {
            rows.retain(|row| row.last_hit_seconds_ago.is_none_or(|ago| ago >= unused));
        }
        groups.push((list, rows));
    }
    if groups.is_empty()
        && let Some(scope) = arguments.scope
    {
        let ports = lists(&compiled).into_iter().map(|list| list.port);
        let known = scope::unknown(scope, ports).unwrap_or_default();
        anyhow::bail!("{scope} has no rules, its firewall is off or it does not exist: {known}");
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let listing = Listing {
            since: since.map(|since| since.to_string()),
            rules: groups.into_iter().flat_map(|(_, rows)| rows).collect(),
        };
        serde_json::to_writer_pretty(&mut out, &listing)?;
        writeln!(out)?;
    } else {
        for (list, rows) in &groups {
            print(&mut out, list, rows)?;
        }
    }
    if let Outcome::Diagnostics = Outcome::of(&compiled.diagnostics, false) {
        eprintln!("fwctl: some lines are not enforced: see `fwctl check`");
        return Ok(Outcome::Diagnostics);
    }
    Ok(Outcome::Done)
}

/// The rules of the host and of every port.
fn lists(compiled: &Compiled) -> Vec<List<'_>> {
    let (policy, image) = (&compiled.policy, &compiled.image);
    let mut lists = Vec::new();
    if !policy.enabled {
        return lists;
    }
    if let Some(host) = &policy.host {
        for direction in [Direction::In, Direction::Out] {
            let policy = host.of(direction);
            let mut identities = vec![BTreeSet::new(); policy.rules.len()];
            let interfaces = image.host.iter().flat_map(|image| image.interfaces.keys());
            for interface in interfaces.map(|name| &**name).chain([""]) {
                let Some(image) = &image.host else { break };
                let index = image.on(interface)[direction as usize];
                let numbers = compiled.image.policies.get(index);
                let numbers = numbers.into_iter().flat_map(|policy| &policy.rules);
                for ((place, _), number) in host.applying(interface, direction).zip(numbers) {
                    identities[place].insert(*number);
                }
            }
            lists.push(List {
                port: PortKey::default(),
                device: None,
                direction,
                policy,
                identities,
            });
        }
    }
    for port in &policy.ports {
        let built = image.ports.get(&port.port);
        for (direction, policy) in directions(port) {
            let index = built.map(|built| built.policies[direction as usize]);
            let numbers = index.and_then(|index| image.policies.get(index));
            let numbers = numbers.map(|policy| policy.rules.iter().map(|number| [*number].into()));
            lists.push(List {
                port: PortKey {
                    vmid: port.port.vmid,
                    net: port.port.net,
                    reserved: 0,
                },
                device: Some(port.device()),
                direction,
                policy,
                identities: numbers.map_or_else(Vec::new, Iterator::collect),
            });
        }
    }
    lists
}

fn rows(
    list: &List<'_>,
    counted: Option<&BTreeMap<RuleKey, Counter>>,
    sources: &Sources,
) -> Vec<Row> {
    let now = sweep::now();
    let mut users = HashMap::new();
    for number in list.identities.iter().flatten() {
        *users.entry(*number).or_insert(0_u32) += 1;
    }
    let is_host = list.device.is_none();
    let rules = list.policy.rules.iter().enumerate();
    let rows = rules.map(|(place, rule)| {
        let numbers = list.identities.get(place);
        let numbers = || numbers.into_iter().flatten();
        let sum = counted.map(|counted| {
            let keys = numbers().map(|rule| RuleKey {
                vmid: list.port.vmid,
                rule: *rule,
                net: list.port.net,
                direction: list.direction as u8,
                reserved: 0,
            });
            Counter::sum(keys.filter_map(|key| counted.get(&key)))
        });
        let line = rule.origin.line.as_ref();
        Row {
            guest: match is_host {
                true => "host".to_owned(),
                false => list.port.vmid.to_string(),
            },
            nic: (!is_host).then(|| format!("net{}", list.port.net)),
            device: list.device.clone(),
            direction: list.direction.name(),
            number: place + 1,
            verdict: rule.verdict.name(),
            reason: rule.reason.name(),
            packets: sum.map(|sum| sum.packets),
            bytes: sum.map(|sum| sum.bytes),
            last_hit_seconds_ago: sum
                .filter(|sum| sum.last != 0)
                .map(|sum| now.saturating_sub(sum.last) / 1_000_000_000),
            shared: numbers().any(|number| users.get(number).is_some_and(|users| *users > 1)),
            file: line.map(|line| line.file.to_string()),
            line: line.map(|line| line.line),
            text: rule.origin.text.to_string(),
            group: match &rule.origin.kind {
                OriginKind::Group(name) => Some(name.to_string()),
                OriginKind::Rule
                | OriginKind::Policy
                | OriginKind::Standard
                | OriginKind::Blacklist
                | OriginKind::Smurf
                | OriginKind::TcpFlags => None,
            },
            comment: line.and_then(|line| comment(sources, &line.file, line.line)),
            log: rule.log,
            matches: rule.matches.to_string().trim_end().to_owned(),
        }
    });
    rows.collect()
}

/// What stands behind the `#` of a line.
fn comment(sources: &Sources, file: &str, line: u32) -> Option<String> {
    let text = sources.text(file)?;
    let line = text.lines().nth(line.checked_sub(1)? as usize)?;
    let (_, comment) = line.split_once('#')?;
    Some(comment.trim().to_owned()).filter(|comment| !comment.is_empty())
}

fn print(out: &mut impl Write, list: &List<'_>, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    match &list.device {
        None => writeln!(out, "host {}", list.direction.name())?,
        Some(device) => writeln!(
            out,
            "{}/net{} ({device}) {}",
            list.port.vmid,
            list.port.net,
            list.direction.name()
        )?,
    }
    let mut lines = table([
        "#", "packets", "bytes", "last hit", "verdict", "rule", "from", "comment",
    ]);
    for row in rows {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
        let shared = if row.shared { "*" } else { "" };
        let last = match (row.packets, row.last_hit_seconds_ago) {
            (None, _) => "-".to_owned(),
            (Some(_), None) => "never".to_owned(),
            (Some(_), Some(ago)) => format!("{} ago", duration::short(ago)),
        };
        let group = row.group.as_ref();
        let group = group.map_or_else(String::new, |group| format!("[{group}] "));
        let from = match (&row.file, row.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(_), None) | (None, _) => String::new(),
        };
        lines.add_row([
            row.number.to_string(),
            number(row.packets) + shared,
            number(row.bytes) + shared,
            last,
            row.verdict.to_owned(),
            format!(
                "{group}{}",
                row.text.split_whitespace().collect::<Vec<_>>().join(" ")
            ),
            from,
            row.comment.clone().unwrap_or_default(),
        ]);
    }
    writeln!(
        out,
        "{}",
        lines
            .to_string()
            .lines()
            .map(str::trim_end)
            .collect::<Vec<_>>()
            .join("\n")
    )?;
    if rows.iter().any(|row| row.shared) {
        writeln!(
            out,
            "  * counted together with other rules of the same text"
        )?;
    }
    writeln!(out)?;
    Ok(())
}
