//! Barriers.

use std::time::Duration;

use lockd_proto::{
    FencingToken,
    v1::{self, mode::Mode},
};

use crate::{
    client::Client, context::Context, error::Error, guard::Guard, held::LossReason,
    lock::LockBuilder,
};

/// A double barrier: its parties go in together and come out together. Made by
/// [`Client::barrier`].
///
/// A party that dies, gives up waiting, or drops its [`Inside`] breaks the barrier for all, at
/// once, as in Java's `CyclicBarrier`. When all that are left know it, the barrier begins anew.
///
/// ```no_run
/// # async fn example(client: lockd_client::Client, ctx: lockd_client::Context)
/// # -> Result<(), lockd_client::Error> {
/// let inside = client.barrier("nightly-build", 3).enter(&ctx).await?;
/// // All three are here.
/// inside.leave(&ctx).await?;
/// // All three are done.
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it is entered"]
pub struct Barrier {
    entry: LockBuilder,
}

/// A party inside a barrier. Dropping it breaks the barrier.
#[derive(Debug)]
#[must_use = "dropping it breaks the barrier for all"]
pub struct Inside {
    guard: Guard,
}

impl Client {
    /// A barrier by name, for this many parties, 1 to 10,000. The number is fixed by the first
    /// one who comes.
    pub fn barrier(&self, name: impl Into<String>, parties: u32) -> Barrier {
        let mode = Mode::Party(v1::Party { parties });
        // A wait that begins anew would be another party.
        let entry = LockBuilder::new(self.clone(), vec![name.into()], mode).fail_on_loss();
        Barrier { entry }
    }
}

impl Barrier {
    /// Takes part by a lease of this length instead of the client's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.entry = self.entry.ttl(ttl);
        self
    }

    /// Waits until all parties are there.
    ///
    /// # Errors
    /// [`ErrorKind::Broken`](crate::ErrorKind::Broken) if a party has died or left,
    /// [`ErrorKind::Conflict`](crate::ErrorKind::Conflict) if the barrier is for another number
    /// of parties, [`ErrorKind::Lost`](crate::ErrorKind::Lost) if this party's own session has
    /// died, and what ends the context, which breaks the barrier for the others.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the barrier for the others; nothing is left behind.
    pub async fn enter(&self, ctx: &Context) -> Result<Inside, Error> {
        self.entry.clone().acquire(ctx).await.map(|guard| Inside { guard })
    }
}

impl Inside {
    /// The guard of this party, for its state and what is left of its lease.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The token of this party.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// A context that ends when the barrier breaks.
    #[must_use]
    pub fn context(&self) -> Context {
        self.guard.context()
    }

    /// Waits until the barrier breaks, or this party's own session dies.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn broken(&self) -> LossReason {
        self.guard.lost().await
    }

    /// Says that this party is done, and waits until all are.
    ///
    /// # Errors
    /// [`ErrorKind::Broken`](crate::ErrorKind::Broken) or
    /// [`ErrorKind::Lost`](crate::ErrorKind::Lost) if a party has died or left early, and what
    /// ends the context.
    ///
    /// # Cancel safety
    /// This party has left all the same; only whether the others have is not learned.
    pub async fn leave(self, ctx: &Context) -> Result<(), Error> {
        self.guard.leave(ctx).await
    }
}
