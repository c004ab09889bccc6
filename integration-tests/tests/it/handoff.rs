//! One holder at a time, in the order of asking; nothing is left of who gives up.

use std::time::Duration;

use lockd_client::ErrorKind;

use crate::world::{World, acquire_later, both_stores, free, soon, waiters};

both_stores!(
    waiters_are_served_in_order,
    a_busy_lock_is_tried_in_vain,
    a_wait_that_expires_says_who_held_the_lock,
    a_dropped_acquire_leaves_the_queue,
    an_end_in_the_middle_of_the_queue_skips_nobody,
    many_clients_count_without_a_lost_update,
);

async fn waiters_are_served_in_order(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let mut held = here.lock("orders/1").acquire(&soon()).await.unwrap();
    let mut queue = Vec::new();
    for n in 0..6 {
        let client = if n % 2 == 0 { &here } else { &there };
        queue.push(acquire_later(client, "orders/1"));
        waiters(&here, "orders/1", n + 1).await;
    }
    for next in queue {
        let before = held.token();
        held.release().await.unwrap();
        held = next.await.unwrap();
        assert!(held.token() > before, "tokens grow with every grant");
    }
    held.release().await.unwrap();
    free(&here, "orders/1").await;
}

async fn a_busy_lock_is_tried_in_vain(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("busy").try_acquire(&soon()).await.unwrap().expect("it is free");
    let before = here.status().await.unwrap();
    for _ in 0..5 {
        assert!(there.lock("busy").try_acquire(&soon()).await.unwrap().is_none());
    }
    if before.store == "embedded" {
        // A session was opened, with the first try in its record. The other four wrote nothing.
        let written = here.status().await.unwrap().revision - before.revision;
        assert!(written <= 2, "{written} operations");
    }
    waiters(&here, "busy", 0).await;
    held.release().await.unwrap();
    assert!(there.lock("busy").try_acquire(&soon()).await.unwrap().is_some());
}

async fn a_wait_that_expires_says_who_held_the_lock(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("slow").acquire(&soon()).await.unwrap();
    let wait = Duration::from_millis(300);
    let error = there.lock("slow").wait(wait).acquire(&soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitExpired, "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("held by test, token {}", held.token())), "{text}");
    waiters(&here, "slow", 0).await;
}

async fn a_dropped_acquire_leaves_the_queue(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("dropped").acquire(&soon()).await.unwrap();
    let waiting = acquire_later(&there, "dropped");
    waiters(&here, "dropped", 1).await;
    waiting.abort();
    waiters(&here, "dropped", 0).await;
    held.release().await.unwrap();
    free(&here, "dropped").await;
}

async fn an_end_in_the_middle_of_the_queue_skips_nobody(world: World) {
    let (here, there) = (world.client().await, world.other_client().await);
    let held = here.lock("middle").acquire(&soon()).await.unwrap();
    let second = acquire_later(&there, "middle");
    waiters(&here, "middle", 1).await;
    let third = acquire_later(&here, "middle");
    waiters(&here, "middle", 2).await;
    second.abort();
    waiters(&here, "middle", 1).await;
    let before = held.token();
    held.release().await.unwrap();
    assert!(third.await.unwrap().token() > before);
}

async fn many_clients_count_without_a_lost_update(world: World) {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 5;
    let counter = std::sync::Arc::new(tokio::sync::Mutex::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..CLIENTS {
        let client = if n % 2 == 0 { world.client().await } else { world.other_client().await };
        let counter = counter.clone();
        tasks.spawn(async move {
            for _ in 0..ROUNDS {
                let guard = client.lock("counter").acquire(&soon()).await.unwrap();
                // Contended only if two sessions hold the lock.
                let mut count = counter.try_lock().expect("nobody else is in here");
                tokio::task::yield_now().await;
                *count += 1;
                drop(count);
                guard.release().await.unwrap();
            }
            client.shutdown().await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(*counter.lock().await, CLIENTS * ROUNDS);
}
