//! `sqlx`, whose futures are not all safe to drop, and whose pool trusts what it is given back.

use std::{error::Error as StdError, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Database, Execute, Executor as _, PgConnection, PgPool,
    SqlSafeStr as _,
    error::DatabaseError,
    pool::PoolConnection,
    postgres::{PgQueryResult, PgRow},
};
use sqlx_core::transaction::TransactionManager as _;

use super::{Postgres, fence, pool::sealed::Driver};
use crate::error::Error;

type Manager = <sqlx::Postgres as Database>::TransactionManager;
type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// How long a connection may take to answer when it comes back, before its place is freed all the
/// same. sqlx itself would wait as long as the kernel does.
const RETURN: Duration = Duration::from_secs(1);

/// How long a pool that has room may take to connect, before a connection beside it is made.
const ROOM: Duration = Duration::from_millis(500);

/// Single statements, each a transaction of its own: only so can it have timeouts of its own.
impl Postgres<PgPool> {
    /// Runs a statement, such as `sqlx::query("…").bind(7)`.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn execute<'q>(
        &self,
        query: impl Execute<'q, sqlx::Postgres> + 'q,
    ) -> Result<PgQueryResult, Error> {
        self.transaction(async |tx| (&mut **tx).execute(query).await).await
    }

    /// Runs a query; its rows.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn fetch_all<'q>(
        &self,
        query: impl Execute<'q, sqlx::Postgres> + 'q,
    ) -> Result<Vec<PgRow>, Error> {
        self.transaction(async |tx| (&mut **tx).fetch_all(query).await).await
    }

    /// Runs a query that gives at least one row; the first.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction); and if there are none.
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn fetch_one<'q>(
        &self,
        query: impl Execute<'q, sqlx::Postgres> + 'q,
    ) -> Result<PgRow, Error> {
        self.transaction(async |tx| (&mut **tx).fetch_one(query).await).await
    }

    /// Runs a query; its first row, if there is one.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn fetch_optional<'q>(
        &self,
        query: impl Execute<'q, sqlx::Postgres> + 'q,
    ) -> Result<Option<PgRow>, Error> {
        self.transaction(async |tx| (&mut **tx).fetch_optional(query).await).await
    }
}

impl Driver for PgPool {
    type Connection = PoolConnection<sqlx::Postgres>;
    type Client = PgConnection;

    async fn connection(&self) -> Outcome<Self::Connection> {
        Ok(self.acquire().await?)
    }

    async fn begin(connection: &mut Self::Connection, batch: String) -> Outcome<()> {
        // By its own manager, so that a `begin` of the user's is a savepoint.
        Ok(Manager::begin(connection, Some(AssertSqlSafe(batch).into_sql_str())).await?)
    }

    async fn advance(
        connection: &mut Self::Connection,
        resources: &[String],
        token: i64,
    ) -> Outcome<usize> {
        let query = sqlx::query(fence::ADVANCE).bind(resources).bind(token);
        Ok(query.fetch_all(&mut **connection).await?.len())
    }

    async fn stored(
        connection: &mut Self::Connection,
        resources: &[String],
    ) -> Outcome<Option<i64>> {
        let query = sqlx::query_scalar(fence::STORED).bind(resources);
        Ok(query.fetch_one(&mut **connection).await?)
    }

    async fn commit(connection: &mut Self::Connection) -> Outcome<()> {
        // In a transaction that has failed, the first statement fails too. What is chained to it
        // is for sqlx, which would miss its transaction; it ends when the connection is given back.
        connection.execute(sqlx::raw_sql("SELECT; COMMIT AND CHAIN")).await?;
        Ok(())
    }

    async fn reset(connection: &mut Self::Connection) -> Outcome<()> {
        match end(connection).await {
            // sqlx answers first with what the query has left that was dropped: that it is cancelled.
            Err(error) if error.as_database_error().is_some() => Ok(end(connection).await?),
            ended => Ok(ended?),
        }
    }

    async fn elsewhere(&self, sql: String) -> Outcome<()> {
        let sql = AssertSqlSafe(sql);
        match spare(self).await {
            Some(spare) => {
                let mut lent = Lent(Some(spare));
                if let Some(connection) = &mut lent.0 {
                    connection.execute(sqlx::raw_sql(sql)).await?;
                }
                if let Some(connection) = lent.0.take() {
                    Self::give_back(connection).await;
                }
            }
            None => {
                let mut beside = PgConnection::connect_with(&self.connect_options()).await?;
                beside.execute(sqlx::raw_sql(sql)).await?;
                beside.close().await?;
            }
        }
        Ok(())
    }

    async fn give_back(mut connection: Self::Connection) {
        // It goes with the round trip by which sqlx tests what it is given back.
        while Manager::get_transaction_depth(&connection) > 0 {
            Manager::start_rollback(&mut connection);
        }
        // What dropping it does, but with a limit: https://github.com/launchbadge/sqlx/issues/4349
        drop(tokio::time::timeout(RETURN, connection.return_to_pool()).await);
    }

    fn discard(connection: Self::Connection) {
        drop(connection.detach());
    }

    fn sql_state(error: &(dyn StdError + 'static)) -> Option<String> {
        // The driver's own error is none of the sources of one that is transparent to it.
        let driver = error.downcast_ref().and_then(sqlx::Error::as_database_error);
        let said =
            driver.or_else(|| error.downcast_ref::<Box<dyn DatabaseError>>().map(|said| &**said));
        Some(said?.code()?.into_owned())
    }
}

/// A connection that is idle, or for which the pool has room: then the next one will be idle.
async fn spare(pool: &PgPool) -> Option<PoolConnection<sqlx::Postgres>> {
    let idle = pool.try_acquire();
    if idle.is_some() || pool.size() >= pool.options().get_max_connections() {
        return idle;
    }
    // Another task may take the room, and keep it.
    tokio::time::timeout(ROOM, pool.acquire()).await.ok()?.ok()
}

/// Ends whatever transaction is open.
async fn end(connection: &mut PgConnection) -> sqlx::Result<()> {
    if connection.is_in_transaction() {
        return roll_back(connection).await;
    }
    // One of which sqlx does not know was begun by a future that was dropped.
    connection.execute("ROLLBACK").await.map(drop)
}

/// Ends what sqlx has open, savepoints first.
async fn roll_back(connection: &mut PgConnection) -> sqlx::Result<()> {
    while Manager::get_transaction_depth(connection) > 0 {
        Manager::rollback(connection).await?;
    }
    Ok(())
}

/// A connection of the pool that is discarded, should what it is used for be given up.
struct Lent(Option<PoolConnection<sqlx::Postgres>>);

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            PgPool::discard(connection);
        }
    }
}
