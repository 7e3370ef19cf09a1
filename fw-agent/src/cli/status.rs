//! `fwctl status`: the reference's line, then what the agent did last and the ports.
//!
//! A running agent is asked over its control socket. One that does not answer, or that ended, is known by its record; whether changes are pending
//! is then told by comparing the files with those of the record.

use std::io::Write;

use anyhow::{Context, Result};

use super::{Outcome, Place, table};
use crate::cache::digest;
use crate::config::{self, Sources};
use crate::control::{Status, client};
use crate::policy::is_enabled;
use crate::reconcile::unix_time;
use crate::trial::store::Store;
use crate::trial::{self, Moment};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let Found {
        status,
        answered,
        remarks,
    } = status(place)?;
    for remark in remarks {
        eprintln!("fwctl: {remark}");
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, &status)?;
        writeln!(out)?;
    } else {
        print(&mut out, &status)?;
    }
    let record = &status.record;
    let sound = answered && record.degraded.is_empty() && record.errors == 0;
    Ok(match sound {
        true => Outcome::Done,
        false => Outcome::Diagnostics,
    })
}

/// How things are, as far as it can be known.
pub(super) struct Found {
    pub(super) status: Status,
    /// That is from who should know: the running agent, or the record of one that ended.
    pub(super) answered: bool,
    /// What could not be asked or read, and what that means.
    pub(super) remarks: Vec<String>,
}

pub(super) fn status(place: &Place) -> Result<Found> {
    let directory = place.run_directory();
    let running = directory.is_locked();
    let mut remarks = Vec::new();
    if running {
        match client::status(&place.run_dir) {
            Ok(status) => {
                return Ok(Found {
                    status,
                    answered: true,
                    remarks,
                });
            }
            Err(error) => remarks.push(format!("{error:#}; this is what it did last")),
        }
    }
    let mut record = directory
        .read()
        .context("cannot read the agent's record")?
        .unwrap_or_default();
    let sources = place.sources().ok();
    if let Some(sources) = &sources
        && !running
    {
        let (config, _) = config::parse(sources);
        record.enabled = is_enabled(config.cluster.options.enable.value, unix_time());
    }
    // As in the reference, only a running agent has changes to carry out. What cannot be read is not known to have changed.
    let differs = sources
        .as_ref()
        .is_some_and(|now| now.unreadable.is_empty() && digest(now) != record.digest);
    let trial = on_disk(place, sources.as_ref()).unwrap_or_else(|error| {
        remarks.push(format!("{error:#}"));
        None
    });
    let status = Status {
        running,
        trial,
        pending: running && (differs || record.incomplete),
        record,
        ..Status::default()
    };
    Ok(Found {
        status,
        answered: !running,
        remarks,
    })
}

/// What was on trial when the agent ended.
fn on_disk(place: &Place, sources: Option<&Sources>) -> Result<Option<trial::Status>> {
    let Some(sources) = sources else {
        return Ok(None);
    };
    let store = Store::new(&place.state_dir, &place.root, &sources.node);
    let (trial, now) = (store.trial()?, Moment::now().ok());
    Ok(trial
        .zip(now)
        .map(|(trial, now)| trial.status(&now, sources)))
}

fn print(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let record = &status.record;
    let enabled = if record.enabled {
        "enabled"
    } else {
        "disabled"
    };
    let running = if status.running { "running" } else { "stopped" };
    let pending = if status.pending {
        " (pending changes)"
    } else {
        ""
    };
    writeln!(out, "Status: {enabled}/{running}{pending}")?;
    for line in status.trial.iter().flat_map(trial::Status::lines) {
        writeln!(out, "{line}")?;
    }
    if record.generation == 0 {
        for degraded in &record.degraded {
            writeln!(out, "degraded: {degraded}")?;
        }
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
    for port in &record.closed {
        rows.add_row([
            port.vmid.to_string(),
            format!("net{}", port.net),
            port.device.clone(),
            "closed: no configuration yet".to_owned(),
        ]);
    }
    writeln!(out, "{rows}")
}
