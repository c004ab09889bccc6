//! Acquiring locks, in any of the ways in which they can be shared.

use std::{sync::Arc, time::Duration};

use lockd_proto::{
    LockName, RequestId, check_metadata,
    clock::Instant,
    v1::{self, mode::Mode},
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    client::Client,
    context::{Cause, Context},
    error::{Call, Error, ErrorKind, Fault, Spent},
    guard::{Guard, Parts},
    session::{
        Acquire, AcquireReply, Command, Denied, OnLoss, Refused, SessionHandle, SharedProgress,
        Wait,
    },
};

/// How much longer than its wait a call gives the server to say that the wait has expired.
const ANSWER: Duration = Duration::from_secs(1);

/// A lock that can be acquired. Made by [`Client::lock`].
#[derive(Debug, Clone)]
#[must_use = "nothing happens until the lock is acquired"]
pub struct LockBuilder {
    client: Client,
    /// The locks; the first one is what errors name.
    names: Vec<String>,
    mode: Mode,
    ttl: Duration,
    wait: Option<Duration>,
    on_loss: OnLoss,
    /// The fields of the request other than names, mode and wait.
    message: v1::Acquire,
}

/// One acquire on its way. If it is dropped before its end, the session gives up what it got.
struct Attempt {
    id: RequestId,
    session: SessionHandle,
    reply: oneshot::Receiver<AcquireReply>,
    progress: SharedProgress,
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

impl Client {
    /// A lock by name, to be acquired.
    pub fn lock(&self, name: impl Into<String>) -> LockBuilder {
        let mode = Mode::Exclusive(v1::Exclusive {});
        LockBuilder::new(self.clone(), vec![name.into()], mode)
    }

    /// Several locks as one, at most 1,000, to be acquired together: all of them or none. They
    /// join their queues in one step, so those who acquire several locks this way can't
    /// deadlock with one another, whatever the order of names.
    pub fn lock_all<N: Into<String>>(&self, names: impl IntoIterator<Item = N>) -> LockBuilder {
        let names = names.into_iter().map(Into::into).collect();
        LockBuilder::new(self.clone(), names, Mode::Exclusive(v1::Exclusive {}))
    }
}

impl LockBuilder {
    pub(crate) fn new(client: Client, names: Vec<String>, mode: Mode) -> Self {
        let ttl = client.default_ttl();
        let message = v1::Acquire::default();
        Self { client, names, mode, ttl, wait: None, on_loss: OnLoss::Requeue, message }
    }

    /// Holds the lock together with others that hold it shared, as the readers of a read/write
    /// lock. No entry overtakes another: a reader that comes after a writer waits for the
    /// writer.
    pub fn shared(mut self) -> Self {
        self.mode = Mode::Shared(v1::Shared {});
        self
    }

    /// Acquires in the name of a logical task, such as `order-4711`; at most 128 bytes. Waits
    /// that name an owner take part in deadlock detection: the youngest wait of a cycle ends
    /// with [`ErrorKind::Deadlock`].
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.message.owner = owner.into();
        self
    }

    /// After a loss of the lock (not after a release), no other session is granted it for that
    /// long: time for what was begun to arrive or to fail. At most 10 minutes. As in Consul
    /// and Chubby, for resources that can't check fencing tokens.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.message.lock_delay = delay.try_into().ok();
        self
    }

    /// A value shown to clients that look at the lock, at most 4 KiB. [`Guard::set_value`]
    /// changes it.
    pub fn value(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.message.value = value.into();
        self
    }

    /// Fails a wait whose session dies, instead of joining the queue again.
    pub(crate) fn fail_on_loss(mut self) -> Self {
        self.on_loss = OnLoss::Fail;
        self
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
        self.message.metadata.insert(key.into(), value.into());
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

    /// As [`acquire`](Self::acquire); the inner error is the result of a once that was done.
    pub(crate) async fn acquire_once(self, ctx: &Context) -> Result<Result<Guard, Vec<u8>>, Error> {
        let call = self.call("once", ctx);
        let limits = self.limits(self.wait, ctx);
        match self.attempt(&call, ctx, &limits).await? {
            Ok(guard) => Ok(Ok(guard)),
            Err(Refused { reason: v1::RefusalReason::Done, result, .. }) => Ok(Err(result)),
            Err(refusal) => Err(self.refused(&call, &limits, refusal)),
        }
    }

    /// Acquires the lock if it has neither a holder nor a waiter; returns `None` otherwise.
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
            Err(Refused {
                reason: v1::RefusalReason::Busy | v1::RefusalReason::WaitExpired,
                ..
            }) => Ok(None),
            Err(refusal) => Err(self.refused(&call, &limits, refusal)),
        }
    }

    fn call(&self, operation: &'static str, ctx: &Context) -> Call {
        Call::new(operation).on(self.names.join(", ")).traced(ctx.trace_id())
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
        let (name, names) = self.checked_names().map_err(|fault| call.failed(fault))?;
        check_metadata(&self.message.metadata)
            .map_err(|error| call.failed(Fault::invalid(&error)))?;
        let cancel = ctx.child_token();
        let session = self.client.session(self.ttl).map_err(|fault| call.failed(fault))?;
        let message = self.message(ctx);
        let waiting = (limits.wait, self.on_loss);
        let (mut attempt, acquire) = Attempt::new(session, message, waiting, &cancel);
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
                    let mode = self.mode;
                    let parts = Parts { call, name, names, mode, id, granted, context, session, client };
                    return Ok(Ok(Guard::new(parts)));
                }
                Err(Denied::Refused(refused)) => return Ok(Err(refused)),
                Err(Denied::Failed(fault)) => fault,
                Err(Denied::Lost(reason)) => Fault::lost(reason),
                Err(Denied::Closed) => Fault::new(ErrorKind::Cancelled, "the client is shut down"),
            },
            cause = ctx.cancelled() => attempt.context_ended(&cause),
            () = answer_by => attempt.not_answered(),
        };
        let place = attempt.progress.get().place;
        Err(call.failed(ended).after(limits.spent(clock.now())).in_queue(place))
    }

    /// The names, and the first one apart.
    fn checked_names(&self) -> Result<(LockName, Vec<LockName>), Fault> {
        let names = self.names.iter().map(|name| LockName::parse(name.as_str()));
        let names: Vec<_> = names.collect::<Result<_, _>>().map_err(|e| Fault::invalid(&e))?;
        let first = names.first().cloned();
        let none = || Fault::new(ErrorKind::InvalidArgument, "name at least one lock");
        Ok((first.ok_or_else(none)?, names))
    }

    fn message(&self, ctx: &Context) -> v1::Acquire {
        let mut names = self.names.iter().cloned();
        v1::Acquire {
            namespace: self.client.shared().namespace.to_string(),
            name: names.next().unwrap_or_default(),
            more_names: names.collect(),
            mode: Some(v1::Mode { mode: Some(self.mode) }),
            trace_id: ctx.trace_id().unwrap_or_default().to_owned(),
            traceparent: ctx.trace_parent().map(|it| it.to_string()).unwrap_or_default(),
            ..self.message.clone()
        }
    }

    fn refused(&self, call: &Call, limits: &Limits, refused: Refused) -> Error {
        let Refused { reason, place, detail, .. } = refused;
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
            v1::RefusalReason::Deadlock => Fault::new(ErrorKind::Deadlock, detail),
            v1::RefusalReason::Broken => {
                Fault::new(ErrorKind::Broken, "a party has died or left early")
            }
            v1::RefusalReason::Done => Fault::new(ErrorKind::Conflict, "it has been done already"),
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
        (wait, on_loss): (Wait, OnLoss),
        cancel: &CancellationToken,
    ) -> (Self, Acquire) {
        let id = RequestId::random();
        message.request_id = id.as_bytes().to_vec();
        let (reply, receiver) = oneshot::channel();
        let (cancel, progress) = (cancel.clone(), SharedProgress::default());
        let acquire =
            Acquire { id, message, wait, on_loss, cancel, progress: progress.clone(), reply };
        (Self { id, session, reply: receiver, progress, settled: false }, acquire)
    }

    async fn reply(&mut self, acquire: Acquire) -> AcquireReply {
        let sent = self.session.send(Command::Acquire(Box::new(acquire))).await;
        let reply = if sent { (&mut self.reply).await.ok() } else { None };
        self.settled = true;
        reply.unwrap_or(Err(Denied::Closed))
    }

    fn context_ended(&self, cause: &Cause) -> Fault {
        let fault = Fault::ended(cause);
        let message = self.trouble().filter(|_| fault.message.is_empty());
        Fault { message: message.unwrap_or(fault.message), ..fault }
    }

    /// The server has not even said that the wait is over.
    fn not_answered(&self) -> Fault {
        match self.trouble() {
            Some(trouble) => Fault::unavailable(trouble),
            None if self.progress.get().place.is_some() => Fault::of(ErrorKind::WaitExpired),
            None => Fault::unavailable("no server has answered"),
        }
    }

    fn trouble(&self) -> Option<String> {
        self.progress.get().trouble
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.settled {
            self.session.post(Command::Abandon(self.id));
        }
    }
}
