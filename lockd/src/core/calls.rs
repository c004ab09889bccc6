//! Unary calls: one request, one answer. A call whose entry waits is kept until an effect answers it.

use std::collections::HashMap;

use lockd_proto::{
    FencingToken, RequestId, SessionId,
    clock::{Clock, Instant},
};

use super::{
    Core,
    answer::{AcquireReply, Released},
    ask::{Acquire, Call, Credential, Reply},
    error::Error,
    leases,
    look::Waiting,
    sessions::millis,
    tickets::{CallTicket, ReleaseTarget, Ticket},
};
use crate::{
    log::Log,
    record::{Attach, LockId, Open, Operation, Position, Release, WaitEnd},
    telemetry::metrics,
};

/// Calls that wait for more than the outcome of their operation.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: HashMap<(SessionId, RequestId), Waiter>,
    /// Sessions that are being opened.
    opening: usize,
    /// When releases came in that others wait for, by the token that is released.
    releasing: HashMap<Position, Instant>,
    /// When releases came in whose locks have passed on in this turn.
    handed_over: Vec<Instant>,
}

/// A call that waits.
#[derive(Debug)]
pub(super) enum Waiter {
    /// For a grant.
    Acquire { reply: Reply<AcquireReply>, lock: LockId, token: Position, claim: Position },
    /// For the other parties to leave.
    Release(Reply<Released>, LockId),
}

impl Calls {
    pub(super) fn opening(&self) -> usize {
        self.opening
    }

    pub(super) fn opens(&mut self, opens: bool) {
        self.opening += usize::from(opens);
    }

    pub(super) fn opened(&mut self, opens: bool) {
        self.opening = self.opening.saturating_sub(usize::from(opens));
    }

    pub(super) fn wait(&mut self, by: (SessionId, RequestId), waiter: Waiter) {
        // The call before has lost its claim: it takes nothing out (RULES J26).
        match self.waiting.insert(by, waiter) {
            Some(Waiter::Acquire { reply, .. }) => drop(reply.send(Err(Error::Superseded))),
            Some(Waiter::Release(reply, _)) => drop(reply.send(Err(Error::Superseded))),
            None => {}
        }
    }

    pub(super) fn take(&mut self, by: (SessionId, RequestId)) -> Option<Waiter> {
        self.waiting.remove(&by)
    }

    pub(super) fn is_waiting(&self, by: (SessionId, RequestId)) -> bool {
        self.waiting.contains_key(&by)
    }

    /// The calls of a session that wait.
    pub(super) fn of(&self, session: SessionId) -> Vec<(SessionId, RequestId)> {
        self.waiting.keys().filter(|(by, _)| *by == session).copied().collect()
    }

    pub(super) fn releasing(&mut self, token: Position, now: Instant) {
        // A release that fails leaves its mark; there are no more marks than releases of a turn.
        if self.releasing.len() > 64 * 1024 {
            self.releasing.clear();
        }
        self.releasing.insert(token, now);
    }

    /// What was released has passed on.
    pub(super) fn handed_over(&mut self, token: Position) {
        self.handed_over.extend(self.releasing.remove(&token));
    }

    /// What has passed on in this turn is durable, and its new holders hear of it.
    pub(super) fn measure_handoffs(&mut self, clock: &Clock) {
        if !self.handed_over.is_empty() {
            let now = clock.now();
            for asked in self.handed_over.drain(..) {
                metrics::handed_over(now.saturating_duration_since(asked));
            }
        }
    }
}

impl<L: Log> Core<L> {
    pub(super) fn call(&mut self, call: Call) {
        match call {
            Call::Open(open, reply) => self.open_session(open, reply),
            Call::KeepAlive(by, reply) => self.call_keep_alive(by, reply),
            Call::Close(by, reply) => {
                if let Some(reply) = self.proven(by, reply, Call::Close) {
                    let session = by.session;
                    self.propose_call(Operation::Close { session }, CallTicket::Close(reply));
                }
            }
            Call::Acquire(by, acquire, reply) => self.call_acquire(by, acquire, reply),
            Call::Cancel(by, request, reply) => {
                let again = move |by, reply| Call::Cancel(by, request, reply);
                if let Some(reply) = self.proven(by, reply, again) {
                    self.attach_call(by);
                    let Credential { session, stream, .. } = by;
                    let ticket = CallTicket::Cancel(reply, (session, request));
                    self.propose_call(Operation::Cancel { session, stream, request }, ticket);
                }
            }
            Call::Release(by, request, named, reply) => {
                self.call_release(by, request, named, reply);
            }
            Call::Update(by, request, change, reply) => {
                let kept = change.clone();
                let again = move |by, reply| Call::Update(by, request, kept, reply);
                if let Some(reply) = self.proven(by, reply, again) {
                    let session = by.session;
                    let ticket = CallTicket::Update(reply, (session, request));
                    self.propose_call(Operation::Update { session, request, change }, ticket);
                }
            }
            Call::Force(lock, token, reason, reply) => self.force(lock, token, reason, reply),
            Call::Yield(lock, reason, reply) => {
                if let Some(reply) = self.live_call(reply) {
                    let ticket = CallTicket::Yield(reply, lock.clone());
                    self.propose_call(Operation::Yield { lock, reason }, ticket);
                }
            }
            Call::Forget(lock, reply) => {
                if let Some(reply) = self.live_call(reply) {
                    self.propose_call(Operation::Forget { lock }, CallTicket::Forget(reply));
                }
            }
        }
    }

    fn propose_call(&mut self, operation: Operation, ticket: CallTicket) {
        self.propose(operation, Ticket::Call(Box::new(ticket)));
    }

    /// Answers a call that this replica can't serve now.
    fn live_call<T>(&self, reply: Reply<T>) -> Option<Reply<T>> {
        match self.not_fresh() {
            Some(error) => {
                drop(reply.send(Err(error)));
                None
            }
            None => Some(reply),
        }
    }

    /// Answers a call whose session is not the caller's. One that is not known here may have been opened
    /// elsewhere a moment ago: the call is made again behind a barrier.
    fn proven<T>(
        &mut self,
        by: Credential,
        reply: Reply<T>,
        again: impl FnOnce(Credential, Reply<T>) -> Call,
    ) -> Option<Reply<T>> {
        let error = match self.is_known(by.session, &by.secret_hash) {
            Ok(()) => return Some(reply),
            // What a drain is to end can still be asked for.
            Err(Error::Draining) if self.state.session(by.session).is_some() => return Some(reply),
            Err(error) => error,
        };
        let unknown = matches!(error, Error::SessionNotFound(_));
        if unknown && self.log.profile().is_shared && !self.looks.is_passed() {
            self.looks.wait(Waiting::Call(Box::new(again(by, reply))));
        } else {
            drop(reply.send(Err(error)));
        }
        None
    }

    fn open_session(&mut self, open: Box<Open>, reply: Reply<super::answer::SessionOpened>) {
        if let Err(error) = self.may_open(open.session, &open.secret_hash) {
            drop(reply.send(Err(error)));
            return;
        }
        self.calls.opens(true);
        let ticket = CallTicket::Open(reply, open.session);
        self.propose_call(Operation::Open(open), ticket);
    }

    fn call_keep_alive(&mut self, by: Credential, reply: Reply<u64>) {
        let Some(reply) = self.proven(by, reply, Call::KeepAlive) else { return };
        let Some(there) = self.state.session(by.session) else { return };
        if self.me != Some(there.author) {
            // Its client has come here: from now on this replica counts its silence.
            let attach = Attach { session: by.session, stream: by.stream, open: None };
            let ticket = CallTicket::KeepAlive(reply, by.session);
            return self.propose_call(Operation::Attach(attach), ticket);
        }
        self.heard(by.session);
        self.promise(by.session, reply);
    }

    /// Answers a keepalive with what this replica can promise.
    pub(super) fn promise(&mut self, session: SessionId, reply: Reply<u64>) {
        let ttl = self.state.session(session).map_or(0, |there| u64::from(there.ttl_ms));
        let until = self.log.standing().promise_until;
        let promised = leases::promised(millis(ttl), self.now, until);
        let answer = promised.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let stale = || Error::ViewStale(self.status.age().unwrap_or_default());
        drop(reply.send(answer.ok_or_else(stale)));
    }

    fn call_acquire(&mut self, by: Credential, acquire: Box<Acquire>, reply: Reply<AcquireReply>) {
        let kept = acquire.clone();
        let again = move |by, reply| Call::Acquire(by, kept, reply);
        let Some(reply) = self.proven(by, reply, again) else { return };
        let (session, request) = (by.session, acquire.request);
        self.trace((session, request), &acquire);
        if let Some(error) = self.obstacle(session, &acquire) {
            drop(reply.send(Err(error)));
            return;
        }
        self.attach_call(by);
        let ticket = CallTicket::Acquire(reply, (session, request));
        self.enqueue(acquire.enqueue(session, by.stream), Ticket::Call(Box::new(ticket)));
    }

    /// A call by another connection than the last attaches its session ahead of itself: what older ones
    /// still have under way then changes nothing (RULES J27).
    fn attach_call(&mut self, by: Credential) {
        let Credential { session, stream, .. } = by;
        if !self.is_reached_by(session, stream) {
            let attach = Attach { session, stream, open: None };
            self.propose(Operation::Attach(attach), Ticket::None);
        }
    }

    fn call_release(
        &mut self,
        by: Credential,
        request: RequestId,
        named: (LockId, FencingToken),
        reply: Reply<Released>,
    ) {
        let kept = named.clone();
        let again = move |by, reply| Call::Release(by, request, kept, reply);
        let Some(reply) = self.proven(by, reply, again) else { return };
        let (session, (lock, token)) = (by.session, named);
        self.note_release_of(&lock, token);
        let named = Some((lock.clone(), Position(token.get())));
        let operation = Operation::Release(Release { session, request, named });
        let named = Box::new(ReleaseTarget { session, request, lock, token });
        self.propose_call(operation, CallTicket::Release(reply, named));
    }

    fn note_release_of(&mut self, lock: &LockId, token: FencingToken) {
        if self.state.size(lock).1 > 0 {
            self.calls.releasing(Position(token.get()), self.now);
        }
    }

    fn force(
        &mut self,
        lock: LockId,
        token: FencingToken,
        reason: Box<str>,
        reply: Reply<crate::state::Described>,
    ) {
        let Some(reply) = self.live_call(reply) else { return };
        let (session, request) = (SessionId::from_bytes([0; 16]), RequestId::from_bytes([0; 16]));
        let named = Box::new(ReleaseTarget { session, request, lock: lock.clone(), token });
        let token = Position(token.get());
        let ticket = CallTicket::Force(reply, named);
        self.propose_call(Operation::Force { lock, token, reason }, ticket);
    }

    /// The caller of an acquire that waits is gone: what it waits for, or is granted, is given back
    /// unless another call has asked for it meanwhile.
    pub(super) fn call_gone(&mut self, by: (SessionId, RequestId)) {
        let gone = match self.calls.waiting.get(&by) {
            Some(Waiter::Acquire { reply, .. }) => reply.is_closed(),
            Some(Waiter::Release(reply, _)) => reply.is_closed(),
            None => false,
        };
        if !gone {
            return;
        }
        if let Some(Waiter::Acquire { lock, token, claim, .. }) = self.calls.take(by) {
            self.abandon(lock, token, claim);
        }
    }

    /// Gives back what a call has asked for and nothing has heard of.
    pub(super) fn abandon(&mut self, lock: LockId, token: Position, claim: Position) {
        self.end_wait(lock, token, (claim, WaitEnd::Abandoned));
    }

    /// Ends all calls that wait: their entries leave their queues, but for those that were granted.
    pub(super) fn fail_calls(&mut self, why: &Error) {
        for (_, waiter) in std::mem::take(&mut self.calls.waiting) {
            match waiter {
                Waiter::Acquire { reply, lock, token, claim } => {
                    self.end_wait(lock, token, (claim, WaitEnd::Withdrawn));
                    drop(reply.send(Err(why.clone())));
                }
                Waiter::Release(reply, _) => drop(reply.send(Err(why.clone()))),
            }
        }
    }
}
