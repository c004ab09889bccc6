//! The routes: what the app may ask, and what a status code means.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use axum::{
    Router,
    extract::{Path, Query, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
    routing::{get, post},
};
use futures::{Stream, StreamExt as _, stream};
use lockd_client::{
    Client, Error, ErrorKind, FencingToken, Observation, Released, http::ContextLayer,
};
use lockd_proto::LockName;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Sidecar,
    elections::{Changes, ElectionState, OwnElection, value_of},
    forward,
    locks::{AcquireOptions, GrantState, HeldLock, MAX_LOCKS},
};
use crate::duration;

/// <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long a resignation is waited for.
const RESIGN: Duration = Duration::from_secs(30);

/// What the app may ask.
pub(super) fn routes() -> Router<Sidecar> {
    Router::new()
        .route("/leader", get(leader))
        .route("/standby", get(standby))
        .route("/v1/elections/{*name}", get(election).post(resign))
        .route("/v1/locks/{*name}", post(lock).layer(ContextLayer::new()))
        .route("/v1/ready", get(ready))
        .fallback(otherwise)
}

/// A gRPC call goes on to lockd.
async fn otherwise(State(sidecar): State<Sidecar>, request: Request) -> Response {
    if forward::is_call(&request) {
        return sidecar.forward.call(request).await;
    }
    refusal(StatusCode::NOT_FOUND, "no such path: `lockd sidecar --help` lists them")
}

/// What the kubelet and Prometheus ask.
pub(super) fn probes(metrics: PrometheusHandle) -> Router<Sidecar> {
    let measured = async move |State(sidecar): State<Sidecar>| {
        super::metrics::look_at(&sidecar).await;
        ([(CONTENT_TYPE, METRICS_TEXT)], metrics.render())
    };
    Router::new()
        .route("/readyz", get(ready))
        .route("/startupz", get(started))
        .route("/livez", get(async || "ok\n"))
        .route("/metrics", get(measured))
}

/// The route of Kubernetes' contrib/election. It names this candidate only while it surely leads.
pub(super) fn leader_elector() -> Router<Sidecar> {
    let named = async |State(sidecar): State<Sidecar>| match own_state(&sidecar) {
        Some(ElectionState::Me(_, identity, _)) => {
            answer(StatusCode::OK, &json!({ "name": identity }))
        }
        Some(ElectionState::Another(leader)) => {
            answer(StatusCode::OK, &json!({ "name": value_of(&leader) }))
        }
        Some(ElectionState::Nobody | ElectionState::Unknown) | None => {
            answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "name": "" }))
        }
    };
    Router::new().route("/", get(named))
}

fn own_state(sidecar: &Sidecar) -> Option<ElectionState> {
    sidecar.own.as_ref().map(OwnElection::state)
}

fn answer(code: StatusCode, body: &Value) -> Response {
    (code, [(CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

fn refusal(code: StatusCode, why: impl std::fmt::Display) -> Response {
    answer(code, &json!({ "error": why.to_string() }))
}

/// 200 where `holds` can be proved at this moment, else 503.
fn probe(sidecar: &Sidecar, holds: impl FnOnce(&ElectionState) -> bool) -> Response {
    let Some(own) = &sidecar.own else {
        let why = "this sidecar campaigns in no election: start it with --election";
        return refusal(StatusCode::NOT_FOUND, why);
    };
    let state = own.state();
    let code = if holds(&state) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(code, &state.to_json(&own.election))
}

async fn leader(State(sidecar): State<Sidecar>) -> Response {
    probe(&sidecar, |state| matches!(state, ElectionState::Me(..)))
}

async fn standby(State(sidecar): State<Sidecar>) -> Response {
    probe(&sidecar, |state| matches!(state, ElectionState::Another(_) | ElectionState::Nobody))
}

async fn ready(State(sidecar): State<Sidecar>) -> Response {
    let Some(client) = sidecar.client.get() else { return not_connected() };
    let known = match own_state(&sidecar) {
        Some(state) => state != ElectionState::Unknown,
        None => client.status().await.is_ok(),
    };
    if known {
        "ok\n".into_response()
    } else {
        refusal(StatusCode::SERVICE_UNAVAILABLE, "lockd does not answer")
    }
}

async fn started(State(sidecar): State<Sidecar>) -> Response {
    match sidecar.client.get() {
        Some(_) => "ok\n".into_response(),
        None => not_connected(),
    }
}

fn not_connected() -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "no lockd has answered yet")
}

async fn election(State(sidecar): State<Sidecar>, Path(path): Path<String>) -> Response {
    let (name, events) = match path.strip_suffix("/events") {
        Some(name) => (name, true),
        None => (path.as_str(), false),
    };
    if let Err(error) = LockName::parse(name) {
        return refusal(StatusCode::BAD_REQUEST, error);
    }
    if events {
        return follow(&sidecar, name);
    }
    if let Some(own) = sidecar.own_election(name) {
        return shown(&own.state(), name);
    }
    let Some(client) = sidecar.client.get() else { return not_connected() };
    match ElectionState::ask(client, name).await {
        Ok(state) => shown(&state, name),
        Err(error) => failed(&error),
    }
}

fn shown(state: &ElectionState, name: &str) -> Response {
    let code = match state {
        ElectionState::Unknown => StatusCode::SERVICE_UNAVAILABLE,
        ElectionState::Me(..) | ElectionState::Another(_) | ElectionState::Nobody => StatusCode::OK,
    };
    answer(code, &state.to_json(name))
}

/// Where news of an election come from.
enum Source {
    Own(Changes),
    Other(Box<Observation>),
}

impl Source {
    async fn next(&mut self) -> Option<ElectionState> {
        match self {
            Self::Own(changes) => Some(changes.next().await),
            // Only a bad name can't be observed at all, and is refused before.
            Self::Other(observation) => observation.next().await.ok().map(ElectionState::from),
        }
    }
}

fn follow(sidecar: &Sidecar, name: &str) -> Response {
    let Ok(permit) = sidecar.streams.clone().try_acquire_owned() else {
        return refusal(StatusCode::TOO_MANY_REQUESTS, "too many streams of events");
    };
    let source = match (sidecar.own_election(name), sidecar.client.get()) {
        (Some(own), _) => Source::Own(own.changes()),
        (None, Some(client)) => Source::Other(Box::new(client.election(name).observe())),
        (None, None) => return not_connected(),
    };
    let events = events(source, name.to_owned(), permit);
    let events = events.take_until(sidecar.end.clone().cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

fn events(
    source: Source,
    name: String,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((source, name, permit), async |(mut source, name, permit)| {
        let state = source.next().await?;
        let event = Event::default().event("election").data(state.to_json(&name).to_string());
        Some((Ok(event), (source, name, permit)))
    })
}

async fn resign(State(sidecar): State<Sidecar>, Path(path): Path<String>) -> Response {
    let Some(name) = path.strip_suffix(":resign") else {
        return refusal(StatusCode::NOT_FOUND, "only :resign can be posted to an election");
    };
    let Some(own) = sidecar.own_election(name) else {
        return refusal(StatusCode::NOT_FOUND, "this sidecar does not campaign in that election");
    };
    let latest = own.term.borrow().clone();
    let Some(term) = latest.filter(|term| !term.valid_for().is_zero()) else {
        return refusal(StatusCode::CONFLICT, "this sidecar does not lead");
    };
    own.resign.notify_waiters();
    match tokio::time::timeout(RESIGN, term.context.cancelled()).await {
        Ok(_) => {
            answer(StatusCode::OK, &json!({ "election": name, "token": term.token.to_string() }))
        }
        Err(_) => refusal(StatusCode::SERVICE_UNAVAILABLE, "it has not resigned yet"),
    }
}

/// What is asked for beside the name.
#[derive(Default)]
struct LockQuery {
    options: AcquireOptions,
    token: Option<FencingToken>,
}

fn asked(query: &HashMap<String, String>) -> Result<LockQuery, String> {
    let mut asked = LockQuery::default();
    for (key, value) in query {
        let wrong = |why: String| format!("{key}={value}: {why}");
        match key.as_str() {
            "wait" => asked.options.wait = Some(duration::parse(value).map_err(wrong)?),
            "ttl" => asked.options.ttl = Some(duration::parse(value).map_err(wrong)?),
            "token" => {
                let token = value.parse().ok().and_then(FencingToken::new);
                asked.token = Some(token.ok_or_else(|| wrong("not a token".to_owned()))?);
            }
            _ => return Err(format!("{key} is unknown: there are wait, ttl and token")),
        }
    }
    Ok(asked)
}

async fn lock(
    State(sidecar): State<Sidecar>,
    Path(path): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let LockQuery { options, token } = match asked(&query) {
        Ok(asked) => asked,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, why),
    };
    let Some(client) = sidecar.client.get() else { return not_connected() };
    match path.rsplit_once(':') {
        Some((name, "acquire")) => acquire(&sidecar, client, name, options).await,
        Some((name, "ensure")) => ensure(&sidecar, client, name, token, options).await,
        Some((name, "release")) => release(&sidecar, name, token).await,
        _ => refusal(StatusCode::NOT_FOUND, "a lock has :acquire, :ensure and :release"),
    }
}

async fn acquire(
    sidecar: &Sidecar,
    client: &Client,
    name: &str,
    options: AcquireOptions,
) -> Response {
    if !sidecar.locks.has_room() {
        let why = format!("this app holds {MAX_LOCKS} locks: release some");
        return refusal(StatusCode::TOO_MANY_REQUESTS, why);
    }
    match sidecar.locks.acquire(client, name, options).await {
        Ok(lock) => held(name, lock),
        Err(error) => failed(&error),
    }
}

async fn ensure(
    sidecar: &Sidecar,
    client: &Client,
    name: &str,
    token: Option<FencingToken>,
    options: AcquireOptions,
) -> Response {
    match (sidecar.locks.find(name, token), token) {
        (GrantState::Held(lock), _) => held(name, lock),
        (GrantState::Unknown, None) => acquire(sidecar, client, name, options).await,
        (GrantState::Lost, _) | (GrantState::Unknown, Some(_)) => lost(),
    }
}

async fn release(sidecar: &Sidecar, name: &str, token: Option<FencingToken>) -> Response {
    match sidecar.locks.release(name, token).await {
        Some(Ok(Released::Released)) => answer(StatusCode::OK, &json!({ "name": name })),
        Some(Ok(Released::Unknown)) => {
            let why = "lockd has not answered: the lock is free when its lease ends";
            refusal(StatusCode::SERVICE_UNAVAILABLE, why)
        }
        Some(Ok(Released::AlreadyLost)) | None => lost(),
        Some(Err(error)) => failed(&error),
    }
}

fn held(name: &str, HeldLock { token, valid_for }: HeldLock) -> Response {
    let left = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
    let body = json!({ "name": name, "token": token.to_string(), "valid_for_ms": left });
    answer(StatusCode::OK, &body)
}

fn lost() -> Response {
    refusal(StatusCode::GONE, "this app does not hold it, or no longer")
}

fn failed(error: &Error) -> Response {
    let code = match error.kind() {
        ErrorKind::Busy => StatusCode::CONFLICT,
        ErrorKind::WaitExpired => StatusCode::REQUEST_TIMEOUT,
        ErrorKind::Lost => StatusCode::GONE,
        ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    refusal(code, error)
}
