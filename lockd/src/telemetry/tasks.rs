//! The one place that spawns: every task has a name, is counted, and is waited for at the end.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

use super::metrics;

/// The daemon's tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    alive: Arc<Alive>,
}

/// How a process comes to its end, and what runs until then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lifecycle {
    /// Cancelled by the code that runs the process, to shut it down.
    pub stop: CancellationToken,
    /// Cancelled when the drain is over: by the process in its time, or earlier by the code that
    /// runs it.
    pub end: CancellationToken,
    /// Everything that is running, the log's own tasks included.
    pub tasks: Tasks,
}

/// When each task began that is alive, by its name and number.
#[derive(Debug, Default)]
struct Alive {
    tasks: Mutex<BTreeMap<(&'static str, u64), Instant>>,
    next: AtomicU64,
    /// A task that must live, and has panicked.
    died: OnceLock<&'static str>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct One {
    alive: Arc<Alive>,
    key: (&'static str, u64),
    must_live: bool,
}

pin_project! {
    /// A task that is known to be alive. No async block: that would keep its future twice.
    struct Known<F> {
        #[pin]
        task: F,
        _one: One,
    }
}

impl<F: Future> Future for Known<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        self.project().task.poll(cx)
    }
}

impl Tasks {
    /// Runs a future as a task of its own.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let task = task.instrument(tracing::debug_span!("task", name));
        self.tracker.spawn(Known { task, _one: self.alive.enter(name, false) })
    }

    /// As [`spawn`](Self::spawn), for a task without which the process is of no use: if it panics,
    /// [`died`](Self::died) says so.
    pub fn spawn_vital<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let task = task.instrument(tracing::debug_span!("task", name));
        self.tracker.spawn(Known { task, _one: self.alive.enter(name, true) })
    }

    /// The task that must live and has panicked, if one has.
    #[must_use]
    pub fn died(&self) -> Option<&'static str> {
        self.alive.died.get().copied()
    }

    /// Waits until all tasks have ended.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// How many are running.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tracker.len()
    }

    /// The ages of those that are alive, by their name, the oldest first.
    #[must_use]
    pub fn ages(&self) -> BTreeMap<&'static str, Vec<Duration>> {
        let mut ages: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for ((name, _), began) in &*self.alive.lock() {
            ages.entry(*name).or_default().push(began.elapsed());
        }
        ages
    }
}

impl Alive {
    fn enter(self: &Arc<Self>, name: &'static str, must_live: bool) -> One {
        let key = (name, self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(key, Instant::now());
        One { alive: self.clone(), key, must_live }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, u64), Instant>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, _) = self.key;
            tracing::error!(name, "a task has panicked: a defect of lockd");
            metrics::panicked();
            if self.must_live {
                self.alive.died.get_or_init(|| name);
            }
        }
        self.alive.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tasks_are_known_while_they_live() {
        let tasks = Tasks::default();
        let first = tasks.spawn("idle", std::future::pending::<()>());
        tokio::time::advance(Duration::from_secs(2)).await;
        drop(tasks.spawn("idle", std::future::pending::<()>()));
        tasks.spawn("done", async {}).await.unwrap();
        assert_eq!(
            tasks.ages(),
            BTreeMap::from([("idle", vec![Duration::from_secs(2), Duration::ZERO])])
        );
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
        assert_eq!(tasks.ages()["idle"].len(), 1);
    }

    #[tokio::test]
    async fn a_panic_of_a_task_that_must_live_is_known() {
        let tasks = Tasks::default();
        let panics = async || -> () { panic!("on purpose") };
        assert!(tasks.spawn("other", panics()).await.unwrap_err().is_panic());
        assert_eq!(tasks.died(), None);
        assert!(tasks.spawn_vital("core", panics()).await.unwrap_err().is_panic());
        assert_eq!(tasks.died(), Some("core"));
        assert!(tasks.ages().is_empty());
    }
}
