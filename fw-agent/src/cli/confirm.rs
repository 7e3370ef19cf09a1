//! `fwctl confirm` and `fwctl revert`: what is on trial made lasting, or ended; and the way back from what was made lasting last.
//!
//! 1. What somebody else changed meanwhile is found before anything is done. 2. What the files say now is kept as the way back. 3. The agent stops counting
//!    down. 4. The files are written, each under its lock. The agent has all of it in force until the files say it, so no moment has a part of it, and if this
//!    program dies in between, `fwctl confirm` goes on where it ended.

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{Outcome, Place};
use crate::control::client;
use crate::trial::store::Store;
use crate::trial::{Stage, tree};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Write over what somebody else has changed meanwhile; it is kept, and `fwctl revert` brings it back.
    #[arg(long)]
    force: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn confirm(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let store = store(place)?;
    if !place.run_directory().is_locked() {
        bail!("no agent runs that has anything on trial");
    }
    if client::status(&place.run_dir)?.trial.is_none() {
        bail!("nothing is on trial: its time is over, or it was confirmed or reverted already");
    }
    let trial = store.trial()?.context("the agent's trial is not on disk")?;
    make_lasting(place, &store, &trial.stage, true, arguments.force)?;
    told(arguments, "confirmed", &trial.stage)
}

pub(super) fn revert(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let store = store(place)?;
    let is_running = place.run_directory().is_locked();
    if let Some(trial) = store.trial()? {
        // Those files that were written already, if it was confirmed. What somebody else wrote stays.
        let back = trial.stage.reversed();
        if trial.confirmed {
            let mut written = back.clone();
            let theirs = back.changed(&place.sources()?);
            written.files.retain(|file, _| !theirs.contains(file));
            let written = tree::current(&place.root, &written, false)?;
            tree::write(&place.root, &node(place)?, &written)?;
        }
        match is_running {
            true => {
                client::revert_trial(&place.run_dir)?;
            }
            false => {
                store.end()?;
                eprintln!("fwctl: no agent runs: what was on trial is in force until one starts");
            }
        }
        return told(arguments, "reverted", &back);
    }
    let previous = store.previous()?;
    let previous = previous
        .context("there is nothing to go back to: `fwctl apply` has changed nothing here")?;
    let back = tree::current(&place.root, &previous.reversed(), arguments.force)?;
    if is_running {
        begin(place, &store, &back)?;
    }
    make_lasting(place, &store, &back, is_running, arguments.force)?;
    // What was applied is not to come again by saying this twice; what somebody else wrote is not to be lost.
    if back == previous.reversed() {
        store.forget_previous()?;
    }
    told(arguments, "reverted", &back)
}

/// Stages it, and has the agent begin its trial.
pub(super) fn begin(place: &Place, store: &Store, stage: &Stage) -> Result<()> {
    // Whoever comes in between would have the agent begin this one.
    let _lock = store.lock()?;
    store.stage(stage)?;
    client::begin_trial(&place.run_dir)?;
    Ok(())
}

/// Has the files say what is staged, or on trial.
pub(super) fn make_lasting(
    place: &Place,
    store: &Store,
    stage: &Stage,
    is_running: bool,
    force: bool,
) -> Result<()> {
    let now = tree::current(&place.root, stage, force)?;
    // One that cannot be read is no way back.
    let before = store.previous().ok().flatten();
    store.keep_previous(&now)?;
    if is_running && let Err(error) = client::confirm_trial(&place.run_dir) {
        // Nothing will be written: the way back is the one that it was.
        match before {
            Some(previous) => store.keep_previous(&previous)?,
            None => store.forget_previous()?,
        }
        return Err(error);
    }
    let written = tree::write(&place.root, &node(place)?, &now);
    if !is_running {
        return Ok(written?);
    }
    written.context(
        "it is confirmed and in force on this node, but not all files are written: try `fwctl confirm` again, or `fwctl revert`",
    )?;
    let status = client::reload(&place.run_dir)?;
    if let Some(trial) = status.trial {
        bail!("{}", trial.lines().join("; "));
    }
    Ok(())
}

fn store(place: &Place) -> Result<Store> {
    Ok(Store::new(&place.state_dir, &place.root, &node(place)?))
}

fn node(place: &Place) -> Result<String> {
    Ok(place.sources()?.node)
}

fn told(arguments: &Arguments, done: &str, stage: &Stage) -> Result<Outcome> {
    let files: Vec<&String> = stage.files.keys().collect();
    let mut out = std::io::stdout().lock();
    match arguments.json {
        true => writeln!(out, "{}", json!({"done": done, "files": files}))?,
        false => {
            let files: Vec<&str> = files.iter().map(|file| file.as_str()).collect();
            writeln!(out, "{done}: {}", files.join(", "))?;
        }
    }
    Ok(Outcome::Done)
}
