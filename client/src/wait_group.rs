//! Wait groups, which are latches too.

use std::time::Duration;

use lockd_proto::{
    FencingToken,
    v1::{self, ShareLoss, mode::Mode},
};

use crate::{
    client::Client,
    context::Context,
    error::{Call, Error, ErrorKind, Fault},
    guard::Guard,
    held::Released,
    lock::LockBuilder,
    observe::{Seen, Watcher},
    queue::LockInfo,
};

/// Work that is under way in many places, and those who wait for its end: a `sync.WaitGroup`
/// across processes. Made by [`Client::wait_group`].
///
/// ```no_run
/// # async fn example(client: lockd_client::Client, ctx: lockd_client::Context)
/// # -> Result<(), lockd_client::Error> {
/// let group = client.wait_group("reindex").fail_on_loss();
/// let share = group.add(&ctx).await?;      // in each worker
/// share.done().await?;
/// group.wait(&ctx).await?;                 // anywhere
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until a share is added or waited for"]
pub struct WaitGroup {
    client: Client,
    name: String,
    on_loss: ShareLoss,
    ttl: Option<Duration>,
}

/// A share of a group's work, held by a session. Dropping it is to stop before the work is
/// done: the share is given back, or fails the group, as was chosen for the group.
#[derive(Debug)]
#[must_use = "dropping it is to stop before the work is done"]
pub struct Share {
    guard: Guard,
}

impl Client {
    /// A wait group by name: shares of work, and those who wait until none is left.
    pub fn wait_group(&self, name: impl Into<String>) -> WaitGroup {
        WaitGroup {
            client: self.clone(),
            name: name.into(),
            on_loss: ShareLoss::Release,
            ttl: None,
        }
    }
}

impl WaitGroup {
    /// Fails the group when a worker dies or drops its share before it is done, instead of
    /// giving the share back. The first share fixes which; another choice is then an error.
    /// The group stays failed until the lost share is [removed](Client::force_release).
    pub fn fail_on_loss(mut self) -> Self {
        self.on_loss = ShareLoss::Fail;
        self
    }

    /// Holds shares by a lease of this length instead of the client's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Takes a share. Never waits for others.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the group treats lost shares in the other way, and what ends
    /// the context.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no share behind, unless the group fails with lost shares and
    /// it was taken at that moment: then it counts as lost.
    pub async fn add(&self, ctx: &Context) -> Result<Share, Error> {
        let mode = Mode::Share(v1::Share { on_loss: self.on_loss.into() });
        let mut entry = LockBuilder::new(self.client.clone(), vec![self.name.clone()], mode);
        if let Some(ttl) = self.ttl {
            entry = entry.ttl(ttl);
        }
        entry.acquire(ctx).await.map(|guard| Share { guard })
    }

    /// Waits until no share is left. Returns at once if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Broken`] if the group has failed, naming the lost share; and what ends the
    /// context. Servers that do not answer are waited for.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn wait(&self, ctx: &Context) -> Result<(), Error> {
        let call = Call::new("wait").on(self.name.as_str()).traced(ctx.trace_id());
        let mut watcher = Watcher::new(self.client.clone(), self.name.clone());
        let mut trouble = None;
        loop {
            match ctx.run(watcher.next()).await {
                Ok(Seen::Lock(None)) => return Ok(()),
                Ok(Seen::Lock(Some(lock))) => check(&lock).map_err(|fault| call.failed(fault))?,
                Ok(Seen::Unknown(error)) if error.is_retryable() => {
                    trouble = Some(error.to_string());
                }
                Ok(Seen::Unknown(error)) => return Err(error),
                Err(cause) => {
                    let fault = Fault::ended(&cause);
                    let message = trouble.unwrap_or_default();
                    return Err(call.failed(Fault { message, ..fault }));
                }
            }
        }
    }
}

/// A share that is lost fails the group: one that is given back is not there any more.
fn check(group: &LockInfo) -> Result<(), Fault> {
    match group.holders.iter().find(|share| share.lost) {
        None => Ok(()),
        Some(lost) => {
            let message = format!(
                "the share with token {} was lost before its work was done: the group has failed \
                 until it is removed",
                lost.token
            );
            Err(Fault::new(ErrorKind::Broken, message))
        }
    }
}

impl Share {
    /// The token of this share.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// A context that ends when the share is lost.
    #[must_use]
    pub fn context(&self) -> Context {
        self.guard.context()
    }

    /// The work of this share is done.
    ///
    /// # Errors
    /// The server refused it.
    ///
    /// # Cancel safety
    /// It goes on in the background; only its outcome is not learned.
    pub async fn done(self) -> Result<Released, Error> {
        self.guard.release().await
    }
}
