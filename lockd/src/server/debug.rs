//! For debugging a running daemon on its own machine: `/debug/tasks` and `/debug/log`.

use std::net::SocketAddr;

use axum::{
    Router,
    extract::{ConnectInfo, Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Map, json};

use super::health::JSON;
use crate::telemetry::{logs::Logs, tasks::Tasks};

/// How many ages of a kind are listed, the oldest first.
const LISTED: usize = 100;

/// The routes, for callers on this machine only.
pub(crate) fn routes(tasks: Tasks, logs: Logs) -> Router {
    Router::new()
        .route("/debug/tasks", get(list).with_state(tasks))
        .route("/debug/log", get(filter).put(set_filter).with_state(logs))
        .layer(middleware::from_fn(on_this_machine))
}

async fn on_this_machine(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if peer.ip().to_canonical().is_loopback() {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "/debug is for callers on the daemon's own machine\n").into_response()
}

/// The tasks that are alive, by kind, with their ages in milliseconds.
async fn list(State(tasks): State<Tasks>) -> Response {
    let mut kinds = Map::new();
    for (name, ages) in tasks.ages() {
        let listed: Vec<_> = ages.iter().take(LISTED).map(std::time::Duration::as_millis).collect();
        let listed: Vec<_> =
            listed.into_iter().map(|age| u64::try_from(age).unwrap_or(u64::MAX)).collect();
        kinds.insert(name.to_owned(), json!({ "count": ages.len(), "ages_ms": listed }));
    }
    (JSON, format!("{:#}\n", serde_json::Value::from(kinds))).into_response()
}

async fn filter(State(logs): State<Logs>) -> String {
    format!("{}\n", logs.filter())
}

async fn set_filter(State(logs): State<Logs>, filter: String) -> (StatusCode, String) {
    match logs.set(&filter) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "the log's filter was changed");
            (StatusCode::OK, format!("{}\n", logs.filter()))
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}
