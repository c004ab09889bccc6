//! The store as its callers see it. What it does to its file is in the submodules.

mod damage;
mod durability;
mod full;
mod put_off;
mod time;

use bytes::Bytes;

use super::{super::Change, file::Gauge, *};
use crate::store::{Delete, Durable, Enqueue, Guard, Join, Place, Put, Revision};

const LEASE: LeaseId = LeaseId(7);
const SECOND: Duration = Duration::from_secs(1);

/// A store and what keeps it going.
struct Running {
    store: EmbeddedStore,
    gauge: Gauge,
    tasks: Tasks,
    end: CancellationToken,
}

impl Running {
    async fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_by(dir, Clock::system()).await
    }

    async fn open_by(dir: &Path, clock: Clock) -> Result<Self, StoreError> {
        let (gauge, tasks, end) = (Gauge::default(), Tasks::default(), CancellationToken::new());
        let store =
            EmbeddedStore::open_gauged(dir, gauge.clone(), clock, &tasks, end.clone()).await?;
        Ok(Self { store, gauge, tasks, end })
    }

    fn in_memory() -> Self {
        let (gauge, tasks, end) = (Gauge::default(), Tasks::default(), CancellationToken::new());
        let store = EmbeddedStore::in_memory(Clock::tokio(), &tasks, end.clone()).unwrap();
        Self { store, gauge, tasks, end }
    }

    /// Ends in good order: the folder can be opened again.
    async fn close(self) {
        self.end.cancel();
        self.tasks.drained().await;
    }

    async fn has_session(&self) {
        self.store.grant_lease(LEASE, ttl(15 * SECOND)).await.unwrap();
        let op = Put { key: session(), value: Bytes::new(), lease: LEASE, guard: Guard::Absent };
        assert!(matches!(self.commit(Op::Put(op)).await, Ok(Outcome::Done(_))));
    }

    async fn commit(&self, op: Op) -> Result<Outcome, StoreError> {
        Ok(self.store.commit(vec![op]).await?.remove(0))
    }

    /// Everything, as a new watcher is told.
    async fn everything(&self) -> (Revision, Vec<Record>) {
        match self.store.watch().next().await {
            Some(Feed::Snapshot { revision, records }) => (revision, records),
            other => panic!("{other:?}"),
        }
    }
}

fn ttl(ttl: Duration) -> Ttl {
    Ttl::granted(ttl)
}

fn session() -> Key {
    Key::new("s/a")
}

fn entry(number: usize) -> Key {
    Key::new(format!("q/orders/{number:04}"))
}

fn enqueue(number: usize) -> Op {
    enqueue_sized(number, 100)
}

fn enqueue_sized(number: usize, bytes: usize) -> Op {
    Op::Enqueue(Enqueue {
        places: vec![Place { key: entry(number), queue: Key::new("q/orders/") }],
        value: vec![u8::try_from(number % 251).unwrap(); bytes].into(),
        session: session(),
        lease: LEASE,
        join: Join::Always,
        durable: Durable::Before,
    })
}

fn delete(number: usize) -> Op {
    Op::Delete(Delete::new(vec![(entry(number), Guard::Exists)]))
}

#[tokio::test]
async fn a_retried_grant_succeeds() {
    let running = Running::in_memory();
    assert!(running.store.grant_lease(LEASE, ttl(SECOND)).await.is_ok());
    assert_eq!(running.store.grant_lease(LEASE, ttl(SECOND)).await.unwrap(), ttl(SECOND));
}

#[tokio::test]
async fn a_watch_tells_the_state_then_every_change_once_and_in_order() {
    let running = Running::in_memory();
    running.has_session().await;
    let mut watch = running.store.watch();
    let Some(Feed::Snapshot { revision: Revision(1), records }) = watch.next().await else {
        panic!("no snapshot");
    };
    assert_eq!(records.len(), 1);
    running.store.commit((0..3).map(enqueue).collect()).await.unwrap();
    running.commit(delete(1)).await.unwrap();
    for expected in 2..=5 {
        let Some(Feed::Changes { revision, changes }) = watch.next().await else {
            panic!("no changes");
        };
        assert_eq!((revision, changes.len()), (Revision(expected), 1));
    }
}

#[tokio::test]
async fn a_watcher_that_falls_behind_starts_over() {
    let running = Running::in_memory();
    running.has_session().await;
    let mut watch = running.store.watch();
    watch.next().await.unwrap();
    for number in 0..BEHIND + 10 {
        running.commit(enqueue(number)).await.unwrap();
    }
    let next = watch.next().await;
    let Some(Feed::Snapshot { records, .. }) = next else { panic!("{next:?}") };
    assert!(records.len() > BEHIND);
}

#[tokio::test]
async fn a_snapshot_holds_what_follows_it_no_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let running = Arc::new(Running::open(dir.path()).await.unwrap());
    running.has_session().await;
    let writes = (0..50).map(|number| running.commit(enqueue(number)));
    let watches = (0..50).map(|_| async {
        let mut feed = running.store.watch();
        let Some(Feed::Snapshot { revision: mut seen, .. }) = feed.next().await else {
            panic!("no snapshot");
        };
        while seen < Revision(51) {
            let Some(Feed::Changes { revision, .. }) = feed.next().await else { continue };
            assert_eq!(revision.0, seen.0 + 1);
            seen = revision;
        }
    });
    futures::join!(futures::future::join_all(writes), futures::future::join_all(watches));
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_every_second_that_the_link_is_alive() {
    let running = Running::in_memory();
    running.has_session().await;
    let mut watch = running.store.watch();
    watch.next().await.unwrap();
    let start = tokio::time::Instant::now();
    let next = watch.next().await;
    assert!(matches!(next, Some(Feed::Confirmed(Revision(1)))), "{next:?}");
    assert_eq!(start.elapsed(), CONFIRM);
}

#[tokio::test(start_paused = true)]
async fn a_watch_falls_silent_when_the_store_is_closed() {
    let running = Running::in_memory();
    let mut watch = running.store.watch();
    watch.next().await.unwrap();
    running.close().await;
    assert!(tokio::time::timeout(60 * SECOND, watch.next()).await.is_err());
}

#[tokio::test]
async fn a_store_that_is_closed_says_so() {
    let running = Running::in_memory();
    let store = running.store.clone();
    running.close().await;
    assert!(matches!(store.get(session()).await, Err(StoreError::Unavailable(_))));
}
