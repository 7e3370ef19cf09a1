//! `fwctl compile`: the policies, and with `--image` what goes into the maps.

use std::io::Write;

use anyhow::Result;

use super::{Outcome, Place};
use crate::policy::print;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print the contents of the maps too.
    #[arg(long)]
    image: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let compiled = place.compiled()?;
    let mut out = std::io::stdout().lock();
    write!(out, "{}", print(&compiled.policy))?;
    if arguments.image {
        write!(out, "\n{}", compiled.image)?;
    }
    for diagnostic in &compiled.diagnostics {
        eprintln!("{diagnostic}");
    }
    Ok(Outcome::of(&compiled.diagnostics, false))
}
