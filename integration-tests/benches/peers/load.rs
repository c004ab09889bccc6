//! The loads: workers that acquire and release, each a lock of its own or all the same.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use futures::future::BoxFuture;
use tokio::task::JoinSet;

/// Client processes of [`Load::Spread`].
const PROCESSES: usize = 8;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// So many workers in one process, each with a lock of its own.
    Own(usize),
    /// 512 workers in eight processes, each with a lock of its own.
    Spread,
    /// So many workers in one process that take turns with one lock.
    Hot(usize),
}

impl Load {
    pub(crate) const ALL: [Self; 6] =
        [Self::Own(1), Self::Own(16), Self::Own(64), Self::Spread, Self::Hot(8), Self::Hot(64)];

    pub(crate) fn title(self) -> String {
        match self {
            Self::Own(1) => "1 worker".to_owned(),
            Self::Own(workers) => format!("{workers} workers"),
            Self::Spread => "512 workers in 8 processes".to_owned(),
            Self::Hot(workers) => format!("one hot lock, {workers}"),
        }
    }

    /// How many processes the workers are in.
    pub(crate) fn processes(self) -> usize {
        match self {
            Self::Own(_) | Self::Hot(_) => 1,
            Self::Spread => PROCESSES,
        }
    }

    /// How many workers each process has.
    pub(crate) fn workers(self) -> usize {
        match self {
            Self::Own(workers) | Self::Hot(workers) => workers,
            Self::Spread => 512 / PROCESSES,
        }
    }

    /// How many locks they share.
    pub(crate) fn locks(self) -> usize {
        match self {
            Self::Own(_) | Self::Spread => self.workers(),
            Self::Hot(_) => 1,
        }
    }
}

/// A lock service, by way of one client that all workers share.
pub(crate) trait Service: Send + Sync {
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

/// Workers that are about to begin.
pub(crate) struct Workers {
    service: Arc<dyn Service>,
    count: usize,
    locks: Vec<Arc<(String, Witness)>>,
}

/// Workers at work.
pub(crate) struct Working {
    pairs: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Workers {
    /// So many workers that share so many locks.
    pub(crate) async fn prepare(service: Arc<dyn Service>, count: usize, locks: usize) -> Self {
        let prefix = format!("bench-{}-", uuid::Uuid::new_v4().simple());
        let mut prepared = Vec::new();
        for n in 0..locks {
            let name = format!("{prefix}{n}");
            service.prepare(&name).await;
            prepared.push(Arc::new((name, Witness::default())));
        }
        Self { service, count, locks: prepared }
    }

    pub(crate) fn begin(self) -> Working {
        let (pairs, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for lock in self.locks.iter().cycle().take(self.count) {
            let (service, lock) = (Arc::clone(&self.service), Arc::clone(lock));
            let (pairs, over) = (Arc::clone(&pairs), Arc::clone(&over));
            tasks.spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    service.pair(&lock.0, &lock.1).await;
                    pairs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Working { pairs, over, tasks }
    }
}

impl Working {
    /// How many pairs there were so far.
    pub(crate) fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Relaxed)
    }

    /// Ends all, and fails if one of them has failed.
    pub(crate) async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
    }
}
