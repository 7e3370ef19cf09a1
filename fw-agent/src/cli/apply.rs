//! `fwctl apply`: a candidate in force, for a while or for good, if it cuts nobody off.
//!
//! 1. The candidate is checked as by `fwctl check`, compared with what is in force, and the connections of this node are judged by it ([`crate::sessions`]).
//!    What is wrong with it, and whom it would cut off, is told, and nothing is done without `--force`. 2. It is staged in the agent's state directory,
//!    and the agent begins its trial: all of it is in force at once, and no file is changed. 3. With `--confirm` that is all: `fwctl confirm` writes the
//!    files ([`super::confirm`]), and if it does not come in time the agent goes back. Without, it is confirmed at once.
//!
//! Invariant: from the beginning of the trial on, this program is not needed for going back.

mod said;

use std::env;
use std::io::IsTerminal;

use anyhow::{Context, Result, bail};

use self::said::{Done, Said};
use super::confirm::{begin, make_lasting};
use super::diff::{both, compared, in_force, with};
use super::{Outcome, Place};
use crate::compile::Compiled;
use crate::config::{CLUSTER_FILE, Sources};
use crate::control::client;
use crate::datapath::pins::Pins;
use crate::datapath::{flows, scratch};
use crate::diagnostic::{Diagnostic, Severity};
use crate::edit::check;
use crate::inventory::devices::Devices;
use crate::inventory::facts::{HostFacts, interfaces};
use crate::lint;
use crate::sessions::found::{Machine, sessions, ssh_connection};
use crate::sessions::{Court, Cut, GuestCuts, cuts, guest_cuts};
use crate::trial::candidate::{self, Candidate};
use crate::trial::store::Store;
use crate::trial::{Edit, Stage};
use fw_common::maps::port_flag;

/// Seconds of a trial that is confirmed at once: in case this program dies before.
const AT_ONCE: u64 = 30;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A directory laid out like /etc/pve, or files: 100.fw, cluster.fw, host.fw, or WHOSE=FILE, such as vnet/green=FILE.
    #[arg(value_name = "CANDIDATE", required = true)]
    candidate: Vec<String>,
    /// Go back after so many seconds unless `fwctl confirm` comes.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    confirm: Option<u64>,
    /// Apply it although something is wrong with it, or somebody would be cut off.
    #[arg(long)]
    force: bool,
    /// Say what would change and who would be cut off, but apply nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print as JSON.
    #[arg(long)]
    json: bool,
}

/// Whom the candidate would cut off.
#[derive(Default)]
struct Cuts {
    host: Vec<Cut>,
    guests: GuestCuts,
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    let files = place.sources()?;
    let candidate = candidate::read(&arguments.candidate, &files)?;
    let store = Store::new(&place.state_dir, &place.root, &files.node);
    let is_running = place.run_directory().is_locked();
    refuse_second(place, &store, is_running)?;
    if arguments.confirm.is_some() && !is_running {
        bail!("no agent runs that could go back: start it first (`fwctl start`)");
    }
    let pins = Pins::new(&place.pin_dir);
    // Another machine's tree is nothing to this one's connections.
    let is_here = pins.exist() || place.is_own();
    let (facts, machine) = surroundings(place, is_here)?;
    let after = with(&files, &candidate);
    let before = in_force(place, &files)?;
    let [old, new] = both(&before, &after, &facts);
    let difference = compared((&before, &old), (&after, &new));
    let mut found = new.diagnostics.clone();
    found.extend(lint::run(&new.config, &new.policy));
    found.sort();
    found.dedup();
    let told = told(&files, &candidate, &facts, found);
    let cuts = match is_here {
        true => judged(&pins, &machine, &old, &new)?,
        false => Cuts::default(),
    };

    let is_wrong = told.iter().any(|found| found.severity == Severity::Error);
    let is_refused = (is_wrong || !cuts.host.is_empty()) && !arguments.force;
    let stage = stage(&files, candidate, arguments.confirm.unwrap_or(AT_ONCE));
    let mut said = Said {
        done: match (is_refused, arguments.dry_run, stage.files.is_empty()) {
            (true, ..) => Done::Refused,
            (false, true, _) => Done::Nothing,
            (false, false, true) => Done::Nothing,
            (false, false, false) => Done::Applied,
        },
        files: stage.files.keys().cloned().collect(),
        seconds: arguments.confirm,
        is_shared: stage.files.contains_key(CLUSTER_FILE),
        is_dry: arguments.dry_run,
        difference: &difference,
        diagnostics: &told,
        cuts: &cuts.host,
        guests: &cuts.guests,
    };
    let lasting = arguments.confirm.is_none();
    if said.done == Done::Applied
        && let Err(error) = put(place, &store, &stage, is_running, lasting)
    {
        said.done = Done::Failed;
        said.print(&after, arguments.json)?;
        return Err(error);
    }
    said.print(&after, arguments.json)?;
    match said.done {
        Done::Refused => bail!("refused; nothing is changed: see above, or use --force"),
        Done::Applied | Done::Failed => Ok(Outcome::of(&told, false)),
        // As `fwctl diff`.
        Done::Nothing if !difference.is_empty() => Ok(Outcome::Diagnostics),
        Done::Nothing => Ok(Outcome::of(&told, false)),
    }
}

/// One at a time.
fn refuse_second(place: &Place, store: &Store, is_running: bool) -> Result<()> {
    let status = match is_running {
        true => client::status(&place.run_dir)?.trial,
        false => match store.trial()? {
            Some(_) => {
                bail!("something is on trial, and no agent runs to end it: `fwctl revert` first")
            }
            None => None,
        },
    };
    match status {
        None => Ok(()),
        Some(trial) => bail!(
            "{}: `fwctl confirm` or `fwctl revert` first",
            trial.lines().join("; ")
        ),
    }
}

/// What is known of the machine that the tree is for: if it is this one, what its agent knows.
fn surroundings(place: &Place, is_here: bool) -> Result<(HostFacts, Machine)> {
    if !is_here {
        return Ok((place.facts()?, Machine::default()));
    }
    let own = env::var("SSH_CONNECTION").ok();
    let own = own.as_deref().and_then(ssh_connection);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let (connection, netlink, _) =
            rtnetlink::new_connection().context("cannot talk to netlink")?;
        tokio::spawn(connection);
        let facts = HostFacts::gather(&netlink).await;
        let facts = facts.context("cannot list the host's addresses and routes")?;
        let devices = Devices::list(&netlink).await;
        let names = devices.context("cannot list the devices")?.names();
        let places = interfaces(&netlink).await;
        let places = places
            .context("cannot list the host's addresses")?
            .into_iter();
        let interfaces = places.filter_map(|(address, index)| {
            let (name, _) = names.get(&index)?;
            Some((address, name.clone()))
        });
        let interfaces = interfaces.collect();
        Ok((facts, Machine { interfaces, own }))
    })
}

/// What is wrong with the candidate's files, and what is newly wrong elsewhere.
fn told(
    files: &Sources,
    candidate: &Candidate,
    facts: &HostFacts,
    found: Vec<Diagnostic>,
) -> Vec<Diagnostic> {
    let before = check::diagnostics(files, facts, crate::reconcile::unix_time());
    let (own, others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|found| candidate.contains_key(&*found.file));
    let mut told = own;
    told.extend(check::new(&before, others));
    told.sort();
    told
}

fn judged(pins: &Pins, machine: &Machine, old: &Compiled, new: &Compiled) -> Result<Cuts> {
    let (flows, ports) = match pins.exist() {
        true => (
            flows::list(pins, |entry| entry.settled)?,
            scratch::ports(pins)?,
        ),
        false => (Vec::new(), Vec::new()),
    };
    let reevaluates =
        |(_, port): &(u32, fw_common::maps::Port)| port.flags & port_flag::REEVALUATE != 0;
    let reevaluates = ports.iter().any(reevaluates);
    let running = sessions(machine, &flows, &old.policy);
    let running = running.context("cannot list this node's connections")?;
    let [mut before, mut after] = [old, new].map(|compiled| Court::new(compiled, reevaluates));
    Ok(Cuts {
        host: cuts(&running, &mut before, &mut after),
        guests: guest_cuts(&flows, &mut before, &mut after),
    })
}

/// What of the candidate differs from the files.
fn stage(files: &Sources, candidate: Candidate, seconds: u64) -> Stage {
    let edits = candidate.into_iter().map(|(path, text)| {
        let before = files.files.get(&path).map(|bytes| bytes.to_vec());
        let edit = Edit {
            before,
            after: Some(text),
        };
        (path, edit)
    });
    Stage {
        files: edits
            .filter(|(_, edit)| edit.before != edit.after)
            .collect(),
        seconds,
    }
}

/// Has the stage in force: on trial, or for good.
fn put(place: &Place, store: &Store, stage: &Stage, is_running: bool, lasting: bool) -> Result<()> {
    if !is_running {
        return make_lasting(place, store, stage, false, false);
    }
    begin(place, store, stage)?;
    if !lasting {
        return Ok(());
    }
    let made = make_lasting(place, store, stage, true, false);
    if made.is_err()
        && let Ok(status) = client::status(&place.run_dir)
        && status
            .trial
            .is_some_and(|trial| trial.seconds_left.is_some())
    {
        client::revert_trial(&place.run_dir)?;
    }
    made
}

/// Colours only for people.
fn colours() -> bool {
    std::io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none()
}
