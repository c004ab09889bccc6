//! The one place that spawns: every task has a name, is counted, and is waited for at the end.

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// The daemon's tasks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

impl Tasks {
    /// Runs a future as a task of its own.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tracker.spawn(task.instrument(tracing::debug_span!("task", name)))
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

    /// For what needs to spawn by itself.
    #[must_use]
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }
}
