//! A transaction from its first statement to a clean connection.
//!
//! ```text
//! begin ─► fence ─► work ─► commit ──────────────► given back
//!   └────────┴───────┴──► settle: cancel, roll back ─┬─► given back
//!                                    not in time ────┴─► discarded
//! ```
//!
//! Whatever drops the transaction, its connection goes to a task that settles it: the query is
//! cancelled from another connection, that request is awaited, and then the connection is rolled back.
//! It returns to its pool once it has answered, and is closed if it does not.

#[cfg(feature = "sqlx")]
use std::ops::DerefMut;
use std::{error::Error as StdError, fmt, ops::Deref, pin::pin, time::Duration};

use tokio::runtime::Handle;

use super::{pool::Pool, settings::Key};
use crate::tasks;

/// How long a connection may take to be clean again, before it is closed.
const SETTLE: Duration = Duration::from_secs(2);

/// How long a query may take to end once it is cancelled. It may have been on its way to the server
/// when the request overtook it: then it is cancelled again.
const CANCELLED: Duration = Duration::from_millis(20);

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// An open transaction. It gives access to the driver's own connection, on which any SQL can be
/// run; its opener commits it, so run no `COMMIT` yourself.
///
/// `deadpool_postgres::ClientWrapper` (and so `tokio_postgres::Client`) with a pool of
/// `deadpool-postgres`; `sqlx::PgConnection` with one of `sqlx`.
pub struct Transaction<P: Pool> {
    pool: P,
    key: Key,
    /// Whether a query that still runs is cancelled at the end.
    cancels: bool,
    /// Always there, but for the moment in which it is handed on.
    connection: Option<P::Connection>,
    /// It may be dropped outside of the runtime.
    runtime: Handle,
}

impl<P: Pool> fmt::Debug for Transaction<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("key", &self.key).finish_non_exhaustive()
    }
}

/// How a commit ended.
pub(super) enum Commit {
    Done,
    Failed(Box<dyn StdError + Send + Sync>),
    /// No answer came in time.
    Unknown,
}

impl<P: Pool> Transaction<P> {
    /// A transaction to be begun on this connection.
    pub(super) fn new(pool: P, connection: P::Connection, cancels: bool) -> Self {
        let (key, runtime) = (Key::random(), Handle::current());
        Self { pool, key, cancels, connection: Some(connection), runtime }
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) async fn begin(&mut self, batch: String) -> Outcome<()> {
        P::begin(self.connection_mut(), batch).await
    }

    pub(super) async fn advance(&mut self, resources: &[String], token: i64) -> Outcome<usize> {
        P::advance(self.connection_mut(), resources, token).await
    }

    pub(super) async fn stored(&mut self, resources: &[String]) -> Outcome<Option<i64>> {
        P::stored(self.connection_mut(), resources).await
    }

    /// Commits in a task of its own, so that a caller that is dropped does not leave it half-way.
    pub(super) async fn commit(mut self) -> Commit {
        let Some(mut connection) = self.connection.take() else { return Commit::Unknown };
        let (pool, key) = (self.pool.clone(), self.key);
        let (mut tell, told) = tokio::sync::oneshot::channel();
        drop(tasks::in_background(&self.runtime, "postgres: commit", async move {
            let given_up = async {
                tell.closed().await;
                tokio::time::sleep(SETTLE).await;
            };
            let committed = tokio::select! {
                committed = P::commit(&mut connection) => Some(committed),
                () = given_up => None,
            };
            let clean = matches!(committed, Some(Ok(())));
            let outcome = match committed {
                Some(Ok(())) => Commit::Done,
                Some(Err(error)) => Commit::Failed(error),
                None => Commit::Unknown,
            };
            // A caller that has gone away needs no outcome.
            drop(tell.send(outcome));
            if clean {
                P::give_back(connection).await;
            } else {
                settle(pool, connection, Some((key, Runs::Hardly))).await;
            }
        }));
        told.await.unwrap_or(Commit::Unknown)
    }

    /// Ends it without a commit when its work has ended, and waits until its connection is clean or
    /// closed.
    pub(super) async fn roll_back(self) {
        self.end(Runs::Hardly).await;
    }

    /// The same when its work was given up.
    pub(super) async fn cancel(self) {
        self.end(Runs::Surely).await;
    }

    async fn end(mut self, runs: Runs) {
        if let Some(settling) = self.settle(runs) {
            // It has its own limit; a panic in a driver is the runtime's to report.
            drop(settling.await);
        }
    }

    fn connection(&self) -> &P::Connection {
        #[allow(clippy::expect_used, reason = "only what consumes the transaction takes it")]
        self.connection.as_ref().expect("an open transaction has its connection")
    }

    fn connection_mut(&mut self) -> &mut P::Connection {
        #[allow(clippy::expect_used, reason = "only what consumes the transaction takes it")]
        self.connection.as_mut().expect("an open transaction has its connection")
    }

    fn settle(&mut self, runs: Runs) -> Option<tokio::task::JoinHandle<()>> {
        let connection = self.connection.take()?;
        let cancel = self.cancels.then_some((self.key, runs));
        let settling = settle(self.pool.clone(), connection, cancel);
        Some(tasks::in_background(&self.runtime, "postgres: settle", settling))
    }
}

impl<P: Pool> Deref for Transaction<P> {
    type Target = P::Client;

    fn deref(&self) -> &P::Client {
        self.connection()
    }
}

/// Where the driver's own connection is to be had mutably: `sqlx` needs it for every query, while
/// that of `deadpool-postgres` would begin a transaction of its own with it.
#[cfg(feature = "sqlx")]
impl DerefMut for Transaction<sqlx::PgPool> {
    fn deref_mut(&mut self) -> &mut sqlx::PgConnection {
        self.connection_mut()
    }
}

impl<P: Pool> Drop for Transaction<P> {
    fn drop(&mut self) {
        drop(self.settle(Runs::Surely));
    }
}

/// Whether a query is still at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runs {
    Surely,
    /// Only one that the work has dropped.
    Hardly,
}

/// Makes a connection clean, or closes it.
async fn settle<P: Pool>(pool: P, mut connection: P::Connection, cancel: Option<(Key, Runs)>) {
    let clean = tokio::time::timeout(SETTLE, reset(&pool, &mut connection, cancel)).await;
    match clean {
        Ok(Ok(())) => return P::give_back(connection).await,
        Ok(Err(error)) => tracing::debug!(%error, "a connection to Postgres is closed"),
        Err(_) => tracing::debug!("a connection to Postgres is closed: it is not clean in time"),
    }
    P::discard(connection);
}

/// Cancels what runs, and rolls back.
async fn reset<P: Pool>(
    pool: &P,
    connection: &mut P::Connection,
    cancel: Option<(Key, Runs)>,
) -> Outcome<()> {
    let Some((key, runs)) = cancel else { return P::reset(connection).await };
    let mut reset = pin!(P::reset(connection));
    if runs == Runs::Hardly
        && let Ok(reset) = tokio::time::timeout(CANCELLED, &mut reset).await
    {
        return reset;
    }
    loop {
        // Awaited to its end, so that it can't hit what comes after this transaction.
        pool.elsewhere(key.cancel_sql()).await?;
        if let Ok(reset) = tokio::time::timeout(CANCELLED, &mut reset).await {
            return reset;
        }
    }
}
