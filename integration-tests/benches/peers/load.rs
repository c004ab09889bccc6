//! The loads: workers that acquire and release, each a lock of its own or all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::task::JoinSet;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// So many workers, each with a lock of its own.
    Own(usize),
    /// So many workers that take turns with one lock.
    Hot(usize),
}

impl Load {
    pub(crate) const ALL: [Self; 5] =
        [Self::Own(1), Self::Own(16), Self::Own(64), Self::Hot(8), Self::Hot(64)];

    pub(crate) fn title(self) -> String {
        match self {
            Self::Own(1) => "1 worker".to_owned(),
            Self::Own(workers) => format!("{workers} workers"),
            Self::Hot(workers) => format!("one hot lock, {workers}"),
        }
    }

    fn workers(self) -> usize {
        match self {
            Self::Own(workers) | Self::Hot(workers) => workers,
        }
    }

    fn is_hot(self) -> bool {
        matches!(self, Self::Hot(_))
    }
}

/// A lock service, by way of one client that all workers share.
pub(crate) trait Service: Send + Sync {
    /// Whether a client that finds a lock taken can wait for it.
    fn waits(&self) -> bool {
        true
    }

    /// Prepares a lock of this name.
    fn prepare<'a>(&'a self, _lock: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// Acquires a lock, has `witness` see it held, and releases it. Both were answered when it
    /// returns.
    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()>;
}

/// Sees who holds a lock. A service that lets two in has not been measured.
#[derive(Default)]
pub(crate) struct Witness {
    held: AtomicBool,
    last: AtomicU64,
}

impl Witness {
    /// The lock is held, by this token if the service has any, while all others go on.
    pub(crate) async fn holds(&self, token: Option<u64>) {
        assert!(!self.held.swap(true, Ordering::SeqCst), "two hold one lock");
        if let Some(token) = token {
            let before = self.last.swap(token, Ordering::SeqCst);
            assert!(before < token, "token {token} was granted after {before}");
        }
        tokio::task::yield_now().await;
        self.held.store(false, Ordering::SeqCst);
    }
}

/// Pairs a second.
pub(crate) async fn measure(service: &Arc<dyn Service>, load: Load, time: Duration) -> f64 {
    let prefix = format!("bench-{:016x}-", rand());
    let locks = if load.is_hot() { 1 } else { load.workers() };
    let mut lanes = Vec::new();
    for n in 0..locks {
        let name = format!("{prefix}{n}");
        service.prepare(&name).await;
        lanes.push(Arc::new((name, Witness::default())));
    }
    let (counts, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers = JoinSet::new();
    for lane in (0..load.workers()).zip(lanes.iter().cycle()).map(|(_, lane)| lane) {
        let (service, lane) = (Arc::clone(service), Arc::clone(lane));
        let (counts, over) = (Arc::clone(&counts), Arc::clone(&over));
        workers.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                service.pair(&lane.0, &lane.1).await;
                counts.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Connections, caches and JIT compilers warm up before it counts.
    tokio::time::sleep(time / 4).await;
    let (start, before) = (std::time::Instant::now(), counts.load(Ordering::Relaxed));
    tokio::time::sleep(time).await;
    let done = counts.load(Ordering::Relaxed) - before;
    let rate = done as f64 / start.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    workers.join_all().await;
    rate
}

/// Keeps the names of one measurement from those of another.
fn rand() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0)
}
