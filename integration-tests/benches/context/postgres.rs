//! How soon a query ends at the server, how late a deadline is, and what a fence costs.

use std::time::Duration;

use integration_tests::{Daemon, Mode, Postgres, Proxy, StoreKind, unique_name};
use lockd_client::{Client, Context, Guard, Propagation, postgres::FENCE_TABLE};
use tokio::time::{Instant, timeout};

use crate::table::{Row, Times, milliseconds};

const CANCELS: usize = 500;
const DEADLINES: u64 = 200;
/// How long is waited for a query that nothing ends, before it is said to go on.
const PATIENCE: Duration = Duration::from_millis(500);
/// Round trips are counted on a link that is slow enough for them to stand out.
const LINK: Duration = Duration::from_millis(5);

/// What has a query ended, on either driver.
#[derive(Clone)]
enum Pool {
    Deadpool(deadpool_postgres::Pool),
    Sqlx(sqlx::PgPool),
}

impl Pool {
    pub(crate) fn deadpool(url: &str, size: usize) -> deadpool_postgres::Pool {
        let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), tokio_postgres::NoTls);
        deadpool_postgres::Pool::builder(manager).max_size(size).build().unwrap()
    }

    fn sqlx(url: &str, size: u32) -> sqlx::PgPool {
        sqlx::postgres::PgPoolOptions::new().max_connections(size).connect_lazy(url).unwrap()
    }

    async fn sleep(&self, ctx: &Context, seconds: f64) -> Result<(), lockd_client::Error> {
        let sql = format!("SELECT pg_sleep({seconds})");
        match self {
            Self::Deadpool(pool) => ctx.postgres(pool).execute(&sql, &[]).await.map(drop),
            Self::Sqlx(pool) => {
                let query = sqlx::query(sqlx::AssertSqlSafe(sql));
                ctx.postgres(pool).execute(query).await.map(drop)
            }
        }
    }
}

pub(crate) async fn rows() -> Vec<Row> {
    let url = Postgres::shared().await.url();
    let name = unique_name("bench");
    let url = format!("{url}?application_name={name}");
    let pools = [
        ("deadpool", Pool::Deadpool(Pool::deadpool(&url, 2))),
        ("sqlx", Pool::Sqlx(Pool::sqlx(&url, 2))),
    ];
    let mut rows = Vec::new();
    for (driver, pool) in &pools {
        rows.push(cancel(driver, pool, &name).await);
    }
    for (driver, pool) in pools {
        rows.push(overshoot(driver, &pool).await);
    }
    rows.extend(fence_cost().await);
    rows
}

/// Sees what a backend is at, on a connection of its own.
struct Watcher {
    client: tokio_postgres::Client,
    name: String,
}

impl Watcher {
    async fn connect(name: &str) -> Self {
        let url = Postgres::shared().await.url();
        let (client, connection) =
            tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        Self { client, name: name.to_owned() }
    }

    async fn sleepers(&self) -> i64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 \
                   AND state <> 'idle' AND query LIKE '%pg_sleep%'";
        self.client.query_one(sql, &[&self.name]).await.unwrap().get(0)
    }

    /// Looks until so many sleep.
    async fn until(&self, sleepers: i64) {
        while self.sleepers().await != sleepers {}
    }
}

/// From `cancel()` until the backend is idle.
async fn cancel(driver: &str, pool: &Pool, name: &str) -> Row {
    let watcher = Watcher::connect(name).await;
    let mut times = Vec::new();
    for _ in 0..CANCELS {
        let (ctx, cancel) = Context::background().with_cancel();
        let query = tokio::spawn({
            let pool = pool.clone();
            async move { pool.sleep(&ctx, 60.0).await }
        });
        watcher.until(1).await;
        let start = Instant::now();
        cancel.cancel();
        watcher.until(0).await;
        times.push(start.elapsed());
        query.await.unwrap().unwrap_err();
    }
    let (ctx, cancel) = Context::background().with_propagation(Propagation::Off).with_cancel();
    let query = tokio::spawn({
        let pool = pool.clone();
        async move { pool.sleep(&ctx, 2.0).await }
    });
    watcher.until(1).await;
    cancel.cancel();
    let without = match timeout(PATIENCE, watcher.until(0)).await {
        Ok(()) => "ended".to_owned(),
        Err(_) => format!("still runs after {PATIENCE:?}"),
    };
    query.await.unwrap().unwrap();
    let times = Times::of(times);
    Row {
        what: format!("cancel of `pg_sleep(60)`, until its backend is idle ({driver})"),
        to_reach: "p99 ≤ 5 ms",
        with: times.line(),
        without,
        reached: times.permille(990) <= Duration::from_millis(5),
    }
}

/// How much later than its deadline a query returns.
async fn overshoot(driver: &str, pool: &Pool) -> Row {
    let measured = async |propagation, seconds, count: u64| {
        let mut times = Vec::new();
        for n in 0..count {
            let deadline = Duration::from_millis(20 + n.wrapping_mul(7919) % 480);
            let ctx = Context::background().with_propagation(propagation).with_timeout(deadline);
            let start = Instant::now();
            drop(pool.sleep(&ctx, seconds).await);
            times.push(start.elapsed().saturating_sub(deadline));
        }
        Times::of(times)
    };
    let with = measured(Propagation::On, 60.0, DEADLINES).await;
    // A query that ends by itself, a little later than any deadline.
    let without = measured(Propagation::Off, 0.55, DEADLINES / 10).await;
    Row {
        what: format!("deadline overshoot of a query, 20–500 ms ({driver})"),
        to_reach: "p99 ≤ 10 ms",
        with: with.line(),
        without: format!("{} (the query took 550 ms)", without.line()),
        reached: with.permille(990) <= Duration::from_millis(10),
    }
}

/// A held lock, with the daemon that it is held at.
struct Held {
    guard: Guard,
    _client: Client,
    _daemon: Daemon,
    _dir: tempfile::TempDir,
}

impl Held {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreKind::Embedded { dir: dir.path().join("data") };
        let daemon = Daemon::builder().store(store).start().await;
        let client = Client::connect(daemon.url()).await.unwrap();
        let guard = client.lock("bench").acquire(&Context::background()).await.unwrap();
        Self { guard, _client: client, _daemon: daemon, _dir: dir }
    }
}

/// Round trips of a transaction with one update: the driver's own, ours, and a fenced one.
async fn fence_cost() -> Vec<Row> {
    let held = Held::new().await;
    let postgres = Postgres::shared().await;
    let table = unique_name("cost");
    let make = format!("{FENCE_TABLE}; CREATE TABLE {table} AS SELECT 0 AS n");
    postgres.sql(&make).await;
    let proxy = Proxy::start(postgres.address()).await;
    let url = postgres.url_at(&proxy.addr().to_string());
    let update = format!("UPDATE {table} SET n = n + 1");
    let (deadpool, sqlx) = (Pool::deadpool(&url, 1), Pool::sqlx(&url, 1));
    let bare = async || {
        let mut client = deadpool.get().await.unwrap();
        let tx = client.transaction().await.unwrap();
        let statement = tx.prepare_cached(&update).await.unwrap();
        tx.execute(&statement, &[]).await.unwrap();
        tx.commit().await.unwrap();
    };
    let fenced = async || {
        held.guard.postgres(&deadpool).execute(&update, &[]).await.unwrap();
    };
    let bare_sqlx = async || {
        let mut tx = sqlx.begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(&*update)).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    let fenced_sqlx = async || {
        let query = sqlx::query(sqlx::AssertSqlSafe(update.clone()));
        held.guard.postgres(&sqlx).execute(query).await.unwrap();
    };
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let trip = async || drop(client.simple_query("SELECT").await.unwrap());
    vec![
        cost("deadpool", &proxy, fenced, bare, &trip).await,
        cost("sqlx", &proxy, fenced_sqlx, bare_sqlx, &trip).await,
    ]
}

async fn cost(
    driver: &str,
    proxy: &Proxy,
    fenced: impl AsyncFn(),
    bare: impl AsyncFn(),
    trip: &impl AsyncFn(),
) -> Row {
    // Connected, and its statements prepared.
    fenced().await;
    bare().await;
    proxy.set(Mode::Latency(LINK)).await;
    // A single one, with what timers add to the link.
    let one = median(trip, 15).await;
    let trips = |time: Duration| time.div_duration_f64(one).round();
    let fenced_trips = trips(median(&fenced, 15).await);
    let bare_trips = trips(median(&bare, 15).await);
    proxy.set(Mode::Pass).await;
    let (fenced_time, bare_time) = (median(&fenced, 500).await, median(&bare, 500).await);
    Row {
        what: format!("a fenced transaction of one update over a bare one ({driver})"),
        to_reach: "≤ 1 round trip more",
        with: format!("{fenced_trips} round trips, p50 {}", milliseconds(fenced_time)),
        without: format!("{bare_trips} round trips, p50 {}", milliseconds(bare_time)),
        reached: fenced_trips <= bare_trips + 1.0,
    }
}

async fn median(work: &impl AsyncFn(), times: usize) -> Duration {
    let mut taken = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        work().await;
        taken.push(start.elapsed());
    }
    Times::of(taken).permille(500)
}
