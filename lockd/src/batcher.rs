//! Writes that arrive while a commit is under way leave together in the next one.
//!
//! No artificial delay: a lone write leaves at once. The queue is bounded; whoever submits
//! into a full one waits. A store that groups its commits itself is given each write as it
//! comes. A delete that the store could not take stays in line until it can, for a release
//! must not be lost; other writes fail, and their callers decide.

mod plan;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use plan::{Kinds, Pending};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics,
    store::{Op, Outcome, Store, StoreError},
};

/// Writes that wait for a commit. Enough for a few full batches; beyond that callers wait.
const QUEUE: usize = 4096;

/// How long deletes wait before they are tried again on a store that could not take them.
const DELETE_RETRY: Duration = Duration::from_millis(500);

/// The way into the store for every write of entries and sessions.
#[derive(Debug, Clone)]
pub struct Batcher {
    store: Arc<dyn Store>,
    queue: mpsc::Sender<Submitted>,
}

/// A write and who waits for its outcome.
#[derive(Debug)]
struct Submitted {
    op: Op,
    reply: oneshot::Sender<Result<Outcome, StoreError>>,
}

type Committed = (Vec<Submitted>, Result<Vec<Outcome>, StoreError>);

impl Batcher {
    /// A batcher, and the loop that has to run for it.
    pub fn new(
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, submitted) = mpsc::channel(QUEUE);
        (Self { store: store.clone(), queue }, run(store, submitted, stop))
    }

    /// Commits one write with whatever else is waiting.
    ///
    /// # Errors
    /// As [`Store::commit`]; nothing was applied then.
    ///
    /// # Cancel safety
    /// A write that was submitted is carried out even if nobody waits for it any more. Where the
    /// store groups its commits itself, one that it could not take is tried again only for
    /// whoever still waits.
    pub async fn submit(&self, op: Op) -> Result<Outcome, StoreError> {
        if !self.store.profile().groups_commits {
            return self.line_up(op).await;
        }
        match self.store.commit(vec![op.clone()]).await {
            Ok(outcomes) => outcomes.into_iter().next().ok_or_else(stopped),
            Err(error) if stays(&op, &error) => self.line_up(op).await,
            Err(error) => Err(error),
        }
    }

    async fn line_up(&self, op: Op) -> Result<Outcome, StoreError> {
        let (reply, outcome) = oneshot::channel();
        let submitted = Submitted { op, reply };
        self.queue.send(submitted).await.map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }
}

async fn run(
    store: Arc<dyn Store>,
    mut submitted: mpsc::Receiver<Submitted>,
    stop: CancellationToken,
) {
    let profile = store.profile().clone();
    let mut pending = Pending::default();
    let mut in_flight: FuturesUnordered<BoxFuture<'static, Committed>> = FuturesUnordered::new();
    let mut retry_at = None;
    let mut kinds = Kinds::All;
    let mut arrived = Vec::new();
    loop {
        while retry_at.is_none() && in_flight.len() < profile.max_in_flight {
            let batch = pending.next_batch(&profile, kinds);
            if batch.is_empty() {
                break;
            }
            in_flight.push(commit(store.clone(), batch).boxed());
        }
        // Every arm is cancel safe: a channel's recv, a stream's next, a timer.
        tokio::select! {
            () = stop.cancelled() => return,
            Some((batch, result)) = in_flight.next() => {
                pending.settled(&batch);
                kinds = settle(batch, result, &mut pending);
                if kinds == Kinds::Deletes {
                    retry_at = Some(tokio::time::Instant::now() + DELETE_RETRY);
                }
            }
            count = submitted.recv_many(&mut arrived, QUEUE), if pending.len() < QUEUE => {
                if count == 0 && pending.is_empty() && in_flight.is_empty() {
                    return;
                }
                arrived.drain(..).for_each(|write| pending.push(write, &profile));
            }
            () = sleep_until(retry_at) => retry_at = None,
        }
    }
}

async fn commit(store: Arc<dyn Store>, batch: Vec<Submitted>) -> Committed {
    let ops = batch.iter().map(|write| write.op.clone()).collect();
    let began = tokio::time::Instant::now();
    let result = store.commit(ops).await;
    match &result {
        Ok(_) => metrics::committed(batch.len(), began.elapsed()),
        Err(_) => metrics::not_committed(),
    }
    (batch, result)
}

/// Tells the outcomes, and which writes may go next: deletes alone when some went back into
/// line.
fn settle(
    batch: Vec<Submitted>,
    result: Result<Vec<Outcome>, StoreError>,
    pending: &mut Pending<Submitted>,
) -> Kinds {
    match result {
        Ok(outcomes) => {
            for (write, outcome) in batch.into_iter().zip(outcomes) {
                tell(write.reply, Ok(outcome));
            }
            Kinds::All
        }
        Err(error) => {
            tracing::warn!(%error, writes = batch.len(), "a commit failed");
            let (again, failed): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|write| stays(&write.op, &error));
            failed.into_iter().for_each(|write| tell(write.reply, Err(error.clone())));
            let kinds = if again.is_empty() { Kinds::All } else { Kinds::Deletes };
            again.into_iter().rev().for_each(|write| pending.push_front(write));
            kinds
        }
    }
}

/// Whether a write that failed is tried again.
fn stays(op: &Op, error: &StoreError) -> bool {
    error.is_retryable() && matches!(op, Op::Delete(_))
}

fn stopped() -> StoreError {
    StoreError::Unavailable("this replica is shutting down".to_owned())
}

fn tell(reply: oneshot::Sender<Result<Outcome, StoreError>>, outcome: Result<Outcome, StoreError>) {
    // Whoever asked may have gone; what follows from that is decided where it is known.
    drop(reply.send(outcome));
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
