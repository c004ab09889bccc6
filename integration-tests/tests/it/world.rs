//! Where a test takes place: daemons of its own, on either store.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use integration_tests::{
    Daemon, Etcd, StoreKind, daemon::DaemonBuilder, eventually, unique_prefix,
};
use lockd_client::{Client, Context, Guard, LockInfo, leak};
use lockd_proto::v1::{
    self, lock_service_client::LockServiceClient, session_service_client::SessionServiceClient,
};
use tonic::transport::Channel;

/// Long enough for anything that is not waiting for a lease.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// The shortest TTL that both stores support.
pub(crate) const TTL: Duration = Duration::from_secs(2);

/// The TTL of clients that are to hold what they hold: a busy machine may stop a test for a
/// while.
pub(crate) const LEASE: Duration = Duration::from_secs(6);

/// One or two daemons on one store.
pub(crate) struct World {
    pub(crate) daemons: Vec<Daemon>,
    /// Kept for as long as the daemon uses it.
    dir: Option<tempfile::TempDir>,
    aftermath: Aftermath,
}

/// What outlives a world: its clients, which are to leave nothing behind, and the daemons that can
/// tell.
#[derive(Clone, Default)]
pub(crate) struct Aftermath(Arc<Mutex<Remains>>);

#[derive(Default)]
struct Remains {
    clients: Vec<Client>,
    daemons: Vec<Daemon>,
    dir: Option<tempfile::TempDir>,
}

/// Writes one test of both stores: `both_stores!(name)` runs `async fn name(world: World)`, and then
/// sees that the world's clients have left nothing behind.
macro_rules! both_stores {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            #[tokio::test]
            async fn embedded() {
                let world = $crate::world::World::embedded().await;
                let aftermath = world.aftermath();
                super::$name(world).await;
                aftermath.has_no_leaks().await;
            }

            #[tokio::test]
            async fn etcd() {
                let world = $crate::world::World::etcd().await;
                let aftermath = world.aftermath();
                super::$name(world).await;
                aftermath.has_no_leaks().await;
            }
        })+
    };
}
pub(crate) use both_stores;

impl Aftermath {
    /// Ends the clients, and fails if one of them leaves a guard, a waiter, an entry, a session or a
    /// task.
    pub(crate) async fn has_no_leaks(&self) {
        let (clients, daemons) = {
            let mut remains = self.0.lock().unwrap();
            (std::mem::take(&mut remains.clients), std::mem::take(&mut remains.daemons))
        };
        for client in clients {
            let Err(leaks) = leak::check(&client).await else { continue };
            let mut answers = false;
            for daemon in &daemons {
                answers |= http_status(daemon, "/readyz").await == Some(200);
            }
            // A test that has killed its daemons, or their store, can't learn what is left there.
            let unanswered = |leak: &leak::Leak| matches!(leak, leak::Leak::Unanswered(_));
            assert!(!answers && leaks.leaks().iter().all(unanswered), "{leaks}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let mut remains = self.aftermath.0.lock().unwrap();
        remains.daemons = std::mem::take(&mut self.daemons);
        remains.dir = self.dir.take();
    }
}

impl World {
    /// One daemon on a folder of its own.
    pub(crate) async fn embedded() -> Self {
        Self::embedded_with(|daemon| daemon).await
    }

    /// The same, started in another way.
    pub(crate) async fn embedded_with(start: impl Fn(DaemonBuilder) -> DaemonBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreKind::Embedded { dir: dir.path().join("data") };
        let daemon = start(Daemon::builder().store(store)).start().await;
        Self { daemons: vec![daemon], dir: Some(dir), aftermath: Aftermath::default() }
    }

    /// Two replicas in front of one etcd.
    pub(crate) async fn etcd() -> Self {
        Self::etcd_with(|daemon| daemon).await
    }

    /// The same, started in another way.
    pub(crate) async fn etcd_with(start: impl Fn(DaemonBuilder) -> DaemonBuilder) -> Self {
        let etcd = Etcd::shared().await;
        let prefix = unique_prefix();
        let mut daemons = Vec::new();
        for _ in 0..2 {
            let (endpoints, prefix) = (etcd.endpoints(), prefix.clone());
            let store = StoreKind::Etcd { endpoints, prefix };
            let daemon = start(Daemon::builder().store(store)).start().await;
            ready(&daemon).await;
            daemons.push(daemon);
        }
        Self { daemons, dir: None, aftermath: Aftermath::default() }
    }

    pub(crate) fn first(&mut self) -> &mut Daemon {
        self.daemons.first_mut().unwrap()
    }

    /// Kills the first daemon without warning and starts it again at the same address.
    pub(crate) async fn kill_and_restart_first(&mut self) {
        self.first().kill9().await;
        self.first().restart().await;
        ready(self.first()).await;
    }

    /// The folder of the embedded store.
    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.dir.as_ref().unwrap().path().join("data")
    }

    /// What is to be seen of it when it is over.
    pub(crate) fn aftermath(&self) -> Aftermath {
        self.aftermath.clone()
    }

    /// A client whose leaks are the world's.
    async fn client_of(&self, addrs: &str, ttl: Duration) -> Client {
        let client = client_of(addrs, ttl).await;
        self.aftermath.0.lock().unwrap().clients.push(client.clone());
        client
    }

    fn addrs(&self) -> String {
        self.daemons.iter().map(Daemon::url).collect::<Vec<_>>().join(",")
    }

    /// A client that knows all replicas, as a service would be configured.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(&self.addrs(), LEASE).await
    }

    /// A client whose leases outlast a restart.
    pub(crate) async fn patient_client(&self) -> Client {
        self.client_of(&self.addrs(), Duration::from_secs(10)).await
    }

    /// A client that prefers the last replica, which is another one where there are two.
    pub(crate) async fn other_client(&self) -> Client {
        let mut addrs: Vec<_> = self.daemons.iter().map(Daemon::url).collect();
        addrs.reverse();
        self.client_of(&addrs.join(","), LEASE).await
    }

    /// The raw API of the first replica.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::connect(&self.daemons.first().unwrap().url()).await
    }
}

pub(crate) async fn client_of(addrs: &str, ttl: Duration) -> Client {
    Client::builder().addrs(addrs).ttl(ttl).name("test").connect().await.unwrap()
}

pub(crate) fn soon() -> Context {
    Context::background().with_timeout(SOON)
}

/// Waits until a daemon has heard from its store.
pub(crate) async fn ready(daemon: &Daemon) {
    let ready = async || http_status(daemon, "/readyz?verbose").await == Some(200);
    eventually("the daemon is ready", SOON, ready).await;
}

/// The status of a plain HTTP request: too little to need a library.
pub(crate) async fn http_status(daemon: &Daemon, path: &str) -> Option<u16> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(daemon.http_addr()).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: lockd\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Waits until a lock has this many waiters.
pub(crate) async fn waiters(client: &Client, lock: &str, count: usize) -> LockInfo {
    eventually(&format!("{count} wait for {lock}"), SOON, async || {
        let found = client.get(lock).await.ok()??;
        (found.waiters.len() == count).then_some(found)
    })
    .await
}

/// Waits until a lock has neither a holder nor a waiter.
pub(crate) async fn free(client: &Client, lock: &str) {
    eventually(&format!("{lock} is free"), SOON, async || {
        matches!(client.get(lock).await, Ok(None))
    })
    .await;
}

/// Acquires in a task of its own.
pub(crate) fn acquire_later(client: &Client, lock: &str) -> tokio::task::JoinHandle<Guard> {
    let lock = client.lock(lock);
    tokio::spawn(async move { lock.acquire(&soon()).await.unwrap() })
}

/// The unary API, as a client in any language has it.
pub(crate) struct Raw {
    pub(crate) sessions: SessionServiceClient<Channel>,
    pub(crate) locks: LockServiceClient<Channel>,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let channel = Channel::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Self {
            sessions: SessionServiceClient::new(channel.clone()),
            locks: LockServiceClient::new(channel),
        }
    }

    pub(crate) async fn open(&mut self, ttl: Duration) -> v1::SessionCredential {
        let ttl = Some(ttl.try_into().unwrap());
        let request = v1::OpenSessionRequest { ttl, client: None, session: None };
        self.sessions.open_session(request).await.unwrap().into_inner().session.unwrap()
    }

    pub(crate) async fn acquire(
        &mut self,
        session: &v1::SessionCredential,
        acquire: v1::Acquire,
    ) -> Result<v1::AcquireResponse, tonic::Status> {
        let request = v1::AcquireRequest { session: Some(session.clone()), acquire: Some(acquire) };
        self.locks.acquire(request).await.map(tonic::Response::into_inner)
    }
}

/// An acquire of this lock that waits for ever.
pub(crate) fn acquire_of(name: &str, request: u8) -> v1::Acquire {
    v1::Acquire { request_id: vec![request; 16], name: name.to_owned(), ..v1::Acquire::default() }
}

/// The token of a grant.
pub(crate) fn token(response: v1::AcquireResponse) -> u64 {
    match response.outcome {
        Some(v1::acquire_response::Outcome::Grant(grant)) => grant.token,
        other => panic!("granted, not {other:?}"),
    }
}

/// The stable reason of a failed call.
pub(crate) fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    let info = status.get_error_details().error_info().cloned();
    let info = info.unwrap_or_else(|| panic!("an ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "lockd");
    info.reason
}
