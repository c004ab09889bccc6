//! A store of a test's own, and sentences to say about it.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream::BoxStream};
use integration_tests::{Etcd, unique_prefix};
use lockd::{
    store::{
        Delete, Durable, Enqueue, Feed, Guard, Join, Key, LeaseId, Op, Outcome, Place, Put, Record,
        Revision, Store, StoreError,
        embedded::EmbeddedStore,
        etcd::{EtcdConfig, EtcdStore},
    },
    tasks::Tasks,
};
use lockd_proto::{Ttl, clock::Clock};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Long enough that no test outlives it.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// A store, and what lives as long as it does.
pub(super) struct Fixture {
    pub(super) store: Arc<dyn Store>,
    _dir: Option<tempfile::TempDir>,
    _end: DropGuard,
}

/// A session: a lease, and a key attached to it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub(super) lease: LeaseId,
    pub(super) key: Key,
}

impl Fixture {
    pub(super) fn memory() -> Self {
        let end = CancellationToken::new();
        let store = EmbeddedStore::in_memory(Clock::system(), &Tasks::default(), end.clone());
        Self { store: Arc::new(store.unwrap()), _dir: None, _end: end.drop_guard() }
    }

    pub(super) async fn disk() -> Self {
        let (end, dir) = (CancellationToken::new(), tempfile::tempdir().unwrap());
        let tasks = Tasks::default();
        let opened = EmbeddedStore::open(dir.path(), Clock::system(), &tasks, end.clone()).await;
        let store = Arc::new(opened.unwrap());
        Self { store, _dir: Some(dir), _end: end.drop_guard() }
    }

    pub(super) async fn etcd() -> Self {
        Self::on(Etcd::shared().await.endpoints(), unique_prefix()).await
    }

    /// An etcd store that asks these members, in this order.
    pub(super) async fn on(endpoints: Vec<String>, prefix: String) -> Self {
        let config = EtcdConfig { endpoints, prefix, user: None, tls: None };
        Self::try_with(config).await.unwrap()
    }

    pub(super) async fn try_with(config: EtcdConfig) -> Result<Self, StoreError> {
        // Logs go to the test's output.
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        let end = CancellationToken::new();
        let store = EtcdStore::new(&config, &Tasks::default(), end.clone())?;
        store.ready().await?;
        Ok(Self { store: Arc::new(store), _dir: None, _end: end.drop_guard() })
    }

    /// A session of this TTL.
    pub(super) async fn session(&self, ttl: Duration) -> Session {
        let lease = self.lease(ttl).await;
        let key = key(format!("s/{}", lease.0));
        let put = put(&key, "session", lease, Guard::Absent);
        assert!(matches!(self.commit_one(put).await, Outcome::Done(_)));
        Session { lease, key }
    }

    pub(super) async fn lease(&self, ttl: Duration) -> LeaseId {
        let lease = lease_id();
        self.store.grant_lease(lease, Ttl::granted(ttl)).await.unwrap();
        lease
    }

    pub(super) async fn try_one(&self, op: Op) -> Result<Outcome, StoreError> {
        let mut outcomes = self.store.commit(vec![op]).await?;
        assert_eq!(outcomes.len(), 1);
        Ok(outcomes.remove(0))
    }

    pub(super) async fn commit_one(&self, op: Op) -> Outcome {
        self.try_one(op).await.unwrap()
    }

    /// Puts an entry into a queue and gives back its revision.
    pub(super) async fn joins(&self, session: &Session, queue: &str, name: &str) -> Revision {
        match self.commit_one(entry(session, queue, name, Join::Always)).await {
            Outcome::Enqueued { revision, .. } => revision,
            other => panic!("{queue}{name} did not join: {other:?}"),
        }
    }

    pub(super) async fn get(&self, name: &str) -> Option<Record> {
        self.store.get(key(name)).await.unwrap()
    }

    /// The watch, past its snapshot.
    pub(super) async fn watch(&self) -> (Vec<Record>, BoxStream<'static, Feed>) {
        let mut feed = self.store.watch();
        match next(&mut feed).await {
            Feed::Snapshot { records, .. } => (records, feed),
            other => panic!("a watch begins with a snapshot: {other:?}"),
        }
    }
}

/// What a watch delivers next, soon.
pub(super) async fn next(feed: &mut BoxStream<'static, Feed>) -> Feed {
    let next = tokio::time::timeout(Duration::from_secs(10), feed.next()).await;
    next.expect("a watch says something soon").expect("a watch does not end")
}

/// The next changes that a watch delivers.
pub(super) async fn changes(
    feed: &mut BoxStream<'static, Feed>,
) -> (Revision, Vec<lockd::store::Change>) {
    loop {
        match next(feed).await {
            Feed::Changes { revision, changes } if !changes.is_empty() => {
                return (revision, changes);
            }
            Feed::Changes { .. } | Feed::Confirmed(_) => {}
            Feed::Snapshot { .. } => panic!("a second snapshot"),
        }
    }
}

pub(super) fn lease_id() -> LeaseId {
    LeaseId(i64::try_from(RandomState::new().hash_one(0) >> 1).unwrap().max(1))
}

pub(super) fn key(name: impl Into<String>) -> Key {
    Key::new(name.into())
}

pub(super) fn entry(session: &Session, queue: &str, name: &str, join: Join) -> Op {
    Op::Enqueue(Enqueue {
        places: vec![Place { key: key(format!("{queue}{name}")), queue: key(queue) }],
        value: format!("value of {name}").into(),
        session: session.key.clone(),
        lease: session.lease,
        join,
        durable: Durable::Before,
    })
}

pub(super) fn put(key: &Key, value: &'static str, lease: LeaseId, guard: Guard) -> Op {
    Op::Put(Put { key: key.clone(), value: value.into(), lease, guard })
}

pub(super) fn delete(name: &str, guard: Guard) -> Op {
    Op::Delete(Delete::new(vec![(key(name), guard)]))
}
