//! What connections say without waiting for room: that they are gone, or have room again. Bounded by
//! what there is: each stream, call and observer says it once.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Core, ask::Nudge};
use crate::log::Log;

/// The way from connections to the core that never waits. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Nudges(Arc<NudgeQueue>);

#[derive(Debug, Default)]
struct NudgeQueue {
    waiting: Mutex<VecDeque<Nudge>>,
    wake: Notify,
}

impl Nudges {
    pub(super) fn send(&self, nudge: Nudge) {
        self.0.waiting.lock().push_back(nudge);
        self.0.wake.notify_one();
    }

    /// Waits for nudges. Cancel safe.
    pub(super) async fn arrive(&self) {
        self.0.wake.notified().await;
    }

    /// Takes the next ones, at most so many: it is woken for the rest.
    pub(super) fn take(&self, limit: usize) -> Vec<Nudge> {
        let mut waiting = self.0.waiting.lock();
        let count = waiting.len().min(limit);
        let taken = waiting.drain(..count).collect();
        if !waiting.is_empty() {
            self.0.wake.notify_one();
        }
        taken
    }
}

impl<L: Log> Core<L> {
    pub(super) fn nudge(&mut self, nudge: Nudge) {
        match nudge {
            Nudge::StreamGone(stream) => self.stream_gone(stream),
            Nudge::CallGone(session, request) => self.call_gone((session, request)),
            Nudge::GrantLost { lock, token, claim } => self.abandon(lock, token, claim),
            Nudge::Hungry(observer) => self.observers.is_hungry(observer),
            Nudge::ObserverGone(observer) => self.observers.remove(observer),
        }
    }
}
