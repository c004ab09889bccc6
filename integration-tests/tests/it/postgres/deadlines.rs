//! Deadlines reach the server, which is the first to end a query.

use std::{error::Error as StdError, fmt, time::Duration};

use lockd_client::{Context, ErrorKind, Propagation, postgres::Transaction};
use tokio::time::Instant;

use super::{Db, all_back, all_idle, backend, both_drivers, lives, pool};
use crate::world::soon;

both_drivers!(
    the_server_ends_a_query_at_the_deadline_and_the_connection_lives_on,
    an_error_that_hides_the_drivers_is_a_deadline_too,
    the_server_is_told_to_be_first,
    a_wait_for_a_row_ends_at_the_deadline,
    a_lower_timeout_stays,
    without_propagation_nothing_is_told_and_nothing_is_ended,
);

const DEADLINE: Duration = Duration::from_millis(300);

async fn the_server_ends_a_query_at_the_deadline_and_the_connection_lives_on<D: Db>() {
    let (pool, name) = pool::<D>(1).await;
    let before = backend(&soon(), &pool).await;
    let start = Instant::now();
    let ctx = Context::background().with_timeout(DEADLINE).with_trace_id("4bf92f3577b34da6");
    let sleep = async |tx: &mut Transaction<D>| D::run(tx, "SELECT pg_sleep(60)".into()).await;
    let error = ctx.postgres(&pool).transaction(sleep).await.unwrap_err();
    assert!(start.elapsed() < 2 * DEADLINE, "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
    let text = error.to_string();
    assert!(text.starts_with("postgres transaction: deadline exceeded after 0."), "{text}");
    assert!(text.contains("s of 0.3s") && text.ends_with("[trace 4bf92f35]"), "{text}");
    all_back(&pool).await;
    all_idle(&name).await;
    assert!(lives(&before).await, "the connection was kept");
}

/// An error of the user's that is transparent to another: that one is none of its sources.
#[derive(Debug)]
struct Hides(Box<dyn StdError + Send + Sync>);

impl fmt::Display for Hides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Hides {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

async fn an_error_that_hides_the_drivers_is_a_deadline_too<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    let ctx = Context::background().with_timeout(DEADLINE);
    let sleep = async |tx: &mut Transaction<D>| {
        D::run(tx, "SELECT pg_sleep(60)".into()).await.map_err(Hides)
    };
    let error = ctx.postgres(&pool).transaction(sleep).await.unwrap_err();
    // By the server's timeout, whose error this is; on a busy machine the client's own may be first.
    assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
}

/// Which is how the connection lives on also where the client itself is too late.
async fn the_server_is_told_to_be_first<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    let ctx = Context::background().with_timeout(10 * DEADLINE);
    let ask = async |tx: &mut Transaction<D>| {
        let timeouts = "SELECT string_agg(setting, ' ' ORDER BY name) FROM pg_settings WHERE name IN \
                        ('idle_in_transaction_session_timeout', 'lock_timeout', 'statement_timeout')";
        let left = ctx.remaining().unwrap();
        D::ask(tx, timeouts.into()).await.map(|timeouts| (left, timeouts))
    };
    let (left, timeouts) = ctx.postgres(&pool).transaction(ask).await.unwrap();
    let timeouts: Vec<_> = timeouts.split(' ').map(|ms| ms.parse::<u64>().unwrap()).collect();
    let [idle, lock, statement] = timeouts[..] else { panic!("{timeouts:?}") };
    assert!(lock < statement && statement < idle, "{timeouts:?}");
    let whole = (10 * DEADLINE).as_millis();
    assert!(u128::from(statement) <= whole - 5 && u128::from(idle) <= whole + 50, "{timeouts:?}");
    assert!(u128::from(statement) + 5 >= left.as_millis(), "{timeouts:?} of {left:?}");
}

async fn a_wait_for_a_row_ends_at_the_deadline<D: Db>() {
    let (pool, name) = pool::<D>(2).await;
    let table = &name;
    let make = async |tx: &mut Transaction<D>| {
        D::run(tx, format!("CREATE TABLE {table} AS SELECT 1 AS n")).await
    };
    soon().postgres(&pool).transaction(make).await.unwrap();
    let update =
        async |tx: &mut Transaction<D>| D::run(tx, format!("UPDATE {table} SET n = n + 1")).await;
    let postgres = soon().postgres(&pool);
    let holds = postgres.transaction(async |tx| {
        update(tx).await.unwrap();
        // Another transaction now waits for the row, and for no longer than its deadline.
        let ctx = Context::background().with_timeout(DEADLINE);
        let error = ctx.postgres(&pool).transaction(update).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DeadlineExceeded, "{error}");
        Ok::<_, std::io::Error>(())
    });
    holds.await.unwrap();
    all_idle(&name).await;
}

async fn a_lower_timeout_stays<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    let set = "SET SESSION statement_timeout = '50ms'";
    let set = async |tx: &mut Transaction<D>| D::run(tx, set.into()).await;
    soon().postgres(&pool).transaction(set).await.unwrap();
    let ask = async |tx: &mut Transaction<D>| {
        D::ask(tx, "SELECT current_setting('statement_timeout')".into()).await
    };
    assert_eq!(soon().postgres(&pool).transaction(ask).await.unwrap(), "50ms");
    let lower = Context::background().with_timeout(Duration::from_millis(40));
    let lower = lower.postgres(&pool).transaction(ask).await.unwrap();
    let lower: u32 = lower.trim_end_matches("ms").parse().unwrap();
    assert!(lower <= 40, "{lower}");
    assert_eq!(Context::background().postgres(&pool).transaction(ask).await.unwrap(), "50ms");
}

async fn without_propagation_nothing_is_told_and_nothing_is_ended<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    for quiet in [Propagation::Off, Propagation::Observe] {
        let before = lockd_client::propagation::counts().would_have_ended;
        let ctx = Context::background().with_propagation(quiet).with_timeout(DEADLINE / 3);
        let ask = async |tx: &mut Transaction<D>| {
            D::run(tx, "SELECT pg_sleep(0.2)".into()).await?;
            D::ask(tx, "SELECT current_setting('statement_timeout')".into()).await
        };
        assert_eq!(ctx.postgres(&pool).transaction(ask).await.unwrap(), "0");
        let after = lockd_client::propagation::counts().would_have_ended;
        assert!(quiet == Propagation::Off || after > before, "{before} {after}");
    }
}
