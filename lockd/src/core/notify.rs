//! From outcomes and effects to answers: who hears what.

use lockd_proto::{RequestId, SessionId};

use super::{
    Core,
    answer::{AcquireReply, Answer, Released, SessionOpened},
    ask::{Nudge, Reply, StreamKey},
    calls::Waiter,
    error::Error,
    sessions::millis,
    tickets::{CallTicket, ReleaseTarget, Ticket},
    timers::{Due, Timer},
};
use crate::{
    log::Log,
    record::{LockId, Position, Wait, WaitEnd},
    state::{Context, Effect, Failure, LossCause, News, Outcome, Refusal, SessionEnd},
    telemetry::{
        metrics,
        traces::{Reported, hold_of},
    },
};

/// The request whose own operation is being answered: effects tell its asker nothing new.
pub(super) type Own = Option<(SessionId, RequestId)>;

const NOT_HELD: Error = Error::ChangeRefused("the lock is not held by this request");

impl<L: Log> Core<L> {
    /// Answers the caller that asked for an operation.
    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome, cx: Context) -> Own {
        match ticket {
            Ticket::None => None,
            Ticket::Begin(stream, opens) => {
                self.begun(stream, opens, &outcome);
                None
            }
            Ticket::Stream(stream, request) => self.answer_stream(stream, request, outcome, cx),
            Ticket::Close(stream) => {
                self.streams.end_request(stream);
                None
            }
            Ticket::Call(call) => self.answer_call(*call, outcome, cx),
            Ticket::Unheard(session, request) => {
                self.give_back((session, request), &outcome, cx);
                None
            }
        }
    }

    fn answer_stream(
        &mut self,
        stream: StreamKey,
        request: RequestId,
        outcome: Outcome,
        cx: Context,
    ) -> Own {
        self.streams.end_request(stream);
        let session = self.streams.session(stream)?;
        let by = (session, request);
        if matches!(outcome, Outcome::Granted { .. } | Outcome::Queued { .. } | Outcome::Refused(_))
        {
            self.take_over(by);
        }
        let answer = match outcome {
            Outcome::Granted { token } => {
                self.granted(by, token, cx);
                Answer::Granted(request, token)
            }
            Outcome::Queued { token } => {
                self.count_wait(by, token, cx.at);
                Answer::Queued(request, self.state.ahead_of_request(session, request))
            }
            Outcome::Refused(refusal) => {
                self.told(by, refused(&refusal));
                Answer::Refused(request, Box::new(refusal))
            }
            Outcome::Failed(failure) => return self.failed(stream, by, failure),
            Outcome::NoSession => {
                let gone = Error::SessionNotFound(session);
                self.told(by, Reported::Failed);
                Answer::Failed(request, Box::new(gone))
            }
            Outcome::Released { is_plain } => {
                return self.released_on(stream, by, is_plain.then_some(cx.at));
            }
            Outcome::AlreadyLost => {
                let found = Released::AlreadyLost;
                Answer::Released { request, found, undurable: None }
            }
            Outcome::Cancelled => {
                self.told(by, refused(&Refusal::Cancelled));
                Answer::Refused(request, Box::new(Refusal::Cancelled))
            }
            Outcome::Updated => Answer::Updated(request),
            // Its client resumes by another stream.
            Outcome::Superseded => return Some(by),
            // Its client hears when all have left, which may be now.
            Outcome::Leaving => return None,
            Outcome::Done
            | Outcome::Attached
            | Outcome::SecretMismatch
            | Outcome::Forgotten(_)
            | Outcome::Forced(_)
            | Outcome::Asked(_) => return None,
        };
        self.stage(stream, answer);
        Some(by)
    }

    /// Adds an answer to a stream that leaves when what was applied is durable.
    fn stage(&mut self, stream: StreamKey, answer: Answer) {
        self.must_sync |= self.streams.stage(stream, answer);
    }

    /// A release of which nothing but the entry itself would come back is answered before it is durable;
    /// its client keeps it until it is (RULES J1–J3).
    fn released_on(
        &mut self,
        stream: StreamKey,
        (session, request): (SessionId, RequestId),
        plain: Option<Position>,
    ) -> Own {
        let shared = self.log.profile().is_shared;
        let undurable = plain.filter(|_| !shared);
        let answer = Answer::Released { request, found: Released::Released, undurable };
        if undurable.is_some() {
            self.streams.push(stream, answer);
        } else {
            self.stage(stream, answer);
        }
        Some((session, request))
    }

    fn failed(&mut self, stream: StreamKey, by: (SessionId, RequestId), failure: Failure) -> Own {
        self.told(by, Reported::Failed);
        let error = self.error_of(failure, None);
        self.stage(stream, Answer::Failed(by.1, Box::new(error)));
        Some(by)
    }

    pub(super) fn answer_refused(
        &mut self,
        (stream, session): (StreamKey, SessionId),
        request: RequestId,
        refusal: Refusal,
    ) {
        self.told((session, request), refused(&refusal));
        self.stage(stream, Answer::Refused(request, Box::new(refusal)));
    }

    pub(super) fn refused_call(
        &mut self,
        reply: Reply<AcquireReply>,
        by: (SessionId, RequestId),
        refusal: Refusal,
    ) {
        self.told(by, refused(&refusal));
        self.reply(reply, Ok(AcquireReply::Refused(Box::new(refusal))));
    }

    fn error_of(&self, failure: Failure, named: Option<&ReleaseTarget>) -> Error {
        let lock = |named: Option<&ReleaseTarget>| named.map(|it| (it.lock.clone(), it.token));
        match (failure, lock(named)) {
            (Failure::RequestIdReused, _) => Error::RequestIdReused,
            (Failure::KindMismatch { lock, asked, there }, _) => {
                Error::KindMismatch { lock, asked, there }
            }
            (Failure::UpgradeRefused(lock), _) => Error::UpgradeRefused { lock },
            (Failure::TooManyEntries, _) => {
                Error::TooManyEntries { limit: crate::state::MAX_ENTRIES }
            }
            (Failure::StillWaiting, _) => Error::StillWaiting,
            (Failure::ChangeRefused(problem), _) => Error::ChangeRefused(problem),
            (Failure::NotHolder, Some((lock, token))) => Error::NotHolder { lock, token },
            (Failure::TokenMismatch, Some((lock, token))) => Error::TokenMismatch { lock, token },
            (Failure::LockNotFound, Some((lock, _))) => Error::LockNotFound(lock),
            (Failure::NotHolder | Failure::TokenMismatch | Failure::LockNotFound, None) => NOT_HELD,
        }
    }

    fn answer_call(&mut self, call: CallTicket, outcome: Outcome, cx: Context) -> Own {
        match call {
            CallTicket::Acquire(reply, by) => {
                self.answer_acquire(reply, by, outcome, cx);
                return Some(by);
            }
            CallTicket::Release(reply, named) => {
                return self.answer_release(reply, *named, outcome);
            }
            CallTicket::Open(reply, session) => {
                self.calls.opened(true);
                let ttl = self.state.session(session).map_or(0, |it| u64::from(it.ttl_ms));
                let opened = SessionOpened { session, ttl: millis(ttl) };
                let opened = self.attached_or(outcome, session).map(|()| opened);
                self.reply(reply, opened);
            }
            CallTicket::KeepAlive(reply, session) => match self.attached_or(outcome, session) {
                Ok(()) => self.promise(session, reply),
                Err(error) => self.reply(reply, Err(error)),
            },
            // A session that is gone already is closed.
            CallTicket::Close(reply) => self.reply(reply, Ok(())),
            CallTicket::Cancel(reply, by) => {
                let gone = matches!(outcome, Outcome::NoSession);
                let cancelled = if gone { Err(Error::SessionNotFound(by.0)) } else { Ok(()) };
                self.reply(reply, cancelled);
            }
            CallTicket::Update(reply, by) => {
                let updated = match outcome {
                    Outcome::Updated => Ok(()),
                    Outcome::Failed(failure) => Err(self.error_of(failure, None)),
                    Outcome::NoSession => Err(Error::SessionNotFound(by.0)),
                    _ => Err(NOT_HELD),
                };
                self.reply(reply, updated);
                return Some(by);
            }
            CallTicket::Force(reply, named) => self.answer_force(reply, &named, outcome),
            CallTicket::Yield(reply, lock) => {
                let asked = match outcome {
                    Outcome::Asked(holders) => Ok(holders),
                    Outcome::Failed(Failure::ChangeRefused(problem)) => {
                        Err(Error::ChangeRefused(problem))
                    }
                    _ => Err(Error::LockNotFound(lock)),
                };
                self.reply(reply, asked);
            }
            CallTicket::Forget(reply) => {
                self.reply(reply, Ok(matches!(outcome, Outcome::Forgotten(true))));
            }
        }
        None
    }

    fn attached_or(&self, outcome: Outcome, session: SessionId) -> Result<(), Error> {
        match outcome {
            Outcome::Attached => Ok(()),
            Outcome::SecretMismatch => Err(Error::SecretMismatch(session)),
            Outcome::Superseded => Err(Error::Superseded),
            _ => Err(Error::SessionNotFound(session)),
        }
    }

    fn answer_force(
        &mut self,
        reply: Reply<crate::state::Described>,
        named: &ReleaseTarget,
        outcome: Outcome,
    ) {
        let forced = match outcome {
            Outcome::Forced(removed) => {
                let (lock, token, session) = (&named.lock, named.token, removed.entry.session);
                tracing::warn!(%lock, %token, %session, "released by force");
                Ok(*removed)
            }
            Outcome::Failed(failure) => Err(self.error_of(failure, Some(named))),
            _ => Err(Error::LockNotFound(named.lock.clone())),
        };
        self.reply(reply, forced);
    }

    fn answer_acquire(
        &mut self,
        reply: Reply<AcquireReply>,
        by: (SessionId, RequestId),
        outcome: Outcome,
        cx: Context,
    ) {
        if reply.is_closed() {
            return self.give_back(by, &outcome, cx);
        }
        match outcome {
            Outcome::Granted { token } => {
                self.granted(by, token, cx);
                self.take_over(by);
                let claim = self.state.entry_of(by.0, by.1).map_or(cx.at, |it| it.asker.claim);
                self.reply(reply, Ok(AcquireReply::Granted { token, claim }));
            }
            Outcome::Queued { token } => {
                self.count_wait(by, token, cx.at);
                if let Some(lock) = self.first_lock(by) {
                    let claim = cx.at;
                    self.calls.wait(by, Waiter::Acquire { reply, lock, token, claim });
                }
            }
            Outcome::Refused(refusal) => {
                self.take_over(by);
                self.refused_call(reply, by, refusal);
            }
            Outcome::Failed(failure) => {
                self.told(by, Reported::Failed);
                let error = self.error_of(failure, None);
                self.reply(reply, Err(error));
            }
            _ => {
                self.told(by, Reported::Failed);
                self.reply(reply, Err(Error::SessionNotFound(by.0)));
            }
        }
    }

    /// A call that waited for an entry has lost it to a later request with the same id.
    fn take_over(&mut self, by: (SessionId, RequestId)) {
        if let Some(Waiter::Acquire { reply, .. }) = self.calls.take(by) {
            self.reply(reply, Err(Error::Superseded));
        }
    }

    /// Gives back what the caller of an acquire is not there to hear of.
    fn give_back(&mut self, by: (SessionId, RequestId), outcome: &Outcome, cx: Context) {
        self.parts.traces.abandoned(by);
        if let Outcome::Granted { token } | Outcome::Queued { token } = outcome
            && let Some(lock) = self.first_lock(by)
        {
            self.abandon(lock, *token, cx.at);
        }
    }

    fn first_lock(&self, (session, request): (SessionId, RequestId)) -> Option<LockId> {
        self.state.entry_of(session, request)?.locks.as_slice().first().cloned()
    }

    fn answer_release(
        &mut self,
        reply: Reply<Released>,
        named: ReleaseTarget,
        outcome: Outcome,
    ) -> Own {
        let by = (named.session, named.request);
        let released = match outcome {
            Outcome::Released { .. } => Ok(Released::Released),
            Outcome::Leaving => {
                self.calls.wait(by, Waiter::Release(reply, named.lock));
                return Some(by);
            }
            Outcome::Failed(failure) => {
                metrics::fenced();
                Err(self.error_of(failure, Some(&named)))
            }
            Outcome::NoSession => Err(Error::SessionNotFound(named.session)),
            _ => Ok(Released::AlreadyLost),
        };
        self.reply(reply, released);
        Some(by)
    }

    /// An entry that this replica was asked for waits: its limit counts from now on.
    fn count_wait(&mut self, by: (SessionId, RequestId), token: Position, claim: Position) {
        let Some(entry) = self.state.entry_of(by.0, by.1) else { return };
        let Wait::Within(wait) = entry.wait else { return self.timers.clear(Timer::Wait(token)) };
        let Some(lock) = entry.locks.as_slice().first().cloned() else { return };
        let due = Due::EndWait { lock, claim, why: WaitEnd::Expired };
        self.timers.set(Timer::Wait(token), self.now + millis(wait), due);
    }

    /// An acquire is granted by its own operation; by a retry, not for the first time.
    fn granted(&mut self, by: (SessionId, RequestId), token: Position, cx: Context) {
        self.told(by, Reported::Granted(token.0));
        if token == cx.at {
            self.waited(by, cx.now);
        }
    }

    fn told(&mut self, by: (SessionId, RequestId), told: Reported) {
        metrics::told(&told);
        self.parts.traces.told(by, told);
    }

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

    /// Measures how long a granted entry has waited.
    fn waited(&self, by: (SessionId, RequestId), joined: crate::state::Moment) {
        if let (Some(waited), Some(entry)) = (self.since(joined), self.state.entry_of(by.0, by.1)) {
            metrics::waited(waited);
            for lock in entry.locks.as_slice() {
                metrics::lock_granted(lock.namespace(), lock.name());
            }
        }
    }

    /// Answers the caller that asked for an operation that was not applied.
    pub(super) fn fail(&mut self, ticket: Ticket, error: Error) {
        match ticket {
            Ticket::None | Ticket::Unheard(..) => {}
            Ticket::Begin(stream, opens) => {
                self.calls.opened(opens);
                self.refuse_stream(stream, error);
            }
            Ticket::Stream(stream, request) => {
                self.streams.end_request(stream);
                if let Some(session) = self.streams.session(stream) {
                    self.told((session, request), Reported::Failed);
                }
                self.streams.push(stream, Answer::Failed(request, Box::new(error)));
            }
            Ticket::Close(stream) => {
                // The session ends with its lease.
                self.streams.end_request(stream);
                self.streams.end(stream, Answer::GoAway(Box::new(error)));
            }
            Ticket::Call(call) => self.fail_call(*call, error),
        }
    }

    fn fail_call(&mut self, call: CallTicket, error: Error) {
        match call {
            CallTicket::Open(reply, _) => {
                self.calls.opened(true);
                drop(reply.send(Err(error)));
            }
            CallTicket::KeepAlive(reply, _) => drop(reply.send(Err(error))),
            CallTicket::Close(reply)
            | CallTicket::Cancel(reply, _)
            | CallTicket::Update(reply, _) => {
                drop(reply.send(Err(error)));
            }
            CallTicket::Acquire(reply, by) => {
                self.told(by, Reported::Failed);
                drop(reply.send(Err(error)));
            }
            CallTicket::Release(reply, _) => drop(reply.send(Err(error))),
            CallTicket::Force(reply, _) => drop(reply.send(Err(error))),
            CallTicket::Yield(reply, _) => drop(reply.send(Err(error))),
            CallTicket::Forget(reply) => drop(reply.send(Err(error))),
        }
    }

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

/// What metrics and traces hear of a refusal.
fn refused(refusal: &Refusal) -> Reported {
    let (Refusal::Busy(ahead) | Refusal::WaitExpired(ahead)) = refusal else {
        return Reported::Refused { reason: refusal.name(), holder: None };
    };
    let holder = ahead.as_ref().and_then(|ahead| ahead.holder.as_ref());
    let hold = holder.and_then(|it| hold_of(it.entry.trace().parse().ok(), it.entry.request));
    Reported::Refused { reason: refusal.name(), holder: hold }
}
