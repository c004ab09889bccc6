//! Transactions in Postgres that end with their context, and that only the holder of a lock can
//! commit.
//!
//! ```no_run
//! # #[cfg(feature = "postgres")]
//! # async fn example(
//! #     pool: deadpool_postgres::Pool, client: lockd_client::Client, ctx: lockd_client::Context,
//! # ) -> Result<(), lockd_client::Error> {
//! // Any SQL, ended at the database when the context ends here.
//! let orders = ctx.postgres(&pool);
//! orders.execute("UPDATE orders SET state = 'paid' WHERE id = $1", &[&42_i64]).await?;
//!
//! // And rejected by the database if another session was granted the lock in the meantime.
//! let guard = client.lock("orders/42").acquire(&ctx).await?;
//! let fenced = guard.postgres(&pool);
//! fenced
//!     .transaction(async |tx| {
//!         let row = tx.query_one("SELECT stock FROM items WHERE id = $1", &[&7_i64]).await?;
//!         let stock: i64 = row.try_get(0)?;
//!         tx.execute("UPDATE items SET stock = $1 WHERE id = $2", &[&(stock - 1), &7_i64]).await
//!     })
//!     .await?;
//! # Ok(()) }
//! ```
//!
//! With `sqlx` it is `sqlx::query("…").execute(&mut **tx).await` in the transaction.
//!
//! - **A deadline** goes to the server as `statement_timeout`, `lock_timeout` and
//!   `idle_in_transaction_session_timeout`, where those that are set already are not lower, so that the
//!   server itself ends the query, and the connection lives on.
//! - **Cancellation**, be it by the caller, by the loss of a lock or by a future that is dropped,
//!   cancels the query from another connection, and rolls back. The connection returns to its pool
//!   when it is known to be clean, and is closed if that is not known within 2 s.
//! - **Fencing** is one statement, in the same transaction and before all others. Its table is made by
//!   `lockd fence init`, or by [`FENCE_TABLE`].

#[cfg(feature = "postgres")]
mod deadpool;
mod fence;
mod pool;
mod settings;
#[cfg(feature = "sqlx")]
mod sqlx;
mod transaction;

use std::{error::Error as StdError, fmt, time::Duration};

use lockd_proto::FencingToken;

use self::transaction::Commit;
pub use self::{fence::FENCE_TABLE, pool::Pool, settings::Isolation, transaction::Transaction};
use crate::{
    context::{Cause, Context},
    error::{Error, ErrorKind, Fault, Fenced, Timed},
    fencing::Fencing,
    guard::Guard,
    propagation::Propagation,
};

/// Who asks, to the propagation.
const LAYER: &str = "postgres";

/// How long the outcome of a commit is waited for once its context has ended. It is the one thing
/// that is better known late than not at all.
const COMMITTING: Duration = Duration::from_millis(50);

/// How close to its deadline a context is when the server's timeouts are to have ended a statement.
const NEARLY: Duration = Duration::from_millis(20);

/// SQLSTATEs of a statement that a timeout or a cancel request has ended: `query_canceled`,
/// `lock_not_available`, `idle_in_transaction_session_timeout`.
const ENDED: [&str; 3] = ["57014", "55P03", "25P03"];

/// SQLSTATE `undefined_table`.
const UNDEFINED_TABLE: &str = "42P01";

type Source = Box<dyn StdError + Send + Sync>;

/// A pool, used in a context. Made by [`Context::postgres`] and [`Guard::postgres`].
#[derive(Clone)]
#[must_use = "nothing happens until a transaction is run"]
pub struct Postgres<P: Pool> {
    ctx: Context,
    pool: P,
    isolation: Option<Isolation>,
    /// Or why it can't be fenced, which the first use reports.
    fencing: Option<Result<Fencing, Fault>>,
}

impl<P: Pool> fmt::Debug for Postgres<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("fencing", &self.fencing).finish_non_exhaustive()
    }
}

impl Context {
    /// A pool of connections to Postgres, used in this context.
    pub fn postgres<P: Pool>(&self, pool: &P) -> Postgres<P> {
        Postgres { ctx: self.clone(), pool: pool.clone(), isolation: None, fencing: None }
    }
}

impl Guard {
    /// A pool of connections to Postgres, used in the guard's [context](Self::context), by
    /// transactions that can only commit while no later holder has been there.
    pub fn postgres<P: Pool>(&self, pool: &P) -> Postgres<P> {
        self.context().postgres(pool).fenced(self)
    }
}

impl<P: Pool> Postgres<P> {
    /// Fences the transactions by this guard's token, in a context that was not made by it.
    pub fn fenced(mut self, guard: &Guard) -> Self {
        self.fencing = Some(guard.fencing());
        self
    }

    /// Isolates the transactions in this way, instead of as the database is configured.
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = Some(isolation);
        self
    }

    /// Runs work in a transaction, and commits it if that succeeds. Whatever else happens, it is
    /// rolled back.
    ///
    /// The work is given the driver's own connection, on which it can run any SQL but that which
    /// ends the transaction. It may return any error; `?` turns those of the driver into it.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the work's error as the [`source`](StdError::source), unless it is
    /// an [`Error`] itself; [`ErrorKind::Fenced`] if a later holder of the lock has been there;
    /// [`ErrorKind::DeadlineExceeded`] or [`ErrorKind::Cancelled`] when the context ends;
    /// [`ErrorKind::Configuration`] if the fence's table is missing. When
    /// [`may_have_applied`](Error::may_have_applied), the commit was on its way.
    ///
    /// # Cancel safety
    /// Dropping the future cancels what runs and rolls back, in the background. A commit that is
    /// on its way is followed to its end.
    pub async fn transaction<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction<P>) -> Result<T, E>,
    ) -> Result<T, Error>
    where
        E: Into<Source>,
    {
        let timed = Timed::begin(&self.ctx, "postgres transaction", self.target());
        self.run(work).await.map_err(|stopped| match stopped {
            Stopped::Ours(error) => error,
            Stopped::By(fault) => timed.failed(fault),
        })
    }

    async fn run<T, E>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction<P>) -> Result<T, E>,
    ) -> Result<T, Stopped>
    where
        E: Into<Source>,
    {
        let fencing = self.fencing.clone().transpose()?;
        let connection = self.ctx.bound(LAYER, self.pool.connection()).await;
        let connection =
            connection.map_err(|cause| Fault::ended(&cause))?.map_err(Fault::failed)?;
        let reaches = self.ctx.propagation() == Propagation::On;
        let mut tx = Transaction::new(self.pool.clone(), connection, reaches);
        let worked = async {
            self.open(&mut tx, fencing.as_ref()).await?;
            work(&mut tx).await.map_err(|error| self.stopped(error.into()))
        };
        match self.ctx.bound(LAYER, worked).await {
            Ok(Ok(value)) => self.commit(tx).await.map(|()| value),
            Ok(Err(stopped)) => {
                tx.roll_back().await;
                Err(stopped)
            }
            Err(cause) => {
                tx.cancel().await;
                Err(Fault::ended(&cause).into())
            }
        }
    }

    async fn open(
        &self,
        tx: &mut Transaction<P>,
        fencing: Option<&Fencing>,
    ) -> Result<(), Stopped> {
        let batch = settings::begin_sql(self.isolation, tx.key(), self.ctx.budget());
        tx.begin(batch).await.map_err(|error| self.stopped(error))?;
        match fencing {
            Some(fencing) => self.fence(tx, fencing).await,
            None => Ok(()),
        }
    }

    async fn fence(&self, tx: &mut Transaction<P>, fencing: &Fencing) -> Result<(), Stopped> {
        let Fencing { resources, token } = fencing;
        let ours = i64::try_from(token.get());
        let ours = ours.map_err(|_| Fault::new(ErrorKind::InvalidArgument, "token over 2^63"))?;
        let advanced = tx.advance(resources, ours).await;
        if advanced.map_err(|error| self.unfenced(error))? == resources.len() {
            return Ok(());
        }
        let stored = tx.stored(resources).await.map_err(|error| self.unfenced(error))?;
        let stored = stored.and_then(|token| FencingToken::new(token.try_into().ok()?));
        // What could not be advanced has a token, and a later one.
        let stored = stored.ok_or_else(|| Fault::protocol("the fence's row has no token"))?;
        Err(Fault::fenced(Fenced { ours: *token, stored }).into())
    }

    async fn commit(&self, tx: Transaction<P>) -> Result<(), Stopped> {
        if let Some(cause) = self.ctx.cause().filter(|_| self.ctx.propagation() == Propagation::On)
        {
            tx.roll_back().await;
            return Err(Fault::ended(&cause).into());
        }
        let mut committing = std::pin::pin!(tx.commit());
        let committed = match self.ctx.bound(LAYER, &mut committing).await {
            Ok(committed) => committed,
            Err(cause) => match tokio::time::timeout(COMMITTING, committing).await {
                Ok(committed) => committed,
                Err(_) => {
                    return Err(Fault { may_have_applied: true, ..Fault::ended(&cause) }.into());
                }
            },
        };
        match committed {
            Commit::Done => Ok(()),
            Commit::Failed(error) if P::sql_state(error.as_ref()).is_some() => {
                Err(self.stopped(error))
            }
            Commit::Failed(error) => {
                let fault = Fault { may_have_applied: true, ..Fault::failed(error) };
                Err(fault.into())
            }
            Commit::Unknown => {
                let message = "the server has not answered the commit";
                let fault = Fault::new(ErrorKind::Unknown, message);
                Err(Fault { may_have_applied: true, ..fault }.into())
            }
        }
    }

    fn target(&self) -> Option<&str> {
        let fencing = self.fencing.as_ref()?.as_ref().ok()?;
        fencing.resources.first().map(String::as_str)
    }

    /// Why the work or a statement of ours failed.
    fn stopped(&self, error: Source) -> Stopped {
        let error = match error.downcast::<Error>() {
            Ok(error) => return Stopped::Ours(*error),
            Err(error) => error,
        };
        let timed_out = self.ctx.budget().is_some_and(|left| left < NEARLY)
            && self.state_of(error.as_ref()).is_some_and(|state| ENDED.contains(&state.as_str()));
        let fault = Fault::failed(error);
        if timed_out {
            let kind = Fault::ended(&Cause::DeadlineExceeded).kind;
            return Fault { kind, ..fault }.into();
        }
        fault.into()
    }

    /// Why the fence's own statements failed.
    fn unfenced(&self, error: Source) -> Stopped {
        if self.state_of(error.as_ref()).as_deref() != Some(UNDEFINED_TABLE) {
            return self.stopped(error);
        }
        let message = "the table lockd_fence is missing: run `lockd fence init --postgres URL`";
        let message = message.to_owned();
        Fault { kind: ErrorKind::Configuration, message, ..Fault::failed(error) }.into()
    }

    /// The SQLSTATE of an error, or of one that caused it.
    fn state_of(&self, error: &(dyn StdError + 'static)) -> Option<String> {
        P::sql_state(error).or_else(|| self.state_of(error.source()?))
    }
}

/// Why a transaction was not committed.
enum Stopped {
    /// The work's own error, which says all already.
    Ours(Error),
    By(Fault),
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::By(fault)
    }
}
