//! The example service: whatever ends a request ends it everywhere.

use std::time::Duration;

use integration_tests::{
    Postgres,
    chain::{Chain, Left},
    unique_name,
    writer::stop_and_go,
};
use lockd_client::postgres::FENCE_TABLE;
use tokio::time::Instant;

use crate::world::World;

const WORK: Duration = Duration::from_millis(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_hang_up_anywhere_leave_nothing() {
    let mut chain = Chain::start(WORK, "on").await;
    chain.hang_up(300, 4 * WORK).await;
    assert_eq!(chain.left().await, Left::default());
    let answer = chain.order("chair", "").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("ordered; "), "{answer}");
    assert!(chain.interrupt().await);
}

#[tokio::test]
async fn a_deadline_is_kept_and_an_interrupt_ends_what_runs() {
    let chain = Chain::start(Duration::from_secs(60), "on").await;
    let start = Instant::now();
    let answer = chain.order("chair", "x-request-timeout-ms: 300\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(Left { tasks: 0, ..chain.left().await }, Left::default());
}

/// With its control: it is the propagation that does this.
#[tokio::test]
async fn a_query_ends_with_its_caller() {
    let query = Duration::from_secs(60);
    let with = Chain::start(query, "on").await;
    with.hang_up_on_a_query().await;
    let without = Chain::start(query, "off").await;
    without.hang_up_on_a_query().await;
    assert_eq!((with.left().await.queries, without.left().await.queries), (0, 1));
}

/// A small one of what `make bench-context` does 200 times.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_stopped_in_the_middle_writes_nothing_stale() {
    let world = World::embedded().await;
    Postgres::shared().await.sql(FENCE_TABLE).await;
    let daemon = world.daemons.first().unwrap();
    let writes = stop_and_go(daemon, 6, &unique_name("lane"), true).await;
    assert!(writes.postgres > 6 && writes.redis > 6, "{writes:?}");
    assert_eq!((writes.postgres_stale, writes.redis_stale), (0, 0), "{writes:?}");
}
