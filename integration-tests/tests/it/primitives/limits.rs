//! Limits, each with an error that names it.

use std::time::Duration;

use integration_tests::{Daemon, StoreKind, eventually};
use lockd_client::ErrorKind;

use super::{later, queued};
use crate::world::{Raw, SOON, acquire_of, client_of, reason, soon, token};

async fn limited(dir: &tempfile::TempDir) -> Daemon {
    Daemon::builder()
        .store(StoreKind::Embedded { dir: dir.path().join("data") })
        .env("LOCKD_MAX_WAITERS", "2")
        .env("LOCKD_MAX_ENTRIES", "3")
        .env("LOCKD_MAX_SESSIONS", "2")
        .start()
        .await
}

#[tokio::test]
async fn a_queue_a_session_and_a_replica_have_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = limited(&dir).await;
    let client = client_of(&daemon.url(), Duration::from_secs(10)).await;
    let _held = client.lock("full").acquire(&soon()).await.unwrap();
    let waiting = later(client.lock("full"));
    queued(&client, "full", (1, 1)).await;
    let third = client.lock("full").acquire(&soon()).await.unwrap_err();
    assert_eq!(third.kind(), ErrorKind::ResourceExhausted, "{third}");
    assert!(third.to_string().contains("2 entries in its queue already"), "{third}");
    assert_eq!(third.reason(), Some("LIMIT_REACHED"));

    let _more = client.lock("another").acquire(&soon()).await.unwrap();
    let fourth = client.lock("one/too/many").acquire(&soon()).await.unwrap_err();
    assert!(fourth.to_string().contains("3 requests open already"), "{fourth}");
    waiting.abort();

    let mut raw = Raw::connect(&daemon.url()).await;
    let session = raw.open(Duration::from_secs(10)).await;
    for request in 1..=3 {
        let name = format!("unary/{request}");
        token(raw.acquire(&session, acquire_of(&name, request)).await.unwrap());
    }
    let refused = raw.acquire(&session, acquire_of("unary/4", 4)).await.unwrap_err();
    assert_eq!(reason(&refused), "LIMIT_REACHED");
    let ttl = Some(Duration::from_secs(10).try_into().unwrap());
    let request = lockd_proto::v1::OpenSessionRequest { ttl, client: None, session: None };
    eventually("both sessions are seen", SOON, async || {
        client.status().await.is_ok_and(|status| status.sessions == 2)
    })
    .await;
    let refused = raw.sessions.open_session(request).await.unwrap_err();
    assert_eq!(reason(&refused), "LIMIT_REACHED");
    assert!(refused.message().contains("2 sessions already"), "{refused}");
}
