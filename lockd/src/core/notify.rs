//! From effects to answers: who hears what.

use lockd_proto::{RequestId, SessionId};

use super::{
    Core,
    answer::{AcquireReply, Answer, Released},
    calls::Waiter,
    error::Error,
    outcomes::Own,
    sessions::millis,
    timers::{Due, Timer},
};
use crate::{
    log::Log,
    record::{LockId, Position, Wait, WaitEnd},
    state::{Context, Effect, LossCause, News, Refusal, SessionEnd},
    telemetry::{
        metrics,
        traces::{Reported, hold_of},
    },
};

impl<L: Log> Core<L> {
    /// Notifies all that an effect concerns, except the caller of the operation itself.
    pub(super) fn notify(&mut self, effect: Effect, own: Own) {
        match effect {
            Effect::Attached { session, epoch, is_new } => self.attached(session, epoch, is_new),
            Effect::Ended { session, how } => self.session_ended(session, how),
            Effect::Entry { session, request, token, news } => {
                self.timers.clear(Timer::Wait(token));
                if let News::Refused(Refusal::Deadlock(cycle)) = &news {
                    self.deadlock_ended(token, cycle);
                }
                let by = (session, request);
                self.tell_call(by, token, &news);
                if own != Some(by) {
                    self.tell_stream(by, token, news);
                }
            }
            Effect::GaveWay { session, request, held_since, reason } => {
                metrics::gave_way(reason.name(), self.since(held_since));
                self.parts.traces.gone((session, request), reason.name());
            }
            Effect::HandedOver { lock: _, from, trace, from_request, session, request } => {
                let parent = trace.and_then(|trace| trace.parse().ok());
                let hold = hold_of(parent, from_request);
                self.parts.traces.handed_over((session, request), hold);
                self.calls.handed_over(from);
            }
            Effect::Delayed { lock, token, since, delay_ms } => {
                self.delayed(lock, token, (since, delay_ms));
            }
            Effect::OwnerBlocked(owner) => self.owner_blocked(owner),
            Effect::Changed(lock) => self.observers.changed(&lock),
            Effect::Floor(floor) => self.floor_is_raised(&floor),
        }
    }

    fn session_ended(&mut self, session: SessionId, how: SessionEnd) {
        self.forget_session(session);
        if how == SessionEnd::Expired {
            metrics::expired();
        }
        for by in self.calls.of(session) {
            match self.calls.take(by) {
                Some(Waiter::Acquire { reply, .. }) => {
                    self.reply(reply, Err(Error::SessionNotFound(session)));
                }
                Some(Waiter::Release(reply, _)) => {
                    self.reply(reply, Err(Error::SessionNotFound(session)));
                }
                None => {}
            }
        }
        self.must_sync = true;
        self.stream_over(session, how);
    }

    /// Notifies the call that waits for an entry.
    fn tell_call(&mut self, by: (SessionId, RequestId), token: Position, news: &News) {
        if !self.calls.is_waiting(by) || matches!(news, News::YieldRequested(_)) {
            return;
        }
        match self.calls.take(by) {
            Some(Waiter::Acquire { reply, claim, .. }) => match news {
                News::Granted { joined } => {
                    self.told(by, Reported::Granted(token.0));
                    self.waited(by, *joined);
                    self.reply(reply, Ok(AcquireReply::Granted { token, claim }));
                }
                News::Refused(refusal) => self.refused_call(reply, by, refusal.clone()),
                News::Lost(_) | News::Released | News::YieldRequested(_) => {
                    self.refused_call(reply, by, Refusal::Cancelled);
                }
            },
            Some(Waiter::Release(reply, lock)) => {
                let released = match news {
                    News::Released => Ok(Released::Released),
                    News::Lost(LossCause::Broken) => Err(Error::BarrierBroken(lock)),
                    _ => Ok(Released::AlreadyLost),
                };
                self.reply(reply, released);
            }
            None => {}
        }
    }

    /// Notifies the stream of an entry's session.
    fn tell_stream(&mut self, by: (SessionId, RequestId), token: Position, news: News) {
        let (session, request) = by;
        let Some(stream) = self.streams.of(session) else { return };
        let answer = match news {
            News::Granted { joined } => {
                // An entry that a call has asked for is that call's.
                let asker = self.state.entry_of(session, request).map(|it| it.asker.stream);
                if asker == Some(0) {
                    return;
                }
                self.told(by, Reported::Granted(token.0));
                self.waited(by, joined);
                Answer::Granted(request, token)
            }
            News::Refused(refusal) => {
                self.told(by, refused(&refusal));
                Answer::Refused(request, Box::new(refusal))
            }
            News::Lost(cause) => Answer::Lost(request, token, Box::new(cause)),
            News::Released => {
                let found = Released::Released;
                Answer::Released { request, found, undurable: None }
            }
            News::YieldRequested(reason) => Answer::YieldRequested(request, reason),
        };
        self.stage(stream, answer);
    }

    /// A call that waited for an entry has lost it to a later request with the same id.
    pub(super) fn take_over(&mut self, by: (SessionId, RequestId)) {
        if let Some(Waiter::Acquire { reply, .. }) = self.calls.take(by) {
            self.reply(reply, Err(Error::Superseded));
        }
    }

    pub(super) fn first_lock(&self, (session, request): (SessionId, RequestId)) -> Option<LockId> {
        self.state.entry_of(session, request)?.locks.as_slice().first().cloned()
    }

    /// An entry that this replica was asked for waits: its limit counts from now on.
    pub(super) fn count_wait(
        &mut self,
        by: (SessionId, RequestId),
        token: Position,
        claim: Position,
    ) {
        let Some(entry) = self.state.entry_of(by.0, by.1) else { return };
        let Wait::Within(wait) = entry.wait else { return self.timers.clear(Timer::Wait(token)) };
        let Some(lock) = entry.locks.as_slice().first().cloned() else { return };
        let due = Due::EndWait { lock, claim, why: WaitEnd::Expired };
        self.timers.set(Timer::Wait(token), self.now + millis(wait), due);
    }

    /// An acquire is granted by its own operation; by a retry, not for the first time.
    pub(super) fn granted(&mut self, by: (SessionId, RequestId), token: Position, cx: Context) {
        self.told(by, Reported::Granted(token.0));
        if token == cx.at {
            self.waited(by, cx.now);
        }
    }

    pub(super) fn told(&mut self, by: (SessionId, RequestId), told: Reported) {
        metrics::told(&told);
        self.parts.traces.told(by, told);
    }

    /// Measures how long a granted entry has waited.
    fn waited(&self, by: (SessionId, RequestId), joined: crate::state::Moment) {
        if let (Some(waited), Some(entry)) = (self.since(joined), self.state.entry_of(by.0, by.1)) {
            metrics::waited(waited);
            for lock in entry.locks.as_slice() {
                metrics::lock_granted(lock.namespace(), lock.name());
            }
        }
    }
}

/// What metrics and traces hear of a refusal.
pub(super) fn refused(refusal: &Refusal) -> Reported {
    let (Refusal::Busy(ahead) | Refusal::WaitExpired(ahead)) = refusal else {
        return Reported::Refused { reason: refusal.name(), holder: None };
    };
    let holder = ahead.as_ref().and_then(|ahead| ahead.holder.as_ref());
    let hold = holder.and_then(|it| hold_of(it.entry.trace().parse().ok(), it.entry.request));
    Reported::Refused { reason: refusal.name(), holder: hold }
}
