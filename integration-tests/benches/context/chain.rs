//! HTTP → gRPC → lock → Redis → Postgres, whose callers hang up at any moment.

use std::time::Duration;

use integration_tests::chain::{Chain, Left};

use crate::table::Row;

const CALLERS: u64 = 2_000;
const WORK: Duration = Duration::from_millis(10);
/// Long enough for what goes on to be seen.
const LONG_WORK: Duration = Duration::from_secs(20);

pub(crate) async fn rows() -> Vec<Row> {
    let mut chain = Chain::start(WORK, "on").await;
    chain.hang_up(CALLERS, 4 * WORK).await;
    let with = chain.left().await;
    let connections = chain.status().await["connections"].to_string();
    let mut control = Chain::start(LONG_WORK, "off").await;
    control.hang_up(CALLERS / 100, Duration::from_millis(500)).await;
    let without = control.left().await;
    let line = |left: Left| {
        let Left { queries, locks, waiters, tasks, permits } = left;
        format!(
            "{queries} queries, {locks} locks, {waiters} waiters, {tasks} tasks, {permits} permits"
        )
    };
    vec![Row {
        what: format!("left 1 s after {CALLERS} callers have hung up on the whole chain"),
        to_reach: "0 of everything, 8 connections",
        with: format!("{}; {connections} connections", line(with)),
        without: format!("{} (after {})", line(without), CALLERS / 100),
        reached: with == Left::default() && connections == "8" && without.queries > 0,
    }]
}
