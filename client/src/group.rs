//! Tasks that belong together: the first that fails ends the others, and nothing outlives the
//! group.

use std::{any::Any, fmt};

use tokio::task::{JoinError, JoinSet};

use crate::context::{CancelHandle, Cause, Context};

/// Tasks under one context, as Go's `errgroup`.
///
/// With a [limit](Self::limit) it is a worker pool: [`spawn`](Self::spawn) waits for a free
/// place, so that whoever makes work is held up by those who do it.
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
    context: Context,
    cancel: CancelHandle,
    limit: usize,
    /// Dropping it ends the tasks.
    tasks: JoinSet<Result<(), E>>,
    failed: Option<GroupError<E>>,
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
        Self { context, cancel, limit: usize::MAX, tasks: JoinSet::new(), failed: None }
    }

    /// Runs at most so many tasks at once. Zero is as good as one.
    pub fn limit(mut self, tasks: usize) -> Self {
        self.limit = tasks.max(1);
        self
    }

    /// The context of the tasks: it ends with the first failure.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
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
            self.join_next().await;
        }
        // What has ended in the meantime is heard of before more is begun.
        while let Some(ended) = self.tasks.try_join_next() {
            self.ended(ended);
        }
        if let Some(cause) = self.context.cause() {
            return Err(cause);
        }
        let ctx = self.context.clone();
        let future = task(ctx.clone());
        self.tasks.spawn(async move {
            match ctx.run(ctx.scope(future)).await {
                Ok(output) => output,
                // Why is the group's to say.
                Err(_) => Ok(()),
            }
        });
        Ok(())
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    /// The first thing that went wrong: a failure, a panic, or the end of the context.
    ///
    /// # Cancel safety
    /// Dropping the future drops the group, and ends its tasks.
    pub async fn wait(mut self) -> Result<(), GroupError<E>> {
        while !self.tasks.is_empty() {
            self.join_next().await;
        }
        match (self.failed.take(), self.context.cause()) {
            (Some(failed), _) => Err(failed),
            (None, Some(cause)) => Err(GroupError::Ended(cause)),
            (None, None) => Ok(()),
        }
    }

    async fn join_next(&mut self) {
        if let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: Result<Result<(), E>, JoinError>) {
        let failed = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => GroupError::Failed(error),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => GroupError::Panicked(said(panic.as_ref())),
                // Nobody aborts a task of the group while it is there.
                Err(_) => return,
            },
        };
        // An end that came from outside was first.
        if self.failed.is_none() && self.context.cause().is_none() {
            self.failed = Some(failed);
        }
        self.cancel.cancel();
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("something that is no text").to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use lockd_proto::clock::Clock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Counts who is inside, until it is dropped.
    struct Inside(Arc<AtomicUsize>);

    impl Inside {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, SeqCst);
            Self(count.clone())
        }
    }

    impl Drop for Inside {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }

    fn background() -> Context {
        Context::background_on(Clock::tokio())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_ends_the_others_and_is_what_is_told() {
        let mut group = Group::new(&background());
        let inside = Arc::new(AtomicUsize::new(0));
        for n in 0..4 {
            let inside = Inside::new(&inside);
            let work = move |_| async move {
                tokio::time::sleep(SECOND * (n + 1)).await;
                drop(inside);
                Err::<(), _>(n)
            };
            group.spawn(work).await.unwrap();
        }
        assert_eq!(group.wait().await, Err(GroupError::Failed(0)));
        assert_eq!(inside.load(SeqCst), 0, "nothing outlives it");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_limit_run_at_once() {
        let mut group = Group::<()>::new(&background()).limit(3);
        let inside = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            let counted = inside.clone();
            let work = move |_| async move {
                let _inside = Inside::new(&counted);
                assert!(counted.load(SeqCst) <= 3);
                tokio::time::sleep(SECOND).await;
                Ok(())
            };
            group.spawn(work).await.unwrap();
        }
        assert_eq!(group.wait().await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_a_failure() {
        let mut group = Group::<()>::new(&background());
        group.spawn(|_| async { panic!("one of them") }).await.unwrap();
        group.spawn(|_| std::future::pending()).await.unwrap();
        let panicked = GroupError::Panicked("one of them".to_owned());
        assert_eq!(group.wait().await, Err(panicked));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_context_is_the_end_of_the_group() {
        let (ctx, cancel) = background().with_cancel();
        let mut group = Group::<()>::new(&ctx).limit(1);
        group.spawn(|_| std::future::pending()).await.unwrap();
        let waiting = group.spawn(|_| std::future::pending());
        assert!(tokio::time::timeout(SECOND, waiting).await.is_err(), "it waits for its place");
        cancel.cancel();
        assert_eq!(group.spawn(|_| std::future::pending()).await, Err(Cause::Cancelled));
        assert_eq!(group.wait().await, Err(GroupError::Ended(Cause::Cancelled)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_dropped_ends_its_tasks() {
        let inside = Arc::new(AtomicUsize::new(0));
        let mut group = Group::<()>::new(&background());
        let counted = Inside::new(&inside);
        let work = move |_| async move {
            let _inside = counted;
            std::future::pending().await
        };
        group.spawn(work).await.unwrap();
        drop(group);
        while inside.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }
}
