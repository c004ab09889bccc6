//! Read/write locks, semaphores, and several locks as one.

use std::time::Duration;

use lockd_client::ErrorKind;
use lockd_proto::v1;

use super::{later, permits, queued, shared};
use crate::world::{SOON, World, acquire_of, both_stores, free, reason, soon, token, waiters};

both_stores!(
    readers_come_in_together_and_a_writer_does_not_starve,
    a_writer_becomes_a_reader_without_letting_anybody_in_between,
    an_upgrade_is_refused_with_the_reason,
    readers_and_writers_by_unary_calls,
    a_semaphore_is_never_over_its_capacity,
    a_big_request_is_not_overtaken,
    another_capacity_is_an_error_that_names_both,
    several_locks_are_held_all_or_none,
    several_locks_in_opposite_order_never_deadlock,
    a_loss_of_one_of_several_locks_is_the_loss_of_all,
);

async fn readers_come_in_together_and_a_writer_does_not_starve(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let first = here.lock("rw").shared().acquire(&soon()).await.unwrap();
    let second = there.lock("rw").shared().acquire(&soon()).await.unwrap();
    assert!(second.token() > first.token());
    let writer = later(there.lock("rw"));
    queued(&here, "rw", (2, 1)).await;
    // A reader that comes after the writer waits for the writer.
    let late = later(here.lock("rw").shared());
    let latest = later(there.lock("rw").shared());
    queued(&here, "rw", (2, 3)).await;
    assert!(here.lock("rw").shared().try_acquire(&soon()).await.unwrap().is_none());
    first.release().await.unwrap();
    queued(&here, "rw", (1, 3)).await;
    let before = second.token();
    second.release().await.unwrap();
    let writer = writer.await.unwrap().unwrap();
    assert!(writer.token() > before, "tokens grow with every grant");
    queued(&there, "rw", (1, 2)).await;
    let before = writer.token();
    writer.release().await.unwrap();
    for reader in [late, latest] {
        assert!(reader.await.unwrap().unwrap().token() > before);
    }
}

async fn a_writer_becomes_a_reader_without_letting_anybody_in_between(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let mut held = here.lock("down").acquire(&soon()).await.unwrap();
    let before = held.token();
    let reader = later(there.lock("down").shared());
    queued(&here, "down", (1, 1)).await;
    held.downgrade(&soon()).await.unwrap();
    let reader = reader.await.unwrap().unwrap();
    assert_eq!(held.token(), before, "the token stays");
    held.check().unwrap();
    // Again is as good as once; and a writer still has to wait for both.
    held.downgrade(&soon()).await.unwrap();
    let writer = later(there.lock("down"));
    queued(&here, "down", (2, 1)).await;
    held.release().await.unwrap();
    reader.release().await.unwrap();
    assert!(writer.await.unwrap().unwrap().token() > before);
}

async fn an_upgrade_is_refused_with_the_reason(world: World) {
    let client = world.client().await;
    let reader = || client.lock("up").owner("task-1");
    let held = reader().shared().acquire(&soon()).await.unwrap();
    crate::world::waiters(&client, "up", 0).await;
    let refused = reader().acquire(&soon()).await.unwrap_err();
    assert_eq!(refused.reason(), Some("UPGRADE_REFUSED"), "{refused}");
    assert!(refused.to_string().contains("release it, then acquire"), "{refused}");
    held.check().unwrap();
}

async fn readers_and_writers_by_unary_calls(world: World) {
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let first = token(raw.acquire(&session, shared("unary-rw", 1)).await.unwrap());
    let second = token(raw.acquire(&session, shared("unary-rw", 2)).await.unwrap());
    assert!(second > first);
    let busy = v1::Acquire {
        max_wait: Some(prost_types::Duration::default()),
        ..acquire_of("unary-rw", 3)
    };
    let refused = raw.acquire(&session, busy).await.unwrap();
    assert!(matches!(refused.outcome, Some(v1::acquire_response::Outcome::Refusal(_))));
    let client = world.client().await;
    queued(&client, "unary-rw", (2, 0)).await;
    for (request, token) in [(1, first), (2, second)] {
        let release = v1::ReleaseRequest {
            session: Some(session.clone()),
            name: "unary-rw".to_owned(),
            request_id: vec![request; 16],
            token,
            ..v1::ReleaseRequest::default()
        };
        let released = raw.locks.release(release).await.unwrap().into_inner();
        assert_eq!(released.outcome(), v1::ReleaseOutcome::Released);
    }
    free(&client, "unary-rw").await;
}

async fn a_semaphore_is_never_over_its_capacity(world: World) {
    const CAPACITY: usize = 3;
    let inside = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..6usize {
        let client = if n % 2 == 0 { world.client().await } else { world.other_client().await };
        let inside = inside.clone();
        tasks.spawn(async move {
            use std::sync::atomic::Ordering::SeqCst;
            let count = 1 + n % 2;
            for _ in 0..5 {
                let permits = u32::try_from(count).unwrap();
                let guard =
                    client.semaphore("gpus", 3).permits(permits).acquire(&soon()).await.unwrap();
                let now = inside.fetch_add(count, SeqCst) + count;
                assert!(now <= CAPACITY, "{now} permits are out");
                tokio::task::yield_now().await;
                inside.fetch_sub(count, SeqCst);
                guard.release().await.unwrap();
            }
            client.shutdown().await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn a_big_request_is_not_overtaken(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let small = |client: &lockd_client::Client| client.semaphore("big", 3).permits(1);
    let held = small(&here).acquire(&soon()).await.unwrap();
    let big = later(there.semaphore("big", 3).permits(3));
    queued(&here, "big", (1, 1)).await;
    assert!(small(&here).try_acquire(&soon()).await.unwrap().is_none(), "the big one is first");
    let next = later(small(&here));
    queued(&here, "big", (1, 2)).await;
    held.release().await.unwrap();
    let big = big.await.unwrap().unwrap();
    assert!(!next.is_finished());
    big.release().await.unwrap();
    drop(next.await.unwrap().unwrap());
}

async fn another_capacity_is_an_error_that_names_both(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let _held = here.semaphore("cap", 3).permits(1).acquire(&soon()).await.unwrap();
    queued(&there, "cap", (1, 0)).await;
    let refused = there.semaphore("cap", 4).permits(1).acquire(&soon()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let text = refused.to_string();
    assert!(text.contains("capacity of 3") && text.contains("capacity of 4"), "{text}");
    let refused = there.lock("cap").acquire(&soon()).await.unwrap_err();
    assert_eq!(refused.reason(), Some("KIND_MISMATCH"), "{refused}");
    // Nothing is left of what was refused.
    queued(&here, "cap", (1, 0)).await;
    let mut raw = world.raw().await;
    let session = raw.open(Duration::from_secs(30)).await;
    let refused = raw.acquire(&session, permits("cap", 1, (1, 9))).await.unwrap_err();
    assert_eq!(reason(&refused), "KIND_MISMATCH");
    let refused = raw.acquire(&session, permits("cap", 2, (4, 3))).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

async fn several_locks_are_held_all_or_none(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let names = ["all/a", "all/b", "all/c"];
    let all = here.lock_all(names).acquire(&soon()).await.unwrap();
    assert_eq!(all.names().len(), 3);
    for name in names {
        queued(&here, name, (1, 0)).await;
    }
    assert!(there.lock("all/b").try_acquire(&soon()).await.unwrap().is_none());
    all.release().await.unwrap();
    for name in names {
        free(&here, name).await;
    }
    // One of them is taken: a try gets none of them, and a wait gets all in time.
    let held = there.lock("all/c").acquire(&soon()).await.unwrap();
    assert!(here.lock_all(names).try_acquire(&soon()).await.unwrap().is_none());
    free(&here, "all/a").await;
    let all = later(here.lock_all(names));
    waiters(&there, "all/c", 1).await;
    // One that is cancelled while it waits leaves none behind.
    let given_up = there.lock_all(names).wait(Duration::from_millis(200)).acquire(&soon()).await;
    assert_eq!(given_up.unwrap_err().kind(), ErrorKind::WaitExpired);
    waiters(&there, "all/c", 1).await;
    assert!(!all.is_finished());
    held.release().await.unwrap();
    all.await.unwrap().unwrap().release().await.unwrap();
    for name in names {
        free(&there, name).await;
    }
}

async fn several_locks_in_opposite_order_never_deadlock(world: World) {
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let client = if n % 2 == 0 { world.client().await } else { world.other_client().await };
        tasks.spawn(async move {
            let mut names = vec!["order/x", "order/y", "order/z"];
            names.rotate_left(n % 3);
            for _ in 0..8 {
                let all = client.lock_all(names.clone()).acquire(&soon()).await.unwrap();
                all.release().await.unwrap();
            }
            client.shutdown().await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn a_loss_of_one_of_several_locks_is_the_loss_of_all(world: World) {
    let client = world.client().await;
    let all = client.lock_all(["part/a", "part/b"]).acquire(&soon()).await.unwrap();
    crate::world::waiters(&client, "part/a", 0).await;
    client.force_release("part/b", all.token(), "one of them").await.unwrap();
    tokio::time::timeout(SOON, all.lost()).await.unwrap();
    free(&client, "part/a").await;
    free(&client, "part/b").await;
}
