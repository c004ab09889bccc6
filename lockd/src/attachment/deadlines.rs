//! Until when requests wait.

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use lockd_proto::RequestId;
use tokio_util::time::{DelayQueue, delay_queue};

/// The deadlines of a session's waits. Most sessions have none: the wheel that keeps them, of several
/// KiB, is there only while there are some.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    queue: Option<DelayQueue<RequestId>>,
    keys: HashMap<RequestId, delay_queue::Key>,
}

impl Deadlines {
    /// Has a request's wait end after this time, and not when it was to end before.
    pub(super) fn set(&mut self, id: RequestId, wait: Duration) {
        self.forget(id);
        let key = self.queue.get_or_insert_default().insert(id, wait);
        self.keys.insert(id, key);
    }

    pub(super) fn forget(&mut self, id: RequestId) {
        if let Some((key, queue)) = self.keys.remove(&id).zip(self.queue.as_mut()) {
            queue.remove(&key);
        }
        self.shrink();
    }

    /// The next request whose wait is over; `None` where no wait has a deadline. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<RequestId> {
        let id = self.queue.as_mut()?.next().await?.into_inner();
        self.keys.remove(&id);
        self.shrink();
        Some(id)
    }

    fn shrink(&mut self) {
        if self.keys.is_empty() {
            self.queue = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn id(n: u8) -> RequestId {
        RequestId::from_bytes([n; 16])
    }

    #[tokio::test(start_paused = true)]
    async fn waits_end_in_their_order_and_leave_nothing() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next().await, None);
        let start = Instant::now();
        deadlines.set(id(1), Duration::from_secs(3));
        deadlines.set(id(2), Duration::from_secs(1));
        deadlines.set(id(3), Duration::from_secs(2));
        deadlines.set(id(2), Duration::from_secs(4));
        deadlines.forget(id(3));
        assert_eq!(deadlines.next().await, Some(id(1)));
        assert!(start.elapsed() >= Duration::from_secs(3));
        assert_eq!(deadlines.next().await, Some(id(2)));
        assert!(start.elapsed() >= Duration::from_secs(4));
        assert_eq!(deadlines.next().await, None);
        assert!(deadlines.queue.is_none() && deadlines.keys.is_empty());
    }
}
