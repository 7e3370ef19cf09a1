//! `cargo xtask bench`: what Tapwall costs beside what a node would otherwise run.
//!
//! 1. Build the bench programs and what they start, optimised. 2. Run each part; what a part prints as lines of JSON are the rows of its table.
//! 3. Print the tables with medians, ranges and ratios, and which targets are met; write everything to `target/bench/results.json` and one chart per
//!    table beside it. 4. With `--write-docs`, put the same tables into `docs/performance.md`.
//!
//! A file of results is one run's: what was not measured in it is not in it.

mod chart;
mod docs;
mod machine;
mod part;
mod results;
mod row;
mod table;
mod target;

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use clap::Args;

use self::machine::Machine;
use self::part::Part;
use self::results::Results;
use crate::setup::{self, Scope, packages};
use crate::workspace::Workspace;
use crate::{build, clean, progress};

/// What to measure, and what to do with it.
#[derive(Args)]
pub struct Arguments {
    /// Parts to measure [default: all]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer and shorter samples: shows that the bench works, not how fast anything is
    #[arg(long)]
    quick: bool,
    /// How often every case is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// Put the tables of the results into docs/performance.md
    #[arg(long)]
    write_docs: bool,
    /// Measure nothing: show (and with --write-docs write) the results that are there
    #[arg(long, conflicts_with_all = ["parts", "quick", "rounds"])]
    show: bool,
}

/// The command.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let directory = workspace.target.join("bench");
    let file = directory.join("results.json");
    let (results, failed) = if arguments.show {
        (Results::read(&file)?, None)
    } else {
        let (results, failed) = measure(workspace, arguments)?;
        results.write(&file)?;
        (results, failed)
    };
    table::print(&results);
    for chart in chart::draw_all(&results, &directory)? {
        eprintln!("chart: {}", chart.display());
    }
    eprintln!("results: {}", file.display());
    if arguments.write_docs {
        let page = workspace.root.join("docs/performance.md");
        docs::write(&results, &page)?;
        eprintln!("tables: {}", page.display());
    }
    failed.map_or(Ok(()), Err)
}

/// Measures; a part that fails costs none of the others, and the first one's error is returned beside them.
fn measure(
    workspace: &Workspace,
    arguments: &Arguments,
) -> Result<(Results, Option<anyhow::Error>)> {
    let tools = setup::ensure(workspace, Scope::Run)?;
    let missing = packages::missing_for_bench();
    if !missing.is_empty() {
        packages::install(workspace, &missing, &[])?;
    }
    build::kernel(workspace, &tools, false)?;
    let mut command = workspace.cargo();
    command.args(["build", "--release", "--bins"]);
    command.args(["--package", "tapwall-tests", "--package", "fw-agent"]);
    progress::run(workspace, "bench programs", "build-bench", &mut command)?;
    clean::run()?;

    let wanted: BTreeSet<Part> = match arguments.parts.is_empty() {
        true => Part::ALL.into(),
        false => arguments.parts.iter().copied().collect(),
    };
    let mut results = Results::new(Machine::look(workspace)?, arguments.quick);
    let mut failed = None;
    for part in wanted {
        let rows = part
            .measure(workspace, arguments.quick, arguments.rounds)
            .with_context(|| format!("measuring {}", part.name()));
        match rows {
            Ok(rows) => results.rows.extend(rows),
            Err(error) => {
                eprintln!("{error:#}");
                failed.get_or_insert(error);
            }
        }
    }
    Ok((results, failed))
}
