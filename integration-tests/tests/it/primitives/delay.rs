//! Lock-delay, and asking a holder to yield.

use std::time::{Duration, Instant};

use integration_tests::eventually;
use lockd_client::{Client, ErrorKind};
use lockd_proto::v1;

use super::{later, queued};
use crate::world::{SOON, TTL, World, acquire_of, both_stores, free, soon, token, waiters};

both_stores!(
    after_a_loss_the_next_grant_waits,
    after_a_release_or_a_close_it_does_not,
    a_delay_survives_the_replica_that_saw_the_loss,
    a_dead_waiter_delays_nobody,
    a_holder_is_asked_to_yield_and_decides,
);

const DELAY: Duration = Duration::from_secs(2);

fn delayed(name: &str) -> v1::Acquire {
    v1::Acquire { lock_delay: Some(DELAY.try_into().unwrap()), ..acquire_of(name, 1) }
}

/// A holder that will not be heard of again; the lock is lost at the earliest after its TTL.
async fn dying_holder(world: &World, name: &str) -> Instant {
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let since = Instant::now();
    token(raw.acquire(&session, delayed(name)).await.unwrap());
    since
}

async fn lost(client: &Client, name: &str) {
    eventually("the loss is seen", SOON, async || {
        let found = client.get(name).await.ok()??;
        found.holder()?.lost.then_some(())
    })
    .await;
}

async fn after_a_loss_the_next_grant_waits(world: World) {
    let since = dying_holder(&world, "delay").await;
    let client = world.other_client().await;
    let next = client.lock("delay").acquire(&soon()).await.unwrap();
    let waited = since.elapsed();
    assert!(waited >= TTL + DELAY - Duration::from_millis(100), "{waited:?}");
    assert!(waited <= TTL + DELAY + Duration::from_secs(1), "{waited:?}");
    next.release().await.unwrap();
}

async fn after_a_release_or_a_close_it_does_not(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let long = Duration::from_secs(300);
    let held = here.lock("clean").lock_delay(long).acquire(&soon()).await.unwrap();
    held.release().await.unwrap();
    let held = there.lock("clean").lock_delay(long).acquire(&soon()).await.unwrap();
    queued(&here, "clean", (1, 0)).await;
    let next = later(here.lock("clean"));
    waiters(&here, "clean", 1).await;
    there.shutdown().await;
    drop(next.await.unwrap().unwrap());
    drop(held);
    let too_long = here.lock("clean").lock_delay(Duration::from_secs(601)).acquire(&soon()).await;
    assert_eq!(too_long.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

async fn a_delay_survives_the_replica_that_saw_the_loss(mut world: World) {
    dying_holder(&world, "survives").await;
    let client = world.patient_client().await;
    lost(&client, "survives").await;
    let since = Instant::now();
    world.kill_and_restart_first().await;
    let next = client.lock("survives").acquire(&soon()).await.unwrap();
    let waited = since.elapsed();
    assert!(waited >= DELAY - Duration::from_millis(500), "{waited:?}");
    next.release().await.unwrap();
}

async fn a_dead_waiter_delays_nobody(world: World) {
    let client = world.other_client().await;
    let held = client.lock("waiter").acquire(&soon()).await.unwrap();
    let mut raw = world.raw().await;
    let session = raw.open(TTL).await;
    let long = Some(Duration::from_secs(300).try_into().unwrap());
    let acquire = v1::Acquire { lock_delay: long, ..acquire_of("waiter", 1) };
    let request = v1::AcquireRequest { session: Some(session), acquire: Some(acquire) };
    let waiting = tokio::spawn(async move { raw.locks.acquire(request).await });
    waiters(&client, "waiter", 1).await;
    waiting.await.unwrap().unwrap_err();
    waiters(&client, "waiter", 0).await;
    held.release().await.unwrap();
    free(&client, "waiter").await;
}

async fn a_holder_is_asked_to_yield_and_decides(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("yield").acquire(&soon()).await.unwrap();
    let next = later(there.lock("yield"));
    waiters(&there, "yield", 1).await;
    let asked = there.request_yield("yield", "deploy is waiting").await.unwrap();
    assert_eq!(asked.len(), 1);
    let why = tokio::time::timeout(SOON, held.yield_requested()).await.unwrap();
    assert_eq!(why, "deploy is waiting");
    // It decides: nothing happens until it releases.
    held.check().unwrap();
    assert!(!next.is_finished());
    held.release().await.unwrap();
    let next = next.await.unwrap().unwrap();
    let explained = eventually("the handoff is seen", SOON, async || {
        let explained = there.explain("yield").await.ok()?;
        explained.last_handoff.is_some().then_some(explained)
    })
    .await;
    let handoff = explained.last_handoff.unwrap();
    assert_eq!(handoff.reason, lockd_client::HandoffReason::Yielded);
    next.release().await.unwrap();
    free(&there, "yield").await;
    let nobody = there.request_yield("yield", "anybody?").await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::NotFound);
}
