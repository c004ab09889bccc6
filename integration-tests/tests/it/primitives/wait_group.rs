//! Wait groups and latches.

use std::time::Duration;

use integration_tests::eventually;
use lockd_client::{ErrorKind, FencingToken};
use lockd_proto::v1::{self, mode::Mode};

use super::{in_mode, queued};
use crate::world::{SOON, TTL, World, acquire_of, both_stores, free, soon, token};

both_stores!(
    those_who_wait_go_on_when_the_last_share_is_done,
    a_dead_worker_gives_its_share_back,
    a_dead_worker_fails_a_group_that_was_made_so,
    a_share_that_is_dropped_fails_a_group_that_was_made_so,
);

async fn those_who_wait_go_on_when_the_last_share_is_done(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    // Nothing to wait for.
    there.wait_group("g").wait(&soon()).await.unwrap();
    let first = here.wait_group("g").add(&soon()).await.unwrap();
    let second = there.wait_group("g").add(&soon()).await.unwrap();
    queued(&there, "g", (2, 0)).await;
    let waiting = tokio::spawn({
        let group = there.wait_group("g");
        async move { group.wait(&soon()).await }
    });
    first.done().await.unwrap();
    // A share that is added while others wait counts.
    let third = here.wait_group("g").add(&soon()).await.unwrap();
    queued(&there, "g", (2, 0)).await;
    second.done().await.unwrap();
    queued(&there, "g", (1, 0)).await;
    assert!(!waiting.is_finished());
    third.done().await.unwrap();
    waiting.await.unwrap().unwrap();
    let late = here.wait_group("g").fail_on_loss().add(&soon()).await.unwrap();
    queued(&there, "g", (1, 0)).await;
    let mismatch = there.wait_group("g").add(&soon()).await.unwrap_err();
    assert_eq!(mismatch.reason(), Some("KIND_MISMATCH"), "the first share fixes what a loss does");
    late.done().await.unwrap();
}

fn share(name: &str, on_loss: v1::ShareLoss) -> v1::Acquire {
    let share = v1::Share { on_loss: on_loss.into() };
    in_mode(Mode::Share(share), acquire_of(name, 1))
}

async fn a_dead_worker_gives_its_share_back(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    token(raw.acquire(&session, share("gives", v1::ShareLoss::Release)).await.unwrap());
    let client = world.other_client().await;
    queued(&client, "gives", (1, 0)).await;
    client.wait_group("gives").wait(&soon()).await.unwrap();
}

async fn a_dead_worker_fails_a_group_that_was_made_so(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let acquire = share("fails", v1::ShareLoss::Fail);
    let lost = token(raw.acquire(&session, acquire).await.unwrap());
    let client = world.other_client().await;
    queued(&client, "fails", (1, 0)).await;
    let group = client.wait_group("fails").fail_on_loss();
    let failed = group.wait(&soon()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Broken);
    assert!(failed.to_string().contains(&format!("token {lost}")), "{failed}");
    // It stays failed, for later callers too, until an operator removes the lost entry.
    assert_eq!(group.wait(&soon()).await.unwrap_err().kind(), ErrorKind::Broken);
    let token = FencingToken::new(lost).unwrap();
    client.force_release("fails", token, "looked into").await.unwrap();
    free(&client, "fails").await;
    group.wait(&soon()).await.unwrap();
}

async fn a_share_that_is_dropped_fails_a_group_that_was_made_so(world: World) {
    let client = world.client().await;
    let group = client.wait_group("dropped").fail_on_loss();
    let share = group.add(&soon()).await.unwrap();
    let kept = group.add(&soon()).await.unwrap();
    queued(&client, "dropped", (2, 0)).await;
    drop(share);
    eventually("the loss is seen", SOON, async || {
        let found = client.get("dropped").await.ok()??;
        found.holders.iter().any(|share| share.lost).then_some(())
    })
    .await;
    assert_eq!(group.wait(&soon()).await.unwrap_err().kind(), ErrorKind::Broken);
    kept.done().await.unwrap();
    let ttl = Duration::from_secs(30);
    let other = world.other_client().await.wait_group("free").ttl(ttl).add(&soon()).await.unwrap();
    other.done().await.unwrap();
}
