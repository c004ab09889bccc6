//! Whatever ends a context, or drops a future, ends the query at the server, and nothing but it.

use std::time::Duration;

use integration_tests::{Mode, Postgres, Proxy};
use lockd_client::{Context, ErrorKind, postgres::Transaction};
use tokio::time::{Instant, timeout};

use super::{Db, all_back, all_idle, backend, both_drivers, lives, pool, runs};
use crate::world::{SOON, soon};

both_drivers!(
    a_cancelled_query_ends_at_the_server_and_its_connection_lives_on,
    a_future_that_is_dropped_anywhere_leaves_nothing_open,
    a_query_that_the_work_has_dropped_ends_with_it,
    a_late_cancel_never_hits_the_next_transaction,
    a_silent_server_keeps_neither_the_caller_nor_the_pool,
    a_commit_that_nobody_answers_may_have_applied,
    cancelling_works_while_the_pool_is_exhausted,
);

async fn sleeps<D: Db>(
    tx: &mut Transaction<D>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    D::run(tx, "SELECT pg_sleep(60)".into()).await
}

async fn a_cancelled_query_ends_at_the_server_and_its_connection_lives_on<D: Db>() {
    let (pool, name) = pool::<D>(2).await;
    let before = backend(&soon(), &pool).await;
    let (ctx, cancel) = soon().with_cancel();
    let query = tokio::spawn({
        let (ctx, pool) = (ctx.clone(), pool.clone());
        async move { ctx.postgres(&pool).transaction(async |tx| sleeps(tx).await).await }
    });
    runs(&name, "pg_sleep").await;
    cancel.cancel();
    let error = timeout(SOON, query).await.expect("in time").unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    assert_eq!(error.operation(), "postgres transaction");
    all_back(&pool).await;
    all_idle(&name).await;
    assert!(lives(&before).await, "the connection was kept");
}

/// A cheap sequence of numbers that looks like chance, and is the same in each run.
fn scattered(seed: u64) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40
}

async fn a_future_that_is_dropped_anywhere_leaves_nothing_open<D: Db>() {
    let (pool, name) = pool::<D>(3).await;
    backend(&soon(), &pool).await;
    for round in 0..200 {
        let moment = Duration::from_micros(scattered(round) % 12_000);
        let ctx = soon();
        let postgres = ctx.postgres(&pool);
        let work = postgres.transaction(async |tx| {
            D::run(tx, "SELECT pg_sleep(0.001)".into()).await?;
            sleeps(tx).await
        });
        // Dropped in the middle of whatever it is at: taking, beginning, asking.
        assert!(timeout(moment, work).await.is_err(), "it would take a minute");
    }
    all_back(&pool).await;
    all_idle(&name).await;
    backend(&soon(), &pool).await;
}

/// The work has ended, and what it has dropped has not.
async fn a_query_that_the_work_has_dropped_ends_with_it<D: Db>() {
    let (pool, name) = pool::<D>(1).await;
    let before = backend(&soon(), &pool).await;
    let postgres = Context::background().postgres(&pool);
    let drops = postgres.transaction(async |tx| {
        let query = D::run(tx, "SELECT pg_sleep(60)".into());
        tokio::select! {
            ended = query => ended,
            () = runs(&name, "pg_sleep") => Err("the work has thought better of it".into()),
        }
    });
    let error = timeout(SOON, drops).await.expect("in time").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    all_idle(&name).await;
    all_back(&pool).await;
    assert!(lives(&before).await, "the connection was kept");
}

async fn a_late_cancel_never_hits_the_next_transaction<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    backend(&soon(), &pool).await;
    let mut ended = [0, 0];
    for round in 0..300 {
        let (ctx, cancel) = soon().with_cancel();
        let moment = Duration::from_micros(500 + scattered(round) % 2500);
        let cancelling = async {
            tokio::time::sleep(moment).await;
            cancel.cancel();
        };
        let postgres = ctx.postgres(&pool);
        // It ends by itself at about the moment at which it is cancelled.
        let query =
            postgres.transaction(async |tx| D::run(tx, "SELECT pg_sleep(0.001)".into()).await);
        let (query, ()) = tokio::join!(query, cancelling);
        ended[usize::from(query.is_ok())] += 1;
        // On the same connection, and a cancel that comes late would hit it.
        let next =
            async |tx: &mut Transaction<D>| D::run(tx, "SELECT pg_sleep(0.002)".into()).await;
        soon().postgres(&pool).transaction(next).await.unwrap();
    }
    assert!(ended.iter().all(|count| *count > 0), "both ways were taken: {ended:?}");
}

async fn a_silent_server_keeps_neither_the_caller_nor_the_pool<D: Db>() {
    let postgres = Postgres::shared().await;
    let proxy = Proxy::start(postgres.address()).await;
    let pool = D::connect(&postgres.url_at(&proxy.addr().to_string()), 2);
    backend(&soon(), &pool).await;
    backend(&soon(), &pool).await;
    proxy.set(Mode::Blackhole).await;
    let start = Instant::now();
    for _ in 0..4 {
        let ctx = Context::background().with_timeout(Duration::from_millis(300));
        let work = async |tx: &mut Transaction<D>| D::run(tx, "SELECT 1".into()).await;
        let error = ctx.postgres(&pool).transaction(work).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    }
    all_back(&pool).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    proxy.set(Mode::Pass).await;
    backend(&soon(), &pool).await;
}

async fn a_commit_that_nobody_answers_may_have_applied<D: Db>() {
    let postgres = Postgres::shared().await;
    let proxy = Proxy::start(postgres.address()).await;
    let pool = D::connect(&postgres.url_at(&proxy.addr().to_string()), 1);
    backend(&soon(), &pool).await;
    let start = Instant::now();
    let ctx = Context::background().with_timeout(Duration::from_millis(500));
    let work = async |tx: &mut Transaction<D>| {
        D::run(tx, "SELECT 1".into()).await?;
        proxy.set(Mode::Blackhole).await;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    let error = ctx.postgres(&pool).transaction(work).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    assert!(error.may_have_applied());
    all_back(&pool).await;
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
}

async fn cancelling_works_while_the_pool_is_exhausted<D: Db>() {
    let (pool, name) = pool::<D>(1).await;
    let (ctx, cancel) = soon().with_cancel();
    let postgres = ctx.postgres(&pool);
    let query = postgres.transaction(async |tx| sleeps(tx).await);
    let cancelling = async {
        runs(&name, "pg_sleep").await;
        cancel.cancel();
    };
    let (query, ()) = tokio::join!(query, cancelling);
    assert_eq!(query.unwrap_err().kind(), ErrorKind::Cancelled);
    all_back(&pool).await;
    all_idle(&name).await;
}
