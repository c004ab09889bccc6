//! Leader election.
//!
//! An election is a lock whose holder leads. What a leader says of itself is the entry's value,
//! so `lockd get`, `explain` and `force-release` work on elections as on locks.

use std::time::Duration;

use lockd_proto::{
    FencingToken,
    v1::{self, mode::Mode},
};
use tokio::sync::watch;

use crate::{
    client::Client,
    context::Context,
    error::{Error, ErrorKind},
    guard::Guard,
    held::{LockState, LossReason, Released},
    lock::LockBuilder,
    observe::{Seen, Watcher},
    queue::{EntryInfo, LockInfo},
};

/// An election. Made by [`Client::election`].
///
/// ```no_run
/// # async fn lead(ctx: lockd_client::Context) {}
/// # async fn example(client: lockd_client::Client, ctx: lockd_client::Context)
/// # -> Result<(), lockd_client::Error> {
/// // Campaigns, leads, and campaigns again after a loss, until `lead` returns.
/// client.election("scheduler").run(&ctx, "10.0.0.7:80", lead).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing happens until somebody campaigns or observes"]
pub struct Election {
    client: Client,
    name: String,
    ttl: Option<Duration>,
}

/// The leadership of an election. Dropping it resigns in the background.
#[derive(Debug)]
#[must_use = "dropping it resigns"]
pub struct Leadership {
    guard: Guard,
}

/// A leader, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The fencing token: greater than that of every earlier leader.
    pub token: FencingToken,
    /// What the leader says of itself.
    pub value: Vec<u8>,
    /// The name of the client that leads.
    pub client_name: String,
    /// The host that it runs on.
    pub host: String,
    /// Its session.
    pub session_id: String,
}

/// What an observer receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// This one leads.
    Leader(Leader),
    /// No candidate leads.
    Nobody,
    /// No server can confirm a leader at this moment: the previous one may no longer lead.
    Unknown,
}

/// The leaders of an election, one after the other. Made by [`Election::observe`].
#[derive(Debug)]
pub struct Observation {
    watcher: Watcher,
    last: Option<Observed>,
}

impl Client {
    /// An election by name.
    pub fn election(&self, name: impl Into<String>) -> Election {
        Election { client: self.clone(), name: name.into(), ttl: None }
    }
}

impl Election {
    /// Leads by a lease of this length instead of the client's.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Waits until this candidate leads. The value, at most 4 KiB, is what others see of the
    /// leader, such as its address.
    ///
    /// # Errors
    /// [`ErrorKind::Lost`] if the candidate's session dies while it waits: its place is gone.
    /// Else as [`LockBuilder::acquire`].
    ///
    /// # Cancel safety
    /// Dropping the future withdraws the candidate, which is then not elected.
    pub async fn campaign(
        &self,
        ctx: &Context,
        value: impl Into<Vec<u8>>,
    ) -> Result<Leadership, Error> {
        let mode = Mode::Exclusive(v1::Exclusive {});
        let mut entry = LockBuilder::new(self.client.clone(), vec![self.name.clone()], mode)
            .fail_on_loss()
            .value(value);
        if let Some(ttl) = self.ttl {
            entry = entry.ttl(ttl);
        }
        entry.acquire(ctx).await.map(|guard| Leadership { guard })
    }

    /// Campaigns and works while leading. If the leadership is lost, what `work` has returned
    /// is dropped, and this campaigns again. When `work` is done, it resigns.
    ///
    /// # Errors
    /// As [`campaign`](Self::campaign), but for losses.
    ///
    /// # Cancel safety
    /// Dropping the future drops the work and resigns in the background.
    pub async fn run<T, F>(
        &self,
        ctx: &Context,
        value: impl Into<Vec<u8>>,
        mut work: impl FnMut(Context) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = T>,
    {
        let value = value.into();
        loop {
            let leadership = match self.campaign(ctx, value.clone()).await {
                Ok(leadership) => leadership,
                Err(error) if error.is_lost() => continue,
                Err(error) => return Err(error),
            };
            match leadership.guard.run(work(leadership.context())).await {
                Ok(done) => {
                    leadership.resign().await?;
                    return Ok(done);
                }
                Err(error) if error.is_lost() => {
                    tracing::warn!(election = self.name, %error, "the leadership is lost");
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the current leader; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn leader(&self) -> Result<Option<Leader>, Error> {
        let lock = self.client.get(self.name.as_str()).await?;
        Ok(lock.and_then(leader))
    }

    /// Observes the election: who leads, then every change.
    #[must_use]
    pub fn observe(&self) -> Observation {
        Observation { watcher: Watcher::new(self.client.clone(), self.name.clone()), last: None }
    }
}

impl Observation {
    /// The next thing to know: at first who leads, then each change. A leader whose lease is
    /// over is never shown: when no server confirms for 6 s that it leads, this is
    /// [`Observed::Unknown`], and the observation goes on by itself.
    ///
    /// # Errors
    /// What can't be mended by trying again, such as a bad name.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Observed, Error> {
        loop {
            let now = match self.watcher.next().await {
                Seen::Lock(lock) => {
                    lock.and_then(leader).map_or(Observed::Nobody, Observed::Leader)
                }
                Seen::Unknown(error) if error.kind() == ErrorKind::InvalidArgument => {
                    return Err(error);
                }
                Seen::Unknown(_) => Observed::Unknown,
            };
            // The queue behind a leader changes without concern to who leads.
            if self.last.as_ref() != Some(&now) {
                self.last = Some(now.clone());
                return Ok(now);
            }
        }
    }
}

/// The leader, unless its session has died and only its lock-delay is left.
fn leader(lock: LockInfo) -> Option<Leader> {
    let EntryInfo { token, value, client_name, host, session_id, lost, .. } =
        lock.holders.into_iter().next()?;
    (!lost).then_some(Leader { token, value, client_name, host, session_id })
}

impl Leadership {
    /// The fencing token: greater than that of every earlier leader.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.guard.token()
    }

    /// A context that ends when the leadership does.
    #[must_use]
    pub fn context(&self) -> Context {
        self.guard.context()
    }

    /// The state of the leadership, to be watched. `Lost` is final.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LockState> {
        self.guard.state()
    }

    /// Waits until the leadership is lost, and says why.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn lost(&self) -> LossReason {
        self.guard.lost().await
    }

    /// Waits until a client asks this leader to resign, and returns the reason.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn yield_requested(&self) -> String {
        self.guard.yield_requested().await
    }

    /// Says something else of this leader, under the same leadership.
    ///
    /// # Errors
    /// As [`Guard::set_value`].
    ///
    /// # Cancel safety
    /// Whether it was said is then not known.
    pub async fn proclaim(
        &mut self,
        ctx: &Context,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), Error> {
        self.guard.set_value(ctx, value).await
    }

    /// Gives up the leadership: the next candidate leads.
    ///
    /// # Errors
    /// The server refused it.
    ///
    /// # Cancel safety
    /// It goes on in the background; only its outcome is not learned.
    pub async fn resign(self) -> Result<Released, Error> {
        self.guard.release().await
    }
}
