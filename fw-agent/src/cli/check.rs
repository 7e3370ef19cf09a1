//! `fwctl check`: parse and resolve, print diagnostics.

use std::io::{IsTerminal, Write};

use anyhow::Result;

use super::{Outcome, Place};
use crate::compile::compile;
use crate::diagnostic::render;
use crate::reconcile::unix_time;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the diagnostics as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let sources = place.sources()?;
    let compiled = compile(&sources, unix_time());
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &compiled.diagnostics)?;
        writeln!(out)?;
    } else {
        let colours = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
        write!(out, "{}", render(&compiled.diagnostics, &sources, colours))?;
        let ports = compiled.policy.ports.len();
        match compiled.diagnostics.len() {
            0 => writeln!(out, "{ports} ports under policy, nothing to complain about")?,
            1 => writeln!(out, "{ports} ports under policy, 1 diagnostic")?,
            count => writeln!(out, "{ports} ports under policy, {count} diagnostics")?,
        }
    }
    Ok(match compiled.diagnostics.is_empty() {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}
