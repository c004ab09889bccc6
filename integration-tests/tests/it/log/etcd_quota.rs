//! lockd keeps an etcd with a small quota from filling up, under load: checkpoints, trimming and
//! compaction are all its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::GetOptions;
use integration_tests::{Daemon, Etcd, StoreKind, eventually, unique_prefix};
use lockd_client::{Client, Context};
use tokio::{task::JoinSet, time::interval};

const QUOTA: i64 = 64 << 20;

/// How long the load lasts, unless `LOCKD_QUOTA_SECONDS` names another time.
const LASTS: Duration = Duration::from_secs(20);

/// How much of etcd's history is kept: what is written in it must fit in the quota.
const HISTORY: &str = "10s";

/// How often etcd's size is looked at.
const LOOK: Duration = Duration::from_secs(1);

const WORKERS: usize = 64;

/// What each entry carries: the history has to fit in the quota, and a longer load fills it many times.
const VALUE: &[u8] = &[7; 512];

fn lasts() -> Duration {
    let named = std::env::var("LOCKD_QUOTA_SECONDS").ok();
    named.map_or(LASTS, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

async fn works(client: Client, number: usize, pairs: Arc<AtomicU64>) {
    loop {
        let lock = client.lock(format!("quota/{number}")).value(VALUE);
        lock.acquire(&Context::background()).await.unwrap().release().await.unwrap();
        pairs.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn under_load_a_small_quota_is_never_used_up() {
    let etcd = Etcd::builder().arg(format!("--quota-backend-bytes={QUOTA}")).start().await;
    let store = StoreKind::Etcd { endpoints: etcd.endpoints(), prefix: unique_prefix() };
    let daemon = Daemon::builder().store(store).arg("--etcd-compaction").arg(HISTORY).start().await;
    let client = Client::connect(&daemon.url()).await.unwrap();
    let pairs = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(works(client.clone(), number, pairs.clone()));
    }
    let (start, mut most, mut looked) = (Instant::now(), 0, etcd.client().await);
    let mut looks = interval(LOOK);
    while start.elapsed() < lasts() {
        looks.tick().await;
        let status = looked.status().await.unwrap();
        assert!(status.errors().is_empty(), "{:?}", status.errors());
        most = most.max(status.db_size());
        // A worker ends only by a panic.
        if let Some(ended) = workers.try_join_next() {
            ended.unwrap();
        }
    }
    let (made, most_mib) = (pairs.load(Ordering::Relaxed), most >> 20);
    println!("{made} pairs in {:?}, etcd held {most_mib} MiB at most", start.elapsed());
    assert!(made > 0 && most < QUOTA, "{most} bytes");
    eventually("the history was compacted", Duration::from_secs(30), async || {
        looked.get("any", Some(GetOptions::new().with_revision(2))).await.is_err()
    })
    .await;
}
