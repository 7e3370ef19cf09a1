//! `fwctl check`: parse, resolve and lint; print what is wrong, with the lines it is about.
//!
//! Errors are lines that are not enforced; warnings are lines that are enforced but perhaps not as meant, and lints. Exit code 1 with errors, and
//! with `--strict` with warnings too.

use std::io::Write;

use anyhow::Result;

use super::{Outcome, Place, colours};
use crate::compile::compile;
use crate::diagnostic::{Severity, render};
use crate::lint;
use crate::reconcile::unix_time;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the diagnostics as JSON.
    #[arg(long)]
    json: bool,
    /// Exit with 1 if there are only warnings, too.
    #[arg(long)]
    strict: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let sources = place.sources()?;
    let compiled = compile(&sources, &place.facts()?, unix_time());
    let mut found = compiled.diagnostics;
    found.extend(lint::run(&compiled.config, &compiled.policy));
    found.sort();
    found.dedup();
    let errors = found
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .count();
    let warnings = found.len() - errors;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &found)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", render(&found, &sources, colours()))?;
        let ports = count(compiled.policy.ports.len(), "port");
        let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
        writeln!(out, "{ports} under policy, {errors}, {warnings}")?;
    }
    Ok(Outcome::of(&found, arguments.strict))
}

/// `1 port`, `2 ports`.
fn count(number: usize, of: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {of}{plural}")
}
