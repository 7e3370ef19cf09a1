//! `fwctl status`: the reference's line, then the ports.

use std::io::Write;

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Outcome, Place, table};
use crate::record::Record;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    running: bool,
    #[serde(flatten)]
    record: Record,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let directory = place.run_directory();
    let record = directory
        .read()
        .context("cannot read the agent's record")?
        .unwrap_or_default();
    let status = Status {
        running: directory.is_locked(),
        record,
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        print(&mut out, &status)?;
    }
    let record = &status.record;
    let sound = record.degraded.is_empty() && record.errors == 0;
    Ok(match sound {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

fn print(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let record = &status.record;
    let enabled = if record.enabled {
        "enabled"
    } else {
        "disabled"
    };
    let running = if status.running { "running" } else { "stopped" };
    writeln!(out, "Status: {enabled}/{running}")?;
    if record.generation == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "generation {}, applied at {}",
        record.generation, record.applied_at
    )?;
    if record.errors + record.warnings > 0 {
        writeln!(
            out,
            "{} lines are not enforced, {} warnings: see `fwctl check`",
            record.errors, record.warnings
        )?;
    }
    for degraded in &record.degraded {
        writeln!(out, "degraded: {degraded}")?;
    }
    for policy in &record.not_enforced {
        writeln!(out, "not enforced yet: {policy}")?;
    }
    for uplink in &record.uplinks {
        match &uplink.refused {
            None => writeln!(out, "early drop at {}", uplink.device)?,
            Some(why) => writeln!(out, "no early drop at {}: {why}", uplink.device)?,
        }
    }
    let mut rows = table(["guest", "NIC", "device", "state"]);
    for device in &record.host {
        let state = match device.attached {
            true => "filtered",
            false => "not attached",
        };
        rows.add_row(["host", "", &device.device, state]);
    }
    for port in &record.ports {
        let state = match (port.ifindex, port.attached) {
            (None, _) => "no such device",
            (Some(_), true) => "filtered",
            (Some(_), false) => "not attached",
        };
        rows.add_row([
            port.vmid.to_string(),
            format!("net{}", port.net),
            port.device.clone(),
            state.to_owned(),
        ]);
    }
    writeln!(out, "{rows}")
}
