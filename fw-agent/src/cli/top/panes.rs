//! The four lists: what each is called, what it may be sorted by, its columns, and its rows as text.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::ops::Range;

use fw_common::maps::{HOST_VMID, PortKey};

use super::frame::{Frame, PortRow, RuleRow, Wish};
use crate::cli::scope::Scope;
use crate::duration;
use crate::live::line;

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(super) enum Pane {
    /// Guests' NICs and the host, by traffic, drops or flows.
    Guests,
    /// Addresses by their flows.
    Talkers,
    /// Rules by how often they decide.
    Rules,
    /// What is dropped, as it happens.
    Drops,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Order {
    /// Most bits per second.
    Traffic,
    /// Most packets dropped and rejected per second.
    Drops,
    /// Most flows.
    Flows,
    /// Most new flows per second.
    New,
    /// Most half-open flows.
    HalfOpen,
    /// Most packets per second.
    Rate,
    /// Most packets.
    Packets,
    /// The last one that was used.
    Last,
    /// Guest or address.
    Name,
}

impl Order {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Drops => "drops",
            Self::Flows => "flows",
            Self::New => "new flows",
            Self::HalfOpen => "half-open",
            Self::Rate => "rate",
            Self::Packets => "packets",
            Self::Last => "last",
            Self::Name => "name",
        }
    }
}

/// Title and width of a column. The last one takes what is left.
pub(super) type Column = (&'static str, usize);

impl Pane {
    pub(super) const ALL: [Self; 4] = [Self::Guests, Self::Talkers, Self::Rules, Self::Drops];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Guests => "guests",
            Self::Talkers => "talkers",
            Self::Rules => "rules",
            Self::Drops => "drops",
        }
    }

    /// What it may be sorted by; the first is how it is at first.
    pub(super) const fn orders(self) -> &'static [Order] {
        match self {
            Self::Guests => &[Order::Traffic, Order::Drops, Order::Flows, Order::Name],
            Self::Talkers => &[Order::Flows, Order::New, Order::HalfOpen, Order::Name],
            Self::Rules => &[Order::Rate, Order::Packets, Order::Last, Order::Name],
            Self::Drops => &[Order::Rate, Order::Packets, Order::Last],
        }
    }

    /// Its columns: numbers on the right, the text last.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Guests => &[
                ("in bit/s", 8),
                ("out bit/s", 9),
                ("pkt/s", 6),
                ("drop/s", 6),
                ("rej/s", 6),
                ("dropped", 7),
                ("flows", 6),
                ("half-open", 9),
                ("guest", 0),
            ],
            Self::Talkers => &[
                ("flows", 7),
                ("new/s", 6),
                ("half-open", 9),
                ("end", 4),
                ("guest", 11),
                ("address", 0),
            ],
            Self::Rules => &[
                ("hits/s", 6),
                ("packets", 8),
                ("last", 5),
                ("guest", 11),
                ("dir", 3),
                ("rule", 0),
            ],
            Self::Drops => &[("drop/s", 6), ("packets", 8), ("last", 5), ("reason", 0)],
        }
    }
}

/// A number in five places, as `950`, `1.2k`, `35M`.
pub(super) fn short(number: f64) -> String {
    let mut number = number;
    let mut unit = "";
    for next in ["k", "M", "G", "T"] {
        if number < 999.5 {
            break;
        }
        number /= 1000.0;
        unit = next;
    }
    let is_whole = number.fract().abs() < 0.05 && unit.is_empty();
    match number < 9.95 && !is_whole {
        true => format!("{number:.1}{unit}"),
        false => format!("{number:.0}{unit}"),
    }
}

fn count(number: u64) -> String {
    match number {
        0..100_000 => number.to_string(),
        _ => short(number as f64),
    }
}

fn rate(number: Option<f64>) -> String {
    number.map_or_else(|| "-".to_owned(), short)
}

/// The larger unit is enough: `3d`, `12s`.
fn since(seconds: u64) -> String {
    let text = duration::short(seconds);
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// `host` or `100/net0`.
fn owner(guest: Option<u32>, nic: Option<u16>) -> String {
    let port = PortKey {
        vmid: guest.unwrap_or(HOST_VMID),
        net: nic.unwrap_or(0),
        reserved: 0,
    };
    Scope::of(port).to_string()
}

/// Where a rule is and what it says.
fn rule(row: &RuleRow) -> String {
    let mut text = String::new();
    if let (Some(file), Some(line)) = (&row.file, row.line) {
        text.push_str(&format!("{file}:{line}: "));
    }
    if let Some(group) = &row.group {
        text.push_str(&format!("[{group}] "));
    }
    match &row.text {
        Some(rule) => text.push_str(rule),
        None => text.push_str(&format!("rule {}, not in the files", row.identity)),
    }
    text
}

/// Rates as numbers that can be sorted.
fn key(rate: Option<f64>) -> u64 {
    (rate.unwrap_or(0.0) * 10.0) as u64
}

/// Bits per second, both ways.
fn traffic(row: &PortRow) -> u64 {
    key(row.in_bits_per_second) + key(row.out_bits_per_second)
}

impl Frame {
    pub(super) fn sort(&mut self, wish: &Wish) {
        let order = wish.order(Pane::Guests);
        let name = |row: &PortRow| (row.guest, row.nic);
        self.guests.sort_by_key(|row| {
            let first = match order {
                Order::Drops => key(row.drops_per_second) + key(row.rejects_per_second),
                Order::Flows => row.flows + row.half_open,
                Order::Name => 0,
                Order::Traffic
                | Order::New
                | Order::HalfOpen
                | Order::Rate
                | Order::Packets
                | Order::Last => traffic(row),
            };
            let second = match order {
                Order::Name => 0,
                Order::Drops => row.dropped + row.rejected,
                Order::Traffic
                | Order::Flows
                | Order::New
                | Order::HalfOpen
                | Order::Rate
                | Order::Packets
                | Order::Last => row.packets,
            };
            (Reverse((first, second)), name(row))
        });
        let order = wish.order(Pane::Talkers);
        self.talkers.sort_by_key(|row| {
            let first = match order {
                Order::New => key(row.new_per_second),
                Order::HalfOpen => row.half_open,
                Order::Name => 0,
                Order::Traffic
                | Order::Drops
                | Order::Flows
                | Order::Rate
                | Order::Packets
                | Order::Last => row.flows,
            };
            let second = match order {
                Order::Name => 0,
                Order::Traffic
                | Order::Drops
                | Order::Flows
                | Order::New
                | Order::HalfOpen
                | Order::Rate
                | Order::Packets
                | Order::Last => row.flows,
            };
            let name: (IpAddr, bool) = (row.address, !row.own);
            (Reverse((first, second)), name, row.guest, row.nic)
        });
        let order = wish.order(Pane::Rules);
        self.rules.sort_by_cached_key(|row| {
            let name = (row.guest, row.nic, row.direction);
            let line = (row.file.clone(), row.line, row.identity.clone());
            let first = by_use(
                order,
                row.hits_per_second,
                row.packets,
                row.last_seconds_ago,
            );
            (Reverse(first), name, line)
        });
        let order = wish.order(Pane::Drops);
        self.drops.by_reason.sort_by_key(|row| {
            let first = by_use(order, row.per_second, row.packets, row.last_seconds_ago);
            (Reverse(first), row.reason)
        });
    }

    /// How many rows a list has. Of drops, those by reason.
    pub(super) fn count(&self, pane: Pane) -> usize {
        match pane {
            Pane::Guests => self.guests.len(),
            Pane::Talkers => self.talkers.len(),
            Pane::Rules => self.rules.len(),
            Pane::Drops => self.drops.by_reason.len(),
        }
    }

    /// Some rows of a list as text.
    pub(super) fn cells(&self, pane: Pane, range: Range<usize>) -> Vec<Vec<String>> {
        match pane {
            Pane::Guests => {
                let rows = among(&self.guests, range).map(|row| {
                    vec![
                        rate(row.in_bits_per_second),
                        rate(row.out_bits_per_second),
                        rate(row.packets_per_second),
                        rate(row.drops_per_second),
                        rate(row.rejects_per_second),
                        count(row.dropped + row.rejected),
                        count(row.flows),
                        count(row.half_open),
                        owner(row.guest, row.nic),
                    ]
                });
                rows.collect()
            }
            Pane::Talkers => {
                let rows = among(&self.talkers, range).map(|row| {
                    vec![
                        count(row.flows),
                        rate(row.new_per_second),
                        count(row.half_open),
                        if row.own { "own" } else { "peer" }.to_owned(),
                        owner(row.guest, row.nic),
                        row.address.to_string(),
                    ]
                });
                rows.collect()
            }
            Pane::Rules => {
                let rows = among(&self.rules, range).map(|row| {
                    vec![
                        rate(row.hits_per_second),
                        count(row.packets),
                        since(row.last_seconds_ago),
                        owner(row.guest, row.nic),
                        row.direction.to_owned(),
                        rule(row),
                    ]
                });
                rows.collect()
            }
            Pane::Drops => {
                let rows = among(&self.drops.by_reason, range).map(|row| {
                    vec![
                        rate(row.per_second),
                        count(row.packets),
                        since(row.last_seconds_ago),
                        row.reason.to_owned(),
                    ]
                });
                rows.collect()
            }
        }
    }

    /// Some of what was seen live, as lines.
    pub(super) fn packets(&self, range: Range<usize>) -> Vec<String> {
        let packets = among(&self.drops.packets, range);
        packets.map(|packet| line(packet, false)).collect()
    }
}

fn among<T>(rows: &[T], range: Range<usize>) -> impl Iterator<Item = &T> {
    rows.iter().skip(range.start).take(range.len())
}

/// Of things that are counted: what comes first comes with the larger key.
fn by_use(order: Order, rate: Option<f64>, packets: u64, ago: u64) -> (u64, u64) {
    match order {
        Order::Packets => (packets, 0),
        Order::Last => (u64::MAX - ago, packets),
        Order::Name => (0, 0),
        Order::Traffic
        | Order::Drops
        | Order::Flows
        | Order::New
        | Order::HalfOpen
        | Order::Rate => (key(rate), packets),
    }
}
