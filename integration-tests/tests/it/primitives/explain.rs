//! Why am I waiting: what a person needs to act.

use integration_tests::eventually;
use lockd_client::HandoffReason;

use super::{later, queued};
use crate::world::{SOON, World, both_stores, soon, waiters};

both_stores!(a_queue_of_three_with_a_deadlock_is_explained, each_handoff_has_its_reason);

async fn a_queue_of_three_with_a_deadlock_is_explained(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("ex/x").owner("order-1").metadata("step", "charge");
    let held =
        held.acquire(&soon().with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736")).await.unwrap();
    let other = there.lock("ex/y").owner("order-2").acquire(&soon()).await.unwrap();
    let patient = later(there.lock("ex/x").wait(SOON));
    waiters(&here, "ex/x", 1).await;
    let cross = later(here.lock("ex/y").owner("order-1"));
    waiters(&here, "ex/y", 1).await;
    let victim = there.lock("ex/x").owner("order-2").acquire(&soon()).await.unwrap_err();
    waiters(&here, "ex/x", 1).await;
    let last = later(here.lock("ex/x"));
    waiters(&here, "ex/x", 2).await;
    let explained = eventually("the deadlock is remembered", SOON, async || {
        let explained = here.explain("ex/x").await.ok()?;
        explained.deadlocks.first()?.ended?;
        Some(explained)
    })
    .await;
    let lock = explained.lock.unwrap();
    let holder = lock.holder().unwrap();
    assert_eq!((holder.token, holder.client_name.as_str()), (held.token(), "test"));
    assert!(holder.pid > 0 && !holder.host.is_empty() && holder.lease_remaining.is_some());
    assert_eq!(holder.metadata["step"], "charge");
    assert!(holder.trace_id.starts_with("4bf92f35"));
    assert!(explained.held_for.is_some());
    assert_eq!(lock.waiters.len(), 2);
    assert!(lock.waiters[0].wait_remaining.is_some_and(|left| left <= SOON));
    let deadlock = &explained.deadlocks[0];
    let owners: Vec<_> = deadlock.cycle.iter().map(|wait| wait.owner.as_str()).collect();
    assert_eq!(owners.len(), 2, "{deadlock:?}");
    assert!(victim.to_string().contains("order-2"), "{victim}");
    other.release().await.unwrap();
    cross.await.unwrap().unwrap().release().await.unwrap();
    held.release().await.unwrap();
    patient.await.unwrap().unwrap().release().await.unwrap();
    last.await.unwrap().unwrap().release().await.unwrap();
}

async fn each_handoff_has_its_reason(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let handed = async |expected: HandoffReason| {
        eventually(&format!("a handoff for {expected:?}"), SOON, async || {
            let handoff = here.explain("why").await.ok()?.last_handoff?;
            (handoff.reason == expected).then_some(handoff)
        })
        .await
    };
    let held = here.lock("why").acquire(&soon()).await.unwrap();
    let next = later(there.lock("why"));
    waiters(&here, "why", 1).await;
    held.release().await.unwrap();
    let held = next.await.unwrap().unwrap();
    handed(HandoffReason::Released).await;
    let next = later(here.lock("why"));
    waiters(&here, "why", 1).await;
    here.force_release("why", held.token(), "on call").await.unwrap();
    let held = next.await.unwrap().unwrap();
    assert_eq!(handed(HandoffReason::Forced).await.detail, "on call");
    // A writer that gives up lets the reader behind it hold beside the reader before it.
    held.release().await.unwrap();
    let reader = here.lock("why").shared().acquire(&soon()).await.unwrap();
    let writer = later(there.lock("why"));
    queued(&here, "why", (1, 1)).await;
    let behind = later(here.lock("why").shared());
    queued(&here, "why", (1, 2)).await;
    writer.abort();
    drop(behind.await.unwrap().unwrap());
    reader.release().await.unwrap();
    let closing = world.client().await;
    queued(&here, "why", (0, 0)).await;
    let held = closing.lock("why").acquire(&soon()).await.unwrap();
    let next = later(there.lock("why"));
    waiters(&here, "why", 1).await;
    closing.shutdown().await;
    drop(held);
    let next = next.await.unwrap().unwrap();
    handed(HandoffReason::Closed).await;
    next.release().await.unwrap();
}
