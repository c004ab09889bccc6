//! Contexts: a deadline, cancellation and a trace id, handed down a tree of calls.
//!
//! A child is never later than its parent, and cancelling a parent cancels its children. No
//! task stands behind a context: deadlines are read from the clock.

mod current;
mod reach;
mod trace;

use std::{
    any::Any,
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::{FutureExt as _, future::select_all};
use lockd_proto::{
    TraceParent,
    clock::{Clock, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    held::{Held, LossReason},
    propagation::Propagation,
};

/// How long a call may take, and what ends it early. Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use lockd_client::{Cause, Context};
///
/// let (request, cancel) = Context::background().with_timeout(Duration::from_secs(3)).with_cancel();
/// let step = request.with_timeout(Duration::from_secs(60));
/// assert!(step.remaining() <= Some(Duration::from_secs(3)));
/// cancel.cancel();
/// assert_eq!(step.cause(), Some(Cause::Cancelled));
/// ```
#[derive(Debug, Clone)]
pub struct Context {
    node: Arc<Node>,
}

#[derive(Debug)]
struct Node {
    parent: Option<Context>,
    token: CancellationToken,
    deadline: Option<Instant>,
    trace_id: Option<Arc<str>>,
    trace_parent: Option<TraceParent>,
    request_id: Option<Arc<str>>,
    propagation: Propagation,
    value: Option<Value>,
    cause: OnceLock<Cause>,
    lock: Option<Arc<Held>>,
    clock: Clock,
}

/// Data that goes with a request, found by its type.
#[derive(Clone)]
struct Value(Arc<dyn Any + Send + Sync>);

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a secret.
        f.write_str("Value")
    }
}

/// Why a context has ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its deadline has passed.
    DeadlineExceeded,
    /// It, or a context above it, was cancelled.
    Cancelled,
    /// It belongs to a lock that is lost.
    LockLost(LossReason),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadlineExceeded => f.write_str("deadline exceeded"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::LockLost(reason) => write!(f, "lock lost: {reason}"),
        }
    }
}

impl std::error::Error for Cause {}

/// Cancels the context that it came with. Dropping it cancels nothing.
#[derive(Debug, Clone)]
pub struct CancelHandle {
    context: Context,
}

impl CancelHandle {
    /// Cancels the context and all its children.
    pub fn cancel(&self) {
        if self.context.cause().is_none() {
            // A concurrent call may have set the same cause first.
            drop(self.context.node.cause.set(Cause::Cancelled));
        }
        self.context.node.token.cancel();
    }
}

impl Context {
    /// The root of a tree: no deadline, never cancelled.
    #[must_use]
    pub fn background() -> Self {
        Self::background_on(Clock::system())
    }

    /// A root whose deadlines are read from another clock, such as one that tests can pause.
    #[must_use]
    pub fn background_on(clock: Clock) -> Self {
        let node = Node {
            parent: None,
            token: CancellationToken::new(),
            deadline: None,
            trace_id: None,
            trace_parent: None,
            request_id: None,
            propagation: Propagation::of_process(),
            value: None,
            cause: OnceLock::new(),
            lock: None,
            clock,
        };
        Self { node: Arc::new(node) }
    }

    fn child(&self) -> Node {
        self.child_by(self.node.token.child_token())
    }

    /// A child that ends with this token, which has to end with this context.
    fn child_by(&self, token: CancellationToken) -> Node {
        Node {
            parent: Some(self.clone()),
            token,
            deadline: self.node.deadline,
            trace_id: self.node.trace_id.clone(),
            trace_parent: self.node.trace_parent,
            request_id: self.node.request_id.clone(),
            propagation: self.node.propagation,
            value: None,
            cause: OnceLock::new(),
            lock: None,
            clock: self.node.clock.clone(),
        }
    }

    /// The values and the trace of this context without its ends.
    pub(crate) fn detached(&self) -> Self {
        let background = Node {
            trace_id: self.node.trace_id.clone(),
            trace_parent: self.node.trace_parent,
            request_id: self.node.request_id.clone(),
            ..Self::background_on(self.node.clock.clone()).child()
        };
        let background = Self { node: Arc::new(background) };
        let background = background.with_propagation(self.node.propagation);
        let values: Vec<_> = self.ancestry().filter_map(|node| node.value.clone()).collect();
        // The outermost first, so that what hides another one still does.
        values.into_iter().rev().fold(background, |parent, value| {
            let node = Node { value: Some(value), ..parent.child() };
            Self { node: Arc::new(node) }
        })
    }

    /// A child that ends after this time, or with its parent if that is earlier.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        self.with_deadline(self.node.clock.now() + timeout)
    }

    /// A child that ends at this moment, or with its parent if that is earlier.
    #[must_use]
    pub fn with_deadline(&self, deadline: Instant) -> Self {
        let mut node = self.child();
        node.deadline = Some(node.deadline.map_or(deadline, |parent| parent.min(deadline)));
        Self { node: Arc::new(node) }
    }

    /// A child that can be cancelled, and the handle that does it.
    #[must_use]
    pub fn with_cancel(&self) -> (Self, CancelHandle) {
        let context = Self { node: Arc::new(self.child()) };
        (context.clone(), CancelHandle { context })
    }

    /// A child that belongs to a request, whose id the HTTP layer reads and sends as
    /// `x-request-id`.
    #[must_use]
    pub fn with_request_id(&self, request_id: impl AsRef<str>) -> Self {
        let mut node = self.child();
        node.request_id = Some(request_id.as_ref().into());
        Self { node: Arc::new(node) }
    }

    /// A child whose end reaches beyond this process, or does not, whatever the setting of the
    /// process.
    #[must_use]
    pub fn with_propagation(&self, propagation: Propagation) -> Self {
        let mut node = self.child();
        node.propagation = propagation;
        Self { node: Arc::new(node) }
    }

    /// A child that carries data of a request, such as its user, to be found by its
    /// type. It hides data of the same type above it.
    ///
    /// ```
    /// use lockd_client::Context;
    ///
    /// #[derive(Debug, PartialEq)]
    /// struct UserId(u64);
    ///
    /// let ctx = Context::background().with_value(UserId(7));
    /// assert_eq!(ctx.with_cancel().0.value::<UserId>(), Some(&UserId(7)));
    /// ```
    #[must_use]
    pub fn with_value<T: Any + Send + Sync>(&self, value: T) -> Self {
        let mut node = self.child();
        node.value = Some(Value(Arc::new(value)));
        Self { node: Arc::new(node) }
    }

    /// The data of this type that was given to it or to a context above it.
    #[must_use]
    pub fn value<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.ancestry().find_map(|node| node.value.as_ref()?.0.downcast_ref())
    }

    /// A child that ends when what is held is lost.
    pub(crate) fn while_held(&self, lock: Arc<Held>) -> Self {
        let node = Node { lock: Some(lock), ..self.child() };
        Self { node: Arc::new(node) }
    }

    /// A child that ends when the lock is lost. Its token is the one that the lock cancels.
    pub(crate) fn for_lock(&self, lock: Arc<Held>, token: CancellationToken) -> Self {
        let node = Node { lock: Some(lock), ..self.child_by(token) };
        Self { node: Arc::new(node) }
    }

    /// A token that is cancelled with this context.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.node.token.child_token()
    }

    /// How long this context still lasts: until its own deadline or, below a guard's
    /// context, until the lock's safe-until, which moves with each renewal. `None` if it
    /// has no end.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        if self.cause().is_some() {
            return Some(Duration::ZERO);
        }
        let deadline = self.node.deadline;
        let own = deadline.map(|at| at.saturating_duration_since(self.node.clock.now()));
        let locks = self.ancestry().filter_map(|node| node.lock.as_ref()).map(|l| l.remaining());
        own.into_iter().chain(locks).min()
    }

    /// The request id, if one was given to it or to a context above it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.node.request_id.as_deref()
    }

    /// Whether its end reaches beyond this process.
    #[must_use]
    pub fn propagation(&self) -> Propagation {
        self.node.propagation
    }

    /// The clock of its deadlines.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.node.clock
    }

    /// Why this context has ended; `None` while it has not.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        if let Some(cause) = self.ancestry().find_map(Node::own_cause) {
            return Some(cause);
        }
        let deadline = self.node.deadline?;
        (self.node.clock.now() >= deadline).then_some(Cause::DeadlineExceeded)
    }

    /// Waits until this context has ended, and says why.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn cancelled(&self) -> Cause {
        loop {
            if let Some(cause) = self.cause() {
                return cause;
            }
            tokio::select! {
                () = self.node.token.cancelled() => {}
                () = self.end_of_time() => {}
                () = self.a_lock_is_lost() => {}
            }
        }
    }

    async fn a_lock_is_lost(&self) {
        let locks = self.ancestry().filter_map(|node| node.lock.as_ref());
        let lost: Vec<_> = locks.map(|lock| lock.lost().boxed()).collect();
        if lost.is_empty() {
            return std::future::pending().await;
        }
        select_all(lost).await;
    }

    async fn end_of_time(&self) {
        match self.remaining() {
            None => std::future::pending().await,
            Some(left) => self.node.clock.sleep_until(self.node.clock.now() + left).await,
        }
    }

    /// Runs a future until it or this context ends; in the latter case the future is dropped.
    ///
    /// # Errors
    /// Why the context has ended.
    ///
    /// # Cancel safety
    /// As safe as the future given.
    pub async fn run<T>(&self, future: impl Future<Output = T>) -> Result<T, Cause> {
        tokio::select! {
            biased;
            cause = self.cancelled() => Err(cause),
            output = future => Ok(output),
        }
    }

    fn ancestry(&self) -> impl Iterator<Item = &Node> {
        std::iter::successors(Some(&*self.node), |node| {
            node.parent.as_ref().map(|parent| &*parent.node)
        })
    }
}

impl Node {
    fn own_cause(&self) -> Option<Cause> {
        let lost = || self.lock.as_ref().and_then(|lock| lock.loss()).map(Cause::LockLost);
        self.cause.get().cloned().or_else(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_child_is_never_later_than_its_parent() {
        let parent = Context::background_on(Clock::tokio()).with_timeout(SECOND);
        let child = parent.with_timeout(10 * SECOND);
        assert_eq!(child.remaining(), Some(SECOND));
        assert_eq!(child.cancelled().await, Cause::DeadlineExceeded);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_reaches_children_not_parents() {
        let root = Context::background_on(Clock::tokio());
        let (parent, cancel) = root.with_cancel();
        let child = parent.with_timeout(SECOND);
        cancel.cancel();
        assert_eq!(child.cancelled().await, Cause::Cancelled);
        assert_eq!(root.cause(), None);
        tokio::time::sleep(2 * SECOND).await;
        assert_eq!(child.cause(), Some(Cause::Cancelled), "the first cause stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_came_first_stays_the_cause() {
        let (context, cancel) =
            Context::background_on(Clock::tokio()).with_timeout(SECOND).with_cancel();
        tokio::time::sleep(2 * SECOND).await;
        cancel.cancel();
        assert_eq!(context.cause(), Some(Cause::DeadlineExceeded));
    }

    #[tokio::test(start_paused = true)]
    async fn run_drops_what_takes_too_long() {
        let context = Context::background_on(Clock::tokio()).with_timeout(SECOND);
        let never = context.run(std::future::pending::<()>()).await;
        assert_eq!(never, Err(Cause::DeadlineExceeded));
    }
}
