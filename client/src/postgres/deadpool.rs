//! `deadpool-postgres`, and so `tokio-postgres`.

use std::{error::Error as StdError, time::Duration};

use deadpool::managed::Manager as _;
use deadpool_postgres::{ClientWrapper, Object, Pool, Timeouts};
use tokio_postgres::{Row, error::DbError, types::ToSql};

use super::{Postgres, fence, pool::sealed::Driver};
use crate::error::Error;

/// Values for a statement's `$1`, `$2` and so on.
type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// Single statements, each a transaction of its own: only so can it have timeouts of its own.
impl Postgres<Pool> {
    /// Runs a statement; how many rows it changed.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn execute(&self, sql: &str, params: Params<'_>) -> Result<u64, Error> {
        self.transaction(async |tx| {
            let statement = tx.prepare_cached(sql).await?;
            tx.execute(&statement, params).await
        })
        .await
    }

    /// Runs a query; its rows.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction).
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn query(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, Error> {
        self.transaction(async |tx| {
            let statement = tx.prepare_cached(sql).await?;
            tx.query(&statement, params).await
        })
        .await
    }

    /// Runs a query that gives exactly one row.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction); and if there are none or more.
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn query_one(&self, sql: &str, params: Params<'_>) -> Result<Row, Error> {
        self.transaction(async |tx| {
            let statement = tx.prepare_cached(sql).await?;
            tx.query_one(&statement, params).await
        })
        .await
    }

    /// Runs a query that gives one row, or none.
    ///
    /// # Errors
    /// As [`transaction`](Self::transaction); and if there are more.
    ///
    /// # Cancel safety
    /// As [`transaction`](Self::transaction).
    pub async fn query_opt(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, Error> {
        self.transaction(async |tx| {
            let statement = tx.prepare_cached(sql).await?;
            tx.query_opt(&statement, params).await
        })
        .await
    }
}

impl Driver for Pool {
    type Connection = Object;
    type Client = ClientWrapper;

    async fn connection(&self) -> Outcome<Object> {
        Ok(self.get().await?)
    }

    async fn begin(connection: &mut Object, batch: String) -> Outcome<()> {
        Ok(connection.batch_execute(&batch).await?)
    }

    async fn advance(connection: &mut Object, resources: &[String], token: i64) -> Outcome<usize> {
        let statement = connection.prepare_cached(fence::ADVANCE).await?;
        Ok(connection.query(&statement, &[&resources, &token]).await?.len())
    }

    async fn stored(connection: &mut Object, resources: &[String]) -> Outcome<Option<i64>> {
        Ok(connection.query_one(fence::STORED, &[&resources]).await?.try_get(0)?)
    }

    async fn commit(connection: &mut Object) -> Outcome<()> {
        // In a transaction that has failed, the first statement fails too.
        Ok(connection.batch_execute("SELECT; COMMIT").await?)
    }

    async fn reset(connection: &mut Object) -> Outcome<()> {
        Ok(connection.batch_execute("ROLLBACK").await?)
    }

    async fn elsewhere(&self, sql: String) -> Outcome<()> {
        let at_once = Timeouts { wait: Some(Duration::ZERO), ..self.timeouts() };
        match self.timeout_get(&at_once).await {
            Ok(idle) => idle.batch_execute(&sql).await?,
            Err(_) => {
                let beside = self.manager().create().await?;
                beside.batch_execute(&sql).await?;
            }
        }
        Ok(())
    }

    async fn give_back(connection: Object) {
        drop(connection);
    }

    fn discard(connection: Object) {
        // Dropped outside of its pool, it ends the task that reads its socket.
        drop(Object::take(connection));
    }

    fn sql_state(error: &(dyn StdError + 'static)) -> Option<String> {
        // The driver's own error is none of the sources of one that is transparent to it.
        let driver = error.downcast_ref::<tokio_postgres::Error>();
        let said = driver.map_or_else(|| error.downcast_ref(), tokio_postgres::Error::as_db_error);
        said.map(|said: &DbError| said.code().code().to_owned())
    }
}
