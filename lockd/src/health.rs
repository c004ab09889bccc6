//! Is this replica alive, and can it serve: `/livez`, `/readyz`, `/startupz`, and the same
//! over gRPC's health service. And how it is doing: `/metrics`.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use lockd_proto::v1::{
    lock_service_server::LockServiceServer, session_service_server::SessionServiceServer,
};
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{engine::Engine, grpc::Api, metrics::Exporter};

pub(crate) const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
pub(crate) const TEXT: [(HeaderName, &str); 1] =
    [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

/// How often gRPC's health service learns whether the view has grown stale.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The routes of the HTTP listener.
pub fn routes(engine: Engine, metrics: Exporter) -> Router {
    let measured = engine.clone();
    Router::new()
        .route("/metrics", get(async move || (TEXT, metrics.render(&measured))))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/startupz", get(started))
        .with_state(engine)
}

async fn ready(
    State(engine): State<Engine>,
    Query(query): Query<HashMap<String, String>>,
) -> (StatusCode, String) {
    let not_ready = engine.not_ready();
    let code = match not_ready {
        None => StatusCode::OK,
        Some(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    if query.contains_key("verbose") {
        return (code, verbose(&engine));
    }
    (code, not_ready.map_or("ok\n".to_owned(), |error| format!("{error}\n")))
}

/// One line a check, as Kubernetes' own components answer.
fn verbose(engine: &Engine) -> String {
    let mut text = String::new();
    let mut check = |name: &str, failed: Option<String>| {
        let (sign, outcome) = match &failed {
            None => ('+', "ok".to_owned()),
            Some(why) => ('-', format!("failed: {why}")),
        };
        // Writing to a String can't fail.
        writeln!(text, "[{sign}]{name} {outcome}").unwrap_or_default();
    };
    check("drain", engine.drain.is_cancelled().then(|| "shutting down".to_owned()));
    let age = engine.view.age();
    check("store", age.is_none().then(|| "the store has not answered yet".to_owned()));
    check("view", engine.view.is_stale().then(|| format!("last confirmed {age:?} ago")));
    text
}

async fn started(State(engine): State<Engine>) -> (StatusCode, &'static str) {
    match engine.view.age() {
        Some(_) => (StatusCode::OK, "ok\n"),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the store has not answered yet\n"),
    }
}

/// Keeps gRPC's health service at what `/readyz` says, until the replica ends.
pub async fn report(engine: Engine, reporter: HealthReporter, metrics: Exporter) {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    let mut last = None;
    loop {
        tokio::select! {
            () = engine.end.cancelled() => return,
            _ = ticks.tick() => metrics.tidy(),
        }
        let ready = engine.not_ready().is_none();
        if last.replace(ready) != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", SessionServiceServer::<Api>::NAME, LockServiceServer::<Api>::NAME] {
                reporter.set_service_status(service, status).await;
            }
        }
    }
}
