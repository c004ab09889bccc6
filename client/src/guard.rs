//! The guard: a lock that is held, as its user sees it.

use std::{sync::Arc, time::Duration};

use lockd_proto::{
    FencingToken, LockName, RequestId, SessionId,
    clock::Instant,
    v1::{self, change::Change, mode::Mode},
};
use tokio::sync::{oneshot, watch};

use crate::{
    client::Client,
    context::Context,
    error::{Call, Error, ErrorKind, Fault},
    held::{Held, LockState, LossReason, Released},
    session::{Command, Granted, SessionHandle},
};

/// A lock that is held. Dropping it releases the lock in the background, without blocking;
/// [`Client::shutdown`] waits for that.
///
/// The lock can be lost while the guard is there: when the lease can't be renewed in time, or
/// when an operator steps in. [`lost`](Self::lost), [`context`](Self::context) and
/// [`run`](Self::run) report the loss before another session can be granted the lock. A process
/// that is paused may notice late all the same, so send the [`token`](Self::token) with every
/// write, and let the resource refuse older ones.
#[derive(Debug)]
#[must_use = "dropping the guard releases the lock"]
pub struct Guard {
    parts: Box<Parts>,
    /// Whether the release is already on its way.
    released: bool,
}

/// What a guard is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) call: Call,
    /// The first of the names.
    pub(crate) name: LockName,
    pub(crate) names: Vec<LockName>,
    pub(crate) mode: Mode,
    pub(crate) id: RequestId,
    pub(crate) granted: Granted,
    pub(crate) context: Context,
    pub(crate) session: SessionHandle,
    /// Keeps the client's background work going while a lock is held.
    pub(crate) client: Client,
}

impl Guard {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts: Box::new(parts), released: false }
    }

    /// The fencing token: greater than that of every earlier grant of this lock.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.parts.granted.token
    }

    /// The lock's name; of several, the first.
    #[must_use]
    pub fn name(&self) -> &LockName {
        &self.parts.name
    }

    /// The names of what is held: one, unless several locks were acquired together.
    #[must_use]
    pub fn names(&self) -> &[LockName] {
        &self.parts.names
    }

    /// The session that holds the lock.
    #[must_use]
    pub fn session_id(&self) -> SessionId {
        self.parts.granted.session
    }

    /// A child of the context that the lock was acquired with. It ends with
    /// [`Cause::LockLost`](crate::Cause::LockLost) when the lock is lost or released, and
    /// what remains of it never goes beyond the lease.
    #[must_use]
    pub fn context(&self) -> Context {
        self.parts.context.clone()
    }

    /// The lock's state, to be watched. `Lost` is final.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LockState> {
        self.held().watch()
    }

    /// How long the lock is held for certain if nothing is renewed from now on: until
    /// safe-until, the margin for clocks and for stopping already taken off.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.held().remaining()
    }

    /// Until when the lock is held for certain if nothing is renewed from now on, on the
    /// clock of [`Client::clock`].
    #[must_use]
    pub fn safe_until(&self) -> Instant {
        self.held().safe_until()
    }

    /// Waits until the lock is lost, and says why. Counts on this process's own clock, so it
    /// ends on time even if the network hangs.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn lost(&self) -> LossReason {
        self.held().lost().await
    }

    /// Checks that the lock is still held, by the clock.
    ///
    /// # Errors
    /// One that [is lost](Error::is_lost), with the reason.
    pub fn check(&self) -> Result<(), Error> {
        match self.held().loss() {
            None => Ok(()),
            Some(reason) => Err(self.loss_error("check", reason)),
        }
    }

    /// Runs a future while the lock is held. If the lock is lost first, the future is dropped.
    ///
    /// # Errors
    /// One that [is lost](Error::is_lost), with the reason.
    ///
    /// # Cancel safety
    /// As safe as the future given; the lock stays held.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        tokio::select! {
            biased;
            reason = self.lost() => Err(self.loss_error("run", reason)),
            output = future => Ok(output),
        }
    }

    /// Waits until a client asks the holder to give up the lock, by [`Client::request_yield`]
    /// or `lockd yield`, and returns the reason. The holder decides what to do about it.
    ///
    /// # Cancel safety
    /// Nothing is lost: once asked, this returns at once whenever it is called.
    pub async fn yield_requested(&self) -> String {
        self.held().wanted().await
    }

    /// Changes the value that others see beside the lock, under the same token. At most 4 KiB.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the lock is lost, [`ErrorKind::InvalidArgument`] for a value that
    /// is too long, and what ends the context.
    ///
    /// # Cancel safety
    /// Whether the value was changed is then not known.
    pub async fn set_value(
        &mut self,
        ctx: &Context,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        self.update(self.call("set_value"), ctx, Change::Value(value.into())).await
    }

    /// Downgrades from exclusive to shared, without a release in between: readers that wait
    /// at the head of the queue hold the lock as well from then on. The token stays.
    ///
    /// There is no way back. Two holders that upgraded would wait for each other for ever, so
    /// release the lock and acquire it anew: the data may have changed in between.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the lock is lost, [`ErrorKind::Conflict`] if it can't be shared:
    /// a semaphore, or several locks as one. And what ends the context.
    ///
    /// # Cancel safety
    /// Whether it was downgraded is then not known; it is held either way.
    pub async fn downgrade(&mut self, ctx: &Context) -> Result<(), Error> {
        self.update(self.call("downgrade"), ctx, Change::Downgrade(v1::Shared {})).await
    }

    /// Stores the result of a once, and releases it.
    pub(crate) async fn complete(self, ctx: &Context, result: Vec<u8>) -> Result<(), Error> {
        let call = self.call("complete");
        self.update(call, ctx, Change::Result(result)).await
    }

    async fn update(&self, call: Call, ctx: &Context, change: Change) -> Result<(), Error> {
        let (reply, outcome) = oneshot::channel();
        let command = Command::Update(self.parts.id, change, reply);
        let change = async {
            if !self.parts.session.send(command).await {
                return Err(Fault::new(ErrorKind::Cancelled, "the client is shut down"));
            }
            // Without an answer the lock was lost before there was one.
            outcome.await.unwrap_or_else(|_| {
                Err(Fault::lost(self.held().loss().unwrap_or(LossReason::Expired)))
            })
        };
        let changed = ctx.run(change).await.unwrap_or_else(|cause| Err(Fault::ended(&cause)));
        changed.map_err(|fault| call.failed(fault))
    }

    /// Leaves a barrier, and waits for the others to do so.
    pub(crate) async fn leave(mut self, ctx: &Context) -> Result<(), Error> {
        let call = self.call("leave");
        if let Some(reason) = self.held().loss() {
            return Err(call.failed(Fault::lost(reason)));
        }
        let (reply, outcome) = oneshot::channel();
        self.hand_in(Some(reply));
        let broken = || Fault::new(ErrorKind::Broken, "a party has died or left early");
        let left = ctx.run(outcome).await.map_err(|cause| call.failed(Fault::ended(&cause)))?;
        match left {
            Ok(Ok(Released::Released)) => Ok(()),
            Ok(Ok(Released::AlreadyLost)) => Err(call.failed(broken())),
            Ok(Err(fault)) => Err(call.failed(fault)),
            Ok(Ok(Released::Unknown)) | Err(_) => {
                let message = "the session was lost before all had left";
                Err(call.failed(Fault::new(ErrorKind::Unknown, message)))
            }
        }
    }

    /// Releases the lock and waits for what the server found, at most until the lease would
    /// have run out.
    ///
    /// # Errors
    /// The server refused the release.
    ///
    /// # Cancel safety
    /// The release goes on in the background; only its outcome is not learned.
    pub async fn release(mut self) -> Result<Released, Error> {
        if self.held().loss().is_some() {
            return Ok(Released::AlreadyLost);
        }
        let limit = self.safe_until();
        let (reply, outcome) = oneshot::channel();
        self.hand_in(Some(reply));
        tokio::select! {
            biased;
            outcome = outcome => match outcome {
                Ok(Ok(released)) => Ok(released),
                Ok(Err(fault)) => Err(self.call("release").failed(fault)),
                Err(_) => Ok(Released::Unknown),
            },
            () = self.parts.client.clock().sleep_until(limit) => Ok(Released::Unknown),
        }
    }

    fn hand_in(&mut self, reply: Option<oneshot::Sender<crate::session::ReleaseReply>>) {
        self.released = true;
        self.held().lose(LossReason::Released);
        self.parts.session.post(Command::Release(self.parts.id, reply));
    }

    /// What it is made of.
    #[cfg(any(feature = "postgres", feature = "sqlx", feature = "redis"))]
    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    fn held(&self) -> &Arc<Held> {
        &self.parts.granted.held
    }

    fn call(&self, operation: &'static str) -> Call {
        Call { operation, ..self.parts.call.clone() }
    }

    fn loss_error(&self, operation: &'static str, reason: LossReason) -> Error {
        self.call(operation).failed(Fault::lost(reason))
    }
}

impl Context {
    /// A child that ends with [`Cause::LockLost`](crate::Cause::LockLost) when this lock is lost,
    /// and does not last beyond its lease: for work under a lock that was acquired with another
    /// context.
    #[must_use]
    pub fn with_lock(&self, guard: &Guard) -> Self {
        self.while_held(Arc::clone(guard.held()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        match self.parts.mode {
            _ if self.released => {}
            // A party or worker that is dropped leaves early, and the others must be notified.
            Mode::Party(_) | Mode::Share(_) => {
                self.held().lose(LossReason::Released);
                self.parts.session.post(Command::Desert(self.parts.id));
            }
            Mode::Exclusive(_) | Mode::Shared(_) | Mode::Permits(_) | Mode::Once(_) => {
                self.hand_in(None);
            }
        }
    }
}
