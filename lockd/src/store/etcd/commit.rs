//! A commit has an outcome: it was done, or it was not and never will be.
//!
//! An attempt whose outcome is unknown is settled by raising the fence that it compared (see
//! [`super::txn`]), and then tried again.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::{
    Inner,
    endpoints::{CALL, Pauses},
    fault::Fault,
    txn::{self, Answer},
};
use crate::store::{Op, Outcome, StoreError};

impl Inner {
    /// Commits a batch, and what is left of it where a lease is gone.
    pub(super) async fn commit(&self, batch: &[Op]) -> Result<Vec<Outcome>, StoreError> {
        // etcd does not count nested puts against its quota: they would go on until the disk is
        // full, and with it every member.
        let writes = |op: &Op| matches!(op, Op::Enqueue(_) | Op::Put(_));
        if self.endpoints.are_full() && batch.iter().any(writes) {
            return Err(StoreError::Full("etcd's NOSPACE alarm is raised".to_owned()));
        }
        let mut again = false;
        match self.commit_whole(batch, &mut again).await {
            // A put under a lease that is gone fails the whole transaction.
            Err(StoreError::LeaseNotFound) => self.commit_one_by_one(batch, again).await,
            outcomes => outcomes,
        }
    }

    /// Commits a batch, for as long as it takes once its outcome is unknown. `again` says, and
    /// is told, whether an earlier attempt may have done it.
    async fn commit_whole(
        &self,
        batch: &[Op],
        again: &mut bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        let deadline = Instant::now() + CALL;
        let mut pauses = Pauses::new(&self.endpoints);
        loop {
            let fence = self.fence.load(Ordering::Acquire);
            let txn = txn::batch(&self.keyspace, batch, fence);
            let attempt = self.endpoints.attempt(|mut client| async move { client.txn(txn).await });
            let fault = match attempt.await {
                Ok(response) => match txn::read(&self.keyspace, batch, &response, *again) {
                    Answer::Outcomes(outcomes) => return Ok(outcomes),
                    Answer::Fenced(at) => {
                        self.fenced(fence, at).await;
                        continue;
                    }
                },
                Err(fault) => fault,
            };
            match fault {
                Fault::Unknown(why) => {
                    let writes = batch.len();
                    tracing::warn!(why, writes, "the outcome of a commit is unknown: settling it");
                    *again = true;
                    self.raise_fence(fence).await;
                }
                Fault::Refused(StoreError::LeaseNotFound) => return Err(StoreError::LeaseNotFound),
                Fault::Refused(error) if !*again => return Err(error),
                Fault::NotSent(why) if !*again && Instant::now() >= deadline => {
                    return Err(StoreError::Unavailable(why));
                }
                Fault::Refused(error) => {
                    tracing::warn!(%error, "a commit that may have been applied is refused");
                    pauses.after_failure().await;
                }
                Fault::NotSent(_) => pauses.after_failure().await,
            }
        }
    }

    /// The fence was found at `at` by a batch that compared it at `from`.
    async fn fenced(&self, from: i64, at: i64) {
        if at > from {
            self.fence.fetch_max(at, Ordering::AcqRel);
            return;
        }
        // It only grows: somebody deleted it or restored an older etcd. Whatever is under way
        // compares what was, so a new write of it is a fence again.
        tracing::error!(from, at, "etcd's history has gone back, or lockd's fence was deleted");
        self.raise_fence(from).await;
    }

    /// Makes sure that no attempt that compared the fence at `from` can be applied any more.
    async fn raise_fence(&self, from: i64) {
        let mut pauses = Pauses::new(&self.endpoints);
        // Somebody else's unknown outcome may have raised it already.
        while self.fence.load(Ordering::Acquire) == from {
            let raise = txn::raise(&self.keyspace);
            let raised =
                self.endpoints.attempt(|mut client| async move { client.txn(raise).await });
            match raised.await {
                Ok(response) => {
                    let at = response.header().map_or(0, |header| header.revision());
                    let (fence, order) = (&self.fence, (Ordering::AcqRel, Ordering::Acquire));
                    // Whoever was first: both are past `from`, and the next compare tells.
                    if fence.compare_exchange(from, at, order.0, order.1).is_err() {
                        tracing::debug!(from, at, "the fence was raised twice");
                    }
                }
                Err(fault) => {
                    tracing::warn!(?fault, "the fence can't be raised yet");
                    pauses.after_failure().await;
                }
            }
        }
    }

    /// Commits a batch in which one operation names a lease that is gone: that one is refused.
    /// Once one of them may have been committed, the others have to be.
    async fn commit_one_by_one(
        &self,
        batch: &[Op],
        mut again: bool,
    ) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut pauses = Pauses::new(&self.endpoints);
        for op in batch {
            let alone = std::slice::from_ref(op);
            outcomes.extend(loop {
                match self.commit_whole(alone, &mut again).await {
                    Ok(outcome) => break outcome,
                    Err(StoreError::LeaseNotFound) => break vec![Outcome::Refused(None)],
                    Err(error) if outcomes.is_empty() && !again => return Err(error),
                    Err(_) => pauses.after_failure().await,
                }
            });
        }
        Ok(outcomes)
    }
}
