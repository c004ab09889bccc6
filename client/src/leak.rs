//! Checks that nothing is left behind: for tests of whatever uses locks.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use lockd_client::{Client, leak};
//!
//! let client = Client::from_env().await?;
//! // … the scenario, at whose end all guards are dropped …
//! leak::check(&client).await?;
//! # Ok(()) }
//! ```

use std::{fmt, time::Duration};

use lockd_proto::{
    FencingToken, SessionId,
    v1::{self, session_service_client::SessionServiceClient},
};
use tokio::time::{Instant, sleep};

use crate::{
    client::{Client, Repeat},
    error::{Call, Error, ErrorKind},
    queue::LockInfo,
    session::{Census, Phase},
};

/// How long what is on its way out may take.
const LIMIT: Duration = Duration::from_secs(5);

/// How long a look at what is left rests before the next one.
const PAUSE: Duration = Duration::from_millis(5);

/// Something that was left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Leak {
    /// A guard is neither released nor dropped.
    Guard {
        /// The lock, if the server still has it.
        lock: Option<String>,
        /// The token.
        token: FencingToken,
    },
    /// An acquire that still waits.
    Waiter {
        /// The lock.
        lock: String,
    },
    /// A release or a cancel that no server has answered.
    Leaving,
    /// An entry in a queue at the server, whose session is over here.
    Entry {
        /// The lock.
        lock: String,
        /// The token that the entry has, or will have.
        token: FencingToken,
    },
    /// A session at the server that is over here.
    Session(SessionId),
    /// A task of this crate.
    Task(&'static str),
    /// No server answers, so it is unknown what is left there.
    Unanswered(String),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guard { lock: Some(lock), token } => {
                write!(f, "guard of {lock:?}, token {token}")
            }
            Self::Guard { lock: None, token } => write!(f, "guard, token {token}"),
            Self::Waiter { lock } => write!(f, "acquire of {lock:?} that waits"),
            Self::Leaving => f.write_str("release or cancel without an answer"),
            Self::Entry { lock, token } => {
                write!(f, "entry in {lock:?} at the server, token {token}")
            }
            Self::Session(id) => write!(f, "session {id} at the server"),
            Self::Task(name) => write!(f, "task {name:?}"),
            Self::Unanswered(error) => write!(f, "perhaps something at the server: {error}"),
        }
    }
}

/// All that was left behind, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaks(Vec<Leak>);

impl Leaks {
    /// What was left behind.
    #[must_use]
    pub fn leaks(&self) -> &[Leak] {
        &self.0
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} left behind:", self.0.len())?;
        self.0.iter().try_for_each(|leak| write!(f, "\n  {leak}"))
    }
}

impl std::error::Error for Leaks {}

/// The names of this crate's tasks in this runtime that belong to no client: what cleans up after
/// calls that were given up. Each ends by itself, within seconds.
///
/// # Panics
/// Outside of a runtime.
#[must_use]
pub fn tasks() -> Vec<&'static str> {
    crate::tasks::in_background_of(&tokio::runtime::Handle::current())
}

/// Ends a client as [`Client::shutdown`] does, and checks that it leaves nothing: no guard, no
/// acquire, no task of this crate in this runtime, and no entry and no session at the server.
/// What is on its way out is waited for, 5 s at most.
///
/// # Errors
/// What was left.
///
/// # Cancel safety
/// The shutdown goes on in the background.
pub async fn check(client: &Client) -> Result<(), Leaks> {
    let by = Instant::now() + LIMIT;
    let sessions = at_rest(client, by).await?;
    client.shutdown().await;
    loop {
        let mut left: Vec<_> = client.shared().tasks.names().into_iter().map(Leak::Task).collect();
        left.extend(at_server(client, &sessions).await);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= by {
            return Err(Leaks(left));
        }
        sleep(PAUSE).await;
    }
}

/// Waits until nothing is held or asked for; the sessions that did so.
async fn at_rest(client: &Client, by: Instant) -> Result<Vec<v1::SessionCredential>, Leaks> {
    loop {
        let census = client.census().await;
        if census.iter().all(|session| session.open.is_empty()) {
            return Ok(census.into_iter().filter_map(|session| session.credential).collect());
        }
        if Instant::now() >= by {
            return Err(Leaks(named(client, census).await));
        }
        sleep(PAUSE).await;
    }
}

/// What is open, with the names that the server has for tokens.
async fn named(client: &Client, census: Vec<Census>) -> Vec<Leak> {
    let locks = client.list("").await.unwrap_or_default();
    let name = |token| {
        let holds = |lock: &&LockInfo| lock.holders.iter().any(|entry| entry.token == token);
        locks.iter().find(holds).map(|lock| lock.name.clone())
    };
    let open = census.into_iter().flat_map(|session| session.open);
    open.map(|phase| match phase {
        Phase::Waiting(lock) => Leak::Waiter { lock },
        Phase::Held(token) => Leak::Guard { lock: name(token), token },
        Phase::Leaving => Leak::Leaving,
    })
    .collect()
}

/// What a server still has of these sessions.
async fn at_server(client: &Client, sessions: &[v1::SessionCredential]) -> Vec<Leak> {
    let mut left = Vec::new();
    for credential in sessions {
        match renewed(client, credential).await {
            Ok(()) => left.extend(credential.session_id.parse().ok().map(Leak::Session)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return vec![Leak::Unanswered(error.to_string())],
        }
    }
    let ours = |id: &str| sessions.iter().any(|session| session.session_id == id);
    let locks = match client.list("").await {
        Ok(locks) => locks,
        Err(error) => return vec![Leak::Unanswered(error.to_string())],
    };
    for lock in locks {
        let entries = lock.holders.iter().chain(&lock.waiters);
        // What is lost is there on purpose: for its lock-delay, or to fail its group.
        let entries = entries.filter(|entry| ours(&entry.session_id) && !entry.lost);
        let leak = |token| Leak::Entry { lock: lock.name.clone(), token };
        left.extend(entries.map(|entry| leak(entry.token)));
    }
    left
}

/// A session that is there can be renewed.
async fn renewed(client: &Client, credential: &v1::SessionCredential) -> Result<(), Error> {
    let message = v1::KeepAliveRequest { session: Some(credential.clone()) };
    let call = Call::new("leak check");
    let ask = client.unary(call, Repeat::Harmless, |channel, metadata| {
        let request = metadata.request(message.clone());
        async move { SessionServiceClient::new(channel).keep_alive(request).await }
    });
    ask.await.map(drop)
}
