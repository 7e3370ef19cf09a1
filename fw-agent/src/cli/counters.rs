//! `fwctl counters`: what rules and ports have counted, set back to zero.

use std::io::Write;

use anyhow::Result;
use serde_json::json;

use super::scope::{self, Scope};
use super::{Outcome, Place};
use crate::datapath::counters;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Begin counting again from zero.
    ///
    /// Flows, limits and what the agent counts of itself stay as they are. Without a scope the counters by reason begin again too.
    Zero {
        /// `host`, a guest such as `100`, or one of its NICs such as `100/net0` [default: all].
        scope: Option<Scope>,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let Arguments::Zero { scope, json } = arguments;
    let pins = place.pins()?;
    place.remark(&pins, *scope)?;
    let done = counters::zero(&pins, |port| scope::holds(*scope, port), scope.is_none())?;
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{}", json!({"rules": done.rules, "ports": done.ports}))?,
        false => writeln!(
            out,
            "counters of {} rules and {} ports begin again",
            done.rules, done.ports
        )?,
    }
    Ok(Outcome::Done)
}
