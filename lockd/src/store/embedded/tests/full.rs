//! Disks that fail: nothing is half done, and what can go on does.

use super::{durability::killed, *};
use crate::store::embedded::file::Fault;

/// As large as an entry gets: metadata may have 4 KiB.
const LARGE: usize = 4 * 1024;

#[tokio::test]
async fn a_full_disk_refuses_changes_nothing_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.commit(enqueue(1)).await.unwrap();
    let before = running.everything().await;
    running.gauge.fail(Some(Fault::NoWrites));
    let refused = tokio::time::timeout(SECOND, running.commit(enqueue(2))).await;
    // Not even the file's header can be written, so it is not certain yet that it failed.
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(running.everything().await, before);
    assert!(running.store.keep_alive(LEASE).await.is_ok());
    running.gauge.fail(None);
    let next = running.commit(enqueue(3)).await;
    let next = if next.is_err() { running.commit(enqueue(3)).await } else { next };
    assert_eq!(next.unwrap(), Outcome::Enqueued { revision: Revision(3), first: false });
    running.close().await;
}

/// Queues entries until no more fit into a file that can't grow; how many, and what the next
/// one was told.
async fn fill(running: &Running, dir: &Path) -> (usize, StoreError) {
    let mut queued = 100;
    running.store.commit((0..queued).map(|n| enqueue_sized(n, LARGE)).collect()).await.unwrap();
    // What there is stays, and not a byte more.
    let data = std::fs::metadata(dir.join("lockd.redb")).unwrap().len();
    running.gauge.fail(Some(Fault::Room(data + running.gauge.reserved())));
    loop {
        match running.commit(enqueue_sized(queued, LARGE)).await {
            Ok(_) => queued += 1,
            Err(refused) => return (queued, refused),
        }
    }
}

#[tokio::test]
async fn where_nothing_more_fits_releases_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    let (queued, refused) = fill(&running, dir.path()).await;
    assert!(matches!(refused, StoreError::Full(_)), "{refused:?}");
    let (revision, records) = running.everything().await;
    assert_eq!(records.len(), queued + 1, "nothing of what was refused is there");
    for number in 0..queued {
        let released = running.commit(delete(number)).await.unwrap();
        assert!(matches!(released, Outcome::Done(done) if done > revision));
    }
    running.gauge.fail(None);
    assert!(running.commit(enqueue_sized(queued, LARGE)).await.is_ok(), "there is room again");
    running.close().await;
}

#[tokio::test]
async fn leases_end_where_nothing_more_fits() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    fill(&running, dir.path()).await;
    running.store.revoke_lease(LEASE).await.unwrap();
    assert!(running.everything().await.1.is_empty());
    running.close().await;
}

/// The worst of disks: it keeps what it says that it could not.
#[tokio::test]
async fn what_failed_to_sync_is_answered_when_it_can_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.gauge.fail(Some(Fault::NoSyncs));
    let mut failed = Box::pin(running.commit(enqueue(1)));
    assert!(tokio::time::timeout(SECOND, failed.as_mut()).await.is_err(), "answered too early");
    // What comes meanwhile is refused, and reads are answered.
    let refused = running.commit(enqueue(2)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert_eq!(running.store.get(entry(1)).await.unwrap(), None);
    running.gauge.fail(None);
    let answer = (&mut failed).await;
    drop(failed);
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    let after_kill = killed(dir.path());
    let again = Running::open(after_kill.path()).await.unwrap();
    assert_eq!(again.store.get(entry(1)).await.unwrap(), None);
    let next = running.commit(enqueue(3)).await.unwrap();
    assert_eq!(next, Outcome::Enqueued { revision: Revision(2), first: true });
    running.close().await;
}
