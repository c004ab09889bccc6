//! A context goes from hop to hop, over real connections: HTTP, gRPC, and back.

use std::time::Duration;

use axum::{
    Extension, Router,
    body::Body,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use lockd_client::{Cause, Client, Context, ErrorKind, http::ContextLayer};
use lockd_proto::v1::lock_service_client::LockServiceClient;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower::ServiceBuilder;

use crate::world::{SOON, World, acquire_of, free, soon, waiters};

const SHORT: Duration = Duration::from_millis(300);

/// Serves on a free port of the loopback; its address.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = router.layer(ContextLayer::new());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Says what a handler's context has left, in milliseconds.
fn says_what_is_left() -> Router {
    let handler = async |Extension(ctx): Extension<Context>| {
        let left = ctx.remaining().map(|left| left.as_millis());
        format!("{left:?} {:?} {:?}", ctx.trace_id(), ctx.request_id())
    };
    Router::new().route("/", get(handler))
}

#[tokio::test]
async fn what_is_left_shrinks_with_each_hop() {
    let last = serve(says_what_is_left()).await;
    let forward = async move |Extension(ctx): Extension<Context>| {
        let call = reqwest::Client::new().get(format!("http://{last}/"));
        let answer = ctx.reqwest(call).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let first = serve(Router::new().route("/", get(forward))).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ctx = Context::background().with_timeout(SOON).with_trace_id(trace).with_request_id("7f3a");
    let answer = ctx.reqwest(reqwest::Client::new().get(format!("http://{first}/")));
    let said = answer.send().await.unwrap().text().await.unwrap();
    let (left, ids) = said.split_once(") ").unwrap();
    assert_eq!(ids, format!("Some({trace:?}) Some(\"7f3a\")"));
    let left: u128 = left.trim_start_matches("Some(").parse().unwrap();
    let reserves = 2 * (5 + 10);
    assert!(left <= SOON.as_millis() - reserves && left > SOON.as_millis() / 2, "{left}");
}

#[tokio::test]
async fn a_deadline_over_http_ends_the_wait_for_a_lock() {
    let world = World::embedded().await;
    let client = world.client().await;
    let held = client.lock("busy").acquire(&soon()).await.unwrap();
    let waits = {
        let client = client.clone();
        async move |Extension(ctx): Extension<Context>| {
            client.lock("busy").acquire(&ctx).await.map(drop).map_err(|error| error.to_string())
        }
    };
    let address = serve(Router::new().route("/", get(waits))).await;
    let start = Instant::now();
    let request = reqwest::Client::new().get(format!("http://{address}/"));
    let answer = request.header("x-request-timeout-ms", "300").send().await.unwrap();
    assert_eq!(answer.status(), 504);
    assert!(start.elapsed() < 3 * SHORT, "{:?}", start.elapsed());
    waiters(&client, "busy", 0).await;
    held.release().await.unwrap();
    free(&client, "busy").await;
}

#[tokio::test]
async fn a_deadline_over_grpc_ends_the_wait_for_a_lock() {
    let world = World::embedded().await;
    let mut raw = world.raw().await;
    let session = raw.open(SOON).await;
    raw.acquire(&session, acquire_of("busy", 1)).await.unwrap();
    let url = world.daemons.first().unwrap().url();
    let channel = tonic::transport::Channel::from_shared(url).unwrap().connect().await.unwrap();
    let layer = lockd_client::grpc::DeadlineLayer::new();
    let channel = ServiceBuilder::new().layer(layer).service(channel);
    let acquire = Some(acquire_of("busy", 2));
    let request = lockd_proto::v1::AcquireRequest { session: Some(session), acquire };
    let ctx = Context::background().with_timeout(SHORT);
    let call = async { LockServiceClient::new(channel).acquire(request).await };
    let status = timeout(SOON, ctx.scope(call)).await.expect("in time").unwrap_err();
    // The daemon's, unless a busy machine lets tonic's own timer be first.
    let late = [tonic::Code::DeadlineExceeded, tonic::Code::Cancelled];
    assert!(late.contains(&status.code()), "{status}");
    waiters(&world.client().await, "busy", 0).await;
}

/// Sends a request, and hangs up when `reads` bytes of the answer are there.
async fn hang_up(address: &str, reads: usize) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let mut answer = vec![0; reads];
    stream.read_exact(&mut answer).await.unwrap();
}

#[tokio::test]
async fn a_caller_that_hangs_up_ends_the_context() {
    let (seen, mut contexts) = mpsc::channel(1);
    let hangs = {
        let seen = seen.clone();
        async move |Extension(ctx): Extension<Context>| {
            seen.send(ctx).await.unwrap();
            std::future::pending::<()>().await;
        }
    };
    let address = serve(Router::new().route("/", get(hangs))).await;
    let mut stream = TcpStream::connect(&address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let ctx = timeout(SOON, contexts.recv()).await.unwrap().unwrap();
    assert_eq!(ctx.cause(), None);
    drop(stream);
    assert_eq!(timeout(SOON, ctx.cancelled()).await.expect("in time"), Cause::Cancelled);
    // The same in the middle of a body that goes on for ever.
    let streams = async move |Extension(ctx): Extension<Context>| {
        seen.send(ctx).await.unwrap();
        Body::from_stream(futures::stream::repeat(Ok::<_, std::convert::Infallible>(
            "more and more",
        )))
    };
    let address = serve(Router::new().route("/", get(streams))).await;
    hang_up(&address, 1000).await;
    let ctx = timeout(SOON, contexts.recv()).await.unwrap().unwrap();
    assert_eq!(timeout(SOON, ctx.cancelled()).await.expect("in time"), Cause::Cancelled);
}

#[tokio::test]
async fn errors_of_calls_say_where_and_how_long() {
    let hangs = async || std::future::pending::<()>().await;
    let address = serve(Router::new().route("/", get(hangs))).await;
    let http = reqwest::Client::new();
    let ctx = Context::background().with_timeout(SHORT);
    let get = |address: &str| http.get(format!("http://user:secret@{address}/?key=secret"));
    // The server has a reserve, so it is the server that says so.
    let answer = ctx.reqwest(get(&address)).send().await.unwrap();
    assert_eq!(answer.status(), 504);
    // This one takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ctx = Context::background().with_timeout(SHORT);
    let late = get(&silent.local_addr().unwrap().to_string());
    let late = ctx.reqwest(late).send().await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded, "{late}");
    let (ctx, cancel) = soon().with_cancel();
    let cancelling = async { cancel.cancel() };
    let (cancelled, ()) = tokio::join!(ctx.reqwest(get(&address)).send(), cancelling);
    let cancelled = cancelled.unwrap_err();
    assert_eq!(cancelled.kind(), ErrorKind::Cancelled, "{cancelled}");
    assert!(cancelled.may_have_applied());
    let nobody = soon().reqwest(get("127.0.0.1:1")).send().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unavailable, "{nobody}");
    assert!(!nobody.may_have_applied());
    let text = nobody.to_string();
    assert!(
        text.starts_with("http call \"GET http://127.0.0.1:1/\": unavailable after 0."),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

/// A client of the lock service says with each call how long it may take, and for whom it is.
#[tokio::test]
async fn the_clients_own_calls_carry_their_context() {
    let (seen, mut calls) = mpsc::unbounded_channel();
    let no_lockd = async move |headers: HeaderMap| {
        seen.send(headers).unwrap();
        StatusCode::NOT_FOUND
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Routes::from(Router::new().fallback(no_lockd));
    let server = Server::builder().add_routes(routes);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let client = Client::connect(address).await.unwrap();
    calls.recv().await.unwrap();
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ctx = Context::background().with_timeout(SOON).with_trace_id(trace);
    let error = client.with_context(&ctx).get("busy").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    let call = calls.recv().await.unwrap();
    let timeout = call.get("grpc-timeout").unwrap().to_str().unwrap();
    // Of so many seconds microseconds are the finest unit that fits.
    let microseconds: u128 = timeout.strip_suffix('u').unwrap().parse().unwrap();
    assert!(microseconds <= SOON.as_micros() - 5_000, "{timeout}");
    assert!(call.get("traceparent").unwrap().to_str().unwrap().contains(trace), "{call:?}");
}
