//! A store that can't be reached: clear answers, in time, and on again when it is back.

use std::time::Duration;

use integration_tests::{Daemon, Etcd, Mode, Proxy, StoreKind, eventually, unique_prefix};
use lockd_client::ErrorKind;
use lockd_proto::v1;
use tonic_types::StatusExt as _;

use crate::world::{Raw, SOON, acquire_of, client_of, http_status, ready, reason, soon};

async fn readyz(daemon: &Daemon) -> Option<u16> {
    http_status(daemon, "/readyz?verbose").await
}

#[tokio::test]
async fn a_daemon_waits_for_its_etcd_and_says_so() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    proxy.set(Mode::Refuse).await;
    let store = StoreKind::Etcd { endpoints: vec![proxy.url()], prefix: unique_prefix() };
    let daemon = Daemon::builder().store(store).start().await;
    assert_eq!(readyz(&daemon).await, Some(503));
    assert_eq!(http_status(&daemon, "/livez").await, Some(200));
    assert_eq!(http_status(&daemon, "/startupz").await, Some(503));
    let mut raw = Raw::connect(&daemon.url()).await;
    let opened = raw.sessions.open_session(v1::OpenSessionRequest::default());
    let refused = tokio::time::timeout(SOON, opened).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert_eq!(reason(&refused), "STORE_UNAVAILABLE");
    let details = refused.get_error_details();
    assert!(details.retry_info().is_some_and(|hint| hint.retry_delay.is_some()), "a retry hint");
    eventually("the log says what it waits for", SOON, async || {
        daemon.stderr().contains("waiting for etcd")
    })
    .await;
    proxy.set(Mode::Pass).await;
    eventually("it is ready", SOON, async || readyz(&daemon).await == Some(200)).await;
    assert_eq!(http_status(&daemon, "/startupz").await, Some(200));
}

#[tokio::test]
async fn a_call_never_outlasts_its_deadline_while_the_store_hangs() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let store = StoreKind::Etcd { endpoints: vec![proxy.url()], prefix: unique_prefix() };
    let daemon = Daemon::builder().store(store).start().await;
    let client = client_of(&daemon.url(), Duration::from_secs(30)).await;
    client.lock("before").acquire(&soon()).await.unwrap().release().await.unwrap();
    proxy.set(Mode::Blackhole).await;
    let budget = Duration::from_secs(1);
    let ctx = lockd_client::Context::background().with_timeout(budget);
    let started = std::time::Instant::now();
    let error = client.lock("hung").acquire(&ctx).await.unwrap_err();
    let took = started.elapsed();
    assert!(took < budget * 2, "{took:?}");
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    eventually("it is not ready any more", SOON, async || readyz(&daemon).await == Some(503)).await;
    proxy.set(Mode::Pass).await;
    eventually("it is ready again", SOON, async || readyz(&daemon).await == Some(200)).await;
    // What was given up leaves nothing behind, also where its fate was unknown for a while.
    eventually("nothing is left of it", SOON, async || {
        matches!(client.get("hung").await, Ok(None))
    })
    .await;
    client.lock("hung").acquire(&soon()).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_unary_acquire_of_unknown_fate_is_settled() {
    let etcd = Etcd::shared().await;
    let proxy = Proxy::start(etcd.address().to_owned()).await;
    let store = StoreKind::Etcd { endpoints: vec![proxy.url()], prefix: unique_prefix() };
    let daemon = Daemon::builder().store(store).start().await;
    let mut raw = Raw::connect(&daemon.url()).await;
    ready(&daemon).await;
    let session = raw.open(Duration::from_secs(60)).await;
    proxy.set(Mode::Blackhole).await;
    let acquire = raw.acquire(&session, acquire_of("unknown", 1));
    let given_up = tokio::time::timeout(Duration::from_millis(500), acquire).await;
    assert!(given_up.is_err(), "nobody can answer");
    proxy.set(Mode::Pass).await;
    let client = client_of(&daemon.url(), Duration::from_secs(10)).await;
    let next = client.lock("unknown").acquire(&soon()).await.unwrap();
    next.release().await.unwrap();
    eventually("nothing is left of it", SOON, async || {
        matches!(client.get("unknown").await, Ok(None))
    })
    .await;
}
