//! The context of the task: for code that can't pass one on, and for what has to outlive one.

use std::panic::resume_unwind;

use tokio::task::JoinHandle;

use super::{Cause, Context};

tokio::task_local! {
    static CURRENT: Context;
}

impl Context {
    /// The context of the task that asks: that of the innermost [`scope`](Self::scope), or
    /// [`background`](Self::background) outside of any.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// use lockd_client::Context;
    ///
    /// let ctx = Context::background().with_trace_id("4bf92f3577b34da6a3ce929d0e0e4736");
    /// let seen = ctx.scope(async { Context::current().trace_id().map(str::to_owned) }).await;
    /// assert_eq!(seen.as_deref(), ctx.trace_id());
    /// # }
    /// ```
    #[must_use]
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_else(|_| Self::background())
    }

    /// Runs a future as whose [current](Self::current) context this one is seen.
    ///
    /// # Cancel safety
    /// As safe as the future given.
    pub async fn scope<F: Future>(&self, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }

    /// Runs a future in a task of its own, until it or this context ends; in the latter case
    /// the future is dropped. The context is the task's [current](Self::current) one.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<Result<F::Output, Cause>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let ctx = self.clone();
        #[allow(clippy::disallowed_methods, reason = "the caller is given the handle")]
        tokio::spawn(async move { ctx.run(ctx.scope(future)).await })
    }

    /// Runs clean-up that must finish, whether or not this context ends or the caller is
    /// dropped: in a task of its own, whose [current](Self::current) context has the values
    /// and the trace of this one, and neither its deadline nor its cancellation.
    ///
    /// # Panics
    /// If the future does.
    ///
    /// # Cancel safety
    /// Dropping what this returns leaves the future running.
    pub async fn shield<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let shielded = self.detached();
        #[allow(clippy::disallowed_methods, reason = "it has to outlive whoever waits for it")]
        let task = tokio::spawn(async move { shielded.scope(future).await });
        match task.await {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Only a runtime that shuts down cancels the task, and then no caller is left.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        time::Duration,
    };

    use lockd_proto::clock::Clock;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn outside_of_any_scope_it_is_the_background() {
        assert_eq!(Context::current().remaining(), None);
        assert_eq!(Context::current().trace_id(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_inherits_it_and_ends_with_it() {
        let (ctx, cancel) = Context::background_on(Clock::tokio()).with_value(7u8).with_cancel();
        let seen = ctx.spawn(async { Context::current().value::<u8>().copied() });
        assert_eq!(seen.await.unwrap(), Ok(Some(7)));
        let endless = ctx.spawn(std::future::pending::<()>());
        cancel.cancel();
        assert_eq!(endless.await.unwrap(), Err(Cause::Cancelled));
    }

    #[tokio::test(start_paused = true)]
    async fn clean_up_finishes_though_the_context_and_the_caller_end() {
        let (ctx, cancel) = Context::background_on(Clock::tokio()).with_value(7u8).with_cancel();
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        let clean_up = ctx.shield(async move {
            tokio::time::sleep(SECOND).await;
            assert_eq!(Context::current().value::<u8>(), Some(&7));
            assert_eq!(Context::current().cause(), None);
            finished.store(true, Ordering::SeqCst);
        });
        cancel.cancel();
        assert!(tokio::time::timeout(SECOND / 2, clean_up).await.is_err());
        assert!(!done.load(Ordering::SeqCst));
        tokio::time::sleep(SECOND).await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    #[should_panic(expected = "in the clean-up")]
    async fn a_panic_in_the_clean_up_is_the_callers() {
        Context::background().shield(async { panic!("in the clean-up") }).await;
    }
}
