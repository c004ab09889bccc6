//! The parts that every request walks through, and the two steps that both the stream and
//! the unary calls take.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lockd_proto::clock::{Clock, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    batcher::Batcher,
    error::Error,
    requests::Limits,
    sessions::Sessions,
    store::{Enqueue, Join, Op, Outcome, Revision, Store, StoreError},
    tasks::Tasks,
    traces::Traces,
    view::View,
};

/// How long a request waits for the view to come up to a revision that the store has shown.
const CATCH_UP: Duration = Duration::from_secs(5);

/// One replica's working parts, shared: a clone counts one reference.
#[derive(Debug, Clone)]
pub struct Engine(Arc<WorkingParts>);

/// What a replica works with.
#[derive(Debug)]
pub struct WorkingParts {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The way to write.
    pub batcher: Batcher,
    /// What is known.
    pub view: Arc<View>,
    /// Who is who.
    pub sessions: Sessions,
    /// The time.
    pub clock: Clock,
    /// What is running.
    pub tasks: Tasks,
    /// Cancelled when the replica begins to shut down.
    pub drain: CancellationToken,
    /// Cancelled when the time to shut down is over.
    pub end: CancellationToken,
    /// When the replica came up.
    pub started: Instant,
    /// The streams that end here.
    pub attached: Attached,
    /// How much there may be.
    pub limits: Limits,
    /// Who hears of requests that are traced.
    pub traces: Traces,
}

/// Counts the streams that end at this replica.
#[derive(Debug, Clone, Default)]
pub struct Attached(Arc<AtomicUsize>);

impl Attached {
    /// Counts one more, until what is returned is dropped.
    #[must_use]
    pub fn enter(&self) -> impl Drop + Send + use<> {
        struct Counted(Attached);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Deref for Engine {
    type Target = WorkingParts;

    fn deref(&self) -> &WorkingParts {
        &self.0
    }
}

impl From<WorkingParts> for Engine {
    fn from(parts: WorkingParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Engine {
    /// Commits a write. A try is answered from a read where the lock is taken: a try that
    /// fails costs no write.
    ///
    /// # Errors
    /// As [`Batcher::submit`].
    pub async fn write(&self, op: Op) -> Result<Outcome, StoreError> {
        if let Op::Enqueue(enqueue) = &op
            && enqueue.join == Join::IfEmpty
            && self.is_occupied(enqueue).await?
        {
            return Ok(Outcome::Occupied);
        }
        let outcome = self.batcher.submit(op).await?;
        if let Outcome::Enqueued { revision, first: false } = outcome {
            // Whether it waits is the view's to say. If it can't, an event will.
            drop(self.catch_up(revision).await);
        }
        Ok(outcome)
    }

    async fn is_occupied(&self, enqueue: &Enqueue) -> Result<bool, StoreError> {
        for place in &enqueue.places {
            let first = self.store.first(place.queue.clone()).await?;
            // Its own entry is there when an earlier attempt was applied and not heard of.
            if first.is_some_and(|first| first.key != place.key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Waits until the view shows a revision.
    ///
    /// # Errors
    /// [`Error::ViewStale`] when it does not within 5 s.
    pub async fn catch_up(&self, revision: Revision) -> Result<(), Error> {
        let reached = tokio::time::timeout(CATCH_UP, self.view.reached(revision)).await;
        reached.map_err(|_| Error::ViewStale(self.view.age().unwrap_or(CATCH_UP)))
    }

    /// Why this replica grants nothing at this moment, if so: an acquire could not be followed
    /// to its end.
    #[must_use]
    pub fn not_ready(&self) -> Option<Error> {
        if self.drain.is_cancelled() {
            return Some(Error::Draining);
        }
        match self.view.age() {
            None => Some(Error::ViewEmpty),
            Some(age) => self.view.is_stale().then_some(Error::ViewStale(age)),
        }
    }

    /// How long the replica has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.started)
    }
}

#[cfg(test)]
mod tests;
