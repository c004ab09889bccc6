//! What happens to a store under load while its members fail: every call is written down, and
//! at the end each has had exactly one effect.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::StreamExt as _;
use integration_tests::eventually;
use lockd::store::{Change, Feed, Guard, Join, Key, Outcome, Revision, Store};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::fixture::{Fixture, LONG, Session, delete, entry, key};

const WRITERS: usize = 4;
const SESSION: Duration = Duration::from_secs(10);

/// A load on a store, running.
pub(super) struct Load {
    store: Arc<dyn Store>,
    calls: Arc<Mutex<Calls>>,
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    workers: JoinSet<()>,
    watcher: JoinSet<()>,
}

/// What the callers were told.
#[derive(Debug, Default)]
struct Calls {
    answered: usize,
    keepalives: usize,
    failed: Vec<String>,
    slowest: Duration,
    joined: BTreeMap<Key, Revision>,
    left: BTreeSet<Key>,
    /// Between two keepalives that were acknowledged.
    longest_gap: Duration,
}

/// What the watch told.
#[derive(Debug, Default)]
struct Seen {
    state: BTreeMap<Key, Revision>,
    snapshots: usize,
    /// Entries that were created more than once.
    ghosts: BTreeSet<Key>,
    ever: BTreeSet<Key>,
}

/// What came of it, for the record.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) calls: usize,
    pub(super) slowest: Duration,
    pub(super) longest_gap: Duration,
    pub(super) snapshots: usize,
}

impl Load {
    pub(super) async fn start(on: &Fixture) -> Self {
        let mut load = Self {
            store: on.store.clone(),
            calls: Arc::default(),
            seen: Arc::default(),
            stop: CancellationToken::new(),
            workers: JoinSet::new(),
            watcher: JoinSet::new(),
        };
        load.watcher.spawn(watch(load.store.clone(), load.seen.clone()));
        let session = on.session(LONG).await;
        for writer in 0..WRITERS {
            load.work(|store, calls, stop| write(store, calls, stop, writer, session.clone()));
        }
        load.work(read);
        let kept = on.session(SESSION).await;
        load.work(|store, calls, stop| keep_alive(store, calls, stop, kept));
        load
    }

    fn work<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        worker: impl FnOnce(Arc<dyn Store>, Arc<Mutex<Calls>>, CancellationToken) -> F,
    ) {
        self.workers.spawn(worker(self.store.clone(), self.calls.clone(), self.stop.clone()));
    }

    /// Waits until this many more keepalives are acknowledged.
    pub(super) async fn keepalives(&self, more: usize) {
        let acknowledged = || self.calls.lock().unwrap().keepalives;
        let until = acknowledged() + more;
        let within = Duration::from_secs(30);
        eventually(&format!("{more} keepalives"), within, async || acknowledged() >= until).await;
    }

    /// Ends the load and checks that no call failed and that each had exactly one effect.
    pub(super) async fn ends_whole(mut self) -> Figures {
        self.stop.cancel();
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        let calls = std::mem::take(&mut *self.calls.lock().unwrap());
        let expected: BTreeMap<_, _> = calls
            .joined
            .iter()
            .filter(|(key, _)| !calls.left.contains(*key))
            .map(|(key, at)| (key.clone(), *at))
            .collect();
        eventually("the watch has seen what was done", Duration::from_secs(10), async || {
            let seen = self.seen.lock().unwrap();
            let entries = |key: &Key| key.as_bytes().starts_with(b"q/");
            let state: BTreeMap<_, _> = seen
                .state
                .iter()
                .filter(|(key, _)| entries(key))
                .map(|(k, at)| (k.clone(), *at))
                .collect();
            let differ: Vec<_> = state
                .iter()
                .filter(|(key, at)| expected.get(*key) != Some(*at))
                .chain(expected.iter().filter(|(key, at)| state.get(*key) != Some(*at)))
                .take(5)
                .map(|(key, at)| format!("{key:?} at {at:?}"))
                .collect();
            if differ.is_empty() { Ok(()) } else { Err(differ) }
        })
        .await;
        let seen = std::mem::take(&mut *self.seen.lock().unwrap());
        let figures = Figures {
            calls: calls.answered,
            slowest: calls.slowest,
            longest_gap: calls.longest_gap,
            snapshots: seen.snapshots,
        };
        println!("{figures:?}, {} failed", calls.failed.len());
        assert_eq!(calls.failed, Vec::<String>::new(), "no call fails that a member could answer");
        assert_eq!(seen.ghosts, BTreeSet::new(), "no entry joins twice");
        figures
    }
}

impl Calls {
    fn ended<T, E: std::fmt::Display>(
        &mut self,
        what: &str,
        start: Instant,
        result: &Result<T, E>,
    ) {
        self.answered += 1;
        self.slowest = self.slowest.max(start.elapsed());
        if let Err(error) = result {
            self.failed.push(format!("{what} after {:?}: {error}", start.elapsed()));
        }
    }
}

/// Joins queues, and leaves every other one again.
async fn write(
    store: Arc<dyn Store>,
    calls: Arc<Mutex<Calls>>,
    stop: CancellationToken,
    writer: usize,
    session: Session,
) {
    let queue = format!("q/{writer}\0");
    for round in 0.. {
        if stop.is_cancelled() {
            return;
        }
        let name = format!("{round:06}");
        let start = Instant::now();
        let joined = store.commit(vec![entry(&session, &queue, &name, Join::Always)]).await;
        calls.lock().unwrap().ended("a commit", start, &joined);
        let at = match joined.as_deref() {
            Ok([Outcome::Enqueued { revision, .. }]) => *revision,
            Ok([Outcome::Exists(record)]) => record.created,
            Ok(other) => panic!("{other:?}"),
            Err(_) => continue,
        };
        let name = format!("{queue}{name}");
        calls.lock().unwrap().joined.insert(key(&name), at);
        if round % 2 == 0 {
            let start = Instant::now();
            let left = store.commit(vec![delete(&name, Guard::At(at))]).await;
            calls.lock().unwrap().ended("a commit", start, &left);
            assert!(matches!(left.as_deref(), Ok([Outcome::Done(_)]) | Err(_)), "{left:?}");
            calls.lock().unwrap().left.insert(key(&name));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn read(store: Arc<dyn Store>, calls: Arc<Mutex<Calls>>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let start = Instant::now();
        let read = store.first(key("q/0\0")).await;
        calls.lock().unwrap().ended("a read", start, &read);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Renews every second, as a client does: the next one is not held up by a late one.
async fn keep_alive(
    store: Arc<dyn Store>,
    calls: Arc<Mutex<Calls>>,
    stop: CancellationToken,
    session: Session,
) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut acknowledged = Instant::now();
    while !stop.is_cancelled() {
        ticks.tick().await;
        let start = Instant::now();
        let kept = store.keep_alive(session.lease).await;
        let mut calls = calls.lock().unwrap();
        calls.ended("a keepalive", start, &kept);
        if kept.is_ok() {
            calls.longest_gap = calls.longest_gap.max(acknowledged.elapsed());
            acknowledged = Instant::now();
            calls.keepalives += 1;
        }
    }
}

async fn watch(store: Arc<dyn Store>, seen: Arc<Mutex<Seen>>) {
    let mut feed = store.watch();
    let mut at = Revision::default();
    while let Some(next) = feed.next().await {
        let mut seen = seen.lock().unwrap();
        match next {
            Feed::Snapshot { revision, records } => {
                assert!(revision >= at, "a snapshot does not go back");
                at = revision;
                seen.snapshots += 1;
                seen.state = records.into_iter().map(|it| (it.key, it.created)).collect();
                let keys: Vec<_> = seen.state.keys().cloned().collect();
                seen.ever.extend(keys);
            }
            Feed::Changes { revision, changes } => {
                assert!(revision > at, "{revision:?} after {at:?}");
                at = revision;
                changes.into_iter().for_each(|change| seen.change(change));
            }
            Feed::Confirmed(_) => {}
        }
    }
}

impl Seen {
    fn change(&mut self, change: Change) {
        match change {
            Change::Put(record) => {
                let created = record.created == record.modified;
                if created && !self.ever.insert(record.key.clone()) {
                    self.ghosts.insert(record.key.clone());
                }
                self.state.insert(record.key, record.created);
            }
            Change::Deleted(key) => drop(self.state.remove(&key)),
        }
    }
}
