//! `cargo xtask bench`: what the agent costs, measured in one run on one machine.
//!
//! 1. A set of N prefixes from its file to policies in force, stage by stage, with the memory that the process needed at its peak and that the
//!    kernel's tries take. Each size runs in a process of its own. 2. A pass of the sweep over a full flow table.
//!
//! Prints a table for each and writes it as JSON below `target/bench`.

mod sets;
mod sweep;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Arguments {
    /// Directory for the results.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Measure one set in this process and print it as JSON.
    #[command(hide = true)]
    Set {
        /// Prefixes.
        entries: usize,
    },
    /// Only what the sweep of the flow tables costs.
    Sweep,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.part {
        Some(Part::Set { entries }) => {
            println!("{}", serde_json::to_string(&sets::measure(entries)?)?);
            Ok(())
        }
        Some(Part::Sweep) => sweep::run(&arguments.out),
        None => {
            sets::run(&arguments.out)?;
            sweep::run(&arguments.out)
        }
    }
}
