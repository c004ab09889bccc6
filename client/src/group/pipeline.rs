//! Pools in a row: what one makes is work for the next.

use async_channel::Receiver;

use super::{
    Group,
    pool::{Sender, Worker},
};

/// Stages of work, from the first to the last. Made by [`Group::pipeline`].
#[derive(Debug)]
#[must_use = "the pipeline has no end yet"]
pub struct Pipeline<'a, E, T, U> {
    group: &'a mut Group<E>,
    queue: usize,
    first: Sender<T>,
    last: Receiver<U>,
}

impl<E: Send + 'static> Group<E> {
    /// A pipeline whose stages have queues with room for `queue` items each. A slow stage holds
    /// up those before it, and in the end the sender. The end of the first stage's [`Sender`]
    /// goes down the stages, and a failure anywhere ends all.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use lockd_client::{Context, Group};
    ///
    /// let mut group = Group::new(&Context::background());
    /// let lines = group
    ///     .pipeline(16)
    ///     .stage((0..4).map(|_| async |line: String| line.parse::<u64>()))
    ///     .end([async |number: u64| { assert!(number < 100); Ok(()) }]);
    /// for number in 0..100 {
    ///     lines.send(number.to_string()).await?;
    /// }
    /// drop(lines);
    /// group.wait().await?;
    /// # Ok(()) }
    /// ```
    pub fn pipeline<T: Send + 'static>(&mut self, queue: usize) -> Pipeline<'_, E, T, T> {
        let (first, last) = Sender::new(self.context().clone(), queue);
        Pipeline { group: self, queue, first, last }
    }
}

impl<'a, E: Send + 'static, T: Send + 'static, U: Send + 'static> Pipeline<'a, E, T, U> {
    /// Adds a stage: workers that make something else of each item.
    pub fn stage<W>(self, workers: impl IntoIterator<Item = W>) -> Pipeline<'a, E, T, W::Output>
    where
        W: Worker<U, Error = E, Output: 'static>,
    {
        let Self { group, queue, first, last: items } = self;
        let (next, last) = Sender::new(group.context().clone(), queue);
        for mut worker in workers {
            let (items, next) = (items.clone(), next.clone());
            group.work(async move {
                while let Ok(item) = items.recv().await {
                    // When it can't be sent, the group has ended, and so does this.
                    if next.send(worker.work(item).await?).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
        }
        Pipeline { group, queue, first, last }
    }

    /// Adds the last stage, and starts the pipeline.
    pub fn end<W>(self, workers: impl IntoIterator<Item = W>) -> Sender<T>
    where
        W: Worker<U, Output = (), Error = E>,
    {
        let Self { group, first, last: items, .. } = self;
        for worker in workers {
            group.serve(items.clone(), worker);
        }
        first
    }
}
