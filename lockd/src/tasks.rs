//! The one place that spawns: every task has a name, is counted, and is waited for at the end.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{self, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The daemon's tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    alive: Arc<Alive>,
}

/// When each task began that is alive, by its name and number.
#[derive(Debug, Default)]
struct Alive {
    tasks: Mutex<BTreeMap<(&'static str, u64), Instant>>,
    next: AtomicU64,
}

/// One of them, until it is dropped.
#[derive(Debug)]
struct One {
    alive: Arc<Alive>,
    key: (&'static str, u64),
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
        self.tracker.spawn(Known { task, _one: self.alive.enter(name) })
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

    /// For what needs to spawn by itself.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }
}

impl Alive {
    fn enter(self: &Arc<Self>, name: &'static str) -> One {
        let key = (name, self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(key, Instant::now());
        One { alive: self.clone(), key }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, u64), Instant>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for One {
    fn drop(&mut self) {
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
}
