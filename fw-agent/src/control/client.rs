//! `fwctl`'s side of the control socket: one request, one answer, in bounded time.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{PATIENCE, Status, socket};

/// Asks how the agent is.
///
/// # Errors
/// Nobody answers, or not in time.
pub fn status(run_directory: &Path) -> Result<Status> {
    ask(run_directory, Method::GET, "/v1/status")
}

/// Has the agent read everything again and carry it out; answers how it is then.
///
/// # Errors
/// Nobody answers, or not in time.
pub fn reload(run_directory: &Path) -> Result<Status> {
    ask(run_directory, Method::POST, "/v1/reload")
}

/// Begins the trial of what is staged; answers how the agent is then.
///
/// # Errors
/// Nobody answers, not in time, or it is refused.
pub fn begin_trial(run_directory: &Path) -> Result<Status> {
    ask(run_directory, Method::POST, "/v1/trial")
}

/// Has the trial not end by itself; answers how the agent is then.
///
/// # Errors
/// Nobody answers, not in time, or it is refused.
pub fn confirm_trial(run_directory: &Path) -> Result<Status> {
    ask(run_directory, Method::POST, "/v1/trial/confirm")
}

/// Ends the trial; answers how the agent is then.
///
/// # Errors
/// Nobody answers, not in time, or it is refused.
pub fn revert_trial(run_directory: &Path) -> Result<Status> {
    ask(run_directory, Method::DELETE, "/v1/trial")
}

/// Sends a request without a body and reads the answer as JSON.
///
/// # Errors
/// Nobody answers, not in time, with a failure, or with something else than a `T`.
pub fn ask<T: DeserializeOwned>(run_directory: &Path, method: Method, path: &str) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let answer = runtime.block_on(async {
        timeout(PATIENCE, exchange(run_directory, method, path))
            .await
            .context("no answer in time")?
    });
    let answer = answer.map_err(|error| {
        let sentence = explained(&error, &socket(run_directory));
        error.context(sentence)
    })?;
    answer.map_err(|refused| anyhow!("the agent refuses: {}", refused.error))
}

/// What the agent answers to what does not fit how things are.
#[derive(Deserialize)]
struct Refused {
    error: String,
}

/// Why the agent at a socket has not answered, and what to do about it.
fn explained(error: &anyhow::Error, socket: &Path) -> String {
    let kind = error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind);
    let socket = socket.display();
    match kind {
        Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            format!("no agent runs (at {socket}); `fwctl start` starts it")
        }
        Some(ErrorKind::PermissionDenied) => {
            format!("only root may ask the agent (at {socket}): use sudo")
        }
        Some(_) | None => format!("cannot ask the agent at {socket}"),
    }
}

async fn exchange<T: DeserializeOwned>(
    run_directory: &Path,
    method: Method,
    path: &str,
) -> Result<Result<T, Refused>> {
    let stream = UnixStream::connect(socket(run_directory)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, "tapwall")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if status == StatusCode::CONFLICT {
        return Ok(Err(serde_json::from_slice(&body)?));
    }
    if !status.is_success() {
        anyhow::bail!("{status}: {}", String::from_utf8_lossy(&body));
    }
    let answer = serde_json::from_slice(&body);
    answer.context("the answer is not understood").map(Ok)
}
