//! The control socket: asking a running agent, over HTTP with JSON on `<run directory>/control.sock`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `POST /v1/reload` | reads everything again and carries it out now; then [`Status`] |
//! | `GET /v1/diagnostics` | what is wrong with the files, as of the last compile: a list with file, line and column |
//! | `GET /v1/trial` | what is on trial ([`trial::Status`]), or `null` |
//! | `POST /v1/trial` | begins the trial of what is staged in the state directory; then [`Status`] |
//! | `POST /v1/trial/confirm` | it does not end by itself any more, but when the files say it, too; then [`Status`] |
//! | `DELETE /v1/trial` | ends it: the files are in force again; then [`Status`] |
//! | `GET /v1/metrics` | numbers in Prometheus's text format ([`crate::metrics`]); the loop is not asked |
//! | `GET`, `POST`, `DELETE /v1/bans` | bans, listed, made and lifted ([`bans`]); the loop is not asked |
//!
//! Failures are `{"error": "…"}` with a status that fits. [`server`] hands each request to the agent's loop, which alone knows the answers;
//! [`client`] is for `fwctl`.
//!
//! Invariant: only root may connect (mode 0600 from the moment the socket has its name), and only the agent that holds the run directory's lock
//! makes the socket. So one that is there while nobody holds the lock is a dead agent's, and is replaced.

pub mod bans;
pub mod client;
pub mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::diagnostic::Diagnostic;
use crate::record::Record;
use crate::trial;

/// How long a question may take, on both sides: a large configuration is applied in less.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// The socket of an agent with this run directory.
pub fn socket(run_directory: &Path) -> PathBuf {
    run_directory.join("control.sock")
}

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// An agent runs.
    pub running: bool,
    /// Its version.
    pub version: Option<String>,
    /// Seconds since it started.
    pub uptime: Option<u64>,
    /// What the files say now is not, or not wholly, what was carried out last.
    pub pending: bool,
    /// What is on trial in the place of files.
    #[serde(default)]
    pub trial: Option<trial::Status>,
    /// What it did last.
    #[serde(flatten)]
    pub record: Record,
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// It does not fit how things are; else it could not be done.
    pub is_conflict: bool,
    /// In words.
    pub why: String,
}

impl Refusal {
    /// It does not fit how things are.
    pub fn conflict(why: String) -> Self {
        Self {
            is_conflict: true,
            why,
        }
    }

    /// It could not be done.
    pub fn failed(why: impl Into<anyhow::Error>) -> Self {
        Self {
            is_conflict: false,
            why: format!("{:#}", why.into()),
        }
    }
}

/// An answer that may be a refusal.
pub type Granted = Result<Status, Refusal>;

/// A question to the agent's loop, and where the answer goes.
#[derive(Debug)]
pub enum Request {
    /// How are you?
    Status(oneshot::Sender<Status>),
    /// Read everything again.
    Reload(oneshot::Sender<Status>),
    /// Begin the trial of what is staged.
    Begin(oneshot::Sender<Granted>),
    /// Do not end it.
    Confirm(oneshot::Sender<Granted>),
    /// End it.
    Revert(oneshot::Sender<Granted>),
    /// What is wrong with the files?
    Diagnostics(oneshot::Sender<Vec<Diagnostic>>),
}
