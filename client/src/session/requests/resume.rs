//! What becomes of open requests when their stream breaks, is resumed, or their session ends.

use std::collections::{HashMap, hash_map::Entry};

use lockd_proto::{
    RequestId,
    clock::Instant,
    v1::{self, client_message::Message},
};

use super::{Denied, Doubt, Phase, Request, Requests, Sent, answer, deny};
use crate::{
    error::Fault,
    held::{LossReason, Released},
    session::OnLoss,
};

impl Requests {
    /// The stream is down. A release that was on its way may have arrived.
    pub(in crate::session) fn link_lost(&mut self, trouble: &str) {
        let unsent = self.outbox.close();
        for (id, request) in &mut self.open {
            match &mut request.phase {
                Phase::Waiting(acquire, sent) => {
                    acquire.progress.trouble(Some(trouble.to_owned()));
                    if *sent == Sent::OnThisStream {
                        *sent = if unsent.contains(id) { Sent::Never } else { Sent::Before };
                    }
                }
                Phase::Releasing(_, doubt) => *doubt = Doubt::MayBeDone,
                Phase::Held(..) | Phase::Leaving => {}
            }
        }
    }

    /// The server knows no such session: nothing that was asked on this stream was applied.
    pub(in crate::session) fn not_attached(&mut self) {
        for request in self.open.values_mut() {
            if let Phase::Waiting(_, sent @ Sent::OnThisStream) = &mut request.phase {
                *sent = Sent::Never;
            }
        }
    }

    /// Names all that is open, releases among it that may have been undone: they are asked for
    /// again like those that were not answered.
    pub(in crate::session) fn reopen(&mut self) -> Vec<Vec<u8>> {
        for id in self.kept.take() {
            self.open.insert(id, Request::new(Phase::Releasing(None, Doubt::MayBeDone)));
        }
        self.open.keys().map(|id| id.as_bytes().to_vec()).collect()
    }

    /// A stream is about to be opened, with this as its first message. What is open is asked for
    /// behind it, so that it can leave in the same frame.
    pub(in crate::session) fn begin(&mut self, hello: Message, now: Instant) {
        self.outbox.open(hello);
        // What ends comes before what begins: a try must not find the session's own entry in its
        // way. Acquires keep their order.
        let mut ids: Vec<_> = self.open.iter().map(|(id, request)| (request.place, *id)).collect();
        ids.sort_unstable();
        for (_, id) in ids {
            self.ask(id, now);
        }
    }

    /// The stream is attached to the session, which has these entries. What was held and is not
    /// among them is lost; what is among them and not wanted is given back.
    pub(in crate::session) fn attached(&mut self, entries: &[v1::AttachedEntry]) {
        let entries: HashMap<RequestId, &v1::AttachedEntry> = entries
            .iter()
            .filter_map(|e| Some((RequestId::try_from(e.request_id.as_slice()).ok()?, e)))
            .collect();
        self.open.retain(|id, request| {
            let Phase::Held(held, token, _) = &request.phase else { return true };
            let still = entries.get(id).is_some_and(|e| e.granted && e.token == *token);
            if !still {
                held.lose(LossReason::Missing);
            }
            still
        });
        for request in self.open.values() {
            if let Phase::Waiting(acquire, _) = &request.phase {
                acquire.progress.trouble(None);
            }
        }
        for id in entries.keys() {
            if let Entry::Vacant(unknown) = self.open.entry(*id) {
                unknown.insert(Request::new(Phase::Leaving));
                // A cancel takes an entry out whether it waits or was granted by now.
                self.outbox.cancel(*id);
            }
        }
    }

    /// The session is over, and with it all that it held. What waits is kept for the next
    /// session.
    pub(in crate::session) fn session_gone(&mut self, reason: &LossReason) {
        drop(self.kept.take());
        let open = std::mem::take(&mut self.open);
        for (id, mut request) in open {
            match request.phase {
                Phase::Waiting(acquire, Sent::OnThisStream | Sent::Before)
                    if acquire.on_loss == OnLoss::Fail =>
                {
                    deny(*acquire, Denied::Lost(reason.clone()));
                }
                Phase::Waiting(acquire, _) => {
                    request.phase = Phase::Waiting(acquire, Sent::Never);
                    self.open.insert(id, request);
                }
                Phase::Held(held, ..) => held.lose(reason.clone()),
                Phase::Releasing(reply, Doubt::None) => answer(reply, Ok(Released::AlreadyLost)),
                Phase::Releasing(reply, Doubt::MayBeDone) => answer(reply, Ok(Released::Unknown)),
                Phase::Leaving => {}
            }
        }
    }

    /// No session can be had: what waits fails.
    pub(in crate::session) fn fail_waiting(&mut self, fault: &Fault) {
        self.deny_waiting(|| Denied::Failed(fault.clone()));
    }

    /// The session is about to be closed by its client, which releases all that it holds.
    pub(in crate::session) fn closing(&mut self) {
        self.deny_waiting(|| Denied::Closed);
        for request in self.open.values() {
            if let Phase::Held(held, ..) = &request.phase {
                held.lose(LossReason::SessionClosed);
            }
        }
        self.open.retain(|_, request| !matches!(request.phase, Phase::Held(..)));
    }

    fn deny_waiting(&mut self, denied: impl Fn() -> Denied) {
        let open = std::mem::take(&mut self.open);
        for (id, request) in open {
            match request.phase {
                Phase::Waiting(acquire, _) => deny(*acquire, denied()),
                Phase::Held(..) | Phase::Releasing(..) | Phase::Leaving => {
                    self.open.insert(id, request);
                }
            }
        }
    }
}
