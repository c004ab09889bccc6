//! The one place that spawns: tasks are named and counted, and those of a client are waited for at
//! shutdown.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one client. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    alive: Alive,
    /// Guards may be dropped outside the runtime, so it is remembered.
    runtime: Handle,
    stop: CancellationToken,
}

/// How many tasks of each name there are.
#[derive(Debug, Clone, Default)]
struct Alive(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// One of them, until it is dropped.
struct One(Alive, &'static str);

impl Tasks {
    /// Tasks on the current runtime.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            alive: Alive::default(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        drop(self.tracker.spawn_on(self.alive.count(name, task), &self.runtime));
    }

    /// Cancelled when tasks must end at once.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// The names of those that are alive, and of those in the background of this runtime.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        [self.alive.names(), in_background_of(&self.runtime)].concat()
    }
}

/// The names of those that belong to no client.
pub(crate) fn in_background_of(runtime: &Handle) -> Vec<&'static str> {
    background(runtime).names()
}

/// Spawns what belongs to no client, such as the clean-up of a connection to a database.
#[cfg(any(feature = "postgres", feature = "sqlx", feature = "redis"))]
pub(crate) fn in_background<T: Send + 'static>(
    runtime: &Handle,
    name: &'static str,
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    runtime.spawn(background(runtime).count(name, task))
}

/// By runtime, so that tests that share a process do not see each other's.
fn background(runtime: &Handle) -> Alive {
    type Runtimes = HashMap<tokio::runtime::Id, Alive>;
    static RUNTIMES: Mutex<Option<Runtimes>> = Mutex::new(None);
    // Nothing panics while it is held.
    let mut runtimes = RUNTIMES.lock().unwrap_or_else(PoisonError::into_inner);
    runtimes.get_or_insert_default().entry(runtime.id()).or_default().clone()
}

impl Alive {
    /// Counts a task for as long as it is there, be it that it never runs.
    fn count<F: Future>(
        &self,
        name: &'static str,
        task: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        *self.lock().entry(name).or_default() += 1;
        let one = One(self.clone(), name);
        async move {
            let _one = one;
            task.await
        }
    }

    fn names(&self) -> Vec<&'static str> {
        let alive = self.lock();
        alive.iter().flat_map(|(name, count)| std::iter::repeat_n(*name, *count)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for One {
    fn drop(&mut self) {
        if let Some(count) = self.0.lock().get_mut(self.1) {
            *count -= 1;
        }
    }
}
