//! What was measured, as lines of JSON, as a table, and against the targets.

use anyhow::Result;
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

use crate::bed::Subject;

/// The samples of one case and subject, in nanoseconds per packet.
#[derive(Serialize)]
pub struct Row {
    table: &'static str,
    case: String,
    subject: &'static str,
    unit: &'static str,
    pub samples: Vec<u32>,
}

impl Row {
    pub fn new(case: &str, subject: Subject) -> Self {
        Self {
            table: "packet",
            case: case.to_owned(),
            subject: subject.name(),
            unit: "ns",
            samples: Vec::new(),
        }
    }
}

/// A target: what is compared with what.
struct Target {
    name: &'static str,
    case: &'static str,
    /// The case whose cost is taken off (`-`) or divided by (`/`).
    against: Option<(char, &'static str)>,
    most: f64,
}

const TARGETS: [Target; 10] = [
    Target {
        name: "established, hot",
        case: "established, hot",
        against: None,
        most: 120.0,
    },
    Target {
        name: "established, random of 262,144",
        case: "established, random of 262,144 flows",
        against: None,
        most: 600.0,
    },
    Target {
        name: "new flow, 10,000 rules",
        case: "new flow, 10000 rules by port",
        against: None,
        most: 1100.0,
    },
    Target {
        name: "new flow, 10,000 rules / 10 rules",
        case: "new flow, 10000 rules by port",
        against: Some(('/', "new flow, 10 rules by port")),
        most: 1.25,
    },
    Target {
        name: "classification alone",
        case: "dropped by policy, 10000 rules",
        against: Some(('-', "dropped without classification, 10000 rules")),
        most: 200.0,
    },
    Target {
        name: "drop by policy",
        case: "dropped by policy, 10000 rules",
        against: None,
        most: 350.0,
    },
    Target {
        name: "blacklist not hit, running flow: added",
        case: "established, hot, not in the blacklist, 1000000 prefixes",
        against: Some(('-', "established, hot")),
        most: 60.0,
    },
    Target {
        name: "blacklist not hit, no flow: added",
        case: "dropped by policy, 10 rules, not in the blacklist, 1000000 prefixes",
        against: Some(('-', "dropped by policy, 10 rules")),
        most: 60.0,
    },
    Target {
        name: "ban hit at XDP",
        case: "XDP, 10,000 bans, hit",
        against: None,
        most: 90.0,
    },
    Target {
        name: "guards: added",
        case: "established, hot, with guards",
        against: Some(('-', "established, hot, without guards")),
        most: 60.0,
    },
];

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table
}

/// Prints everything.
pub fn print(rows: &[Row]) -> Result<()> {
    for row in rows {
        println!("{}", serde_json::to_string(row)?);
    }
    let mut table = plain_table();
    table.set_header(["case", "subject", "ns", "above empty", "min–max"]);
    for row in rows {
        let above = above(rows, row);
        let range = match above[..] {
            [first, .., last] => format!("{first:.0}–{last:.0}"),
            _ => String::new(),
        };
        let samples = row
            .samples
            .iter()
            .map(|sample| f64::from(*sample))
            .collect();
        table.add_row([
            row.case.clone(),
            row.subject.to_owned(),
            format!("{:.0}", median(sorted(samples))),
            match row.subject == Subject::Empty.name() {
                true => String::new(),
                false => format!("{:.0}", median(above)),
            },
            range,
        ]);
    }
    eprintln!("{table}");
    let mut table = plain_table();
    table.set_header(["target", "family", "at most", "measured", ""]);
    for subject in [Subject::Tapwall, Subject::Other] {
        for target in &TARGETS {
            for family in ["IPv4", "IPv6"] {
                let Some(value) = value(rows, target, family, subject) else {
                    continue;
                };
                table.add_row([
                    target.name.to_owned(),
                    format!("{family} {}", subject.name()),
                    target.most.to_string(),
                    match target.against {
                        Some(('/', _)) => format!("{value:.2}"),
                        Some(_) | None => format!("{value:.0}"),
                    },
                    match value <= target.most {
                        true => "met",
                        false => "missed",
                    }
                    .to_owned(),
                ]);
            }
        }
    }
    eprintln!("{table}");
    Ok(())
}

fn value(rows: &[Row], target: &Target, family: &str, subject: Subject) -> Option<f64> {
    let cost = |case: &str| {
        let name = format!("{case}, {family}");
        let row = rows
            .iter()
            .find(|row| row.case == name && row.subject == subject.name())?;
        Some(median(above(rows, row)))
    };
    let own = cost(target.case)?;
    match target.against {
        None => Some(own),
        Some(('/', case)) => Some(own / cost(case)?),
        Some((_, case)) => Some(own - cost(case)?),
    }
}

/// Cost above the empty program, round by round, sorted.
fn above(rows: &[Row], row: &Row) -> Vec<f64> {
    let empty = rows
        .iter()
        .find(|other| other.case == row.case && other.subject == Subject::Empty.name());
    let pairs = empty
        .iter()
        .flat_map(|empty| row.samples.iter().zip(&empty.samples));
    sorted(
        pairs
            .map(|(own, empty)| f64::from(*own) - f64::from(*empty))
            .collect(),
    )
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of sorted values.
fn median(values: Vec<f64>) -> f64 {
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
