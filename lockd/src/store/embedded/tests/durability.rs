//! What a restart and a crash keep.

use super::*;
use crate::store::embedded::{disk::Disk, rows};

/// A copy of the folder as a process that was killed leaves it: nothing is closed.
pub(super) fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["lockd.seq", "lockd.redb"] {
        std::fs::copy(dir.join(file), copy.path().join(file)).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_restart_keeps_sessions_entries_leases_and_the_revision() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.store.commit((0..40).map(enqueue).collect()).await.unwrap();
    running.store.commit((0..40).step_by(2).map(delete).collect()).await.unwrap();
    let before = running.everything().await;
    running.close().await;
    let again = Running::open(dir.path()).await.unwrap();
    assert_eq!(again.everything().await, before);
    assert!(again.store.keep_alive(LEASE).await.is_ok());
    again.close().await;
}

#[tokio::test]
async fn a_kill_keeps_all_that_was_acknowledged_and_revisions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    for number in 0..20 {
        running.commit(enqueue(number)).await.unwrap();
    }
    running.commit(delete(19)).await.unwrap();
    let before = running.everything().await;
    let after_kill = killed(dir.path());
    let again = Running::open(after_kill.path()).await.unwrap();
    assert_eq!(again.everything().await, before);
    // The entry with the last revision is gone, and its revision is not used again.
    let next = again.commit(enqueue(20)).await.unwrap();
    assert_eq!(next, Outcome::Enqueued { revision: Revision(before.0.0 + 1), first: false });
    again.close().await;
    running.close().await;
}

#[tokio::test]
async fn a_lease_that_was_revoked_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.commit(enqueue(1)).await.unwrap();
    running.store.revoke_lease(LEASE).await.unwrap();
    let after_kill = killed(dir.path());
    let again = Running::open(after_kill.path()).await.unwrap();
    assert_eq!(again.everything().await, (Revision(3), Vec::new()));
    assert!(matches!(again.store.keep_alive(LEASE).await, Err(StoreError::LeaseNotFound)));
}

#[tokio::test]
async fn writes_that_come_together_share_fsyncs() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    let before = running.gauge.syncs();
    let writes = (0..200).map(|number| running.commit(enqueue(number)));
    assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok));
    let syncs = running.gauge.syncs() - before;
    assert!((1..=10).contains(&syncs), "{syncs} syncs for 200 writes");
    running.close().await;
}

#[tokio::test]
async fn reads_tries_and_keepalives_cost_no_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    running.has_session().await;
    running.commit(enqueue(1)).await.unwrap();
    let before = running.gauge.syncs();
    running.store.get(session()).await.unwrap();
    running.store.first(Key::new("q/")).await.unwrap();
    running.store.keep_alive(LEASE).await.unwrap();
    assert!(matches!(running.commit(enqueue(1)).await, Ok(Outcome::Exists(_))));
    assert_eq!(running.gauge.syncs(), before);
    running.close().await;
}

#[tokio::test]
async fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let running = Running::open(dir.path()).await.unwrap();
    let refused = Running::open(dir.path()).await.err().unwrap().to_string();
    let (dir, pid) = (dir.path().display(), std::process::id());
    assert_eq!(
        refused,
        format!(
            "data folder \"{dir}\" is in use by another lockd (pid {pid}): stop it or choose another --data-dir"
        )
    );
    running.close().await;
}

#[tokio::test]
async fn a_folder_that_can_not_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    for folder in [file.clone(), file.join("below")] {
        let refused = Running::open(&folder).await.err().unwrap();
        assert!(matches!(refused, StoreError::Broken(_)), "{refused:?}");
        assert!(refused.to_string().contains(&*folder.to_string_lossy()), "{refused}");
    }
}

#[test]
fn data_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Disk::open(dir.path(), Gauge::default()).unwrap());
    let database = redb::Database::create(dir.path().join("lockd.redb")).unwrap();
    rows::pretend_format(&database, 2);
    drop(database);
    let refused = Disk::open(dir.path(), Gauge::default()).err().unwrap().to_string();
    assert!(refused.contains("it has format 2, and this lockd reads up to 1"), "{refused}");
}

#[test]
fn a_data_file_that_was_being_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("lockd.new"), "torn").unwrap();
    let (_, state) = Disk::open(dir.path(), Gauge::default()).unwrap();
    assert_eq!(state.revision(), Revision(0));
}
