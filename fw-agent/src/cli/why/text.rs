//! The explanation of one packet, for people.

use std::fmt::Write;

use super::Step;
use crate::config::registry::protocol_name;
use crate::duration;
use crate::simulate::query::{Addresses, Query};
use crate::simulate::{Hop, Outcome};

pub(super) fn print(query: &Query, outcome: &Outcome<'_>, steps: &[Step], verbose: bool) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    write(&mut out, query, outcome, steps, verbose).ok();
    out
}

fn write(
    out: &mut String,
    query: &Query,
    outcome: &Outcome<'_>,
    steps: &[Step],
    verbose: bool,
) -> std::fmt::Result {
    let (source, dest) = match query.addresses() {
        Addresses::V4(source, dest) => (source.to_string(), dest.to_string()),
        Addresses::V6(source, dest) => (format!("[{source}]"), format!("[{dest}]")),
    };
    let protocol = query.protocol();
    let protocol = protocol_name(protocol).map_or_else(|| protocol.to_string(), str::to_owned);
    let port = |port: Option<u16>| port.map_or_else(String::new, |port| format!(":{port}"));
    let (sport, dport) = query.ports();
    writeln!(
        out,
        "{protocol} {source}{} -> {dest}{}, from {} to {}",
        port(sport),
        port(dport),
        query.from(),
        query.to()
    )?;
    for ((hop, step), number) in outcome.path.iter().zip(steps).zip(1..) {
        hop_lines(out, hop, step, number, verbose)?;
    }
    if outcome.path.is_empty() {
        writeln!(out, "no firewall is on the way")?;
    }
    writeln!(
        out,
        "{}: nothing was changed or sent by asking",
        outcome.verdict.name()
    )
}

fn hop_lines(
    out: &mut String,
    hop: &Hop<'_>,
    step: &Step,
    number: usize,
    verbose: bool,
) -> std::fmt::Result {
    let program = match step.in_force {
        Some(true) => "as it runs there".to_owned(),
        Some(false) => {
            "WHICH IS NOT WHAT RUNS THERE: fwctl and the agent are of different builds".to_owned()
        }
        None => "WHICH DOES NOT RUN THERE: the device is not filtered".to_owned(),
    };
    writeln!(
        out,
        "{number}. {} {}: {}, {program}",
        step.device,
        hop.direction.name(),
        step.program
    )?;
    match &step.flow {
        Some(flow) => writeln!(
            out,
            "   flow: {}{}, begun {}, idle for {}",
            flow.state,
            if flow.half_open { " (half-open)" } else { "" },
            flow.origin,
            duration::short(flow.idle_seconds)
        )?,
        None => writeln!(out, "   flow: none is known")?,
    }
    let met = hop.steps();
    if verbose {
        for (rule, place) in met.iter().zip(1..) {
            let hit = if place == met.len() { "yes" } else { "no" };
            writeln!(out, "   rule: {hit:<3} {rule}")?;
        }
    } else if met.len() > 1 {
        writeln!(out, "   rules: {} do not match", met.len() - 1)?;
    }
    let by = match (&hop.rule, hop.text, &step.rule) {
        (Some(rule), ..) => format!(", by {rule}"),
        (None, Some(text), _) => format!(", by {text}"),
        (None, None, Some(number)) => {
            format!(", by rule {number}, which the files do not have (any more)")
        }
        (None, None, None) => String::new(),
    };
    writeln!(out, "   {}: {}{by}", hop.verdict.name(), hop.reason)?;
    if step.begins_flow {
        writeln!(out, "   a packet like this begins a flow")?;
    }
    Ok(())
}
