//! What is answered before it is durable: nobody is granted anything by it, and it is durable
//! no later than whatever follows.

use super::{durability::killed, *};
use crate::store::{Durable, embedded::file::Fault};

/// The release of an entry: it may wait, if nobody else is in the queue.
fn release(number: usize) -> Op {
    let keys = vec![(entry(number), Guard::Exists)];
    let queues = vec![Key::new("q/orders/")];
    Op::Delete(Delete { durable: Durable::After, queues, ..Delete::new(keys) })
}

/// An acquire: it may wait, if somebody is ahead of it.
fn acquire(number: usize) -> Op {
    match enqueue(number) {
        Op::Enqueue(op) => Op::Enqueue(Enqueue { durable: Durable::After, ..op }),
        op => op,
    }
}

/// A store in which the first entry holds the lock.
async fn held() -> (tempfile::TempDir, Running) {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.commit(acquire(1)).await.unwrap();
    (dir, running)
}

/// What a kill at this moment would leave of the queue.
async fn entries_after_kill(dir: &Path) -> Vec<Key> {
    let copy = killed(dir);
    let again = Running::open(copy.path()).await.unwrap();
    let records = again.everything().await.1.into_iter().map(|record| record.key);
    let entries = records.filter(|key| *key != session()).collect();
    again.close().await;
    entries
}

async fn is_synced_after(running: &Running, before: u64) {
    let synced = async {
        while running.gauge.syncs() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(10 * SECOND, synced).await.expect("it becomes durable by itself");
}

#[tokio::test]
async fn a_release_that_nobody_waits_for_is_durable_a_moment_later() {
    let (dir, running) = held().await;
    let before = running.gauge.syncs();
    assert!(matches!(running.commit(release(1)).await, Ok(Outcome::Done(_))));
    assert_eq!(running.gauge.syncs(), before, "nothing was waited for");
    assert_eq!(running.store.get(entry(1)).await.unwrap(), None);
    running.store.flush_in_time(&running.tasks, running.end.clone());
    is_synced_after(&running, before).await;
    assert_eq!(entries_after_kill(dir.path()).await, []);
    running.close().await;
}

#[tokio::test]
async fn the_next_write_takes_along_what_was_put_off() {
    let (dir, running) = held().await;
    running.commit(release(1)).await.unwrap();
    let before = running.gauge.syncs();
    let next = running.commit(acquire(2)).await.unwrap();
    assert!(matches!(next, Outcome::Enqueued { first: true, .. }), "{next:?}");
    assert_eq!(running.gauge.syncs(), before + 1);
    assert_eq!(entries_after_kill(dir.path()).await, [entry(2)]);
    running.close().await;
}

/// Whoever waits is granted the lock by the release, and so is told when that is durable, and
/// with it the wait.
#[tokio::test]
async fn a_release_that_grants_is_durable_before_anybody_is_told() {
    let (dir, running) = held().await;
    let mut watch = running.store.watch();
    assert!(matches!(watch.next().await, Some(Feed::Snapshot { .. })));
    let before = running.gauge.syncs();
    let waits = running.commit(acquire(2)).await.unwrap();
    assert!(matches!(waits, Outcome::Enqueued { first: false, .. }), "{waits:?}");
    assert_eq!(running.gauge.syncs(), before, "a wait is no grant");
    running.commit(release(1)).await.unwrap();
    assert_eq!(running.gauge.syncs(), before + 1, "a grant is");
    assert_eq!(entries_after_kill(dir.path()).await, [entry(2)]);
    for _ in 0..2 {
        assert!(matches!(watch.next().await, Some(Feed::Changes { .. })));
    }
    running.close().await;
}

#[tokio::test]
async fn what_was_put_off_outlives_a_disk_that_fails_for_a_while() {
    let (dir, running) = held().await;
    running.gauge.fail(Some(Fault::NoWrites));
    running.commit(release(1)).await.unwrap();
    let mut failed = Box::pin(running.commit(acquire(2)));
    assert!(tokio::time::timeout(SECOND, failed.as_mut()).await.is_err(), "answered too early");
    running.gauge.fail(None);
    assert!(failed.await.is_err());
    let next = running.commit(acquire(3)).await.unwrap();
    assert!(matches!(next, Outcome::Enqueued { first: true, .. }), "{next:?}");
    assert_eq!(entries_after_kill(dir.path()).await, [entry(3)]);
    running.close().await;
}

#[tokio::test]
async fn an_end_in_good_order_leaves_nothing_undone() {
    let (dir, running) = held().await;
    running.commit(release(1)).await.unwrap();
    running.close().await;
    assert_eq!(entries_after_kill(dir.path()).await, []);
}
