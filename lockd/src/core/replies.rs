//! The answers of calls: what became of their operations, once that is durable.

use lockd_proto::{RequestId, SessionId};

use super::{
    Core,
    answer::{AcquireReply, Released, SessionOpened},
    ask::Reply,
    calls::Waiter,
    error::{Error, NOT_HELD},
    notify::refused,
    outcomes::Own,
    sessions::millis,
    tickets::{CallTicket, ReleaseTarget},
};
use crate::{
    log::Log,
    state::{Context, Failure, Outcome, Refusal},
    telemetry::{metrics, traces::Reported},
};

/// Answers that are ready, and wait until what they rest on is durable.
#[derive(Default)]
pub(super) struct Replies(Vec<Box<dyn FnOnce() + Send>>);

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Replies").field(&self.0.len()).finish()
    }
}

impl Replies {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn release(&mut self) {
        self.0.drain(..).for_each(|reply| reply());
    }
}

impl<L: Log> Core<L> {
    /// Answers a call once everything that was applied is durable.
    pub(super) fn reply<T: Send + 'static>(&mut self, reply: Reply<T>, answer: Result<T, Error>) {
        // A caller that is gone needs no answer.
        self.replies.0.push(Box::new(move || drop(reply.send(answer))));
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

    pub(super) fn answer_call(&mut self, call: CallTicket, outcome: Outcome, cx: Context) -> Own {
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
                let cancelled = match outcome {
                    Outcome::Cancelled => Ok(()),
                    outcome => self.attached_or(outcome, by.0),
                };
                self.reply(reply, cancelled);
            }
            CallTicket::Update(reply, by) => {
                let updated = match outcome {
                    Outcome::Updated => Ok(()),
                    Outcome::Failed(failure) => Err(Error::of(failure, None)),
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
            Outcome::Failed(failure) => Err(Error::of(failure, Some(named))),
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
                let error = Error::of(failure, None);
                self.reply(reply, Err(error));
            }
            outcome => {
                self.told(by, Reported::Failed);
                let attached = self.attached_or(outcome, by.0);
                self.reply(reply, attached.and(Err(Error::SessionNotFound(by.0))));
            }
        }
    }

    /// Gives back what the caller of an acquire is not there to hear of.
    pub(super) fn give_back(&mut self, by: (SessionId, RequestId), outcome: &Outcome, cx: Context) {
        self.parts.traces.abandoned(by);
        if let Outcome::Granted { token } | Outcome::Queued { token } = outcome
            && let Some(lock) = self.first_lock(by)
        {
            self.abandon(lock, *token, cx.at);
        }
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
                Err(Error::of(failure, Some(&named)))
            }
            Outcome::NoSession => Err(Error::SessionNotFound(named.session)),
            _ => Ok(Released::AlreadyLost),
        };
        self.reply(reply, released);
        Some(by)
    }

    pub(super) fn fail_call(&mut self, call: CallTicket, error: Error) {
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
}
