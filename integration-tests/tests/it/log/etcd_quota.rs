//! lockd keeps an etcd with a small quota from filling up, under load: checkpoints, trimming and
//! compaction are all its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::{Etcd, unique_prefix};
use lockd::{
    core::{
        Core, Handle, Limits, Parts,
        answer::AcquireReply,
        ask::{Acquire, Call, Credential},
        error::Error,
    },
    log::etcd::{EtcdConfig, EtcdLog},
    record::{Client, Info, LockId, Mode, Open, Wait},
    telemetry::{tasks::Tasks, traces::Traces},
};
use lockd_proto::{FencingToken, LockName, Namespace, RequestId, SessionId, clock::Clock};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

const QUOTA: i64 = 64 << 20;

/// How long the load lasts, unless `LOCKD_QUOTA_SECONDS` names another time.
const LASTS: Duration = Duration::from_secs(20);

/// How much of etcd's history is kept: what is written in it must fit in the quota.
const HISTORY: Duration = Duration::from_secs(3);

const WORKERS: usize = 64;

/// What each entry carries, so that the quota is written many times over.
const VALUE: &[u8] = &[7; 4096];

fn lasts() -> Duration {
    let named = std::env::var("LOCKD_QUOTA_SECONDS").ok();
    named.map_or(LASTS, |seconds| Duration::from_secs(seconds.parse().unwrap()))
}

async fn session(core: &Handle) -> Credential {
    let (session, secret_hash) = (SessionId::random(), [7; 32]);
    let client = Client::default();
    let open = Open { session, stream: 0, secret_hash, ttl_ms: 30_000, client };
    core.call(|reply| Call::Open(Box::new(open), reply)).await.unwrap();
    Credential { session, secret_hash, stream: 0 }
}

async fn pair(core: &Handle, by: Credential, lock: &LockId) -> Result<(), Error> {
    let request = RequestId::random();
    let (locks, mode, wait) = (vec![lock.clone()], Mode::Exclusive, Wait::Forever);
    let info = Info { value: VALUE.into(), ..Info::default() };
    let acquire = Box::new(Acquire { request, locks, mode, wait, lock_delay_ms: 0, info });
    let reply = core.acquire((by, Some(lock.clone())), acquire).await?;
    let AcquireReply::Granted { token, .. } = reply else { panic!("{reply:?}") };
    let named = (lock.clone(), FencingToken::new(token.0).unwrap());
    core.call(|reply| Call::Release(by, request, named, reply)).await.map(drop)
}

async fn work(core: Handle, number: usize, pairs: Arc<AtomicU64>) -> Result<(), Error> {
    let by = session(&core).await;
    let name = LockName::parse(&format!("quota/{number}")).unwrap();
    let lock = LockId::new(&Namespace::default(), &name);
    let mut renewed = Instant::now();
    loop {
        pair(&core, by, &lock).await?;
        pairs.fetch_add(1, Ordering::Relaxed);
        if renewed.elapsed() > Duration::from_secs(5) {
            core.call(|reply| Call::KeepAlive(by, reply)).await?;
            renewed = Instant::now();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_a_small_quota_is_never_used_up() {
    let etcd = Etcd::builder().arg(format!("--quota-backend-bytes={QUOTA}")).start().await;
    let config = EtcdConfig {
        history_kept: Some(HISTORY),
        ..EtcdConfig::new(etcd.endpoints(), &unique_prefix())
    };
    let (tasks, end, clock) = (Tasks::default(), CancellationToken::new(), Clock::system());
    let log = EtcdLog::new(config, &tasks, &end, clock.clone()).unwrap();
    let (name, limits) = ("quota".into(), Limits::default());
    let (traces, drain) = (Traces::default(), CancellationToken::new());
    let parts = Parts { name, limits, clock, traces, drain, end: end.clone() };
    let (core, handle) = Core::new(log, parts);
    let running = tokio::spawn(core.run());
    integration_tests::eventually("the core is live", Duration::from_secs(20), async || {
        let now = handle.status().snapshot();
        now.is_live && now.not_ready.is_none()
    })
    .await;
    let pairs = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn(work(handle.clone(), number, pairs.clone()));
    }
    let (start, mut most, mut client) = (Instant::now(), 0, etcd.client().await);
    let (mut before, mut seen) = (0, 0);
    while start.elapsed() < lasts() {
        for _ in 0..10 {
            sleep(Duration::from_secs(1)).await;
            let status = client.status().await.unwrap();
            assert!(status.errors().is_empty(), "{:?}", status.errors());
            seen = status.db_size();
            most = most.max(seen);
        }
        if let Some(ended) = workers.try_join_next() {
            panic!("{:?}", ended.unwrap());
        }
        let now = pairs.load(Ordering::Relaxed);
        println!(
            "FIGURES after {:?}: etcd holds {} MiB, {} pairs/s",
            start.elapsed(),
            seen >> 20,
            (now - before) / 10
        );
        before = now;
    }
    println!("FIGURES {before} pairs, etcd held {} MiB at most", most >> 20);
    assert!(before > 0 && most < QUOTA, "{most} bytes");
    end.cancel();
    running.await.unwrap().unwrap();
}
