//! Locks by HTTP.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::Sidecar;
use crate::world::{World, both_stores, free, waiters};

both_stores!(a_lock_is_acquired_ensured_and_released);

async fn a_lock_is_acquired_ensured_and_released(world: World) {
    let (one, other) = (Sidecar::ready(&world, &[]).await, Sidecar::ready(&world, &[]).await);
    let held = one.post("/v1/locks/orders/42:acquire?wait=5s").await;
    assert_eq!(held.code, 200, "{held:?}");
    let token = held.json()["token"].as_str().unwrap().to_owned();
    assert!(held.json()["valid_for_ms"].as_u64().unwrap() > 0);
    let busy = other.post("/v1/locks/orders/42:acquire?wait=0").await;
    assert_eq!(busy.code, 409, "{busy:?}");
    let waited = Instant::now();
    let expired = other.post("/v1/locks/orders/42:acquire?wait=0.2").await;
    assert_eq!(expired.code, 408, "{expired:?}");
    assert!(waited.elapsed() >= Duration::from_millis(200));
    for path in [":ensure".to_owned(), format!(":ensure?token={token}")] {
        let still = one.post(&format!("/v1/locks/orders/42{path}")).await;
        assert_eq!((still.code, &still.json()["token"]), (200, &json!(token)));
    }
    // An app that has heard of another grant does not hold this one.
    assert_eq!(one.post("/v1/locks/orders/42:ensure?token=1").await.code, 410);
    let waiting = async { other.post("/v1/locks/orders/42:acquire?wait=10s").await };
    let released = async {
        waiters(&world.client().await, "orders/42", 1).await;
        one.post(&format!("/v1/locks/orders/42:release?token={token}")).await
    };
    let (next, released) = tokio::join!(waiting, released);
    assert_eq!((next.code, released.code), (200, 200), "{next:?} {released:?}");
    assert_eq!(one.post("/v1/locks/orders/42:release").await.code, 410, "released before");
    assert_eq!(other.post("/v1/locks/orders/42:release").await.code, 200);
}

#[tokio::test]
async fn the_trace_and_the_timeout_of_an_app_go_on_to_lockd() {
    let world = World::embedded().await;
    let client = world.client().await;
    let sidecar = Sidecar::ready(&world, &[]).await;
    let ask = async |header: &str, value: &str| {
        let url = format!("{}/v1/locks/l:acquire", sidecar.url);
        let request = reqwest::Client::new().post(url).header(header, value);
        request.send().await.unwrap().status().as_u16()
    };
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(ask("traceparent", parent).await, 200);
    let held = client.get("l").await.unwrap().unwrap();
    assert_eq!(held.holders[0].trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(ask("x-request-timeout-ms", "200").await, 504);
    waiters(&client, "l", 0).await;
}

#[tokio::test]
async fn an_app_that_goes_away_while_it_waits_leaves_the_queue() {
    let world = World::embedded().await;
    let client = world.client().await;
    let sidecar = Sidecar::ready(&world, &[]).await;
    let held = client.lock("l").acquire(&crate::world::soon()).await.unwrap();
    let url = format!("{}/v1/locks/l:acquire", sidecar.url);
    let waiting = tokio::spawn(async move { reqwest::Client::new().post(url).send().await });
    waiters(&client, "l", 1).await;
    waiting.abort();
    waiters(&client, "l", 0).await;
    held.release().await.unwrap();
    free(&client, "l").await;
}

#[tokio::test]
async fn what_was_lost_is_gone() {
    let world = World::embedded().await;
    let client = world.client().await;
    let sidecar = Sidecar::ready(&world, &[]).await;
    let held = sidecar.post("/v1/locks/l:acquire").await.json();
    let token: u64 = held["token"].as_str().unwrap().parse().unwrap();
    let token = lockd_client::FencingToken::new(token).unwrap();
    client.force_release("l", token, "a test").await.unwrap();
    let ensure = format!("/v1/locks/l:ensure?token={token}");
    integration_tests::eventually("the loss is known", crate::world::SOON, async || {
        let answer = sidecar.post(&ensure).await;
        if answer.code == 410 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(sidecar.post("/v1/locks/l:release").await.code, 410);
}

#[tokio::test]
async fn what_can_not_be_asked_is_refused_with_a_reason() {
    let world = World::embedded().await;
    let sidecar = Sidecar::ready(&world, &[]).await;
    for (path, code, why) in [
        ("/v1/locks/l:acquire?wait=soon", 400, "wait=soon"),
        ("/v1/locks/l:acquire?wiat=1s", 400, "wiat is unknown"),
        ("/v1/locks/l:release?token=0", 400, "not a token"),
        ("/v1/locks/l:acquire?ttl=1ms", 400, "ttl"),
        ("/v1/locks/l", 404, ":acquire"),
        ("/v1/locks/l:renew", 404, ":acquire"),
    ] {
        let answer = sidecar.post(path).await;
        assert_eq!(answer.code, code, "{path}: {answer:?}");
        assert!(answer.json()["error"].as_str().unwrap().contains(why), "{path}: {answer:?}");
    }
    for path in ["/v1/elections/%0A", "/v1/elections/%0A/events"] {
        assert_eq!(sidecar.get(path).await.code, 400, "{path}");
    }
}

#[tokio::test]
async fn the_grpc_api_is_there_as_well() {
    let mut world = World::etcd().await;
    let sidecar = Sidecar::ready(&world, &[]).await;
    let client = crate::world::client_of(&sidecar.url, Duration::from_secs(10)).await;
    let held = client.lock("l").acquire(&crate::world::soon()).await.unwrap();
    let direct = world.client().await;
    assert_eq!(direct.get("l").await.unwrap().unwrap().holder().unwrap().token, held.token());
    // The stream goes on to the other daemon when its own is gone.
    world.first().kill9().await;
    let next = client.lock("another").acquire(&crate::world::soon()).await.unwrap();
    assert!(held.check().is_ok());
    for guard in [held, next] {
        guard.release().await.unwrap();
    }
    client.shutdown().await;
}

#[tokio::test]
async fn a_unix_socket_serves_the_same() {
    let world = World::embedded().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lockd.sock");
    // One that was left by a sidecar that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut sidecar = Sidecar::ready(&world, &["--socket", path.to_str().unwrap()]).await;
    let client = reqwest::Client::builder().unix_socket(path.clone()).build().unwrap();
    let held = client.post("http://sidecar/v1/locks/l:acquire").send().await.unwrap();
    assert_eq!(held.status(), 200);
    let second = Sidecar::refused(&world, 78, &["--socket", path.to_str().unwrap()]).await;
    assert!(second.contains("--socket"), "{second}");
    sidecar.signal(rustix::process::Signal::TERM);
    assert_eq!(sidecar.ended().await, Some(0));
    assert!(!path.exists());
}
