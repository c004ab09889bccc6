//! The one place that spawns: tasks are counted, and waited for at shutdown.

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one client. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    /// Guards may be dropped outside the runtime, so it is remembered.
    runtime: Handle,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks on the current runtime.
    pub(crate) fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: Handle::current(),
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.tracker.spawn_on(task, &self.runtime));
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
}
