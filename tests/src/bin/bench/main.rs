//! `cargo xtask bench`: what Tapwall costs beside what a node would otherwise run, measured in one run on one machine.
//!
//! Each part prints its rows as lines of JSON (`line`) and what it is doing on standard error; the tables, ratios and charts are made of the rows of all
//! parts by `xtask`. What a packet costs in the programs alone is measured by another program of this package.
//!
//! Everything happens in network namespaces and pin directories of this process, which vanish with it, also by a panic.

mod bed;
mod change;
mod crowd;
mod growth;
mod line;
mod memory;
mod programs;
mod raw;
mod rules;
mod sets;
mod sweep;
mod traffic;

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
    /// Fewer and shorter samples: shows that the bench works, not how fast anything is.
    #[arg(long, global = true)]
    quick: bool,
    /// How often every case is measured.
    #[arg(long, global = true)]
    rounds: Option<usize>,
}

#[derive(Subcommand)]
enum Part {
    /// Traffic from outside to a guest, under every firewall that is compared.
    Traffic,
    /// From an edited file to enforcement, beside the other firewalls.
    Change,
    /// Memory of the agent and of the maps on a full node.
    Memory,
    /// Cost against rules, prefixes, guests and flows.
    Growth,
    /// A set from its file to policies in force.
    Set {
        /// Measure only this number of prefixes, once, in this process.
        #[arg(hide = true)]
        entries: Option<usize>,
    },
    /// What the sweep of the flow tables costs.
    Sweep,
}

/// How long and how often everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Only to see that it works.
    pub quick: bool,
    rounds: Option<usize>,
}

impl Effort {
    /// Rounds: these many if quick, those otherwise, unless the user says.
    pub fn rounds(self, quick: usize, full: usize) -> usize {
        let rounds = if self.quick { quick } else { full };
        self.rounds.unwrap_or(rounds).max(1)
    }

    /// How long one sample of traffic takes.
    pub fn sample(self) -> Duration {
        Duration::from_millis(if self.quick { 60 } else { 200 })
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = Effort {
        quick: arguments.quick,
        rounds: arguments.rounds,
    };
    match arguments.part {
        Part::Traffic => traffic::run(effort),
        Part::Change => change::run(effort),
        Part::Memory => memory::run(effort),
        Part::Growth => growth::run(effort),
        Part::Set { entries: None } => sets::run(effort),
        Part::Set {
            entries: Some(entries),
        } => {
            println!("{}", serde_json::to_string(&sets::measure(entries)?)?);
            Ok(())
        }
        Part::Sweep => sweep::run(effort),
    }
}
