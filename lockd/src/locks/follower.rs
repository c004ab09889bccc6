//! One request without a stream, followed to its end whether or not its caller waits for that.

use std::time::Duration;

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lockd_proto::RequestId;
use tokio::sync::oneshot;

use super::WRITE_TIMEOUT;
use crate::{
    engine::Engine,
    error::Error,
    keys::EntryId,
    requests::{Action, Owner, Reply, Requests},
    store::{Outcome, StoreError},
    view::{SessionEvent, SessionEvents},
};

/// A request hears of its own entry and of what else its session does meanwhile.
const EVENTS: usize = 1024;

type Answer = Result<Reply, Error>;

pub(super) struct Follower {
    engine: Engine,
    requests: Requests,
    id: RequestId,
    events: SessionEvents,
    writes: FuturesUnordered<BoxFuture<'static, Result<Outcome, StoreError>>>,
    /// Who waits for the answer; `None` once it was given.
    caller: Option<oneshot::Sender<Answer>>,
    /// What to answer instead of what becomes of the request.
    instead: Option<Error>,
}

/// Whether there is anything left to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    Over,
}

/// What tells one call from every other; never zero.
pub(super) fn mark() -> Result<u64, Error> {
    let mark = getrandom::u64().map_err(|error| {
        Error::Store(StoreError::Broken(format!("the system gives no random bytes: {error}")))
    })?;
    Ok(mark.max(1))
}

impl Follower {
    pub(super) fn new(
        engine: Engine,
        owner: Owner,
        id: RequestId,
        caller: oneshot::Sender<Answer>,
    ) -> Self {
        let events = engine.view.subscribe(owner.session, EVENTS);
        let requests = Requests::new(owner, engine.limits);
        let writes = FuturesUnordered::new();
        Self { engine, requests, id, events, writes, caller: Some(caller), instead: None }
    }

    pub(super) fn requests(&mut self) -> &mut Requests {
        &mut self.requests
    }

    pub(super) async fn run(mut self, start: Vec<Action>, max_wait: Option<Duration>) {
        let (drain, end) = (self.engine.drain.clone(), self.engine.end.clone());
        // The store's word is waited for that long, a turn in a queue as long as was asked for.
        let mut deadline = std::pin::pin!(sleep(max_wait.filter(|wait| !wait.is_zero())));
        let mut first_write = std::pin::pin!(tokio::time::sleep(WRITE_TIMEOUT));
        let (mut written, mut expired, mut deaf) = (false, false, false);
        let mut next = self.act(start);
        while next == Next::GoOn {
            let waiting = self.caller.is_some() && self.instead.is_none();
            // Every arm is cancel safe.
            next = tokio::select! {
                Some(outcome) = self.writes.next() => {
                    written = true;
                    let actions = self.requests.written(self.id, outcome, &self.engine.view);
                    self.act(actions)
                }
                event = self.events.recv(), if !deaf => {
                    deaf = event.is_none();
                    self.event(event)
                }
                () = closed(&mut self.caller) => {
                    self.caller = None;
                    let actions = self.requests.cancel(self.id, &self.engine.view);
                    self.act(actions)
                }
                () = &mut deadline, if waiting && !expired => {
                    expired = true;
                    let actions = self.requests.wait_expired(self.id, &self.engine.view);
                    self.act(actions)
                }
                () = &mut first_write, if waiting && !written => {
                    self.answer(Err(Error::OutcomeUnknown(WRITE_TIMEOUT)));
                    let actions = self.requests.cancel(self.id, &self.engine.view);
                    self.act(actions)
                }
                () = drain.cancelled(), if waiting => self.leave(Error::Draining),
                () = end.cancelled() => return,
            };
        }
    }

    /// Leaves the queues, and then tells the caller this.
    fn leave(&mut self, why: Error) -> Next {
        self.instead.get_or_insert(why);
        let actions = self.requests.cancel(self.id, &self.engine.view);
        if actions.is_empty() && self.writes.is_empty() {
            // A party that has left already goes on waiting elsewhere.
            self.answer(Err(Error::Draining));
        }
        self.act(actions)
    }

    fn event(&mut self, event: Option<SessionEvent>) -> Next {
        let view = &self.engine.view;
        let actions = match event {
            Some(event) if event.request().is_some_and(|id| id != self.id) => return Next::GoOn,
            Some(SessionEvent::Ended) => {
                let session = self.requests.owner().session;
                self.answer(Err(Error::SessionNotFound(session)));
                return Next::Over;
            }
            Some(event) => self.requests.event(event, view),
            None => return self.leave(Error::SlowConsumer),
        };
        self.act(actions)
    }

    /// Takes the actions. It is over when the caller has its answer and nothing is on its way.
    fn act(&mut self, actions: Vec<Action>) -> Next {
        for action in actions {
            match action {
                Action::Submit(_, op) => {
                    let engine = self.engine.clone();
                    self.writes.push(async move { engine.write(op).await }.boxed());
                }
                Action::Tell(_, Reply::Queued(_) | Reply::YieldRequested(_)) => {}
                Action::Tell(_, reply) => {
                    self.engine.traces.told(self.entry(), &reply);
                    let granted = matches!(reply, Reply::Granted { .. });
                    if !self.answer(Ok(reply)) && granted {
                        // Nobody takes it: it is given back.
                        let actions = self.requests.cancel(self.id, &self.engine.view);
                        self.act(actions);
                    }
                }
            }
        }
        let answered = self.caller.is_none();
        let settled = self.writes.is_empty() && self.requests.is_settled();
        if answered && settled { Next::Over } else { Next::GoOn }
    }

    fn entry(&self) -> EntryId {
        EntryId { session: self.requests.owner().session, request: self.id }
    }

    /// Answers the caller, and says whether it took the answer.
    fn answer(&mut self, answer: Answer) -> bool {
        let Some(caller) = self.caller.take() else { return false };
        let answer = match self.instead.take() {
            Some(error) => Err(error),
            None => answer,
        };
        let accepted = answer.is_ok();
        caller.send(answer).is_ok() && accepted
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.engine.traces.abandoned(self.entry());
    }
}

async fn closed(caller: &mut Option<oneshot::Sender<Answer>>) {
    match caller {
        Some(caller) => caller.closed().await,
        None => std::future::pending().await,
    }
}

async fn sleep(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
