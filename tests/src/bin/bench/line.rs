//! One line of JSON per row of a table: what every bench program prints and `cargo xtask bench` collects.
//!
//! A row is what one subject took in one case, with every sample; what is made of them (medians, ratios, charts) is not decided here.
//! Progress goes to standard error, rows alone to standard output.

use anyhow::Result;
use serde::Serialize;

/// Who is measured. The names are what tables show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// No firewall at all.
    None,
    /// Programs at Tapwall's hooks that do nothing.
    Empty,
    /// A ruleset of pve-firewall's shape, with its bridge per NIC.
    Iptables,
    /// A ruleset of proxmox-firewall's shape.
    Nftables,
    /// The agent and its programs.
    Tapwall,
}

/// A row.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Which table it belongs to.
    pub table: &'static str,
    /// What was done.
    pub case: String,
    /// Who did it.
    pub subject: Subject,
    /// What grows from row to row of a case (rules, guests), if anything does: its name and value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// Of the samples: `ns`, `ms`, `MiB`, `/s`, `Gbit/s`, `%`.
    pub unit: &'static str,
    /// In the order of the rounds.
    pub samples: Vec<f64>,
}

/// How large the thing was that was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size {
    /// `rules`, `guests`, `prefixes`, `flows`.
    pub of: &'static str,
    /// How many.
    pub count: usize,
}

impl Line {
    /// A row of Tapwall's.
    pub fn new(table: &'static str, case: impl Into<String>, unit: &'static str) -> Self {
        Self {
            table,
            case: case.into(),
            subject: Subject::Tapwall,
            size: None,
            unit,
            samples: Vec::new(),
        }
    }

    /// Of this subject.
    pub fn of(self, subject: Subject) -> Self {
        Self { subject, ..self }
    }

    /// At this size.
    pub fn at(self, of: &'static str, count: usize) -> Self {
        let size = Some(Size { of, count });
        Self { size, ..self }
    }

    /// With these samples.
    pub fn with(self, samples: Vec<f64>) -> Self {
        Self { samples, ..self }
    }

    /// Prints it.
    pub fn print(&self) -> Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}
