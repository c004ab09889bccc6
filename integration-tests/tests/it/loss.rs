//! A holder that dies loses its lock, in time; a live one that loses it is notified.

use std::time::{Duration, Instant};

use hyper_util::rt::{TokioExecutor, TokioIo};
use integration_tests::{Daemon, eventually};
use lockd_client::{LockState, LossReason};
use lockd_proto::v1::{self, lock_service_client::LockServiceClient};

use crate::world::{SOON, TTL, World, acquire_of, both_stores, soon, token, waiters};

both_stores!(
    a_holder_that_falls_silent_is_followed_within_its_ttl,
    a_forced_release_tells_the_holder_why,
    a_session_that_is_closed_gives_everything_back,
    a_unary_caller_that_goes_away_leaves_the_queue,
    a_unary_caller_whose_deadline_passes_is_told_so_and_leaves_the_queue,
);

async fn a_holder_that_falls_silent_is_followed_within_its_ttl(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let dead = token(raw.acquire(&session, acquire_of("silent", 1)).await.unwrap());
    let last_sign_of_life = Instant::now();
    let client = world.other_client().await;
    let next = client.lock("silent").acquire(&soon()).await.unwrap();
    let waited = last_sign_of_life.elapsed();
    assert!(next.token().get() > dead);
    assert!(waited <= TTL + Duration::from_secs(1), "{waited:?}");
}

async fn a_forced_release_tells_the_holder_why(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("forced").acquire(&soon()).await.unwrap();
    let next = crate::world::acquire_later(&there, "forced");
    waiters(&there, "forced", 1).await;
    there.force_release("forced", held.token(), "stuck").await.unwrap();
    let lost = tokio::time::timeout(SOON, held.lost()).await.unwrap();
    assert_eq!(lost, LossReason::Forced { detail: "stuck".to_owned() });
    assert!(matches!(*held.state().borrow(), LockState::Lost(_)));
    assert!(held.check().unwrap_err().is_lost());
    let token = held.token();
    let next = next.await.unwrap();
    assert!(next.token() > token);
    // The lock has moved on: the same token removes no entry.
    assert!(there.force_release("forced", token, "again").await.is_err());
    assert!(next.check().is_ok());
}

async fn a_session_that_is_closed_gives_everything_back(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let _a = here.lock("closed/a").acquire(&soon()).await.unwrap();
    let _b = here.lock("closed/b").acquire(&soon()).await.unwrap();
    here.shutdown().await;
    for name in ["closed/a", "closed/b"] {
        there.lock(name).acquire(&soon()).await.unwrap().release().await.unwrap();
    }
    let status = there.status().await.unwrap();
    assert_eq!(status.waiters, 0);
}

async fn a_unary_caller_that_goes_away_leaves_the_queue(world: World) {
    let client = world.client().await;
    let held = client.lock("gone").acquire(&soon()).await.unwrap();
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(60)).await;
    let acquire =
        v1::AcquireRequest { session: Some(session.clone()), acquire: Some(acquire_of("gone", 1)) };
    let mut locks = raw.locks.clone();
    let waiting = tokio::spawn(async move { locks.acquire(acquire).await });
    waiters(&client, "gone", 1).await;
    waiting.abort();
    waiters(&client, "gone", 0).await;
    // The session itself is alive and well.
    let alive = v1::KeepAliveRequest { session: Some(session) };
    raw.sessions.keep_alive(alive).await.unwrap();
    held.release().await.unwrap();
    eventually("the lock is free", SOON, async || matches!(client.get("gone").await, Ok(None)))
        .await;
}

/// The unary API without tonic's own limit at the client, which would be first.
pub(crate) async fn without_a_limit(daemon: &Daemon) -> LockServiceClient<impl Plain> {
    let stream = tokio::net::TcpStream::connect(daemon.grpc_addr()).await.unwrap();
    let (executor, io) = (TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let service = tower::service_fn(move |request| sender.clone().send_request(request));
    LockServiceClient::with_origin(service, daemon.url().parse().unwrap())
}

/// What tonic's clients ask of a connection.
pub(crate) trait Plain:
    tower::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<hyper::body::Incoming>,
        Error = hyper::Error,
        Future: Send,
    >
{
}

impl<S> Plain for S where
    S: tower::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<hyper::body::Incoming>,
            Error = hyper::Error,
            Future: Send,
        >
{
}

async fn a_unary_caller_whose_deadline_passes_is_told_so_and_leaves_the_queue(world: World) {
    let client = world.client().await;
    let held = client.lock("late").acquire(&soon()).await.unwrap();
    let session = world.raw().await.open(Duration::from_secs(60)).await;
    let acquire =
        v1::AcquireRequest { session: Some(session), acquire: Some(acquire_of("late", 1)) };
    let mut request = tonic::Request::new(acquire);
    request.set_timeout(Duration::from_millis(300));
    let mut locks = without_a_limit(world.daemons.first().unwrap()).await;
    let late = locks.acquire(request).await.unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    waiters(&client, "late", 0).await;
    held.release().await.unwrap();
}
