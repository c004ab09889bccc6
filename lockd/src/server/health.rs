//! Is this replica alive, and can it serve: `/livez`, `/readyz`, `/startupz`, and the same
//! over gRPC's health service. And how it is doing: `/metrics`.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{HeaderName, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use lockd_proto::{
    LockName, Namespace,
    v1::{lock_service_server::LockServiceServer, session_service_server::SessionServiceServer},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::Api;
use crate::{
    core::{Handle, ask::Look, error::Error, status::Snapshot},
    record::LockId,
    telemetry::{
        metrics::{Exporter, Gauges, QueueSize},
        tasks::Tasks,
    },
};

pub(crate) const JSON: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
pub(crate) const TEXT: [(HeaderName, &str); 1] =
    [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];

/// How long a scrape waits for the sizes of locks.
const SIZES_TIMEOUT: Duration = Duration::from_secs(1);

/// How often gRPC's health service learns whether the view has grown stale.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What is asked whether a replica is well.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    /// The way to its core.
    pub core: Handle,
    /// Where what is counted is gathered.
    pub metrics: Exporter,
    /// The tasks of the process.
    pub tasks: Tasks,
}

/// The routes of the HTTP listener.
pub(crate) fn routes(health: Health) -> Router {
    Router::new()
        .route("/metrics", get(measured))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/startupz", get(started))
        .with_state(health)
}

async fn measured(State(health): State<Health>) -> impl axum::response::IntoResponse {
    (TEXT, health.render().await)
}

impl Health {
    async fn render(&self) -> String {
        let status = self.core.status();
        let snapshot = status.snapshot();
        let stuck = status.stuck_for().is_some();
        let gauges = Gauges {
            locks: snapshot.counts.locks,
            waiters: snapshot.counts.waiters,
            sessions: snapshot.counts.sessions,
            streams: snapshot.streams,
            ready: snapshot.not_ready.is_none() && !stuck,
            store_up: snapshot.is_live && !stuck,
            differs: snapshot.differs.is_some(),
            largest_turn: snapshot.largest_turn,
            lag: status.age().unwrap_or_else(|| status.uptime()),
            position: snapshot.position.0,
            uptime: status.uptime(),
            tasks: self.tasks.count(),
        };
        let sizes = self.sizes().await;
        self.metrics.render(&gauges, &sizes)
    }

    /// The sizes of the locks that have series of their own.
    async fn sizes(&self) -> Vec<QueueSize> {
        let parsed = self.metrics.named().into_iter().filter_map(|(namespace, name)| {
            let namespace = Namespace::parse_or_default(&namespace).ok()?;
            Some(LockId::new(&namespace, &LockName::parse(name).ok()?))
        });
        let locks: Vec<_> = parsed.collect();
        if locks.is_empty() {
            return vec![];
        }
        let (reply, sizes) = oneshot::channel();
        let asked = self.core.look(Look::Sizes(locks, reply));
        let sizes = tokio::time::timeout(SIZES_TIMEOUT, async {
            asked.await.ok()?;
            sizes.await.ok()
        });
        let size = |(lock, holders, waiters): (LockId, usize, usize)| QueueSize {
            namespace: lock.namespace().to_owned(),
            lock: lock.name().to_owned(),
            holders,
            waiters,
        };
        let sizes = sizes.await.ok().flatten().unwrap_or_default();
        sizes.into_iter().map(size).collect()
    }

    /// Why this replica should be started again, if so: it makes no progress, or a task that must live
    /// has died.
    fn not_live(&self) -> Option<String> {
        if let Some(task) = self.tasks.died() {
            return Some(format!("the task {task:?} has died: the log says why"));
        }
        let lasts = self.core.status().stuck_for()?;
        Some(format!("the core has made no progress for {lasts:.1?}: the disk may hang"))
    }

    fn not_ready(&self) -> Option<String> {
        let snapshot = self.core.status().snapshot();
        let not_ready = || snapshot.not_ready.as_ref().map(ToString::to_string);
        self.not_live().or_else(not_ready).or_else(|| differs(&snapshot))
    }
}

/// That the state of another replica is not what the log says.
fn differs(snapshot: &Snapshot) -> Option<String> {
    let other = snapshot.differs?;
    Some(format!("replica {other} has another state than the log says: stop it and start it again"))
}

fn answer(problem: Option<String>) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn live(State(health): State<Health>) -> (StatusCode, String) {
    answer(health.not_live())
}

async fn ready(
    State(health): State<Health>,
    Query(query): Query<HashMap<String, String>>,
) -> (StatusCode, String) {
    let (code, text) = answer(health.not_ready());
    if query.contains_key("verbose") {
        return (code, verbose(&health));
    }
    (code, text)
}

/// One line a check, as Kubernetes' own components answer.
fn verbose(health: &Health) -> String {
    let snapshot = health.core.status().snapshot();
    let mut text = String::new();
    let mut check = |name: &str, failed: Option<String>| {
        let (sign, outcome) = match &failed {
            None => ('+', "ok".to_owned()),
            Some(why) => ('-', format!("failed: {why}")),
        };
        // Writing to a String can't fail.
        writeln!(text, "[{sign}]{name} {outcome}").unwrap_or_default();
    };
    check("replicas", differs(&snapshot));
    let not_ready = snapshot.not_ready;
    let draining = matches!(not_ready, Some(Error::Draining));
    check("drain", draining.then(|| "shutting down".to_owned()));
    check("live", health.not_live());
    check("store", (!snapshot.is_live).then(|| "the store has not answered yet".to_owned()));
    let stale = not_ready.filter(|_| !draining && snapshot.is_live);
    check("view", stale.map(|error| error.to_string()));
    text
}

async fn started(State(health): State<Health>) -> (StatusCode, String) {
    let live = health.core.status().snapshot().is_live;
    answer((!live).then(|| "the store has not answered yet".to_owned()))
}

/// Keeps gRPC's health service at what `/readyz` says, until the replica ends.
pub(crate) async fn report(health: Health, reporter: HealthReporter, end: CancellationToken) {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    let mut last = None;
    loop {
        tokio::select! {
            () = end.cancelled() => return,
            _ = ticks.tick() => health.metrics.tidy(),
        }
        let ready = health.not_ready().is_none();
        if last.replace(ready) != Some(ready) {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", SessionServiceServer::<Api>::NAME, LockServiceServer::<Api>::NAME] {
                reporter.set_service_status(service, status).await;
            }
        }
    }
}
