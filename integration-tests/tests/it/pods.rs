//! Pods: an app in Python that knows whether it leads, whatever happens to it or around it.

use std::time::Duration;

use integration_tests::{
    eventually,
    pods::{Pod, Stage},
};
use lockd_client::Client;
use tokio::time::Instant;

use crate::world::{LEASE, SOON, client_of};

/// The token by which an app has said last that it leads; `None` if it does not.
async fn token(pod: &Pod) -> Option<u64> {
    let (_, last) = pod.said().await.pop()?;
    last.strip_prefix("I lead, with token ")?.parse().ok()
}

async fn leads(pod: &Pod) -> u64 {
    eventually("the app says that it leads", SOON, async || match token(pod).await {
        Some(token) => Ok(token),
        None => Err(format!("{:?}\n{}", pod.said().await, pod.sidecar.logs().await)),
    })
    .await
}

async fn does_not_lead(pod: &Pod) {
    eventually("the app says that it does not lead", SOON, async || {
        let said = pod.said().await;
        if said.last().is_some_and(|(_, last)| last == "I do not lead") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
}

/// When an app has said something for the last time.
async fn when(pod: &Pod, text: &str) -> String {
    let said = pod.said().await;
    let (at, _) = said.iter().rfind(|(_, said)| said.starts_with(text)).expect(text);
    at.clone()
}

/// A pod that leads, another one that stands by, and a client to look on.
async fn two(stage: &Stage, bound: bool) -> (Pod, Pod, Client) {
    let first = stage.pod("first", bound).await;
    leads(&first).await;
    let second = stage.pod("second", bound).await;
    let client = client_of(stage.addrs(), LEASE).await;
    crate::world::waiters(&client, "e", 1).await;
    does_not_lead(&second).await;
    (first, second, client)
}

#[tokio::test]
async fn an_app_that_crashes_is_followed_at_once_and_its_sidecar_by_the_lease() {
    let stage = Stage::start().await;
    let (first, second, client) = two(&stage, true).await;
    let before = leads(&first).await;
    first.app.signal("KILL").await;
    let later = leads(&second).await;
    assert!(later > before);
    eventually("its sidecar ends with it", SOON, async || {
        first.sidecar.exit_code().await == Some(0)
    })
    .await;
    drop(first);
    // And a sidecar that crashes leads no more, for its app at once.
    let third = stage.pod("third", false).await;
    crate::world::waiters(&client, "e", 1).await;
    second.sidecar.signal("KILL").await;
    does_not_lead(&second).await;
    assert!(leads(&third).await > later);
}

#[tokio::test]
async fn a_pod_that_is_told_to_stop_hands_over() {
    let stage = Stage::start().await;
    let (first, second, client) = two(&stage, true).await;
    // As a pod in the classic form is stopped: all of its containers receive SIGTERM at once.
    first.sidecar.signal("TERM").await;
    assert_eq!(
        client.election("e").leader().await.unwrap().unwrap().value,
        b"first",
        "its app is at it"
    );
    first.app.signal("TERM").await;
    leads(&second).await;
    eventually("its sidecar ends", SOON, async || first.sidecar.exit_code().await == Some(0)).await;
}

#[tokio::test]
async fn a_pod_that_is_cut_off_knows_before_another_one_leads() {
    let stage = Stage::start().await;
    let (first, second, _client) = two(&stage, false).await;
    let before = leads(&first).await;
    first.cut_off().await;
    assert!(leads(&second).await > before);
    does_not_lead(&first).await;
    let (knew, led) = (when(&first, "I do not lead").await, when(&second, "I lead").await);
    assert!(knew < led, "it knew at {knew}, and the other one has led since {led}");
    // It takes part again when it is back.
    first.rejoin().await;
    second.sidecar.signal("TERM").await;
    leads(&first).await;
}

#[tokio::test]
async fn a_sidecar_that_is_paused_is_not_believed() {
    let stage = Stage::start().await;
    let (first, second, client) = two(&stage, false).await;
    first.sidecar.pause().await;
    does_not_lead(&first).await;
    leads(&second).await;
    let before = first.said().await.len();
    first.sidecar.unpause().await;
    // It has found out, and campaigns anew; up to then it never said that it leads.
    crate::world::waiters(&client, "e", 1).await;
    let said = first.said().await.split_off(before);
    assert!(said.iter().all(|(_, text)| !text.starts_with("I lead")), "{said:?}");
    assert!(token(&second).await.is_some());
}

#[tokio::test]
async fn any_container_may_die_and_the_leader_stays() {
    let stage = Stage::start().await;
    // A lease of 3 s may end while etcd elects: keepalives were up to 3 s apart over a lost leader.
    let first = stage.pod_of("first", false, "10s").await;
    let token_before = leads(&first).await;
    let _second = stage.pod("second", false).await;
    stage.daemon(0).signal("KILL").await;
    stage.daemon(0).start_again().await;
    let leader = stage.cluster().leader().await;
    stage.cluster().kill(leader).await;
    stage.cluster().leader_after(leader).await;
    stage.cluster().start_again(leader).await;
    let mut clients = Vec::new();
    for addr in stage.addrs().split(',') {
        clients.push(client_of(addr, LEASE).await);
    }
    let back = Instant::now();
    // Its lease began anew with etcd's leader; who has much left of it later has renewed it since.
    eventually("its lease is renewed", SOON, async || {
        // How much is left of it is known where its session is kept.
        let mut holders = Vec::new();
        for client in &clients {
            let found = client.get("e").await.map_err(|error| error.to_string())?;
            holders.extend(found.as_ref().and_then(|lock| lock.holder()).cloned());
        }
        assert!(holders.iter().all(|it| it.token.get() == token_before), "{holders:?}");
        let renewed = Some(Duration::from_secs(8));
        let is_renewed = holders.iter().any(|holder| holder.lease_remaining >= renewed);
        let later = back.elapsed() > Duration::from_secs(3);
        if is_renewed && later { Ok(()) } else { Err(format!("{holders:?}")) }
    })
    .await;
    assert_eq!(token(&first).await, Some(token_before), "{:?}", first.said().await);
}
