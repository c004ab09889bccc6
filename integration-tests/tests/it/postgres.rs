//! What contexts and fencing tokens promise in Postgres, by either driver, on a real server.

mod cancelling;
mod deadlines;
mod fencing;
mod outcomes;

use std::{error::Error as StdError, future::Future, time::Duration};

use integration_tests::{Postgres, eventually};
use lockd_client::postgres::{Pool, Transaction};
use sqlx::{Executor as _, Row as _};

use crate::world::SOON;

/// What the tests need of a driver beyond what lockd does.
pub(crate) trait Db: Pool {
    fn connect(url: &str, size: u32) -> Self;

    /// Runs SQL in an open transaction.
    fn run(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> impl Future<Output = Result<(), Box<dyn StdError + Send + Sync>>> + Send;

    /// Runs a query of one text in an open transaction.
    fn ask(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> impl Future<Output = Result<String, Box<dyn StdError + Send + Sync>>> + Send;

    /// How many connections are lent at this moment.
    fn lent(&self) -> usize;
}

impl Db for deadpool_postgres::Pool {
    fn connect(url: &str, size: u32) -> Self {
        let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
        Self::builder(manager).max_size(size as usize).build().unwrap()
    }

    async fn run(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(tx.batch_execute(&sql).await?)
    }

    async fn ask(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> Result<String, Box<dyn StdError + Send + Sync>> {
        Ok(tx.query_one(&sql, &[]).await?.try_get(0)?)
    }

    fn lent(&self) -> usize {
        let status = self.status();
        status.size - status.available
    }
}

impl Db for sqlx::PgPool {
    fn connect(url: &str, size: u32) -> Self {
        sqlx::postgres::PgPoolOptions::new().max_connections(size).connect_lazy(url).unwrap()
    }

    async fn run(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        (&mut **tx).execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await?;
        Ok(())
    }

    async fn ask(
        tx: &mut Transaction<Self>,
        sql: String,
    ) -> Result<String, Box<dyn StdError + Send + Sync>> {
        Ok((&mut **tx).fetch_one(sqlx::raw_sql(sqlx::AssertSqlSafe(sql))).await?.try_get(0)?)
    }

    fn lent(&self) -> usize {
        self.size() as usize - self.num_idle()
    }
}

/// Writes one test of both drivers: `both_drivers!(name)` runs `async fn name<D: Db>()`.
macro_rules! both_drivers {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn deadpool() {
                super::$name::<deadpool_postgres::Pool>().await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlx() {
                super::$name::<sqlx::PgPool>().await;
            }
        })+
    };
}
pub(crate) use both_drivers;

/// A pool of the shared server, whose connections bear a name of their own.
pub(crate) async fn pool<D: Db>(size: u32) -> (D, String) {
    let name = integration_tests::unique_name("test");
    let url = format!("{}?application_name={name}", Postgres::shared().await.url());
    (D::connect(&url, size), name)
}

/// The process id of the connection that a transaction is on.
pub(crate) async fn backend<D: Db>(ctx: &lockd_client::Context, pool: &D) -> String {
    let ask =
        async |tx: &mut Transaction<D>| D::ask(tx, "SELECT pg_backend_pid()::text".into()).await;
    ctx.postgres(pool).transaction(ask).await.unwrap()
}

/// Whether the server still has this backend.
pub(crate) async fn lives(pid: &str) -> bool {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    Postgres::shared().await.sql(&sql).await == "1"
}

/// Waits until a backend runs something with these words.
pub(crate) async fn runs(name: &str, words: &str) {
    let postgres = Postgres::shared().await;
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' \
         AND state = 'active' AND query LIKE '%{words}%'"
    );
    eventually(&format!("{words} runs"), SOON, async || postgres.sql(&sql).await != "0").await;
}

/// Fails unless every backend of this name is idle and outside of a transaction, soon.
pub(crate) async fn all_idle(name: &str) {
    let postgres = Postgres::shared().await;
    let sql = format!(
        "SELECT coalesce(string_agg(state || ': ' || query, '; '), '') FROM pg_stat_activity \
         WHERE application_name = '{name}' AND state <> 'idle'"
    );
    eventually("no backend is busy", Duration::from_secs(1), async || {
        let busy = postgres.sql(&sql).await;
        if busy.is_empty() { Ok(()) } else { Err(busy) }
    })
    .await;
}

/// Waits until no connection is lent any more.
pub(crate) async fn all_back<D: Db>(pool: &D) {
    eventually("every connection is back", SOON, async || match pool.lent() {
        0 => Ok(()),
        lent => Err(format!("{lent} are lent")),
    })
    .await;
}
