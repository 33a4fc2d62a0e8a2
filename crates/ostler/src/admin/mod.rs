//! The admin API: HTTP and JSON for the one who runs this machine, on a UNIX socket that the keeper has bound.
//!
//! Handlers hand a question to the server's own loop and wait for its answer; nothing here knows a project, a
//! worker or a config file. [`client`] is the other end, for the commands.

pub mod api;
pub mod client;
mod door;
pub mod metrics;
pub mod screen;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use api::{Outcome, Reloaded, Status};

pub use door::{Gate, Open, serve};

/// What is asked of the server.
#[derive(Debug)]
pub enum Ask {
    Status(oneshot::Sender<Status>),
    /// A page of [`metrics`].
    Metrics(oneshot::Sender<String>),
    Reload {
        /// Only the workers of this one.
        project: Option<String>,
        /// The answer comes when what has to start has started.
        wait: bool,
        answer: oneshot::Sender<Reloaded>,
    },
}

/// Questions that may wait for the server's loop, which answers each within moments.
const ASKS: usize = 32;

/// Where questions go, and where the server finds them.
pub fn desk() -> (mpsc::Sender<Ask>, mpsc::Receiver<Ask>) {
    mpsc::channel(ASKS)
}

/// Everything that can be asked.
pub fn router(asks: mpsc::Sender<Ask>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/reload", post(reload))
        .with_state(asks.clone())
        .merge(metrics_router(asks))
}

/// What everybody may ask who reaches the address for it.
pub fn metrics_router(asks: mpsc::Sender<Ask>) -> Router {
    let router = Router::new().route("/metrics", get(page));
    router.with_state(asks)
}

async fn page(State(asks): State<mpsc::Sender<Ask>>) -> Response {
    match ask(&asks, Ask::Metrics).await {
        Some(page) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response(),
        None => ending(),
    }
}

async fn status(State(asks): State<mpsc::Sender<Ask>>) -> Response {
    match ask(&asks, Ask::Status).await {
        Some(status) => Json(status).into_response(),
        None => ending(),
    }
}

#[derive(Deserialize)]
struct ReloadQuery {
    project: Option<String>,
    #[serde(default)]
    wait: bool,
}

async fn reload(
    State(asks): State<mpsc::Sender<Ask>>,
    Query(ReloadQuery { project, wait }): Query<ReloadQuery>,
) -> Response {
    let question = |answer| Ask::Reload {
        project,
        wait,
        answer,
    };
    let Some(reloaded) = ask(&asks, question).await else {
        return ending();
    };
    let status = match reloaded.outcome {
        Outcome::Done => StatusCode::OK,
        Outcome::Begun => StatusCode::ACCEPTED,
        Outcome::Failed => StatusCode::UNPROCESSABLE_ENTITY,
        Outcome::Unknown => StatusCode::NOT_FOUND,
    };
    (status, Json(reloaded)).into_response()
}

async fn ask<T>(
    asks: &mpsc::Sender<Ask>,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    asks.send(question(answer)).await.ok()?;
    answered.await.ok()
}

fn ending() -> Response {
    let text = "the server is ending\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
