//! When leases end.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let running = Running::in_memory();
    running.has_session().await;
    running.commit(enqueue(1)).await.unwrap();
    let mut watch = running.store.watch();
    watch.next().await.unwrap();
    let start = tokio::time::Instant::now();
    let changes = loop {
        match watch.next().await.unwrap() {
            Feed::Changes { changes, .. } => break changes,
            Feed::Confirmed(_) => {}
            other @ Feed::Snapshot { .. } => panic!("{other:?}"),
        }
    };
    let late = start.elapsed() - 15 * SECOND;
    assert!(late < Duration::from_millis(10), "{late:?}");
    assert!(matches!(changes.as_slice(), [Change::Deleted(_), Change::Deleted(_)]));
    assert!(matches!(running.store.keep_alive(LEASE).await, Err(StoreError::LeaseNotFound)));
    assert_eq!(running.store.lease_remaining(LEASE).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_kept_alive_goes_on() {
    let running = Running::in_memory();
    running.has_session().await;
    for _ in 0..10 {
        tokio::time::sleep(14 * SECOND).await;
        running.store.keep_alive(LEASE).await.unwrap();
    }
    assert!(running.store.get(session()).await.unwrap().is_some());
    assert_eq!(running.store.lease_remaining(LEASE).await.unwrap(), Some(15 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_retried_runs_from_the_retry() {
    let running = Running::in_memory();
    running.store.grant_lease(LEASE, ttl(10 * SECOND)).await.unwrap();
    tokio::time::sleep(6 * SECOND).await;
    running.store.grant_lease(LEASE, ttl(10 * SECOND)).await.unwrap();
    tokio::time::sleep(6 * SECOND).await;
    assert_eq!(running.store.lease_remaining(LEASE).await.unwrap(), Some(4 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_short_lease_ends_before_a_long_one_that_came_first() {
    let running = Running::in_memory();
    running.store.grant_lease(LeaseId(1), ttl(3600 * SECOND)).await.unwrap();
    running.store.grant_lease(LeaseId(2), ttl(SECOND / 2)).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(running.store.lease_remaining(LeaseId(1)).await.unwrap().is_some());
    assert_eq!(running.store.lease_remaining(LeaseId(2)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn many_leases_end_together() {
    let running = Running::in_memory();
    for id in 1..=1000 {
        running.store.grant_lease(LeaseId(id), ttl(SECOND)).await.unwrap();
    }
    tokio::time::sleep(2 * SECOND).await;
    for id in 1..=1000 {
        assert_eq!(running.store.lease_remaining(LeaseId(id)).await.unwrap(), None);
    }
}

/// Paused time runs on by itself while only the writer's thread is busy, unless a blocking
/// task is running.
struct TimeHeld(
    #[expect(dead_code, reason = "ends the task when dropped")] std::sync::mpsc::Sender<()>,
);

fn hold_time() -> TimeHeld {
    let (held, ended) = std::sync::mpsc::channel();
    drop(tokio::task::spawn_blocking(move || ended.recv()));
    TimeHeld(held)
}

#[tokio::test(start_paused = true)]
async fn a_lease_has_its_full_ttl_after_a_restart() {
    let _held = hold_time();
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open_by(dir.path(), Clock::tokio()).await.unwrap();
    running.has_session().await;
    tokio::time::advance(10 * SECOND).await;
    assert_eq!(running.store.lease_remaining(LEASE).await.unwrap(), Some(5 * SECOND));
    running.close().await;
    let again = Running::open_by(dir.path(), Clock::tokio()).await.unwrap();
    assert_eq!(again.store.lease_remaining(LEASE).await.unwrap(), Some(15 * SECOND));
    tokio::time::advance(16 * SECOND).await;
    let mut watch = again.store.watch();
    while again.store.get(session()).await.unwrap().is_some() {
        watch.next().await;
    }
    again.close().await;
}
