//! Semaphores.

use lockd_proto::v1::{self, mode::Mode};

use crate::{client::Client, lock::LockBuilder};

/// A semaphore. Made by [`Client::semaphore`].
///
/// ```no_run
/// # async fn example(client: lockd_client::Client, ctx: lockd_client::Context)
/// # -> Result<(), lockd_client::Error> {
/// let gpus = client.semaphore("gpus", 4);
/// let two = gpus.permits(2).acquire(&ctx).await?;
/// # two.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Semaphore {
    client: Client,
    name: String,
    capacity: u32,
}

impl Client {
    /// A semaphore by name. Its capacity is fixed by the first who holds or waits for permits,
    /// until no holder and no waiter is left; another capacity is an error.
    pub fn semaphore(&self, name: impl Into<String>, capacity: u32) -> Semaphore {
        Semaphore { client: self.clone(), name: name.into(), capacity }
    }
}

impl Semaphore {
    /// Some of its permits, to be acquired together. A large request at the head of the queue
    /// is not overtaken by smaller ones.
    pub fn permits(&self, count: u32) -> LockBuilder {
        let mode = Mode::Permits(v1::Permits { count, capacity: self.capacity });
        LockBuilder::new(self.client.clone(), vec![self.name.clone()], mode)
    }
}
