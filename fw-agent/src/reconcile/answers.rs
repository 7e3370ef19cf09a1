//! What the agent says about itself: to the service manager in a sentence, over the control socket in full.
//!
//! Nothing here changes anything. Whether changes are pending is told by reading the files again, as a round would.

use super::Agent;
use crate::config::{Changed, Sources};
use crate::control::Status;
use crate::diagnostic::Diagnostic;
use crate::record::Record;

impl Agent {
    /// How things are, in a sentence.
    pub(super) fn sentence(&self) -> String {
        let Record { generation, .. } = self.record;
        if let Some(trial) = &self.trial {
            let what = if trial.confirmed {
                "confirmed"
            } else {
                "on trial"
            };
            return format!("generation {generation}, {what} since {}", trial.begun_at);
        }
        match (&self.read_error, self.record.degraded.len()) {
            (Some(error), _) => format!("generation {generation}; {error}"),
            (None, 0) => format!(
                "generation {generation}, {} ports under policy",
                self.record.ports.len()
            ),
            (None, degraded) => format!("generation {generation}, {degraded} scopes degraded"),
        }
    }

    /// How things are, for those who ask.
    pub(super) fn status(&mut self) -> Status {
        let mut record = self.record.clone();
        if record.generation == 0 {
            record.degraded.extend(self.unread());
        }
        let now = self.read(&Changed::Anything);
        let trial = self.trial_status(now.as_ref().unwrap_or(&self.sources));
        let differs = now.is_ok_and(|now| now != self.sources);
        Status {
            running: true,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            uptime: Some(self.started.elapsed().as_secs()),
            pending: differs || record.incomplete,
            trial,
            record,
        }
    }

    /// What is wrong with the files that are in force.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let compiled = self.compiled.as_ref();
        compiled.map_or_else(Vec::new, |compiled| compiled.diagnostics.clone())
    }

    /// What holds because the files cannot be read, if so.
    pub(super) fn unread(&self) -> Option<String> {
        let error = self.read_error.as_ref()?;
        Some(match (&self.cached_at, self.record.generation) {
            (Some(time), _) => format!("{error}; the configuration of {time} is enforced"),
            (None, 0) => format!("{error}; what the kernel holds stays in force"),
            (None, _) => format!("{error}; the last policy stays in force"),
        })
    }
}

/// What is not as it should be because files cannot be read, or are not to be believed.
pub(super) fn unreadable(sources: &Sources) -> impl Iterator<Item = String> {
    let closed = sources.unreadable.iter();
    let closed = closed.map(|entry| (entry, "what depends on it stays closed"));
    let stale = sources.stale.iter();
    let stale = stale.map(|entry| (entry, "its last contents stay in force"));
    closed
        .chain(stale)
        .map(|((path, reason), effect)| format!("{path} cannot be read ({reason}); {effect}"))
}
