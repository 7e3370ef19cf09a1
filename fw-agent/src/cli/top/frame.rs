//! What two looks at the node mean: rates, and who is first.
//!
//! In: two [`Sample`]s, the names of rules, what was seen live, and what is asked for. Out: a [`Frame`], which is drawn, printed, or written as JSON.
//! Pure. Flows count no bytes, so talkers are told by their flows. Without an earlier look there are no rates.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use fw_common::maps::{Counter, PortCounters, PortKey, RuleKey};
use fw_common::verdict::{Direction, Verdict};
use serde::Serialize;
use serde_json::Value;

use super::panes::{Order, Pane};
use super::sample::Sample;
use crate::cli::scope::{self, Scope};
use crate::live::Names;
use crate::policy::OriginKind;
use crate::trial;

/// Packets that are kept of those seen live.
const KEPT: usize = 500;

/// What was dropped while somebody looked, the latest first.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Why nobody looks, if that is so.
    pub(super) refused: Option<String>,
    /// Packets as the log's JSON objects.
    pub(super) packets: VecDeque<(PortKey, Value)>,
}

impl Live {
    pub(super) fn push(&mut self, port: PortKey, packet: Value) {
        self.packets.push_front((port, packet));
        self.packets.truncate(KEPT);
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    pub(super) guest: Option<Scope>,
    /// Those of the panes that are not as at first.
    pub(super) orders: BTreeMap<Pane, Order>,
}

impl Wish {
    pub(super) fn order(&self, pane: Pane) -> Order {
        let first = pane.orders().first().copied().unwrap_or(Order::Name);
        self.orders.get(&pane).copied().unwrap_or(first)
    }
}

/// Everything that is shown. Keys of the JSON objects are added, never renamed or removed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Frame {
    /// RFC 3339.
    pub(super) time: String,
    #[serde(flatten)]
    pub(super) head: Head,
    pub(super) guests: Vec<PortRow>,
    pub(super) talkers: Vec<TalkerRow>,
    pub(super) rules: Vec<RuleRow>,
    pub(super) drops: Drops,
}

/// How the node is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    pub(super) enabled: bool,
    pub(super) agent_running: bool,
    pub(super) generation: u64,
    pub(super) pending: bool,
    pub(super) degraded: Vec<String>,
    pub(super) flows: u64,
    pub(super) flows_max: u64,
    pub(super) half_open: u64,
    pub(super) half_open_max: u64,
    /// What rates are over; null: there are none yet.
    pub(super) interval_seconds: Option<f64>,
    /// What is on trial, and what could not be read.
    pub(super) notes: Vec<String>,
}

/// A guest's NIC, or the host.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PortRow {
    /// Null for the host.
    pub(super) guest: Option<u32>,
    pub(super) nic: Option<u16>,
    /// Of what was accepted.
    pub(super) in_bits_per_second: Option<f64>,
    pub(super) out_bits_per_second: Option<f64>,
    pub(super) packets_per_second: Option<f64>,
    pub(super) drops_per_second: Option<f64>,
    pub(super) rejects_per_second: Option<f64>,
    pub(super) packets: u64,
    pub(super) dropped: u64,
    pub(super) rejected: u64,
    pub(super) flows: u64,
    pub(super) half_open: u64,
}

/// An address at one end of a port's flows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TalkerRow {
    pub(super) address: IpAddr,
    /// It is the guest's or the host's, not that of the other end.
    pub(super) own: bool,
    pub(super) guest: Option<u32>,
    pub(super) nic: Option<u16>,
    pub(super) flows: u64,
    pub(super) half_open: u64,
    pub(super) new_per_second: Option<f64>,
}

/// A rule that has decided something.
#[derive(Clone, Debug, Serialize)]
pub(super) struct RuleRow {
    pub(super) guest: Option<u32>,
    pub(super) nic: Option<u16>,
    pub(super) direction: &'static str,
    pub(super) hits_per_second: Option<f64>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) last_seconds_ago: u64,
    pub(super) file: Option<String>,
    pub(super) line: Option<u32>,
    /// Null: in force or not, it is not in the files any more.
    pub(super) text: Option<String>,
    pub(super) group: Option<String>,
    /// The rule's number in the maps.
    pub(super) identity: String,
}

/// What is dropped.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Drops {
    /// Why packets are not seen live; null: they are.
    pub(super) not_live: Option<String>,
    /// Of the whole node; those that rules and policies drop are not among them.
    pub(super) by_reason: Vec<ReasonRow>,
    /// The latest first, as objects of the log for programs.
    pub(super) packets: Vec<Value>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct ReasonRow {
    pub(super) reason: &'static str,
    pub(super) per_second: Option<f64>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) last_seconds_ago: u64,
}

/// Seconds, or none, between two looks.
#[derive(Clone, Copy)]
struct Rate(Option<f64>);

impl Rate {
    /// Per second, to a tenth. Counters that were set back to zero count nothing.
    fn of(self, now: u64, before: u64) -> Option<f64> {
        let rate = now.saturating_sub(before) as f64 / self.0?;
        Some((rate * 10.0).round() / 10.0)
    }
}

/// What is known of a moment.
pub(super) struct Seen<'a> {
    pub(super) before: Option<&'a Sample>,
    pub(super) now: &'a Sample,
    pub(super) names: &'a Names,
    pub(super) live: &'a Live,
    pub(super) time: String,
    pub(super) notes: Vec<String>,
}

impl Frame {
    pub(super) fn of(seen: &Seen<'_>, wish: &Wish) -> Self {
        let seconds = seen.before.map(|before| {
            let nanos = seen.now.at.saturating_sub(before.at).max(1_000_000);
            nanos as f64 / 1e9
        });
        let rate = Rate(seconds);
        let mut frame = Self {
            time: seen.time.clone(),
            head: head(seen, seconds),
            guests: ports(seen, rate, wish.guest),
            talkers: talkers(seen, rate, wish.guest),
            rules: rules(seen, rate, wish.guest),
            drops: drops(seen, rate, wish.guest),
        };
        frame.sort(wish);
        frame
    }
}

fn head(seen: &Seen<'_>, seconds: Option<f64>) -> Head {
    let (now, record) = (seen.now, &seen.now.status.record);
    let own = || {
        let talkers = now.flows.by_address.iter();
        talkers.filter(|(talker, _)| talker.is_own)
    };
    let mut notes: Vec<String> = now.status.trial.iter().flat_map(on_trial).collect();
    notes.extend(seen.notes.iter().chain(&now.remarks).cloned());
    Head {
        enabled: record.enabled,
        agent_running: now.status.running,
        generation: record.generation,
        pending: now.status.pending,
        degraded: record.degraded.clone(),
        flows: own().map(|(_, talk)| talk.settled).sum(),
        flows_max: now.flows.room[0],
        half_open: own().map(|(_, talk)| talk.half_open).sum(),
        half_open_max: now.flows.room[1],
        interval_seconds: seconds.map(|seconds| (seconds * 1000.0).round() / 1000.0),
        notes,
    }
}

/// What is on trial: how long still comes first, for lines are cut.
fn on_trial(trial: &trial::Status) -> Vec<String> {
    match trial.seconds_left {
        Some(seconds) => vec![format!(
            "ON TRIAL, back in {seconds} s unless confirmed: {}",
            trial.files.join(", ")
        )],
        None => trial.lines(),
    }
}

/// Guest and NIC of a row.
fn names_of(port: PortKey) -> (Option<u32>, Option<u16>) {
    match Scope::of(port) {
        Scope::Host => (None, None),
        Scope::Guest(_) | Scope::Nic(_) => (Some(port.vmid), Some(port.net)),
    }
}

fn ports(seen: &Seen<'_>, rate: Rate, guest: Option<Scope>) -> Vec<PortRow> {
    let mut flows: BTreeMap<PortKey, (u64, u64)> = BTreeMap::new();
    for (talker, talk) in &seen.now.flows.by_address {
        if talker.is_own {
            let (settled, half_open) = flows.entry(talker.port).or_default();
            *settled += talk.settled;
            *half_open += talk.half_open;
        }
    }
    let ports = seen.now.ports.iter();
    let wanted = ports.filter(|(port, _)| scope::holds(guest, **port));
    let rows = wanted.map(|(port, now)| {
        let before = seen.before.and_then(|before| before.ports.get(port));
        let before = before.copied().unwrap_or_default();
        let of = |counted: &PortCounters, direction: Direction, verdict: Verdict| {
            counted.0[direction as usize][verdict as usize]
        };
        let bits = |direction| {
            let bytes = |counted| of(counted, direction, Verdict::Accept).bytes;
            rate.of(8 * bytes(now), 8 * bytes(&before))
        };
        let both = |counted: &PortCounters, verdict| {
            of(counted, Direction::In, verdict).packets
                + of(counted, Direction::Out, verdict).packets
        };
        let per_second = |verdict| rate.of(both(now, verdict), both(&before, verdict));
        let (guest, nic) = names_of(*port);
        let (settled, half_open) = flows.get(port).copied().unwrap_or_default();
        PortRow {
            guest,
            nic,
            in_bits_per_second: bits(Direction::In),
            out_bits_per_second: bits(Direction::Out),
            packets_per_second: per_second(Verdict::Accept),
            drops_per_second: per_second(Verdict::Drop),
            rejects_per_second: per_second(Verdict::Reject),
            packets: both(now, Verdict::Accept),
            dropped: both(now, Verdict::Drop),
            rejected: both(now, Verdict::Reject),
            flows: settled,
            half_open,
        }
    });
    rows.collect()
}

fn talkers(seen: &Seen<'_>, rate: Rate, guest: Option<Scope>) -> Vec<TalkerRow> {
    let talkers = seen.now.flows.by_address.iter();
    let wanted = talkers.filter(|(talker, _)| scope::holds(guest, talker.port));
    let rows = wanted.map(|(talker, talk)| {
        let (guest, nic) = names_of(talker.port);
        TalkerRow {
            address: talker.address,
            own: talker.is_own,
            guest,
            nic,
            flows: talk.settled + talk.half_open,
            half_open: talk.half_open,
            new_per_second: rate.of(talk.new, 0),
        }
    });
    rows.collect()
}

fn rules(seen: &Seen<'_>, rate: Rate, guest: Option<Scope>) -> Vec<RuleRow> {
    let rules = seen.now.rules.iter();
    let wanted = rules.filter(|(rule, _)| scope::holds(guest, rule.port()));
    let before = |rule: &RuleKey| -> Counter {
        let counted = seen.before.and_then(|before| before.rules.get(rule));
        counted.copied().unwrap_or_default()
    };
    let rows = wanted.map(|(rule, now)| {
        let (guest, nic) = names_of(rule.port());
        let origin = seen.names.origin(rule);
        let line = origin.and_then(|origin| origin.line.as_ref());
        let text = origin.map(|origin| origin.text.split_whitespace().collect::<Vec<_>>());
        RuleRow {
            guest,
            nic,
            direction: Direction::from_u8(rule.direction).name(),
            hits_per_second: rate.of(now.packets, before(rule).packets),
            packets: now.packets,
            bytes: now.bytes,
            last_seconds_ago: ago(seen.now, now),
            file: line.map(|line| line.file.to_string()),
            line: line.map(|line| line.line),
            text: text.map(|words| words.join(" ")),
            group: origin.and_then(|origin| match &origin.kind {
                OriginKind::Group(name) => Some(name.to_string()),
                OriginKind::Rule
                | OriginKind::Policy
                | OriginKind::Standard
                | OriginKind::Blacklist
                | OriginKind::Smurf
                | OriginKind::TcpFlags => None,
            }),
            identity: format!("{:08x}", rule.rule),
        }
    });
    rows.collect()
}

fn ago(now: &Sample, counter: &Counter) -> u64 {
    now.at.saturating_sub(counter.last) / 1_000_000_000
}

fn drops(seen: &Seen<'_>, rate: Rate, guest: Option<Scope>) -> Drops {
    let before = |index: usize| -> Counter {
        let counted = seen.before.and_then(|before| before.reasons.get(index));
        counted.map(|(_, sum)| *sum).unwrap_or_default()
    };
    let reasons = seen.now.reasons.iter().enumerate();
    let counted = reasons.filter(|(_, (_, sum))| sum.packets > 0);
    let rows = counted.map(|(index, (reason, now))| ReasonRow {
        reason: reason.name(),
        per_second: rate.of(now.packets, before(index).packets),
        packets: now.packets,
        bytes: now.bytes,
        last_seconds_ago: ago(seen.now, now),
    });
    let packets = seen.live.packets.iter();
    let wanted = packets.filter(|(port, _)| scope::holds(guest, *port));
    Drops {
        not_live: seen.live.refused.clone(),
        by_reason: rows.collect(),
        packets: wanted.map(|(_, packet)| packet.clone()).collect(),
    }
}
