//! The endpoint that Prometheus asks: `GET /metrics` at the address of the settings.
//!
//! An address that cannot be used yet (at a boot, before the network) is tried again. Nothing else is served there, and nothing can be changed by it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Exporter, MEDIA_TYPE};

/// Time between two tries to use the address.
const RETRY: Duration = Duration::from_secs(5);

/// Answers until the task is ended.
pub async fn serve(address: SocketAddr, exporter: Arc<Exporter>) {
    let mut complained = false;
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) if !complained => {
                complained = true;
                tracing::warn!(%address, %error, "cannot serve metrics; trying again");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    };
    tracing::info!(%address, "serving metrics");
    let router = Router::new()
        .route("/metrics", get(page))
        .with_state(exporter);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%address, %error, "serving metrics failed");
    }
}

/// A page, made beside the tasks of the agent.
pub async fn page(State(exporter): State<Arc<Exporter>>) -> Response {
    let made = tokio::task::spawn_blocking(move || exporter.page()).await;
    match made {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, MEDIA_TYPE)], page).into_response(),
        Ok(Err(error)) => failure(&error),
        Err(error) => failure(&error),
    }
}

fn failure(error: &dyn std::fmt::Display) -> Response {
    let text = format!("{error}\n");
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}
