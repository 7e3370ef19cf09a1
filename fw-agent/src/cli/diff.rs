//! `fwctl diff`: what a candidate would change, by policy, in words.
//!
//! What is in force is what the agent carried out last: the files if they are still that, else the last good configuration; with what is on trial.

use std::io::Write;

use anyhow::{Context, Result};

use super::{Outcome, Place};
use crate::cache::{Cache, digest};
use crate::compile::{Compiled, compile};
use crate::config::Sources;
use crate::diff::{Difference, View, diff};
use crate::inventory::facts::HostFacts;
use crate::reconcile::unix_time;
use crate::trial::Moment;
use crate::trial::candidate::{self, Candidate};
use crate::trial::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A directory laid out like /etc/pve, or files: 100.fw, cluster.fw, host.fw, or WHOSE=FILE [default: the files as they are].
    #[arg(value_name = "CANDIDATE")]
    candidate: Vec<String>,
    /// Compare with these instead of what is in force: a directory or files, likewise.
    #[arg(long, value_name = "CANDIDATE")]
    from: Vec<String>,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let files = place.sources()?;
    let facts = place.facts()?;
    let given = |given: &[String]| -> Result<Sources> {
        let candidate = candidate::read(given, &files)?;
        Ok(with(&files, &candidate))
    };
    let before = match arguments.from.is_empty() {
        true => in_force(place, &files)?,
        false => given(&arguments.from)?,
    };
    let after = given(&arguments.candidate)?;
    let [old, new] = both(&before, &after, &facts);
    let difference = compared((&before, &old), (&after, &new));
    let mut out = std::io::stdout().lock();
    match (arguments.json, difference.is_empty()) {
        (true, _) => {
            serde_json::to_writer_pretty(&mut out, &difference)?;
            writeln!(out)?;
        }
        (false, false) => write!(out, "{difference}")?,
        (false, true) if before == after => writeln!(out, "no difference")?,
        (false, true) => writeln!(out, "the files differ, but in nothing that is enforced")?,
    }
    let outcome = Outcome::of(&new.diagnostics, false);
    Ok(match difference.is_empty() {
        true => outcome,
        false => Outcome::Diagnostics,
    })
}

/// The files with a candidate's texts in their place.
pub(super) fn with(files: &Sources, candidate: &Candidate) -> Sources {
    let mut sources = files.clone();
    for (path, text) in candidate {
        sources.unreadable.remove(path);
        sources.files.insert(path.clone(), text.clone().into());
    }
    sources
}

/// What two configurations mean.
pub(super) fn both(before: &Sources, after: &Sources, facts: &HostFacts) -> [Compiled; 2] {
    let now = unix_time();
    [before, after].map(|sources| compile(sources, facts, now))
}

pub(super) fn compared(before: (&Sources, &Compiled), after: (&Sources, &Compiled)) -> Difference {
    let [before, after] = [before, after].map(|(sources, compiled)| View {
        sources,
        config: &compiled.config,
        policy: &compiled.policy,
    });
    diff(before, after)
}

/// The configuration that the agent carried out last.
pub(super) fn in_force(place: &Place, files: &Sources) -> Result<Sources> {
    let record = place.run_directory().read();
    let record = record.context("cannot read the agent's record")?;
    let cache = Cache::new(&place.state_dir, &place.root, &files.node);
    let carried_out = record.map(|record| record.digest).unwrap_or_default();
    let mut sources = match digest(files) == carried_out {
        true => files.clone(),
        false => match cache.load() {
            Ok(Some(cached)) => {
                if digest(&cached.sources) != carried_out {
                    eprintln!(
                        "fwctl: the agent has not carried out the files as they are; compared with the configuration of {}",
                        cached.saved_at
                    );
                }
                cached.sources
            }
            Ok(None) => {
                eprintln!("fwctl: nothing is known to be in force; compared with the files");
                files.clone()
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                eprintln!("fwctl: {error:#}; compared with the files");
                files.clone()
            }
        },
    };
    let trials = Store::new(&place.state_dir, &place.root, &files.node);
    let now = Moment::now().context("cannot tell the time since the boot")?;
    if let Some(trial) = trials.trial()?.filter(|trial| !trial.is_over(&now)) {
        trial.stage.lay_over(&mut sources);
    }
    Ok(sources)
}
