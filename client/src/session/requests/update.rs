//! Changes to what is held, and wishes of others to have it.

use lockd_proto::{RequestId, v1};
use tokio::sync::oneshot;

use super::{Phase, Request, Requests, UpdateReply};
use crate::{
    error::{ErrorKind, Fault},
    held::LossReason,
};

impl Requests {
    /// Changes what is held. Changes of one request are made one after the other.
    pub(in crate::session) fn update(
        &mut self,
        id: RequestId,
        change: v1::change::Change,
        reply: oneshot::Sender<UpdateReply>,
    ) {
        let Some(Request { phase: Phase::Held(_, _, updates), .. }) = self.open.get_mut(&id) else {
            let fault = Fault::new(ErrorKind::Lost, "the lock is not held any more");
            return drop(reply.send(Err(fault)));
        };
        updates.push_back((change, reply));
        if updates.len() == 1 {
            self.send_update(id);
        }
    }

    fn send_update(&mut self, id: RequestId) {
        if let Some(Request { phase: Phase::Held(_, _, updates), .. }) = self.open.get(&id)
            && let Some((change, _)) = updates.front()
        {
            self.outbox.update(id, change.clone());
        }
    }

    /// The change that was on its way has come to its end.
    pub(in crate::session) fn updated(&mut self, id: RequestId, outcome: UpdateReply) {
        let Some(Request { phase: Phase::Held(held, _, updates), .. }) = self.open.get_mut(&id)
        else {
            return;
        };
        let Some((change, reply)) = updates.pop_front() else { return };
        let completed = outcome.is_ok() && matches!(change, v1::change::Change::Result(_));
        if completed {
            // The entry has gone in the same step.
            held.lose(LossReason::Released);
            self.open.remove(&id);
        } else {
            self.send_update(id);
        }
        // A caller that no longer waits needs no answer.
        drop(reply.send(outcome));
    }

    pub(in crate::session) fn yield_requested(&mut self, id: RequestId, reason: String) {
        if let Some(Request { phase: Phase::Held(held, ..), .. }) = self.open.get(&id) {
            held.ask_to_yield(reason);
        }
    }

    /// Gives up what is held without having done with it.
    pub(in crate::session) fn desert(&mut self, id: RequestId) {
        match self.open.get_mut(&id) {
            Some(request) if matches!(request.phase, Phase::Held(..)) => {
                if let Phase::Held(held, ..) = &request.phase {
                    held.lose(LossReason::Released);
                }
                *request = Request::new(Phase::Leaving);
                self.outbox.cancel(id);
            }
            // Lost in the meantime, and dealt with then.
            Some(_) | None => {}
        }
    }
}
