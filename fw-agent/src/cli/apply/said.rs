//! What `fwctl apply` says: problems, differences, connections, and what was done.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use super::colours;
use crate::config::{CLUSTER_FILE, Sources};
use crate::diagnostic::{Diagnostic, render};
use crate::diff::Difference;
use crate::sessions::{Cut, GuestCuts};

/// Connections that are told one by one, the worst first.
const TOLD: usize = 30;

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Done {
    /// It is in force.
    Applied,
    /// Nothing was to be done, or only to be said.
    Nothing,
    /// Something is against it.
    Refused,
    /// It was tried, and did not work.
    Failed,
}

/// All that is said.
#[derive(Serialize)]
pub(super) struct Said<'a> {
    pub(super) done: Done,
    pub(super) files: Vec<String>,
    /// It goes back after these.
    pub(super) seconds: Option<u64>,
    #[serde(skip)]
    pub(super) is_shared: bool,
    #[serde(skip)]
    pub(super) is_dry: bool,
    pub(super) difference: &'a Difference,
    pub(super) diagnostics: &'a [Diagnostic],
    pub(super) cuts: &'a [Cut],
    pub(super) guests: &'a GuestCuts,
}

impl Said<'_> {
    /// Prints it; `sources`: the candidate's.
    pub(super) fn print(&self, sources: &Sources, json: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer_pretty(&mut out, self)?;
            writeln!(out)?;
            return Ok(());
        }
        write!(out, "{}", render(self.diagnostics, sources, colours()))?;
        match self.difference.is_empty() {
            true => writeln!(out, "nothing that is enforced differs")?,
            false => write!(out, "{}", self.difference)?,
        }
        if !self.cuts.is_empty() {
            writeln!(out, "connections of this node that would be cut off")?;
        }
        for cut in self.cuts.iter().take(TOLD) {
            writeln!(out, "  {cut}")?;
        }
        if self.cuts.len() > TOLD {
            writeln!(out, "  and {} more: see --json", self.cuts.len() - TOLD)?;
        }
        let GuestCuts {
            at_once,
            not_again,
            guests,
        } = self.guests;
        if !guests.is_empty() {
            writeln!(
                out,
                "flows of {} guests: {at_once} would be cut at once, {not_again} go on and could not be opened again",
                guests.len()
            )?;
        }
        self.ending(&mut out)
    }

    fn ending(&self, out: &mut impl Write) -> Result<()> {
        let files = self.files.join(", ");
        match (self.done, self.seconds) {
            (Done::Refused | Done::Failed, _) => return Ok(()),
            (Done::Nothing, _) if self.is_dry => writeln!(out, "nothing is applied: --dry-run")?,
            (Done::Nothing, _) => writeln!(out, "the files say this already: nothing to apply")?,
            (Done::Applied, Some(seconds)) => writeln!(
                out,
                "on trial: {files}; in force now, and back in {seconds} s unless `fwctl confirm` comes (best from a new connection)"
            )?,
            (Done::Applied, None) => {
                writeln!(
                    out,
                    "applied: {files}; `fwctl revert` brings back what was there"
                )?;
            }
        }
        if self.is_shared && self.done == Done::Applied {
            match self.seconds {
                Some(_) => writeln!(
                    out,
                    "{CLUSTER_FILE} is all nodes': this one alone tries it, `fwctl confirm` writes it for all"
                )?,
                None => writeln!(out, "{CLUSTER_FILE} is all nodes': it holds on all of them")?,
            }
        }
        Ok(())
    }
}
