//! Bans as they are printed.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::Result;
use fw_common::maps::Counter;
use ipnet::IpNet;

use crate::bans::json::seconds;
use crate::bans::record::{Record, shown};
use crate::bans::{Lifted, Listed};
use crate::cli::table;
use crate::duration;

/// Prefixes that are named one by one.
const NAMED: usize = 10;

pub(super) fn banned(out: &mut impl Write, records: &[Record]) -> Result<()> {
    if let [record, ..] = records
        && records.len() > NAMED
    {
        let count = records.len();
        writeln!(out, "{count} prefixes are banned {}", record.length())?;
        return Ok(());
    }
    for record in records {
        writeln!(out, "{} is banned {}", shown(record.net), record.length())?;
    }
    Ok(())
}

pub(super) fn lifted(out: &mut impl Write, done: &Lifted) -> Result<()> {
    if done.lifted.len() > NAMED {
        let free = done.lifted.len() - done.held.len();
        writeln!(out, "{free} prefixes are no longer banned")?;
    } else {
        for net in &done.lifted {
            match done.held.iter().find(|(held, _)| held == net) {
                None => writeln!(out, "{} is no longer banned", shown(*net))?,
                Some((_, by)) => writeln!(out, "{} is banned on, by {by}", shown(*net))?,
            }
        }
    }
    for (net, around) in &done.missing {
        let net = shown(*net);
        match around {
            None => writeln!(out, "{net} was not banned")?,
            Some(around) => {
                let around = shown(*around);
                writeln!(out, "{net} was not banned itself, but is in {around}")?;
            }
        }
    }
    Ok(())
}

pub(super) fn list(out: &mut impl Write, bans: &[Listed], dropped: Option<Counter>) -> Result<()> {
    let mut rows = table(["address", "remaining", "by", "reason"]);
    for ban in bans {
        let (by, reason) = match &ban.record {
            Some(record) => (record.by.as_str(), record.reason.as_str()),
            None => ("?", ""),
        };
        let left = match (seconds(ban.left), &ban.record) {
            (Some(left), _) => duration::short(left),
            (None, Some(record)) => record.length(),
            (None, None) => "for ever".to_owned(),
        };
        rows.add_row([shown(ban.net), left, by.to_owned(), reason.to_owned()]);
    }
    if !bans.is_empty() {
        for line in rows.to_string().lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    let banned: BTreeSet<IpNet> = bans.iter().map(|ban| ban.net).collect();
    write!(out, "{} banned", banned.len())?;
    if let Some(dropped) = dropped {
        write!(out, ", {} of their packets dropped", dropped.packets)?;
    }
    writeln!(out)?;
    Ok(())
}
