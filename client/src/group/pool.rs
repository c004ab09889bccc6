//! Workers that last: many items, no task and no allocation for each.

use std::fmt;

use async_channel::{Receiver, TrySendError};

use super::Group;
use crate::context::{Cause, Context};

/// Does the work of a pool, one item after the other. What it needs for an item and can use again for
/// the next, such as a buffer, is its own.
///
/// A closure that returns a future is a worker too.
pub trait Worker<T>: Send + 'static {
    /// What becomes of an item; `()` at the end of a [`Pipeline`](super::Pipeline), and in a pool.
    type Output: Send;
    /// What ends the group.
    type Error;

    /// Does the work of one item.
    fn work(&mut self, item: T) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

impl<T, U, E, F, R> Worker<T> for F
where
    T: Send,
    U: Send,
    F: FnMut(T) -> R + Send + 'static,
    R: Future<Output = Result<U, E>> + Send,
{
    type Output = U;
    type Error = E;

    fn work(&mut self, item: T) -> impl Future<Output = Result<U, E>> + Send {
        self(item)
    }
}

/// Gives items to the workers of a pool. They end when every clone of it is gone and no item is left.
pub struct Sender<T> {
    items: async_channel::Sender<T>,
    ctx: Context,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { items: self.items.clone(), ctx: self.ctx.clone() }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.items.len()).finish_non_exhaustive()
    }
}

impl<T> Sender<T> {
    pub(super) fn new(ctx: Context, queue: usize) -> (Self, Receiver<T>) {
        let (items, receiver) = async_channel::bounded(queue.max(1));
        (Self { items, ctx }, receiver)
    }

    /// Gives an item to the workers, when there is room for it in their queue.
    ///
    /// # Errors
    /// The group has failed, or its context has ended. [`Group::wait`] says why.
    ///
    /// # Cancel safety
    /// Dropping the future sends nothing; the item is dropped.
    pub async fn send(&self, item: T) -> Result<(), Cause> {
        if let Some(cause) = self.ctx.cause() {
            return Err(cause);
        }
        // Without a wait there is nothing to be cancelled.
        let item = match self.items.try_send(item) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(item) | TrySendError::Closed(item)) => item,
        };
        match self.ctx.run(self.items.send(item)).await? {
            Ok(()) => Ok(()),
            // Without workers the group has ended.
            Err(_) => Err(self.ctx.cause().unwrap_or(Cause::Cancelled)),
        }
    }
}

impl<E: Send + 'static> Group<E> {
    /// Starts workers that take items from one queue, which has room for `queue` items (zero is as
    /// good as one). The group's [limit](Self::limit) does not concern them. Without a worker nothing
    /// can be sent.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use lockd_client::{Context, Group, Worker};
    ///
    /// /// Uses the same buffer for every item.
    /// #[derive(Default)]
    /// struct Render {
    ///     page: String,
    /// }
    ///
    /// impl Worker<u64> for Render {
    ///     type Output = ();
    ///     type Error = std::fmt::Error;
    ///
    ///     async fn work(&mut self, order: u64) -> Result<(), std::fmt::Error> {
    ///         use std::fmt::Write as _;
    ///         self.page.clear();
    ///         write!(self.page, "order {order}")
    ///     }
    /// }
    ///
    /// let mut group = Group::new(&Context::background());
    /// let orders = group.pool(16, (0..4).map(|_| Render::default()));
    /// for order in 0..1000 {
    ///     orders.send(order).await?;
    /// }
    /// drop(orders);
    /// group.wait().await?;
    /// # Ok(()) }
    /// ```
    pub fn pool<T, W>(&mut self, queue: usize, workers: impl IntoIterator<Item = W>) -> Sender<T>
    where
        T: Send + 'static,
        W: Worker<T, Output = (), Error = E>,
    {
        let (sender, items) = Sender::new(self.context().clone(), queue);
        for worker in workers {
            self.serve(items.clone(), worker);
        }
        sender
    }

    /// Starts a worker for these items.
    pub(super) fn serve<T, W>(&mut self, items: Receiver<T>, mut worker: W)
    where
        T: Send + 'static,
        W: Worker<T, Output = (), Error = E>,
    {
        self.work(async move {
            while let Ok(item) = items.recv().await {
                worker.work(item).await?;
            }
            Ok(())
        });
    }

    /// Starts the task of a worker.
    pub(super) fn work(&mut self, worker: impl Future<Output = Result<(), E>> + Send + 'static) {
        self.workers.spawn(std::sync::Arc::clone(&self.members).run(worker));
    }
}
