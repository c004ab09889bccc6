//! What connections say without waiting for room: that they are gone, or have room again. Bounded by
//! what there is: each stream, call and observer says it once.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ask::Nudge;

/// The way from connections to the core that never waits. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Nudges(Arc<NudgeQueue>);

#[derive(Debug, Default)]
struct NudgeQueue {
    waiting: Mutex<Vec<Nudge>>,
    wake: Notify,
}

impl Nudges {
    pub(super) fn send(&self, nudge: Nudge) {
        self.0.waiting.lock().push(nudge);
        self.0.wake.notify_one();
    }

    /// Waits for nudges. Cancel safe.
    pub(super) async fn arrive(&self) {
        self.0.wake.notified().await;
    }

    pub(super) fn take(&self) -> Vec<Nudge> {
        std::mem::take(&mut *self.0.waiting.lock())
    }
}
