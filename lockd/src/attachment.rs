//! A session's stream: one task that carries what the client asks to the store, and what the
//! store and the view say back to the client.
//!
//! The task outlives a broken stream. Until the session is resumed elsewhere, or its client
//! has been silent for longer than its lease, it keeps the limits on waiting; then it ends
//! the session, so that a failover need not wait for a store that starts leases anew.

mod attach;
mod deadlines;

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use lockd_proto::{RequestId, Ttl, clock::Instant};
use tokio::sync::mpsc::{self, error::TrySendError};

use deadlines::Deadlines;

use crate::{
    engine::Engine,
    error::Error,
    keys::EntryId,
    locks::Change,
    metrics,
    requests::{Acquire, Action, Reply, Requests},
    sessions::{Proven, Secret},
    store::{Op, Outcome, StoreError},
    view::{Entry, SessionEvent, SessionEvents},
};

/// Answers that wait for a client to read them.
const OUTPUTS: usize = 1024;

/// How long a client may leave its answers unread before its stream is cut off.
const SLOW_CONSUMER: Duration = Duration::from_secs(5);

/// A change of what its request does not hold.
const NOT_HELD: Error = Error::ChangeRefused("the lock is not held by this request");

/// What a client sends on its stream.
#[derive(Debug)]
pub enum Input {
    /// Renew the lease.
    KeepAlive {
        /// Given back in the acknowledgement.
        sequence: u64,
    },
    /// Acquire a lock.
    Acquire(Acquire),
    /// Leave a queue, or give back an unwanted grant.
    Cancel(RequestId),
    /// Release a lock.
    Release(RequestId),
    /// Change an entry that is held.
    Update(RequestId, Change),
    /// A request that is malformed.
    Malformed(RequestId, Error),
    /// End the session.
    Close,
}

/// What a client is sent on its stream.
#[derive(Debug)]
pub enum Output {
    /// The stream is attached.
    Attached(Box<Attached>),
    /// The lease was renewed.
    KeepAliveAck {
        /// The keepalive's.
        sequence: u64,
        /// The TTL, from when the keepalive was sent.
        ttl: Ttl,
    },
    /// Something about a request.
    Request(RequestId, Reply),
    /// The session has ended. The last message.
    Ended(End),
    /// Resume elsewhere.
    GoAway(Box<Error>),
}

/// The first answer on a stream.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub session: Proven,
    /// Its secret, if it was just opened.
    pub secret: Option<Secret>,
    /// Names the replica.
    pub replica: Arc<str>,
    /// Its entries, each with whether it holds its lock.
    pub entries: Vec<(Arc<Entry>, bool)>,
}

/// Why a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its lease ran out.
    Expired,
    /// Its client closed it.
    Closed,
}

/// The server's end of a session's stream.
#[derive(Debug)]
pub struct Attachment {
    engine: Engine,
    session: Proven,
    requests: Requests,
    /// What follows from the entries that the session had when it was attached.
    adopted: Vec<Action>,
    outputs: mpsc::Sender<Output>,
    events: SessionEvents,
    /// What is on its way to the store.
    begun: FuturesUnordered<BoxFuture<'static, Done>>,
    deadlines: Deadlines,
    heard: Instant,
}

/// What the store has answered.
enum Done {
    Write(RequestId, Result<Outcome, StoreError>),
    Update(RequestId, Result<(), Error>),
    Renewal(u64, Result<(), Error>),
}

/// Whether the stream's task goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    /// The client is gone, its session is not.
    Detach,
    Stop,
}

impl Attachment {
    /// Serves the stream until the session has ended or is attached elsewhere, or, after the
    /// replica has begun to drain, until the client has gone.
    ///
    /// Idle sessions are many: what the task keeps while it waits is small, and what is large and
    /// rare is put aside for as long as it lasts.
    pub async fn run(mut self: Box<Self>, inputs: BoxStream<'static, Result<Input, Error>>) {
        let mut inputs = inputs.fuse();
        let mut connected = true;
        let mut told_to_go = false;
        let (drain, end) = (self.engine.drain.clone(), self.engine.end.clone());
        // Made once: what a turn of the loop costs is paid for each message.
        let (mut drained, mut ended) = (pin!(drain.cancelled()), pin!(end.cancelled()));
        let mut silence = pin!(tokio::time::sleep(self.silent_for()));
        let _counted = self.engine.attached.enter();
        let adopted = std::mem::take(&mut self.adopted);
        self.act(adopted).await;
        loop {
            // Every arm is cancel safe: streams' next, a channel's recv, timers.
            let next = tokio::select! {
                input = inputs.next(), if connected => self.input(input).await,
                Some(done) = self.begun.next() => self.done(done).await,
                event = self.events.recv() => self.event(event).await,
                Some(id) = self.deadlines.next() => self.deadline(id).await,
                () = &mut silence => {
                    let next = Box::pin(self.silence()).await;
                    silence.as_mut().reset(tokio::time::Instant::now() + self.silent_for());
                    next
                }
                () = &mut ended => return,
                () = &mut drained, if !told_to_go => {
                    told_to_go = true;
                    self.send(Output::GoAway(Box::new(Error::Draining))).await
                }
            };
            match next {
                Next::GoOn => {}
                Next::Detach => {
                    connected = false;
                    self.hang_up();
                }
                Next::Stop => return,
            }
            if told_to_go && self.begun.is_empty() {
                return;
            }
        }
    }

    async fn input(&mut self, input: Option<Result<Input, Error>>) -> Next {
        let input = match input {
            None => return Next::Detach,
            Some(Err(error)) => {
                self.send(Output::GoAway(Box::new(error))).await;
                return Next::Detach;
            }
            Some(Ok(input)) => input,
        };
        let actions = match input {
            Input::KeepAlive { sequence } => {
                self.renew(sequence);
                return Next::GoOn;
            }
            Input::Close => return Box::pin(self.close()).await,
            Input::Malformed(id, error) => vec![Action::Tell(id, Reply::failed(error))],
            Input::Acquire(acquire) => self.acquire(acquire),
            Input::Cancel(id) => self.requests.cancel(id, &self.engine.view),
            Input::Release(id) => self.requests.release(id, &self.engine.view),
            Input::Update(id, Change::Result(result)) => self.requests.complete(id, result),
            Input::Update(id, change) => self.update(id, change),
        };
        self.act(actions).await
    }

    fn update(&mut self, id: RequestId, change: Change) -> Vec<Action> {
        let Some((lock, token)) = self.requests.held(id) else {
            return vec![Action::Tell(id, Reply::failed(NOT_HELD))];
        };
        let (entry, engine) = (self.entry(id), self.engine.clone());
        let update = async move {
            // A grant may be ahead of the view.
            engine.catch_up(token).await?;
            let entry = engine.view.entry(entry, &lock).ok_or(NOT_HELD)?;
            engine.change(&lock, &entry, change).await
        };
        self.begun.push(async move { Done::Update(id, update.await) }.boxed());
        vec![]
    }

    async fn done(&mut self, done: Done) -> Next {
        match done {
            Done::Write(id, outcome) => self.written(id, outcome).await,
            Done::Update(id, updated) => self.updated(id, updated).await,
            Done::Renewal(sequence, renewed) => self.renewed(sequence, renewed).await,
        }
    }

    async fn updated(&mut self, id: RequestId, updated: Result<(), Error>) -> Next {
        let reply = updated.map_or_else(Reply::failed, |()| Reply::Updated);
        self.act(vec![Action::Tell(id, reply)]).await
    }

    fn acquire(&mut self, acquire: Acquire) -> Vec<Action> {
        let id = acquire.request;
        self.engine.traces.asked(self.session.id, &acquire);
        if let Some(error) = self.engine.not_ready() {
            return vec![Action::Tell(id, Reply::failed(error))];
        }
        if let Some(wait) = acquire.max_wait.filter(|wait| !wait.is_zero()) {
            self.deadlines.set(id, wait);
        }
        self.requests.acquire(acquire, &self.engine.view)
    }

    fn renew(&mut self, sequence: u64) {
        let (now, ttl) = (self.engine.clock.now(), self.session.ttl().get());
        let margin = ttl.saturating_sub(now.saturating_duration_since(self.heard));
        self.heard = now;
        let (sessions, id, lease) =
            (self.engine.sessions.clone(), self.session.id, self.session.lease);
        let renewal = async move {
            let renewed = sessions.keep_alive(id, lease).await;
            match &renewed {
                Ok(()) => metrics::renewed(margin),
                Err(_) => metrics::not_renewed(),
            }
            Done::Renewal(sequence, renewed)
        };
        self.begun.push(renewal.boxed());
    }

    async fn renewed(&mut self, sequence: u64, renewed: Result<(), Error>) -> Next {
        match renewed {
            Ok(()) => {
                let ttl = self.session.ttl();
                self.send(Output::KeepAliveAck { sequence, ttl }).await
            }
            Err(Error::SessionNotFound(_)) => self.end(End::Expired).await,
            Err(error) => {
                // The client hears nothing, counts on, and asks again in time.
                tracing::warn!(session = %self.session.id, %error, "a keepalive was not applied");
                Next::GoOn
            }
        }
    }

    async fn written(&mut self, id: RequestId, outcome: Result<Outcome, StoreError>) -> Next {
        let actions = self.requests.written(id, outcome, &self.engine.view);
        self.act(actions).await
    }

    async fn deadline(&mut self, id: RequestId) -> Next {
        let actions = self.requests.wait_expired(id, &self.engine.view);
        self.act(actions).await
    }

    async fn event(&mut self, event: Option<SessionEvent>) -> Next {
        let actions = match event {
            Some(SessionEvent::Attached(at)) if at > self.session.modified => {
                self.send(Output::GoAway(Box::new(Error::Superseded))).await;
                return Next::Stop;
            }
            Some(SessionEvent::Ended) => return self.end(End::Expired).await,
            Some(event) => self.requests.event(event, &self.engine.view),
            None => {
                self.send(Output::GoAway(Box::new(Error::SlowConsumer))).await;
                return Next::Stop;
            }
        };
        self.act(actions).await
    }

    async fn act(&mut self, actions: Vec<Action>) -> Next {
        let mut next = Next::GoOn;
        for action in actions {
            match action {
                Action::Submit(id, op) => self.submit(id, op),
                Action::Tell(id, reply) => {
                    metrics::told(&reply);
                    self.engine.traces.told(self.entry(id), &reply);
                    if !reply.is_interim() {
                        self.deadlines.forget(id);
                    }
                    next = self.send(Output::Request(id, reply)).await;
                }
            }
        }
        next
    }

    fn entry(&self, request: RequestId) -> EntryId {
        EntryId { session: self.session.id, request }
    }

    fn submit(&mut self, id: RequestId, op: Op) {
        let engine = self.engine.clone();
        self.begun.push(async move { Done::Write(id, engine.write(op).await) }.boxed());
    }

    async fn send(&mut self, output: Output) -> Next {
        let sent = match self.outputs.try_send(output) {
            Err(TrySendError::Full(output)) => {
                Box::pin(self.outputs.send_timeout(output, SLOW_CONSUMER)).await.is_ok()
            }
            sent => sent.is_ok(),
        };
        if sent {
            return Next::GoOn;
        }
        // Later answers of the same step must not wait for this client again.
        self.hang_up();
        Next::Detach
    }

    /// Ends the stream: whatever is sent from now on goes nowhere, at once.
    fn hang_up(&mut self) {
        (self.outputs, _) = mpsc::channel(1);
    }

    async fn close(&mut self) -> Next {
        // What was asked before it, in the same frame perhaps, is done and answered before it.
        while let Some(done) = self.begun.next().await {
            if self.done(done).await == Next::Stop {
                return Next::Stop;
            }
        }
        match self.engine.sessions.close(&self.session).await {
            Ok(()) => self.end(End::Closed).await,
            Err(error) => {
                tracing::warn!(session = %self.session.id, %error, "the session will end with its lease");
                Next::Detach
            }
        }
    }

    async fn end(&mut self, why: End) -> Next {
        self.send(Output::Ended(why)).await;
        Next::Stop
    }

    /// How much longer the client may be silent: its lease, and the margin by which the
    /// client stops believing in it.
    fn silent_for(&self) -> Duration {
        let ttl = self.session.ttl().get();
        let allowed = ttl + lockd_proto::safety_margin(ttl);
        let silent = self.engine.clock.now().saturating_duration_since(self.heard);
        allowed.saturating_sub(silent)
    }

    async fn silence(&mut self) -> Next {
        if !self.silent_for().is_zero() {
            return Next::GoOn;
        }
        let Proven { id, lease, modified, .. } = self.session;
        match self.engine.sessions.end_silent(id, lease, modified).await {
            Ok(true) => {
                tracing::info!(session = %id, "ended a session whose client has fallen silent");
                self.end(End::Expired).await
            }
            Ok(false) => Next::Stop,
            Err(error) => {
                tracing::warn!(session = %id, %error, "a silent session will end with its lease");
                Next::Stop
            }
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.requests.ids().for_each(|id| self.engine.traces.abandoned(self.entry(id)));
    }
}
