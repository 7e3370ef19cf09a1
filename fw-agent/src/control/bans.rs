//! Bans over the control socket: the same desk that `fwctl ban` uses, without the loop.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/bans` | | `{"bans": […], "dropped_packets": …}` |
//! | `POST /v1/bans` | [`Wanted`] | `{"banned": […], "refused": […], "enforced": true}`, with 409 if any was refused |
//! | `DELETE /v1/bans` | [`Unwanted`] | `{"lifted": […], "held": […], "missing": […]}` |
//!
//! The agent does not see everybody's SSH session, having few privileges; logind's and the cluster's are known to it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use fw_common::verdict::Reason;
use serde::Deserialize;
use serde_json::Value;

use super::server::failure;
use crate::bans::protected::{Asker, Protected, Tree};
use crate::bans::record::{Length, Now, Record, clean, net};
use crate::bans::{Desk, Which, json};
use crate::datapath::counters;
use crate::datapath::pins::Pins;

/// Where requests about bans go.
#[derive(Debug)]
pub struct BanRequests {
    pins: Pins,
    tree: Tree,
    desk: Mutex<Desk>,
}

/// Who is to be banned.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Addresses and prefixes.
    pub addresses: Vec<String>,
    /// Seconds, `"boot"` or `"forever"`.
    #[serde(rename = "for")]
    pub length: Length,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// On whose account.
    pub by: String,
    /// Whoever it is.
    #[serde(default)]
    pub force: bool,
    /// A program asks that has seen an attack.
    #[serde(default)]
    pub automatic: bool,
}

/// Whose bans are to be lifted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unwanted {
    /// Addresses and prefixes, as they were banned.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// On this account only.
    #[serde(default)]
    pub by: Option<String>,
    /// Every ban.
    #[serde(default)]
    pub all: bool,
}

type Answer = Result<(StatusCode, Value), (StatusCode, String)>;

impl BanRequests {
    /// That of an agent.
    pub fn new(pin_directory: &Path, tree: Tree) -> Arc<Self> {
        let desk = Desk::new(pin_directory, &tree.state_directory);
        Arc::new(Self {
            pins: Pins::new(pin_directory),
            tree,
            desk: Mutex::new(desk),
        })
    }

    fn list(&self) -> Answer {
        let (bans, _) = self.desk().list().map_err(failed)?;
        let dropped = counters::dropped(&self.pins, Reason::Ban).map_err(failed)?;
        Ok((StatusCode::OK, json::list(&bans, Some(dropped))))
    }

    fn ban(&self, wanted: &Wanted) -> Answer {
        let nets = nets(&wanted.addresses)?;
        let by = clean(&wanted.by);
        if by.is_empty() {
            return Err(bad("`by` is empty"));
        }
        let asker = match wanted.automatic {
            true => Asker::Program,
            false => Asker::Person,
        };
        let (nets, refused) = match wanted.force {
            true => (nets, Vec::new()),
            false => {
                let (protected, remark) = Protected::gather(&self.tree, asker).map_err(failed)?;
                if let Some(remark) = remark {
                    tracing::warn!("{remark}");
                }
                protected.sift(nets)
            }
        };
        let now = Now::read();
        let records = nets
            .into_iter()
            .map(|net| Record::new(net, &by, &wanted.reason, wanted.length, now));
        let records: Vec<Record> = records.collect();
        let in_force = self.desk().ban(&records).map_err(failed)?;
        let status = match refused.is_empty() {
            true => StatusCode::OK,
            false => StatusCode::CONFLICT,
        };
        Ok((status, json::banned(&records, &refused, in_force)))
    }

    fn lift(&self, unwanted: &Unwanted) -> Answer {
        let nets = nets(&unwanted.addresses)?;
        let by = unwanted.by.as_deref().map(clean);
        let which = match (unwanted.all, nets.is_empty(), by) {
            (true, true, None) => Which::All,
            (false, true, Some(by)) => Which::By(by),
            (false, false, by) => Which::Nets(nets, by),
            (true, _, _) | (false, true, None) => {
                return Err(bad("say whose: `addresses`, `by`, or nothing but `all`"));
            }
        };
        let done = self.desk().lift(&which).map_err(failed)?;
        Ok((StatusCode::OK, json::lifted(&done)))
    }

    fn desk(&self) -> std::sync::MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nets(addresses: &[String]) -> Result<Vec<ipnet::IpNet>, (StatusCode, String)> {
    let nets = addresses.iter().map(|address| net(address));
    nets.collect::<Result<_, _>>()
        .map_err(|error| bad(&error.to_string()))
}

fn bad(text: &str) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, text.to_owned())
}

fn failed(error: impl Into<anyhow::Error>) -> (StatusCode, String) {
    let error = error.into();
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
}

/// Files and the kernel are waited for on a thread that may wait.
async fn answer(work: impl FnOnce() -> Answer + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok((status, value))) => (status, Json(value)).into_response(),
        Ok(Err((status, text))) => failure(status, &text),
        Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) async fn get(State(requests): State<Arc<BanRequests>>) -> Response {
    answer(move || requests.list()).await
}

pub(super) async fn post(
    State(requests): State<Arc<BanRequests>>,
    body: axum::body::Bytes,
) -> Response {
    match serde_json::from_slice::<Wanted>(&body) {
        Ok(wanted) => answer(move || requests.ban(&wanted)).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

pub(super) async fn delete(
    State(requests): State<Arc<BanRequests>>,
    body: axum::body::Bytes,
) -> Response {
    match serde_json::from_slice::<Unwanted>(&body) {
        Ok(unwanted) => answer(move || requests.lift(&unwanted)).await,
        Err(error) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}
