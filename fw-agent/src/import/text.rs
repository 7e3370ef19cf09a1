//! Steps as lines of a firewall file.
//!
//! In: the list of a chain and family. Out: an [`Entry`] for each step, in order: rules, and comments for what is left out. [`merge`] joins the lists of both families:
//! a rule that is the same in both is written once.

use fw_common::verdict::Verdict;

use super::condition::{Addresses, Condition, Ports, networks};
use crate::config::icmp::{self, IcmpType};
use crate::config::registry::{ICMP, ICMPV6, protocol_name};
use crate::policy::Family;

/// Numbers of ports in one rule, a range counting as two, that pve-firewall takes.
const PORTS: usize = 15;

/// Syslog levels by number.
const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];

/// One place of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Lines.
    pub lines: Vec<String>,
    /// The lines if they were for both families; none if they cannot be.
    pub neutral: Option<Vec<String>>,
    /// How many of the lines are rules.
    pub rules: usize,
}

/// What a rule of the output says besides its conditions.
#[derive(Clone, Copy, Debug)]
pub struct Saying<'a> {
    /// `IN`, `OUT` or `FORWARD`.
    pub direction: &'a str,
    /// What it does.
    pub verdict: Verdict,
    /// Syslog level.
    pub log: Option<u8>,
    /// Behind the rule.
    pub comment: Option<&'a str>,
}

/// A rule, as several lines if it has too many ports for one.
pub fn rule(condition: &Condition, family: Family, saying: Saying<'_>) -> Entry {
    let sports = portions(condition.sport.as_ref());
    let dports = portions(condition.dport.as_ref());
    let mut lines = Vec::new();
    let mut neutral = Vec::new();
    for (sport, dport) in sports
        .iter()
        .flat_map(|sport| dports.iter().map(move |dport| (sport, dport)))
    {
        let (with, without) = line(condition, family, saying, [sport, dport]);
        lines.push(with);
        neutral.extend(without);
    }
    Entry {
        neutral: (neutral.len() == lines.len()).then_some(neutral),
        rules: lines.len(),
        lines,
    }
}

/// A comment.
pub fn comment(text: &str) -> Entry {
    Entry {
        lines: vec![format!("# {text}")],
        neutral: None,
        rules: 0,
    }
}

/// The line, and the one without its family if it has one only for that.
fn line(
    condition: &Condition,
    family: Family,
    saying: Saying<'_>,
    [sport, dport]: [&Option<String>; 2],
) -> (String, Option<String>) {
    let verdict = match saying.verdict {
        Verdict::Accept => "ACCEPT",
        Verdict::Drop => "DROP",
        Verdict::Reject => "REJECT",
    };
    let mut text = format!("{} {verdict}", saying.direction);
    let mut option = |name: &str, value: &str| text.push_str(&format!(" -{name} {value}"));
    if let Some(interface) = &condition.interface {
        option("i", interface);
    }
    let mut is_of_family = false;
    if let Some(protocol) = condition.protocol {
        let own = match family {
            Family::V4 => ICMP,
            Family::V6 => ICMPV6,
        };
        is_of_family |= protocol == own;
        match (protocol, protocol_name(protocol)) {
            // By name they are of their family.
            (ICMP | ICMPV6, _) if protocol != own => option("p", &protocol.to_string()),
            (_, Some(name)) => option("p", name),
            (_, None) => option("p", &protocol.to_string()),
        }
    }
    if let Some((kind, code)) = condition.icmp {
        option("icmp-type", &icmp_name(kind, code, family));
    }
    for (name, ports) in [("sport", sport), ("dport", dport)] {
        if let Some(ports) = ports {
            option(name, ports);
        }
    }
    for (name, addresses) in [("source", &condition.source), ("dest", &condition.dest)] {
        match addresses {
            Addresses::Any => {}
            Addresses::Set(set) => {
                is_of_family = true;
                option(name, &format!("+{set}"));
            }
            Addresses::Ranges(ranges) => {
                is_of_family = true;
                let nets = networks(ranges, family).into_iter();
                let nets: Vec<_> = nets.map(shown).collect();
                option(name, &nets.join(","));
            }
        }
    }
    let mut end = String::new();
    if let Some(level) = saying.log.and_then(|level| LEVELS.get(usize::from(level))) {
        end.push_str(&format!(" -log {level}"));
    }
    if let Some(comment) = saying.comment {
        let comment: String = comment
            .chars()
            .filter(|letter| !letter.is_control())
            .collect();
        end.push_str(&format!(" # {}", comment.trim()));
    }
    let every = match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    };
    match is_of_family {
        true => (text + &end, None),
        false => (format!("{text} -source {every}{end}"), Some(text + &end)),
    }
}

/// A network as files have it: a single address without its length.
pub fn shown(net: ipnet::IpNet) -> String {
    match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    }
}

fn icmp_name(kind: u8, code: Option<u8>, family: Family) -> String {
    let wanted = IcmpType {
        kind: Some(kind),
        code,
    };
    let mut names = icmp::names(family).filter(|name| icmp::is_plain_name(name, family));
    match (
        names.find(|name| icmp::parse(name, family) == Some(wanted)),
        code,
    ) {
        (Some(name), _) => name.to_owned(),
        (None, Some(code)) => format!("{kind}/{code}"),
        (None, None) => kind.to_string(),
    }
}

/// Ports as texts of which none is too long for a rule; one without ports if there are none.
fn portions(ports: Option<&Ports>) -> Vec<Option<String>> {
    let Some(ports) = ports else {
        return vec![None];
    };
    let mut portions: Vec<(usize, String)> = Vec::new();
    for (first, last) in ports {
        // A single 0 means any port in these files.
        let (text, count) = match first == last && *first != 0 {
            true => (first.to_string(), 1),
            false => (format!("{first}:{last}"), 2),
        };
        match portions.last_mut() {
            Some((had, portion)) if *had + count <= PORTS => {
                portion.push_str(&format!(",{text}"));
                *had += count;
            }
            Some(_) | None => portions.push((count, text)),
        }
    }
    portions.into_iter().map(|(_, text)| Some(text)).collect()
}

/// One list of both families' rules. Their packets are different ones, so only the order within each matters.
pub fn merge(v4: Vec<Entry>, v6: Vec<Entry>) -> Vec<Entry> {
    let mut merged = Vec::new();
    let mut others = v6.into_iter().collect::<std::collections::VecDeque<_>>();
    for mut entry in v4 {
        let same = entry.neutral.as_ref().and_then(|neutral| {
            others
                .iter()
                .position(|other| other.neutral.as_ref() == Some(neutral))
        });
        if let (Some(at), Some(neutral)) = (same, entry.neutral.take()) {
            merged.extend(others.drain(..at));
            others.pop_front();
            entry.lines = neutral;
        }
        merged.push(entry);
    }
    merged.extend(others);
    merged
}
