//! Running something once across all clients.

use std::{fmt, time::Duration};

use lockd_proto::v1::{
    self, ForgetOnceRequest, admin_service_client::AdminServiceClient, mode::Mode,
};

use crate::{
    client::{Client, Metadata, Repeat},
    context::Context,
    error::{Call, Error, ErrorKind},
    guard::Guard,
    held::Released,
    lock::LockBuilder,
};

/// Something that is to succeed once, such as a migration. Made by [`Client::once`].
///
/// One client runs it, the others wait. A run that fails, or whose session dies, lets the next
/// client run it; a success is stored with its result, and it is not run again.
///
/// ```no_run
/// # async fn migrate() -> Result<Vec<u8>, std::io::Error> { Ok(vec![]) }
/// # async fn example(client: lockd_client::Client, ctx: lockd_client::Context)
/// # -> Result<(), lockd_client::OnceError<std::io::Error>> {
/// let report = client.once("migrate-v7").run(&ctx, |_| migrate()).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until it is run"]
pub struct Once {
    client: Client,
    name: String,
    ttl: Option<Duration>,
}

/// What to do about a [`Once`].
#[derive(Debug)]
pub enum Turn {
    /// It is this client's to run.
    Run(OnceRun),
    /// It has been done, with this result.
    Done(Vec<u8>),
}

/// A run of a [`Once`]. Dropping it without a result lets the next client run it.
#[derive(Debug)]
#[must_use = "dropping it lets the next client run it"]
pub struct OnceRun {
    once: Once,
    guard: Guard,
}

impl OnceRun {
    /// The guard of this run, for its token, its state and what is left of its lease.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Stores the result, at most 64 KiB: the work is not run again.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the lock was lost before: nothing was stored, and another client
    /// may run it. [`ErrorKind::InvalidArgument`] for a result that is too long.
    ///
    /// # Cancel safety
    /// Whether it was stored is then not known: [`Once::result`] returns it if it was.
    pub async fn complete(self, ctx: &Context, result: Vec<u8>) -> Result<(), Error> {
        let Self { once, guard } = self;
        match guard.complete(ctx, result).await {
            Ok(()) => Ok(()),
            // The answer may have been lost with the session: a stored result counts as success.
            Err(error) if error.is_lost() => match once.result().await {
                Ok(Some(_)) => Ok(()),
                Ok(None) | Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Lets the next client run it.
    ///
    /// # Errors
    /// The server refused it.
    ///
    /// # Cancel safety
    /// It goes on in the background.
    pub async fn fail(self) -> Result<Released, Error> {
        self.guard.release().await
    }
}

/// Why something was not done once.
#[derive(Debug)]
#[non_exhaustive]
pub enum OnceError<E> {
    /// The run failed. Another client may run it now.
    Run(E),
    /// It was not run, or the lock was lost while it ran.
    Lock(Error),
}

impl<E: fmt::Display> fmt::Display for OnceError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run(error) => error.fmt(f),
            Self::Lock(error) => error.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for OnceError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Run(error) => error.source(),
            Self::Lock(error) => error.source(),
        }
    }
}

impl<E> From<Error> for OnceError<E> {
    fn from(error: Error) -> Self {
        Self::Lock(error)
    }
}

impl Client {
    /// Something that is to succeed once across all clients, by name.
    pub fn once(&self, name: impl Into<String>) -> Once {
        Once { client: self.clone(), name: name.into(), ttl: None }
    }
}

impl Once {
    /// Runs by a lease of this length instead of the client's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Runs `work` if no run has succeeded yet, or waits for the client that runs it, and
    /// returns the stored result, at most 64 KiB. `work` is given a context that ends when the
    /// lock is lost; its future is then dropped.
    ///
    /// # Errors
    /// [`OnceError::Run`] if `work` failed; [`OnceError::Lock`] as for
    /// [`LockBuilder::acquire`], if the lock was lost while `work` ran, or if its success could
    /// not be stored: then it may be run again.
    ///
    /// # Cancel safety
    /// Dropping the future drops `work` and lets the next client run it.
    pub async fn run<E, F>(
        &self,
        ctx: &Context,
        work: impl FnOnce(Context) -> F,
    ) -> Result<Vec<u8>, OnceError<E>>
    where
        F: Future<Output = Result<Vec<u8>, E>>,
    {
        let turn = match self.begin(ctx).await? {
            Turn::Run(turn) => turn,
            Turn::Done(result) => return Ok(result),
        };
        let guard = turn.guard();
        match guard.run(work(guard.context())).await? {
            Ok(result) => {
                turn.complete(ctx, result.clone()).await?;
                Ok(result)
            }
            Err(error) => {
                turn.fail().await?;
                Err(OnceError::Run(error))
            }
        }
    }

    /// Waits until it is this client's turn to run it, or until another run succeeds. For runs
    /// that [`run`](Self::run) does not fit.
    ///
    /// # Errors
    /// As [`LockBuilder::acquire`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the queue.
    pub async fn begin(&self, ctx: &Context) -> Result<Turn, Error> {
        Ok(match self.entry().acquire_once(ctx).await? {
            Ok(guard) => Turn::Run(OnceRun { once: self.clone(), guard }),
            Err(result) => Turn::Done(result),
        })
    }

    /// The result, if it has been done.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn result(&self) -> Result<Option<Vec<u8>>, Error> {
        self.client.explain(self.name.as_str()).await.map(|explained| explained.result)
    }

    /// Forgets the result, so that it can be run again. Says whether there was one.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Whether it was forgotten is then not known.
    pub async fn forget(&self) -> Result<bool, Error> {
        let call = Call::new("forget").on(self.name.as_str());
        let (namespace, name) = (self.client.namespace(), self.name.clone());
        let message = ForgetOnceRequest { namespace, name };
        let answer = self.client.unary(call, Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { AdminServiceClient::new(channel).forget_once(request).await }
        });
        answer.await.map(|forgotten| forgotten.existed)
    }

    fn entry(&self) -> LockBuilder {
        let mode = Mode::Once(v1::Once {});
        let entry = LockBuilder::new(self.client.clone(), vec![self.name.clone()], mode);
        match self.ttl {
            Some(ttl) => entry.ttl(ttl),
            None => entry,
        }
    }
}

impl<E> OnceError<E> {
    /// The kind of the lock's failure; `None` if it was the run that failed.
    #[must_use]
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Run(_) => None,
            Self::Lock(error) => Some(error.kind()),
        }
    }
}
