//! `fwctl backend`: programs that decide whom to ban, and have Tapwall enforce it.
//!
//! Each backend runs for as long as its program does, and bans on an account of its own, so that it lifts what it has banned and nothing else.
//! fail2ban needs none: it calls `fwctl ban` and `fwctl unban` by `packaging/fail2ban/action.d/tapwall.conf`.

mod crowdsec;
mod sshguard;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Outcome, Place};
use crate::bans::protected::Asker;
use crate::bans::record::Record;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Arguments {
    /// Read sshguard's commands from standard input: what a BACKEND of sshguard.conf has to do.
    ///
    /// Bans of an earlier run are lifted first; sshguard says again whom it wants.
    Sshguard(sshguard::Arguments),
    /// Follow the decisions of a CrowdSec LAPI, as a bouncer.
    Crowdsec(crowdsec::Arguments),
}

pub(super) fn run(place: &Place, arguments: &Arguments) -> Result<Outcome> {
    match arguments {
        Arguments::Sshguard(arguments) => sshguard::run(place, arguments),
        Arguments::Crowdsec(arguments) => crowdsec::run(place, arguments),
    }
}

/// Bans those that may be; says who may not and what goes wrong. How many were banned.
fn ban(place: &Place, desk: &mut crate::bans::Desk, records: Vec<Record>) -> Result<usize> {
    if records.is_empty() {
        return Ok(0);
    }
    let protected = place.protected(Asker::Program)?;
    let nets = records.iter().map(|record| record.net).collect();
    let (_, refused) = protected.sift(nets);
    for refusal in &refused {
        eprintln!("fwctl: {refusal}");
    }
    let may = |record: &Record| protected.hit(record.net).is_empty();
    let records: Vec<Record> = records.into_iter().filter(may).collect();
    let loaded = desk.ban(&records)?;
    place.enforces(loaded);
    Ok(records.len())
}

/// What ends a backend.
struct Ending {
    term: Signal,
    int: Signal,
}

impl Ending {
    /// Within a runtime.
    fn listen(runtime: &Runtime) -> Result<Self> {
        let _inside = runtime.enter();
        let on = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            term: on(SignalKind::terminate())?,
            int: on(SignalKind::interrupt())?,
        })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
