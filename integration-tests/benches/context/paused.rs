//! A holder that is stopped past its lease in the middle of writing, and then goes on.

use integration_tests::{
    Daemon, Postgres, StoreKind, unique_name,
    writer::{Writes, stop_and_go},
};
use lockd_client::postgres::FENCE_TABLE;

use crate::table::Row;

const LANES: u32 = 8;
const ROUNDS: u32 = 25;

pub(crate) async fn rows() -> Vec<Row> {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreKind::Embedded { dir: dir.path().join("data") };
    let daemon = Daemon::builder().store(store).start().await;
    Postgres::shared().await.sql(FENCE_TABLE).await;
    let fenced = total(&daemon, true).await;
    let unfenced = total(&daemon, false).await;
    let line = |writes: Writes| {
        let Writes { postgres, postgres_stale, redis, redis_stale } = writes;
        format!(
            "stale: {postgres_stale} of {postgres} in Postgres, {redis_stale} of {redis} in Redis"
        )
    };
    vec![Row {
        what: format!("writes of a holder stopped past its lease, {} times", LANES * ROUNDS),
        to_reach: "0 stale, some without",
        with: line(fenced),
        without: line(unfenced),
        reached: fenced.postgres_stale + fenced.redis_stale == 0
            && unfenced.postgres_stale + unfenced.redis_stale > 0,
    }]
}

async fn total(daemon: &Daemon, fenced: bool) -> Writes {
    let lane = async |_| stop_and_go(daemon, ROUNDS, &unique_name("lane"), fenced).await;
    let lanes = futures::future::join_all((0..LANES).map(lane)).await;
    lanes.into_iter().fold(Writes::default(), |sum, writes| Writes {
        postgres: sum.postgres + writes.postgres,
        postgres_stale: sum.postgres_stale + writes.postgres_stale,
        redis: sum.redis + writes.redis,
        redis_stale: sum.redis_stale + writes.redis_stale,
    })
}
