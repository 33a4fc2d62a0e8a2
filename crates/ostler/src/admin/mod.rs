//! The admin API: HTTP and JSON for the one who runs this machine, on a UNIX socket that the keeper has bound.
//!
//! Handlers hand a question to the server's own loop and wait for its answer; nothing here knows a project, a
//! worker or a config file. [`client`] is the other end, for the commands.

pub mod api;
pub mod client;
mod door;
pub mod metrics;
pub mod screen;

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use crate::store::Log;
use crate::store::find::{self, Filter};

use api::{Maintained, NameLook, Outcome, Reloaded, Status};

pub use door::{Gate, Open, Places, serve};

/// What is asked of the server.
#[derive(Debug)]
pub enum Ask {
    Status(oneshot::Sender<Status>),
    /// Where the request log is; `None` when there is none.
    Requests(oneshot::Sender<Option<Arc<Log>>>),
    /// A page of [`metrics`].
    Metrics(oneshot::Sender<String>),
    /// The maintenance page of a project.
    Maintain {
        project: String,
        on: bool,
        answer: oneshot::Sender<Maintained>,
    },
    /// A look at each name that a CA is asked for.
    Names(oneshot::Sender<Vec<NameLook>>),
    Reload {
        /// Only the workers of this one.
        project: Option<String>,
        /// The answer comes when what has to start has started.
        wait: bool,
        answer: oneshot::Sender<Reloaded>,
    },
    /// Another program is to take this one's place.
    Upgrade(oneshot::Sender<Reloaded>),
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
        .route("/v1/upgrade", post(upgrade))
        .route("/v1/maintenance", post(maintain))
        .route("/v1/names", get(names))
        .route("/v1/requests", get(requests))
        .route("/v1/requests/percentiles", get(percentiles))
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

async fn names(State(asks): State<mpsc::Sender<Ask>>) -> Response {
    match ask(&asks, Ask::Names).await {
        Some(looks) => Json(looks).into_response(),
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
    told(ask(&asks, question).await)
}

async fn upgrade(State(asks): State<mpsc::Sender<Ask>>) -> Response {
    told(ask(&asks, Ask::Upgrade).await)
}

fn told(reloaded: Option<Reloaded>) -> Response {
    let Some(reloaded) = reloaded else {
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

#[derive(Deserialize)]
struct MaintainQuery {
    project: String,
    on: bool,
}

async fn maintain(
    State(asks): State<mpsc::Sender<Ask>>,
    Query(MaintainQuery { project, on }): Query<MaintainQuery>,
) -> Response {
    let question = |answer| Ask::Maintain {
        project,
        on,
        answer,
    };
    let Some(told) = ask(&asks, question).await else {
        return ending();
    };
    let status = match (&told.problem[..], told.known) {
        ("", _) => StatusCode::OK,
        (_, false) => StatusCode::NOT_FOUND,
        (_, true) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, Json(told)).into_response()
}

async fn ask<T>(
    asks: &mpsc::Sender<Ask>,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    asks.send(question(answer)).await.ok()?;
    answered.await.ok()
}

async fn requests(State(asks): State<mpsc::Sender<Ask>>, Query(filter): Query<Filter>) -> Response {
    let found = search(asks, move |log| {
        let mut found = find::rows(&log.path, &filter)?;
        found.reach.lost = log.lost();
        Ok(found)
    });
    found.await
}

async fn percentiles(
    State(asks): State<mpsc::Sender<Ask>>,
    Query(filter): Query<Filter>,
) -> Response {
    let spread = search(asks, move |log| {
        let mut spread = find::percentiles(&log.path, &filter)?;
        spread.reach.lost = log.lost();
        Ok(spread)
    });
    spread.await
}

/// Looks into the request log, on a thread that may wait for a disk.
async fn search<T: serde::Serialize + Send + 'static>(
    asks: mpsc::Sender<Ask>,
    look: impl FnOnce(&Log) -> rusqlite::Result<T> + Send + 'static,
) -> Response {
    let Some(log) = ask(&asks, Ask::Requests).await else {
        return ending();
    };
    let Some(log) = log else {
        let text =
            "there is no request log; hint: `keep_requests` of [server], and the server's log\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    match tokio::task::spawn_blocking(move || look(&log)).await {
        Ok(Ok(found)) => Json(found).into_response(),
        Ok(Err(error)) => {
            let text = format!("the request log cannot be read: {error}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Err(_panicked) => ending(),
    }
}

fn ending() -> Response {
    let text = "the server is ending\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}
