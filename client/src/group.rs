//! Tasks that belong together: the first that fails ends the others, and nothing outlives the
//! group.

mod pipeline;
mod pool;

use std::{
    any::Any,
    fmt,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt as _;
use tokio::task::JoinSet;

pub use self::{
    pipeline::Pipeline,
    pool::{Sender, Worker},
};
use crate::context::{CancelHandle, Cause, Context};

/// Tasks under one context, as Go's `errgroup`.
///
/// With a [limit](Self::limit), [`spawn`](Self::spawn) waits for a free place, so that the
/// producer of work is held up by the tasks that do it. For many small items there is the
/// [`pool`](Self::pool), whose workers last, and the [`pipeline`](Self::pipeline) of several
/// pools.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// use lockd_client::{Context, Group};
///
/// let mut group = Group::new(&Context::background()).limit(2);
/// for n in 0..10 {
///     let work = move |_ctx| async move { if n == 99 { Err("no luck") } else { Ok(()) } };
///     group.spawn(work).await.expect("nothing has failed yet");
/// }
/// assert!(group.wait().await.is_ok());
/// # }
/// ```
#[derive(Debug)]
#[must_use = "tasks are ended when the group is dropped: wait for them"]
pub struct Group<E> {
    members: Arc<Members<E>>,
    limit: usize,
    /// Dropping it ends the tasks.
    tasks: JoinSet<()>,
    /// The workers of pools, whom the limit does not concern.
    workers: JoinSet<()>,
}

/// What the tasks of a group share.
#[derive(Debug)]
struct Members<E> {
    context: Context,
    cancel: CancelHandle,
    /// A std mutex: it is held to write or take the error only, never across an await.
    failed: Mutex<Option<GroupError<E>>>,
}

/// Why a group did not succeed: the first reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupError<E> {
    /// A task returned this.
    Failed(E),
    /// A task panicked, and said this.
    Panicked(String),
    /// The context ended.
    Ended(Cause),
}

impl<E: fmt::Display> fmt::Display for GroupError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::Panicked(what) => write!(f, "a task panicked: {what}"),
            Self::Ended(cause) => cause.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for GroupError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => error.source(),
            Self::Panicked(_) => None,
            Self::Ended(cause) => Some(cause),
        }
    }
}

impl<E: Send + 'static> Group<E> {
    /// A group without a limit, under a child of this context.
    pub fn new(ctx: &Context) -> Self {
        let (context, cancel) = ctx.with_cancel();
        let members = Arc::new(Members { context, cancel, failed: Mutex::new(None) });
        Self { members, limit: usize::MAX, tasks: JoinSet::new(), workers: JoinSet::new() }
    }

    /// Runs at most so many tasks at once. Zero is as good as one.
    pub fn limit(mut self, tasks: usize) -> Self {
        self.limit = tasks.max(1);
        self
    }

    /// The context of the tasks: it ends with the first failure.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.members.context
    }

    /// Starts a task, when there is a place for it. It is given the group's context, which is
    /// its [current](Context::current) one too, and is dropped when that ends.
    ///
    /// # Errors
    /// The group has failed, or its context has ended: the task was not started.
    /// [`wait`](Self::wait) says why.
    ///
    /// # Cancel safety
    /// Dropping the future starts nothing.
    pub async fn spawn<F>(&mut self, task: impl FnOnce(Context) -> F) -> Result<(), Cause>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        while self.tasks.len() >= self.limit {
            self.tasks.join_next().await;
        }
        // Those that have ended make no room by themselves.
        while self.tasks.try_join_next().is_some() {}
        if let Some(cause) = self.context().cause() {
            return Err(cause);
        }
        let future = task(self.context().clone());
        self.tasks.spawn(Arc::clone(&self.members).run(future));
        Ok(())
    }

    /// Waits until every task has ended, and every worker. Workers end when every
    /// [`Sender`] of their pool is gone.
    ///
    /// # Errors
    /// The first thing that went wrong: a failure, a panic, or the end of the context.
    ///
    /// # Cancel safety
    /// Dropping the future drops the group, and ends its tasks.
    pub async fn wait(mut self) -> Result<(), GroupError<E>> {
        while self.tasks.join_next().await.is_some() {}
        while self.workers.join_next().await.is_some() {}
        match (self.members.failed().take(), self.context().cause()) {
            (Some(failed), _) => Err(failed),
            (None, Some(cause)) => Err(GroupError::Ended(cause)),
            (None, None) => Ok(()),
        }
    }
}

impl<E: Send + 'static> Members<E> {
    /// Runs a task of the group to its end, or to that of the group.
    async fn run(self: Arc<Self>, task: impl Future<Output = Result<(), E>>) {
        let task = AssertUnwindSafe(self.context.scope(task)).catch_unwind();
        match self.context.run(task).await {
            // Why the context has ended is the group's to say.
            Ok(Ok(Ok(()))) | Err(_) => {}
            Ok(Ok(Err(error))) => self.fail(GroupError::Failed(error)),
            Ok(Err(panic)) => self.fail(GroupError::Panicked(said(panic.as_ref()))),
        }
    }

    /// Ends the group, and remembers why unless an end that came from outside was first.
    fn fail(&self, error: GroupError<E>) {
        let mut failed = self.failed();
        if failed.is_none() && self.context.cause().is_none() {
            *failed = Some(error);
        }
        self.cancel.cancel();
    }

    fn failed(&self) -> std::sync::MutexGuard<'_, Option<GroupError<E>>> {
        // Nothing panics while it is held.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("something that is no text").to_owned()
}

#[cfg(test)]
mod tests;
