//! The embedded store: everything in memory, a file underneath, one machine.
//!
//! A write is answered when it is on disk. Writes that arrive while the disk is busy share
//! the next fsync. Leases are counted in memory and start anew when the store is opened.

mod disk;
mod file;
mod folder;
mod leases;
mod reserve;
mod rows;
mod state;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use disk::Disk;
use file::Gauge;
use futures::{FutureExt, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use leases::Leases;
use lockd_proto::{MAX_TTL, Ttl, TtlRange, clock::Clock};
use state::State;
use tokio::sync::{
    Notify,
    broadcast::{self, error::RecvError},
    mpsc, oneshot,
};
use tokio_util::sync::CancellationToken;
use writer::{Group, Reply, Request, Snapshot, Writer};

use super::{Feed, Key, LeaseId, Op, Outcome, Profile, Record, Store, StoreError};
use crate::tasks::Tasks;

/// The shortest lease.
const MIN_TTL: Duration = Duration::from_millis(500);

/// Requests that wait for the writer. Beyond that callers wait.
const REQUESTS: usize = 4096;

/// Groups of changes that a watcher may be behind before it is given a new snapshot instead.
const BEHIND: usize = 256;

/// How often a watcher hears that nothing has happened.
const CONFIRM: Duration = Duration::from_secs(1);

/// How long after its answer a deletion that may wait becomes durable, if no other write takes it
/// along before.
const PUT_OFF: Duration = Duration::from_millis(10);

/// How long the end of a lease waits before it is tried again on a disk that is full.
const END_RETRY: Duration = Duration::from_millis(500);

/// The most leases that end together, so that they fit where little room is left.
const TOGETHER: usize = 256;

/// How long the file may take to be closed at the end.
const CLOSE: Duration = Duration::from_secs(5);

/// The most operations in a batch: as many as may wait, since they share an fsync anyway.
const MAX_OPS: usize = 1024;

/// The embedded store.
#[derive(Debug, Clone)]
pub struct EmbeddedStore {
    profile: Arc<Profile>,
    requests: mpsc::Sender<Request>,
    leases: Arc<Leases>,
    /// Woken when something is put off.
    late: Arc<Notify>,
}

impl EmbeddedStore {
    /// Opens the store in a data folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder can't be used: it is in use by another process, not writable, or damaged.
    pub async fn open(
        dir: &Path,
        clock: Clock,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<Self, StoreError> {
        let store = Self::open_gauged(dir, Gauge::default(), clock, tasks, end.clone()).await?;
        store.flush_in_time(tasks, end);
        Ok(store)
    }

    async fn open_gauged(
        dir: &Path,
        gauge: Gauge,
        clock: Clock,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<Self, StoreError> {
        let folder = dir.to_owned();
        let opened = tokio::task::spawn_blocking(move || Disk::open(&folder, gauge)).await;
        let (disk, state) = opened.map_err(|panicked| {
            let data = folder::data(dir);
            StoreError::Broken(format!("\"{}\" can't be read: {panicked}", data.display()))
        })??;
        let (store, writer) = Self::new("embedded", Some(disk), state, clock);
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("store writer".to_owned())
            .spawn(move || {
                // The clock may be the runtime's.
                let _entered = runtime.enter();
                writer.run_blocking();
            })
            .map_err(|error| StoreError::Broken(format!("no thread for the store: {error}")))?;
        store.start(tasks, end);
        Ok(store)
    }

    /// A store that is gone when the process is. It lives in tasks of the runtime, without a
    /// thread, so that a test can pause the time.
    ///
    /// # Errors
    /// None at present.
    pub fn in_memory(
        clock: Clock,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<Self, StoreError> {
        let (store, writer) = Self::new("memory", None, State::default(), clock);
        tasks.spawn("store writer", writer.run());
        store.start(tasks, end);
        Ok(store)
    }

    fn new(name: &'static str, disk: Option<Disk>, state: State, clock: Clock) -> (Self, Writer) {
        let leases = Arc::new(Leases::new(clock));
        state.leases().for_each(|(id, ttl)| leases.start(id, ttl));
        let (requests, receiver) = mpsc::channel(REQUESTS);
        let writer = Writer::new(state, disk, receiver, leases.clone(), BEHIND);
        let profile = Arc::new(Profile {
            name,
            ttl: TtlRange { min: MIN_TTL, max: MAX_TTL },
            max_ops: MAX_OPS,
            // Writes that had to be put back into line: one after the other.
            max_in_flight: 1,
            groups_commits: true,
            revision_per_op: true,
        });
        let late = writer.late();
        (Self { profile, requests, leases, late }, writer)
    }

    /// Has written what was put off, a moment after it was.
    fn flush_in_time(&self, tasks: &Tasks, end: CancellationToken) {
        let store = self.clone();
        let flushing = async move {
            loop {
                store.late.notified().await;
                tokio::time::sleep(PUT_OFF).await;
                // What fails is taken along by the next write that does not.
                drop(store.ask(Request::Flush).await);
            }
        };
        tasks.spawn("store flush", async move { end.run_until_cancelled(flushing).await });
    }

    /// Ends leases as their time runs out; at the end of all closes the file, so that the
    /// last of the tasks to end leaves a folder that can be opened again.
    fn start(&self, tasks: &Tasks, end: CancellationToken) {
        let store = self.clone();
        tasks.spawn("lease expiry", async move {
            end.run_until_cancelled(store.end_leases()).await;
            // A disk that hangs must not keep the process.
            let closed = tokio::time::timeout(CLOSE, store.ask(Request::Close)).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::warn!("the store did not close in time; every grant is on disk");
            }
        });
    }

    async fn end_leases(&self) {
        loop {
            let ended = self.leases.ended().await;
            for ids in ended.chunks(TOGETHER) {
                while let Err(error) = self.ask(|reply| Request::End(ids.to_vec(), reply)).await {
                    tracing::debug!(%error, "leases that are over can't be ended yet");
                    tokio::time::sleep(END_RETRY).await;
                }
            }
        }
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let closed = || StoreError::Unavailable("the store is closed".to_owned());
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// What comes next on a watch; `None` when the store is closed.
    async fn next(&self, watching: &mut Option<broadcast::Receiver<Group>>) -> Option<Vec<Feed>> {
        if let Some(changes) = watching {
            match self.next_changes(changes).await {
                Ok(feed) => return Some(feed),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
        let Snapshot { revision, records, changes } = self.ask(Request::Snapshot).await.ok()?;
        *watching = Some(changes);
        Some(vec![Feed::Snapshot { revision, records }])
    }

    async fn next_changes(
        &self,
        changes: &mut broadcast::Receiver<Group>,
    ) -> Result<Vec<Feed>, RecvError> {
        if let Ok(group) = tokio::time::timeout(CONFIRM, changes.recv()).await {
            return group.map(Arc::unwrap_or_clone);
        }
        let revision = self.ask(Request::Revision).await.map_err(|_| RecvError::Closed)?;
        // All changes up to the revision were published before it was told. If none is here,
        // then all have been delivered.
        if changes.is_empty() {
            return Ok(vec![Feed::Confirmed(revision)]);
        }
        changes.recv().await.map(Arc::unwrap_or_clone)
    }
}

impl Store for EmbeddedStore {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn grant_lease(&self, lease: LeaseId, ttl: Ttl) -> BoxFuture<'_, Result<Ttl, StoreError>> {
        self.ask(move |reply| Request::Grant(lease, ttl, reply)).boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        let renewed =
            if self.leases.renew(lease) { Ok(()) } else { Err(StoreError::LeaseNotFound) };
        std::future::ready(renewed).boxed()
    }

    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.ask(move |reply| Request::End(vec![lease], reply)).boxed()
    }

    fn lease_remaining(
        &self,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        std::future::ready(Ok(self.leases.remaining(lease))).boxed()
    }

    fn commit(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        self.ask(move |reply| Request::Commit(batch, reply)).boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.ask(move |reply| Request::Get(key, reply)).boxed()
    }

    fn first(&self, prefix: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        self.ask(move |reply| Request::First(prefix, reply)).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Feed> {
        let feed = stream::unfold((self.clone(), None), async |(store, mut watching)| {
            let feed = store.next(&mut watching).await?;
            Some((feed, (store, watching)))
        });
        // A watch never ends: when the store is closed it falls silent.
        feed.flat_map(stream::iter).chain(stream::pending()).boxed()
    }
}

#[cfg(test)]
mod tests;
