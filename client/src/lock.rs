//! Acquiring a lock.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lockd_proto::{LockName, RequestId, check_metadata, clock::Instant, v1};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    context::{Cause, Context},
    error::{Call, Error, ErrorKind, Fault, Spent},
    guard::{Guard, Parts},
    queue::Place,
    session::{Acquire, AcquireReply, Command, Denied, Progress, SessionHandle, Wait},
};

/// How much longer than its wait a call gives the server to say that the wait has expired.
const ANSWER: Duration = Duration::from_secs(1);

/// A lock that can be acquired. Made by [`Client::lock`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens until the lock is acquired"]
pub struct LockBuilder {
    client: Client,
    name: String,
    ttl: Duration,
    wait: Option<Duration>,
    metadata: HashMap<String, String>,
}

/// Why an acquire was refused, and where it stood.
type Refused = (v1::RefusalReason, Option<Place>);

/// One acquire on its way. If it is dropped before its end, the session gives up what it got.
struct Attempt {
    id: RequestId,
    session: SessionHandle,
    reply: oneshot::Receiver<AcquireReply>,
    progress: watch::Receiver<Progress>,
    settled: bool,
}

/// How long an acquire may take, and what it is counted by.
struct Limits {
    started: Instant,
    wait: Wait,
    /// When the client stops waiting for the server's word; the context may end before.
    answer_by: Option<Instant>,
    budget: Option<Duration>,
    /// Whether the context ends before the wait.
    context_first: bool,
}

impl LockBuilder {
    pub(crate) fn new(client: Client, name: String) -> Self {
        let ttl = client.default_ttl();
        Self { client, name, ttl, wait: None, metadata: HashMap::new() }
    }

    /// Holds the lock by a lease of this length instead of the client's. Locks with the same
    /// TTL share a session; each other TTL opens one more, when it is first needed.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waits in the queue for this long at most. Without it, [`acquire`](Self::acquire) waits
    /// for as long as its context allows.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// Adds something to show beside the entry in the queue; at most 4 KiB in all.
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Acquires the lock, waiting in its queue if need be.
    ///
    /// ```no_run
    /// # async fn example(client: lockd_client::Client) -> Result<(), lockd_client::Error> {
    /// use std::time::Duration;
    /// use lockd_client::Context;
    ///
    /// let ctx = Context::background().with_timeout(Duration::from_secs(3));
    /// let guard = client.lock("orders/42").acquire(&ctx).await?;
    /// println!("token {}", guard.token());
    /// guard.release().await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::WaitExpired`] after the wait, [`ErrorKind::DeadlineExceeded`] and
    /// [`ErrorKind::Cancelled`] with the context, on time even if no server answers. Without
    /// wait and deadline, an unreachable server is waited for.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue; nothing is held.
    pub async fn acquire(self, ctx: &Context) -> Result<Guard, Error> {
        let call = self.call("acquire", ctx);
        let limits = self.limits(self.wait, ctx);
        let granted = self.attempt(&call, ctx, &limits).await?;
        granted.map_err(|refusal| self.refused(&call, &limits, refusal))
    }

    /// Acquires the lock if nobody holds it or waits for it; `None` if somebody does.
    ///
    /// # Errors
    /// Anything but a lock that is busy, as for [`acquire`](Self::acquire); and
    /// [`ErrorKind::Unavailable`] if no server answers within the client's request timeout.
    ///
    /// # Cancel safety
    /// Dropping the future gives up what may have been granted; nothing is held.
    pub async fn try_acquire(self, ctx: &Context) -> Result<Option<Guard>, Error> {
        let call = self.call("try_acquire", ctx);
        let limits = self.limits(Some(Duration::ZERO), ctx);
        match self.attempt(&call, ctx, &limits).await? {
            Ok(guard) => Ok(Some(guard)),
            Err((v1::RefusalReason::Busy | v1::RefusalReason::WaitExpired, _)) => Ok(None),
            Err(refusal) => Err(self.refused(&call, &limits, refusal)),
        }
    }

    fn call(&self, operation: &'static str, ctx: &Context) -> Call {
        Call::new(operation).on(self.name.as_str()).traced(ctx.trace_id())
    }

    fn limits(&self, wait: Option<Duration>, ctx: &Context) -> Limits {
        let started = self.client.clock().now();
        let context = ctx.remaining();
        let (wait_until, answer_by) = match wait {
            None => (context.map_or(Wait::Forever, |left| Wait::Until(started + left)), None),
            Some(Duration::ZERO) => {
                (Wait::Not, Some(started + self.client.shared().request_timeout))
            }
            Some(wait) => {
                let until = started + context.map_or(wait, |left| left.min(wait));
                (Wait::Until(until), Some(started + wait + ANSWER))
            }
        };
        let wait = wait.filter(|wait| !wait.is_zero());
        let budget = wait.into_iter().chain(context).min();
        let context_first = context.is_some() && budget == context;
        Limits { started, wait: wait_until, answer_by, budget, context_first }
    }

    /// Sends the acquire and waits for its end. The inner error is a refusal.
    async fn attempt(
        &self,
        call: &Call,
        ctx: &Context,
        limits: &Limits,
    ) -> Result<Result<Guard, Refused>, Error> {
        let name = LockName::parse(self.name.as_str());
        let name = name.map_err(|error| call.failed(Fault::invalid(&error)))?;
        check_metadata(&self.metadata).map_err(|error| call.failed(Fault::invalid(&error)))?;
        let cancel = ctx.child_token();
        let session = self.client.session(self.ttl).map_err(|fault| call.failed(fault))?;
        let message = self.message(&name, ctx);
        let (mut attempt, acquire) = Attempt::new(session, message, limits.wait, &cancel);
        let clock = self.client.clock();
        let answer_by = async {
            match limits.answer_by {
                Some(at) => clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            reply = attempt.reply(acquire) => match reply {
                Ok(granted) => {
                    let context = ctx.for_lock(Arc::clone(&granted.held), cancel);
                    let (id, session, client) =
                        (attempt.id, attempt.session.clone(), self.client.clone());
                    let call = call.clone();
                    let parts = Parts { call, name, id, granted, context, session, client };
                    return Ok(Ok(Guard::new(parts)));
                }
                Err(Denied::Refused(reason, place)) => return Ok(Err((reason, place))),
                Err(Denied::Failed(fault)) => fault,
                Err(Denied::Lost(reason)) => Fault::lost(reason),
                Err(Denied::Closed) => Fault::new(ErrorKind::Cancelled, "the client is shut down"),
            },
            cause = ctx.cancelled() => attempt.context_ended(&cause),
            () = answer_by => attempt.not_answered(),
        };
        let place = attempt.progress.borrow().place.clone();
        Err(call.failed(ended).after(limits.spent(clock.now())).in_queue(place))
    }

    fn message(&self, name: &LockName, ctx: &Context) -> v1::Acquire {
        v1::Acquire {
            request_id: vec![],
            namespace: self.client.shared().namespace.to_string(),
            name: name.to_string(),
            max_wait: None,
            metadata: self.metadata.clone(),
            trace_id: ctx.trace_id().unwrap_or_default().to_owned(),
        }
    }

    fn refused(&self, call: &Call, limits: &Limits, (reason, place): Refused) -> Error {
        let fault = match reason {
            v1::RefusalReason::Busy => Fault::of(ErrorKind::Busy),
            v1::RefusalReason::WaitExpired if limits.context_first => {
                Fault::of(ErrorKind::DeadlineExceeded)
            }
            v1::RefusalReason::WaitExpired => Fault::of(ErrorKind::WaitExpired),
            v1::RefusalReason::Forced => {
                let message = "an operator took the entry out of the queue";
                Fault::new(ErrorKind::Conflict, message)
            }
            v1::RefusalReason::Cancelled => {
                Fault::new(ErrorKind::Conflict, "the entry was cancelled by another call")
            }
            v1::RefusalReason::Unspecified => Fault::protocol("refused without a reason"),
        };
        call.failed(fault).after(limits.spent(self.client.clock().now())).in_queue(place)
    }
}

impl Limits {
    fn spent(&self, now: Instant) -> Spent {
        let elapsed = now.saturating_duration_since(self.started);
        Spent { elapsed, budget: self.budget }
    }
}

impl Attempt {
    fn new(
        session: SessionHandle,
        mut message: v1::Acquire,
        wait: Wait,
        cancel: &CancellationToken,
    ) -> (Self, Acquire) {
        let id = RequestId::random();
        message.request_id = id.as_bytes().to_vec();
        let (reply, receiver) = oneshot::channel();
        let (sender, progress) = watch::channel(Progress::default());
        let acquire =
            Acquire { id, message, wait, cancel: cancel.clone(), progress: sender, reply };
        (Self { id, session, reply: receiver, progress, settled: false }, acquire)
    }

    async fn reply(&mut self, acquire: Acquire) -> AcquireReply {
        let sent = self.session.send(Command::Acquire(Box::new(acquire))).await;
        let reply = if sent { (&mut self.reply).await.ok() } else { None };
        self.settled = true;
        reply.unwrap_or(Err(Denied::Closed))
    }

    fn context_ended(&self, cause: &Cause) -> Fault {
        let kind = match cause {
            Cause::DeadlineExceeded => ErrorKind::DeadlineExceeded,
            Cause::Cancelled => ErrorKind::Cancelled,
            Cause::LockLost(reason) => {
                let message = format!("the lock that the context belongs to is lost: {reason}");
                return Fault::new(ErrorKind::Cancelled, message);
            }
        };
        Fault::new(kind, self.trouble().unwrap_or_default())
    }

    /// The server has not even said that the wait is over.
    fn not_answered(&self) -> Fault {
        match self.trouble() {
            Some(trouble) => Fault::unavailable(trouble),
            None if self.progress.borrow().place.is_some() => Fault::of(ErrorKind::WaitExpired),
            None => Fault::unavailable("no server has answered"),
        }
    }

    fn trouble(&self) -> Option<String> {
        self.progress.borrow().trouble.clone()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            self.session.post(Command::Abandon(self.id));
        }
    }
}
