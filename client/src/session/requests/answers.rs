//! What the server answers: grants, refusals, failures and losses, and what follows for the request.

use std::sync::Arc;

use lockd_proto::{
    FencingToken, RequestId, SessionId,
    clock::{Clock, Instant},
    retry::{Policy, Retry},
    v1,
};
use tokio::sync::watch;

use super::{Doubt, Phase, Request, Requests, Updates, answer, deny};
use crate::{
    error::Fault,
    held::{Held, LossReason, Released},
    lease::Standing,
    place::Place,
    session::{Acquire, Denied, Granted, Refused},
};

/// What a grant needs of the session.
#[derive(Debug)]
pub(in crate::session) struct Grantor<'a> {
    pub(in crate::session) session: SessionId,
    pub(in crate::session) standing: Standing,
    pub(in crate::session) safe_until: &'a watch::Sender<Instant>,
    pub(in crate::session) clock: &'a Clock,
}

impl Requests {
    pub(in crate::session) fn queued(
        &mut self,
        id: RequestId,
        holder: Option<v1::Entry>,
        ahead: u32,
    ) {
        if let Some(Phase::Waiting(acquire, _)) = self.open.get(&id).map(|r| &r.phase) {
            let place = Place::from_wire(holder, ahead);
            acquire.progress.queued(place);
        }
    }

    /// A grant arrived. It counts only for a request that waits, and while safe-until lies
    /// ahead; else it is given back.
    pub(in crate::session) fn granted(&mut self, id: RequestId, token: u64, grantor: &Grantor<'_>) {
        let Some(request) = self.open.remove(&id) else {
            return self.give_back(id);
        };
        let acquire = match request.phase {
            Phase::Held(held, known, updates) if known == token => {
                let phase = Phase::Held(held, known, updates);
                self.open.insert(id, Request::new(phase));
                return;
            }
            Phase::Held(held, ..) => {
                held.lose(LossReason::Missing);
                return self.give_back(id);
            }
            Phase::Releasing(..) => {
                self.open.insert(id, request);
                return;
            }
            Phase::Leaving => return self.give_back(id),
            Phase::Waiting(acquire, _) => acquire,
        };
        let Some(fencing) = FencingToken::new(token) else {
            deny(*acquire, Denied::Failed(Fault::protocol("the server granted token zero")));
            return self.give_back(id);
        };
        if grantor.standing == Standing::Expired {
            deny(*acquire, Denied::Lost(LossReason::Expired));
            return self.give_back(id);
        }
        let Acquire { cancel, reply, .. } = *acquire;
        let safe_until = grantor.safe_until.subscribe();
        let held = Arc::new(Held::new(grantor.clock.clone(), safe_until, cancel));
        held.follow(grantor.standing);
        let session = grantor.session;
        let granted = Granted { token: fencing, session, held: Arc::clone(&held) };
        if reply.send(Ok(granted)).is_err() {
            return self.give_back(id);
        }
        self.open.insert(id, Request::new(Phase::Held(held, token, Updates::new())));
    }

    /// Releases a grant that no caller waits for.
    pub(super) fn give_back(&mut self, id: RequestId) {
        self.open.insert(id, Request::new(Phase::Releasing(None, Doubt::None)));
        self.outbox.release(id);
    }

    pub(in crate::session) fn refused(&mut self, id: RequestId, refusal: v1::Refusal) {
        match self.open.remove(&id).map(|request| request.phase) {
            Some(Phase::Waiting(acquire, _)) => {
                let reason = refusal.reason();
                let place = Place::from_wire(refusal.holder, refusal.ahead);
                let v1::Refusal { detail, result, .. } = refusal;
                deny(*acquire, Denied::Refused(Refused { reason, place, detail, result }));
            }
            // An acquire that was sent again was refused: the entry of the first is gone.
            Some(Phase::Held(held, ..)) => held.lose(LossReason::Missing),
            Some(Phase::Releasing(reply, _)) => answer(reply, Ok(Released::Unknown)),
            Some(Phase::Leaving) | None => {}
        }
    }

    /// A release was answered. One whose `position` is not zero may still be undone.
    pub(in crate::session) fn released(
        &mut self,
        id: RequestId,
        outcome: v1::ReleaseOutcome,
        position: u64,
    ) {
        match self.open.remove(&id) {
            Some(Request { phase: Phase::Releasing(reply, doubt), .. }) => {
                self.kept.keep(position, id);
                let released = match (outcome, doubt) {
                    (v1::ReleaseOutcome::Released, _) => Released::Released,
                    (v1::ReleaseOutcome::AlreadyLost, Doubt::None) => Released::AlreadyLost,
                    (v1::ReleaseOutcome::AlreadyLost, Doubt::MayBeDone)
                    | (v1::ReleaseOutcome::Unspecified, _) => Released::Unknown,
                };
                answer(reply, Ok(released));
            }
            Some(other) => {
                self.open.insert(id, other);
            }
            None => {}
        }
    }

    pub(in crate::session) fn failed(&mut self, id: RequestId, fault: Fault, now: Instant) {
        let Some(mut request) = self.open.remove(&id) else { return };
        if fault.is_transient() {
            // A change is asked for again, like everything else.
            if let Phase::Waiting(acquire, _) = &request.phase {
                acquire.progress.trouble(Some(fault.message.clone()));
            }
            if let Phase::Releasing(_, doubt) = &mut request.phase
                && fault.may_have_applied
            {
                *doubt = Doubt::MayBeDone;
            }
            let retry =
                request.retry.get_or_insert_with(|| Box::new(Retry::new(Policy::default())));
            let pause = retry.next_delay().unwrap_or_default();
            let again_at = now + pause.max(fault.retry_after.unwrap_or_default());
            request.again_at = Some(again_at);
            self.again.insert((again_at, id));
            self.open.insert(id, request);
            return;
        }
        match request.phase {
            Phase::Waiting(acquire, _) => deny(*acquire, Denied::Failed(fault)),
            Phase::Held(..) => {
                self.open.insert(id, request);
                self.updated(id, Err(fault));
            }
            Phase::Releasing(reply, _) => answer(reply, Err(fault)),
            Phase::Leaving => {}
        }
    }

    pub(in crate::session) fn lost(&mut self, id: RequestId, reason: LossReason) {
        match self.open.remove(&id) {
            Some(Request { phase: Phase::Held(held, ..), .. }) => held.lose(reason),
            Some(Request { phase: Phase::Releasing(reply, doubt), .. }) => {
                let released = match doubt {
                    Doubt::None => Released::AlreadyLost,
                    Doubt::MayBeDone => Released::Unknown,
                };
                answer(reply, Ok(released));
            }
            Some(other) => {
                self.open.insert(id, other);
            }
            None => {}
        }
    }

    /// The lease stands differently. What it held when it expired is lost, and given back in
    /// case the server sees it differently.
    pub(in crate::session) fn follow(&mut self, standing: Standing) {
        let mut expired = vec![];
        for (id, request) in &mut self.open {
            if let Phase::Held(held, ..) = &request.phase {
                held.follow(standing);
                if standing == Standing::Expired {
                    expired.push(*id);
                }
            }
        }
        for id in expired {
            self.give_back(id);
        }
    }
}
