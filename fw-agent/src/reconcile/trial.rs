//! Trials in the loop: begun, confirmed, ended, counted down, and found at a start.
//!
//! In: what `fwctl` staged, and its requests. Out: the configuration that is enforced: the files, with what is on trial in their place.
//!
//! Each step is on disk before it is in force, so that whatever happens to this process the next one goes on. An end is in force before it is on disk:
//! nothing may keep the agent from going back, not even a full disk. Invariant: files that were never read are not enforced; they would open the node.

use std::borrow::Cow;
use std::sync::Arc;

use anyhow::{Context, anyhow};

use super::Agent;
use crate::config::{Changed, Sources};
use crate::control::{Refusal, Status};
use crate::trial::{Moment, Trial, lock_of};

impl Agent {
    /// The files with what is on trial in their place.
    pub(super) fn under_trial<'s>(&self, sources: &'s Sources) -> Cow<'s, Sources> {
        match &self.trial {
            None => Cow::Borrowed(sources),
            Some(trial) => {
                let mut over = sources.clone();
                trial.stage.lay_over(&mut over);
                Cow::Owned(over)
            }
        }
    }

    /// Takes up the trial that was on when the agent ended, if its time is not over. Before anything is enforced.
    pub(super) fn take_up_trial(&mut self) {
        let trial = match self.trials.trial() {
            Ok(None) => return,
            Ok(Some(trial)) => trial,
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::error!("{error:#}; nothing is on trial: the files are in force");
                return;
            }
        };
        match Moment::now() {
            Ok(now) if !trial.is_over(&now) => {
                tracing::info!("{}", trial.status(&now, &Sources::default()).lines()[0]);
                self.trial = Some(trial);
            }
            Ok(_) => {
                tracing::warn!(
                    "what was on trial since {} was not confirmed in time, or before this boot: the files are in force",
                    trial.begun_at
                );
                self.forget_trial();
            }
            Err(error) => {
                tracing::error!(%error, "the time of a trial cannot be told: the files are in force");
                self.forget_trial();
            }
        }
    }

    /// Begins the trial of what is staged.
    pub(super) fn begin_trial(&mut self) -> Result<Status, Refusal> {
        let now = self.now()?;
        if let Some(trial) = &self.trial {
            let lines = trial.status(&now, &self.sources).lines();
            return Err(Refusal::conflict(lines[0].clone()));
        }
        let staged = self.trials.staged().map_err(Refusal::failed)?;
        let stage = staged.ok_or_else(|| Refusal::conflict("nothing is staged".to_owned()))?;
        let node = &self.options.node;
        if let Some(file) = stage
            .files
            .keys()
            .find(|file| lock_of(file, node).is_none())
        {
            let why = format!("{file} is no firewall file of node {node}");
            return Err(Refusal::conflict(why));
        }
        let sources = self.read(&Changed::Anything).map_err(Refusal::failed)?;
        let now_there = self
            .reader
            .read(&Changed::Anything)
            .map_err(Refusal::failed)?;
        if let Some(file) = stage.changed(&now_there).first() {
            let why = format!("{file} was changed since this was staged: look at it and try again");
            return Err(Refusal::conflict(why));
        }
        let trial = Trial {
            deadline: now.after(stage.seconds),
            begun_at: jiff::Timestamp::now().to_string(),
            confirmed: false,
            stage,
        };
        self.trials.keep(&trial).map_err(Refusal::failed)?;
        if let Err(error) = self.trials.unstage() {
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        tracing::info!("{}", trial.status(&now, &sources).lines()[0]);
        let was_sound = !self.record.incomplete;
        self.sources = sources;
        (self.read_error, self.cached_at) = (None, None);
        self.trial = Some(trial);
        self.enforce();
        if was_sound && self.record.incomplete {
            let why = self.record.degraded.join("; ");
            self.end_trial("it could not be carried out");
            return Err(Refusal::failed(anyhow!(
                "it could not be carried out, and the files are in force again: {why}"
            )));
        }
        Ok(self.status())
    }

    /// The trial does not end any more. The files are for whoever confirms it to write.
    pub(super) fn confirm_trial(&mut self) -> Result<Status, Refusal> {
        let now = self.now()?;
        let Some(trial) = &self.trial else {
            return Err(Refusal::conflict("nothing is on trial".to_owned()));
        };
        if trial.is_over(&now) {
            return Err(Refusal::conflict(
                "it is too late: the time is over".to_owned(),
            ));
        }
        let confirmed = Trial {
            confirmed: true,
            ..trial.clone()
        };
        self.trials.keep(&confirmed).map_err(Refusal::failed)?;
        tracing::info!("the trial since {} is confirmed", confirmed.begun_at);
        self.trial = Some(confirmed);
        Ok(self.status())
    }

    /// Ends the trial at once.
    pub(super) fn revert_trial(&mut self) -> Result<Status, Refusal> {
        if self.trial.is_none() {
            return Err(Refusal::conflict("nothing is on trial".to_owned()));
        }
        self.end_trial("somebody reverted it");
        Ok(self.status())
    }

    /// Ends the trial if its time is over, or if the files say what was confirmed.
    pub(super) fn look_after_trial(&mut self) {
        let Some(trial) = &self.trial else { return };
        // Without a clock there is no waiting.
        if Moment::now().map_or(!trial.confirmed, |now| trial.is_over(&now)) {
            self.end_trial("it was not confirmed in time");
        }
    }

    /// Ends a trial that cannot be ended later: nobody will be there to.
    pub(super) fn leave_trial(&mut self) {
        if self.trial.as_ref().is_some_and(|trial| !trial.confirmed) {
            self.end_trial("the agent ends");
        }
    }

    /// Ends a confirmed trial that the files, as they were read, have caught up with.
    pub(super) fn finish_trial(&mut self, read: &Sources) {
        let Some(trial) = &self.trial else { return };
        if !trial.confirmed || !trial.stage.unwritten(read).is_empty() {
            return;
        }
        // What somebody confirmed is meant, whatever it leaves out.
        trial.stage.lay_over(&mut self.sources);
        tracing::info!("the files say what was confirmed: the trial is over");
        self.trial = None;
        self.news = true;
        self.forget_trial();
    }

    /// How the trial is, if there is one.
    pub(super) fn trial_status(&self, sources: &Sources) -> Option<crate::trial::Status> {
        let trial = self.trial.as_ref()?;
        let now = Moment::now().unwrap_or_else(|_| trial.deadline.clone());
        Some(trial.status(&now, sources))
    }

    fn now(&self) -> Result<Moment, Refusal> {
        let now = Moment::now().context("the time since the boot is not known");
        now.map_err(Refusal::failed)
    }

    fn end_trial(&mut self, why: &str) {
        let Some(trial) = self.trial.take() else {
            return;
        };
        tracing::warn!(
            "the trial since {} ends: {why}; the files are in force",
            trial.begun_at
        );
        match self.compiled.is_some() {
            // The files as they were read last, in case they cannot be read now.
            true => self.enforce(),
            false => tracing::error!(
                "no files were read since the agent began: what the kernel holds stays in force until they are"
            ),
        }
        self.news = true;
        self.forget_trial();
    }

    fn forget_trial(&self) {
        if let Err(error) = self.trials.end() {
            let error = anyhow::Error::from(error);
            tracing::error!("{error:#}: until it is gone the agent will look at it at each start");
        }
    }

    /// Carries out the files that were read last, with what is on trial.
    fn enforce(&mut self) {
        let retry = std::mem::take(&mut self.retry);
        let sources = self.sources.clone();
        let compiled = self.compile(&sources);
        self.report(&compiled);
        let compiled = Arc::new(compiled);
        self.compiled = Some(Arc::clone(&compiled));
        self.carry_out(&compiled);
        self.keep_counters();
        self.retry |= retry;
    }
}
