//! The spans that a collector of traces receives, by OTLP over gRPC.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use integration_tests::{daemon::DaemonBuilder, eventually};
use lockd_client::{Context, ErrorKind, TraceParent};
use lockd_proto::v1;
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use tokio_stream::wrappers::TcpListenerStream;

use crate::world::{SOON, World, acquire_of, free, soon, token, waiters};

/// The span of a caller that holds, and of one that waits.
const HOLDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const WAITER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// An OTLP receiver.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Told>>>,
}

/// A span, and the replica that exported it.
#[derive(Debug, Clone)]
struct Told {
    span: Span,
    replica: String,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.unwrap().attributes;
            assert_eq!(text(&about, "service.name"), "lockd");
            let replica = text(&about, "service.instance.id");
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let told = spans.map(|span| Told { span, replica: replica.clone() });
            self.spans.lock().unwrap().extend(told);
        }
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, at)
    }

    fn all(&self) -> Vec<Told> {
        self.spans.lock().unwrap().clone()
    }

    /// Waits for the span of this name below a caller's.
    async fn told(&self, name: &str, parent: &str) -> Told {
        let parent: TraceParent = parent.parse().unwrap();
        let is_it = |told: &Told| {
            let place = (told.span.trace_id.as_slice(), told.span.parent_span_id.as_slice());
            told.span.name == name && place == (&parent.trace_id(), &parent.span_id())
        };
        eventually(&format!("{name} of {parent} is told"), SOON, async || {
            let all = self.all();
            all.iter().find(|told| is_it(told)).cloned().ok_or(all)
        })
        .await
    }
}

impl Told {
    fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }

    /// How it ended.
    fn outcome(&self) -> String {
        self.attribute("lockd.outcome")
    }

    fn has_failed(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }

    /// Whether it is linked to this one alone.
    fn is_linked_to(&self, other: &Self) -> bool {
        let links = self.span.links.iter().map(|link| (&link.trace_id, &link.span_id));
        links.eq([(&other.span.trace_id, &other.span.span_id)])
    }
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    let value = found.and_then(|found| found.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        other => panic!("{key} is a text, not {other:?}"),
    }
}

/// A daemon that exports its spans soon.
fn traced(at: SocketAddr) -> impl Fn(DaemonBuilder) -> DaemonBuilder {
    move |daemon| {
        let daemon = daemon.arg("--otlp-endpoint").arg(format!("http://{at}"));
        daemon.env("OTEL_BSP_SCHEDULE_DELAY", "50")
    }
}

fn called_by(parent: &str) -> Context {
    soon().with_trace_parent(parent.parse().unwrap())
}

async fn a_waiter_is_linked_to_the_hold_that_it_waited_for(world: World, collector: Collector) {
    let (client, other) = (world.client().await, world.other_client().await);
    let held = client.lock("orders/42").acquire(&called_by(HOLDER)).await.unwrap();
    // A replica that has not seen a holder yet can't link to it.
    eventually("the other replica sees the holder", SOON, async || {
        matches!(other.get("orders/42").await, Ok(Some(_)))
    })
    .await;
    let refused = other.lock("orders/42").wait(Duration::ZERO);
    let busy = "00-5af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let refused = refused.acquire(&called_by(busy)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    let waiting = other.lock("orders/42");
    let waiting = tokio::spawn(async move { waiting.acquire(&called_by(WAITER)).await.unwrap() });
    waiters(&client, "orders/42", 1).await;
    held.release().await.unwrap();
    let next = waiting.await.unwrap();
    let token = next.token().to_string();
    next.release().await.unwrap();

    let acquired = collector.told("lockd.acquire", HOLDER).await;
    let held = collector.told("lockd.hold", HOLDER).await;
    let waited = collector.told("lockd.acquire", WAITER).await;
    let next = collector.told("lockd.hold", WAITER).await;
    let busy = collector.told("lockd.acquire", busy).await;
    assert_eq!((acquired.outcome(), held.outcome()), ("granted".into(), "released".into()));
    assert_eq!((waited.outcome(), busy.outcome()), ("granted".into(), "busy".into()));
    assert_eq!((held.attribute("lockd.lock"), held.attribute("lockd.namespace")), {
        ("orders/42".into(), "default".into())
    });
    assert_eq!((waited.attribute("lockd.token"), next.attribute("lockd.token")), {
        (token.clone(), token)
    });
    assert!(acquired.span.links.is_empty(), "it has waited for nobody");
    assert!(waited.is_linked_to(&held), "{waited:?} {held:?}");
    assert!(busy.is_linked_to(&held), "{busy:?} {held:?}");
    assert!(acquired.span.end_time_unix_nano <= held.span.end_time_unix_nano);
    assert!(held.span.start_time_unix_nano < waited.span.end_time_unix_nano);
    assert!(!held.has_failed() && !busy.has_failed());
    // Each is exported by the replica that was asked, and by no other.
    assert_eq!(waited.replica == acquired.replica, world.daemons.len() == 1);
    assert_eq!(collector.all().len(), 5, "{:#?}", collector.all());
}

#[tokio::test]
async fn a_waiter_is_linked_to_the_hold_that_it_waited_for_embedded() {
    let (collector, at) = Collector::start().await;
    let world = World::embedded_with(traced(at)).await;
    a_waiter_is_linked_to_the_hold_that_it_waited_for(world, collector).await;
}

#[tokio::test]
async fn a_waiter_is_linked_to_the_hold_that_it_waited_for_etcd() {
    let (collector, at) = Collector::start().await;
    let world = World::etcd_with(traced(at)).await;
    a_waiter_is_linked_to_the_hold_that_it_waited_for(world, collector).await;
}

#[tokio::test]
async fn a_call_has_its_trace_in_its_header() {
    let (collector, at) = Collector::start().await;
    let world = World::embedded_with(traced(at)).await;
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(1)).await;
    token(raw.locks.acquire(unary(&session, 1, HOLDER)).await.unwrap().into_inner());
    // Its lease is not renewed.
    let held = collector.told("lockd.hold", HOLDER).await;
    assert_eq!((held.outcome(), held.has_failed()), ("expired".into(), true));
    // What is not sampled is not exported, and what is malformed is no reason to refuse.
    let session = raw.open(Duration::from_secs(10)).await;
    let parents = [&WAITER.replace("-01", "-00"), "no trace", WAITER];
    for (request, parent) in (2..).zip(parents) {
        let acquire = unary(&session, request, parent);
        token(raw.locks.acquire(acquire).await.unwrap().into_inner());
    }
    let client = world.client().await;
    let shown = client.get("l2").await.unwrap().unwrap().holders[0].trace_id.clone();
    assert_eq!(shown, "0af7651916cd43dd8448eb211c80319c");
    // Spans arrive in order: the last one comes after any that the others would have caused.
    collector.told("lockd.acquire", WAITER).await;
    assert_eq!(collector.all().len(), 3, "{:#?}", collector.all());
}

/// A call that acquires a lock of its own.
fn unary(
    session: &v1::SessionCredential,
    request: u8,
    traceparent: &str,
) -> tonic::Request<v1::AcquireRequest> {
    let acquire = Some(acquire_of(&format!("l{request}"), request));
    let acquire = v1::AcquireRequest { session: Some(session.clone()), acquire };
    let mut call = tonic::Request::new(acquire);
    call.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    call
}

#[tokio::test]
async fn the_last_spans_are_told_before_a_daemon_ends() {
    let (collector, at) = Collector::start().await;
    let start =
        |daemon: DaemonBuilder| traced(at)(daemon).env("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let mut world = World::embedded_with(start).await;
    let client = world.client().await;
    let held = client.lock("l").acquire(&called_by(HOLDER)).await.unwrap();
    held.release().await.unwrap();
    free(&client, "l").await;
    assert!(collector.all().is_empty(), "an hour has not passed");
    client.shutdown().await;
    assert!(world.first().sigterm().await.success());
    assert_eq!(collector.all().len(), 2, "{:#?}", collector.all());
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nobody_up() {
    // A port that no process listens on.
    let at = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut world = World::embedded_with(traced(at)).await;
    let client = world.client().await;
    for _ in 0..100 {
        let held = client.lock("l").acquire(&called_by(HOLDER)).await.unwrap();
        held.release().await.unwrap();
    }
    client.shutdown().await;
    assert!(world.first().sigterm().await.success());
}
