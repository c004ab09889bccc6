//! The client: its configuration, its addresses, and its sessions.

mod unary;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lockd_proto::{DEFAULT_TTL, Namespace, clock::Clock, v1};

use self::unary::Unary;
pub(crate) use self::unary::{Metadata, Repeat};
use crate::{
    context::Context,
    endpoints::{self, Dial, Endpoints},
    error::{Call, Error, ErrorKind, Fault},
    propagation::Propagation,
    session::{Census, Command, SessionHandle, Shared},
    tasks::Tasks,
};

/// The daemon's address when none is configured.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:7420";

/// The most sessions, one for each TTL, of one client.
const MAX_SESSIONS: usize = 16;

/// How long a shutdown waits for servers that do not answer.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// A connection to lockd, and the sessions that hold its locks. Cheap to clone: clones share
/// everything.
///
/// ```no_run
/// # async fn example() -> Result<(), lockd_client::Error> {
/// use lockd_client::{Client, Context};
///
/// let client = Client::connect("127.0.0.1:7420,127.0.0.1:7430").await?;
/// let guard = client.lock("orders/42").acquire(&Context::background()).await?;
/// drop(guard);
/// client.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Bounds the calls that do not take a context of their own.
    context: Option<Context>,
}

struct Inner {
    shared: Arc<Shared>,
    unary: Unary,
    /// By TTL. A std mutex: it is held for a look-up only, never across an await.
    sessions: Mutex<Sessions>,
}

enum Sessions {
    Open(HashMap<Duration, SessionHandle>),
    ShutDown,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { endpoints, namespace, .. } = &*self.inner.shared;
        f.debug_struct("Client")
            .field("addresses", endpoints)
            .field("namespace", namespace)
            .finish_non_exhaustive()
    }
}

/// Configures a [`Client`].
#[derive(Clone)]
#[must_use = "nothing happens until the client is connected"]
pub struct ClientBuilder {
    addresses: String,
    namespace: String,
    ttl: Duration,
    name: Option<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
    clock: Clock,
    dial: Dial,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("addresses", &self.addresses)
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the first of these addresses that answers. They are separated by commas;
    /// without a scheme, `http://` is meant.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] names each address and why it failed;
    /// [`ErrorKind::Configuration`] an address that can't be understood.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn connect(addresses: impl Into<String>) -> Result<Self, Error> {
        Self::builder().addrs(addresses).connect().await
    }

    /// Connects to `LOCKD_ADDR` (`http://127.0.0.1:7420` if it is not set), in the namespace
    /// `LOCKD_NAMESPACE`.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn from_env() -> Result<Self, Error> {
        let mut builder = Self::builder();
        if let Some(addresses) = env("LOCKD_ADDR")? {
            builder = builder.addrs(addresses);
        }
        if let Some(namespace) = env("LOCKD_NAMESPACE")? {
            builder = builder.namespace(namespace);
        }
        builder.connect().await
    }

    /// A client with more than an address to configure.
    pub fn builder() -> ClientBuilder {
        ClientBuilder {
            addresses: DEFAULT_ADDRESS.to_owned(),
            namespace: String::new(),
            ttl: DEFAULT_TTL,
            name: None,
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            clock: Clock::system(),
            dial: endpoints::network(),
        }
    }

    /// The same client, whose calls that do not take a context (`get`, `list`, `watch` and so
    /// on) are bounded by this one and carry its trace.
    #[must_use]
    pub fn with_context(&self, ctx: &Context) -> Self {
        Self { inner: Arc::clone(&self.inner), context: Some(ctx.clone()) }
    }

    /// The clock that leases are counted on.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.shared.clock
    }

    /// Ends the client: waits until all releases are done, then closes its sessions, which
    /// releases whatever is still held. Takes 5 s at most if no server answers; what is then
    /// left at the server ends with its lease.
    ///
    /// # Cancel safety
    /// What was begun goes on in the background.
    pub async fn shutdown(&self) {
        let sessions = std::mem::replace(&mut *self.sessions(), Sessions::ShutDown);
        if let Sessions::Open(sessions) = sessions {
            for session in sessions.values() {
                session.post(Command::Close);
            }
        }
        let tasks = &self.shared().tasks;
        if tokio::time::timeout(SHUTDOWN, tasks.drained()).await.is_err() {
            tasks.stop().cancel();
            tasks.drained().await;
        }
    }

    /// What each session has open.
    pub(crate) async fn census(&self) -> Vec<Census> {
        let sessions: Vec<_> = match &*self.sessions() {
            Sessions::Open(sessions) => sessions.values().cloned().collect(),
            Sessions::ShutDown => Vec::new(),
        };
        let mut census = Vec::new();
        for session in sessions {
            census.extend(session.census().await);
        }
        census
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    pub(crate) fn shared_channel(&self) -> &Unary {
        &self.inner.unary
    }

    /// The context of calls that do not take one.
    pub(crate) fn call_context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    pub(crate) fn default_ttl(&self) -> Duration {
        self.inner.shared.ttl
    }

    /// The session of this TTL.
    pub(crate) fn session(&self, ttl: Duration) -> Result<SessionHandle, Fault> {
        let mut sessions = self.sessions();
        let Sessions::Open(sessions) = &mut *sessions else {
            return Err(Fault::new(ErrorKind::Cancelled, "the client is shut down"));
        };
        if let Some(session) = sessions.get(&ttl) {
            return Ok(session.clone());
        }
        if ttl.is_zero() {
            return Err(Fault::new(ErrorKind::InvalidArgument, "a ttl of zero is out of range"));
        }
        if sessions.len() >= MAX_SESSIONS {
            let message = "locks with 16 other ttls are in use: use fewer different ones";
            return Err(Fault::new(ErrorKind::InvalidArgument, message));
        }
        let session = SessionHandle::start(Arc::clone(self.shared()), ttl);
        sessions.insert(ttl, session.clone());
        Ok(session)
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        // Nothing panics while it is held; a map of handles would be whole all the same.
        self.inner.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientBuilder {
    /// The servers' addresses, separated by commas. Default: `http://127.0.0.1:7420`.
    pub fn addrs(mut self, addresses: impl Into<String>) -> Self {
        self.addresses = addresses.into();
        self
    }

    /// The namespace of all names. Default: `default`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The TTL of locks that do not ask for another. Default: 15 s.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The name that others see beside what this client holds, such as `api-7`. Default: the
    /// name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// How long [`connect`](Self::connect) tries, and each later connection. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long calls without a deadline wait for an answer, except for those that wait for a
    /// lock. Default: 10 s.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The clock that leases are counted on. Default: [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    #[cfg(test)]
    pub(crate) fn dial(mut self, dial: Dial) -> Self {
        self.dial = dial;
        self
    }

    /// Checks the configuration, and that at least one address answers.
    ///
    /// # Errors
    /// As [`Client::connect`].
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub async fn connect(self) -> Result<Client, Error> {
        let timeout = self.connect_timeout;
        let call = Call::new("connect");
        let client = self.build().map_err(|fault| call.failed(fault))?;
        client.answers(timeout).await?;
        Ok(client)
    }

    /// A client that has not connected yet.
    pub(crate) fn build(self) -> Result<Client, Fault> {
        let namespace = Namespace::parse_or_default(&self.namespace)
            .map_err(|error| Fault::new(ErrorKind::Configuration, error.to_string()))?;
        // Contexts would go on with the default, and only the log would tell.
        Propagation::from_env()
            .map_err(|error| Fault::new(ErrorKind::Configuration, error.to_string()))?;
        let endpoints = Endpoints::parse(&self.addresses, self.connect_timeout, self.dial)?;
        let shared = Shared {
            endpoints,
            clock: self.clock,
            tasks: Tasks::new(),
            namespace,
            info: identity(self.name),
            ttl: self.ttl,
            connect_timeout: self.connect_timeout,
            request_timeout: self.request_timeout,
        };
        let inner = Inner {
            shared: Arc::new(shared),
            unary: Unary::default(),
            sessions: Mutex::new(Sessions::Open(HashMap::new())),
        };
        Ok(Client { inner: Arc::new(inner), context: None })
    }
}

fn identity(name: Option<String>) -> v1::ClientInfo {
    let program = || {
        let path = std::env::current_exe().ok()?;
        Some(path.file_stem()?.to_string_lossy().into_owned())
    };
    v1::ClientInfo {
        name: name.or_else(program).unwrap_or_default(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
    }
}

fn env(name: &'static str) -> Result<Option<String>, Error> {
    match std::env::var(name) {
        Ok(value) if value.is_empty() => Ok(None),
        Ok(value) => Ok(Some(value)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            let fault = Fault::new(ErrorKind::Configuration, format!("{name} is not UTF-8"));
            Err(Call::new("connect").failed(fault))
        }
    }
}
