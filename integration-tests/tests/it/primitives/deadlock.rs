//! Deadlocks end by their youngest wait, and nothing else does.

use std::time::Duration;

use lockd_client::ErrorKind;

use super::{later, queued};
use crate::world::{World, both_stores, soon, waiters};

both_stores!(
    the_youngest_wait_of_a_cycle_ends_and_the_other_goes_on,
    a_cycle_of_three_over_unary_calls_and_streams,
    readers_that_hold_together_are_no_deadlock,
);

async fn the_youngest_wait_of_a_cycle_ends_and_the_other_goes_on(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let x = here.lock("dl/x").owner("order-1").acquire(&soon()).await.unwrap();
    let y = there.lock("dl/y").owner("order-2").acquire(&soon()).await.unwrap();
    let first = later(here.lock("dl/y").owner("order-1"));
    waiters(&here, "dl/y", 1).await;
    let youngest = there.lock("dl/x").owner("order-2").acquire(&soon()).await.unwrap_err();
    assert_eq!(youngest.kind(), ErrorKind::Deadlock, "{youngest}");
    let text = youngest.to_string();
    for part in ["order-1 waits for \"dl/y\"", "order-2 waits for \"dl/x\"", "behind order-1"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!first.is_finished(), "the older wait goes on");
    waiters(&here, "dl/x", 0).await;
    y.release().await.unwrap();
    drop(first.await.unwrap().unwrap());
    x.release().await.unwrap();
}

async fn a_cycle_of_three_over_unary_calls_and_streams(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let unary = |name: &str, request| lockd_proto::v1::Acquire {
        owner: "c".to_owned(),
        ..crate::world::acquire_of(name, request)
    };
    let _x = here.lock("three/x").owner("a").acquire(&soon()).await.unwrap();
    let y = there.lock("three/y").owner("b").acquire(&soon()).await.unwrap();
    raw.acquire(&session, unary("three/z", 1)).await.unwrap();
    let a = later(here.lock("three/y").owner("a"));
    waiters(&here, "three/y", 1).await;
    let b = later(there.lock("three/z").owner("b"));
    waiters(&here, "three/z", 1).await;
    let refused = raw.acquire(&session, unary("three/x", 2)).await.unwrap();
    let Some(lockd_proto::v1::acquire_response::Outcome::Refusal(refusal)) = refused.outcome else {
        panic!("the youngest is refused")
    };
    assert_eq!(refusal.reason(), lockd_proto::v1::RefusalReason::Deadlock);
    assert_eq!(refusal.detail.matches("waits for").count(), 3, "{}", refusal.detail);
    assert!(!a.is_finished() && !b.is_finished());
    y.release().await.unwrap();
    drop(a.await.unwrap().unwrap());
    b.abort();
}

async fn readers_that_hold_together_are_no_deadlock(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    // Each holds what the other wants shared, and gets it at once.
    let _a = here.lock("r/x").shared().owner("a").acquire(&soon()).await.unwrap();
    let _b = there.lock("r/y").shared().owner("b").acquire(&soon()).await.unwrap();
    let a = here.lock("r/y").shared().owner("a").acquire(&soon()).await.unwrap();
    let b = there.lock("r/x").shared().owner("b").acquire(&soon()).await.unwrap();
    queued(&here, "r/x", (2, 0)).await;
    queued(&here, "r/y", (2, 0)).await;
    a.release().await.unwrap();
    b.release().await.unwrap();
}
