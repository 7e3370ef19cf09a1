//! The agent's side of the control socket.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::bans::{self, BanRequests};
use super::{Granted, PATIENCE, Request, Status, socket};
use crate::metrics::Exporter;
use crate::metrics::server::page;

type Loop = mpsc::Sender<Request>;

/// Makes the socket. The caller holds the lock of the run directory.
///
/// # Errors
/// The socket cannot be made.
pub fn bind(run_directory: &Path) -> std::io::Result<UnixListener> {
    // Made under another name, so that it never is under its own with another mode.
    let new = run_directory.join("control.sock.new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(new, socket(run_directory))?;
    Ok(listener)
}

/// Answers requests, by way of the loop, until the task is ended.
///
/// # Errors
/// The socket fails.
pub async fn serve(
    listener: UnixListener,
    agent: Loop,
    exporter: Arc<Exporter>,
    bans: Arc<BanRequests>,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .route("/v1/diagnostics", get(diagnostics))
        .route("/v1/trial", get(trial).post(begin).delete(revert))
        .route("/v1/trial/confirm", post(confirm))
        .route("/v1/metrics", get(page).with_state(exporter))
        .route(
            "/v1/bans",
            get(bans::get)
                .post(bans::post)
                .delete(bans::delete)
                .with_state(bans),
        )
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .with_state(agent);
    axum::serve(listener, router).await
}

async fn status(State(agent): State<Loop>) -> Response {
    ask(&agent, Request::Status).await
}

async fn reload(State(agent): State<Loop>) -> Response {
    ask(&agent, Request::Reload).await
}

async fn diagnostics(State(agent): State<Loop>) -> Response {
    ask(&agent, Request::Diagnostics).await
}

async fn trial(State(agent): State<Loop>) -> Response {
    match put(&agent, Request::Status).await {
        Ok(Status { trial, .. }) => Json(trial).into_response(),
        Err(failure) => failure,
    }
}

async fn begin(State(agent): State<Loop>) -> Response {
    granted(put(&agent, Request::Begin).await)
}

async fn confirm(State(agent): State<Loop>) -> Response {
    granted(put(&agent, Request::Confirm).await)
}

async fn revert(State(agent): State<Loop>) -> Response {
    granted(put(&agent, Request::Revert).await)
}

fn granted(answer: Result<Granted, Response>) -> Response {
    match answer {
        Ok(Ok(status)) => Json(status).into_response(),
        Ok(Err(refusal)) if refusal.is_conflict => failure(StatusCode::CONFLICT, &refusal.why),
        Ok(Err(refusal)) => failure(StatusCode::INTERNAL_SERVER_ERROR, &refusal.why),
        Err(failure) => failure,
    }
}

async fn unknown() -> Response {
    failure(StatusCode::NOT_FOUND, "no such path")
}

async fn not_allowed() -> Response {
    failure(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path has another method",
    )
}

/// Answers with what the loop says.
async fn ask<T: Serialize>(
    agent: &Loop,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Response {
    match put(agent, question).await {
        Ok(answer) => Json(answer).into_response(),
        Err(failure) => failure,
    }
}

/// Puts a question to the loop and waits for its answer.
async fn put<T>(
    agent: &Loop,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Response> {
    let (sender, answer) = oneshot::channel();
    let asked = async {
        agent.send(question(sender)).await.ok()?;
        answer.await.ok()
    };
    match timeout(PATIENCE, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => Err(failure(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent is ending",
        )),
        Err(_elapsed) => Err(failure(StatusCode::GATEWAY_TIMEOUT, "the agent is busy")),
    }
}

pub(super) fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(serde_json::json!({ "error": error }))).into_response()
}
