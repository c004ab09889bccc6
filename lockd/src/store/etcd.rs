//! The etcd store: any number of replicas in front of one cluster.
//!
//! Every call goes to whichever member answers (`endpoints`, `roster`); every commit has an
//! outcome (`commit`, `txn`); all leases are renewed on one stream (`keepalive`); the watch
//! never ends (`watch`).

mod commit;
mod endpoints;
mod fault;
mod keepalive;
mod roster;
mod txn;
mod version;
mod watch;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use endpoints::{Endpoints, Pauses};
use etcd_client::{
    Client, GetOptions, LeaseGrantOptions, LeaseTimeToLiveResponse, SortOrder, SortTarget,
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use keepalive::Keepalives;
use lockd_proto::{MAX_TTL, Ttl, TtlRange};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{Feed, Key, LeaseId, Op, Outcome, Profile, Record, Store, StoreError};
use crate::tasks::Tasks;

/// The shortest lease that etcd grants at its default election timeout.
const MIN_TTL: Duration = Duration::from_secs(2);

/// Operations in a transaction, and transactions under way at once: measured as 45 k pairs of
/// acquire and release a second, against 6.5 k one at a time.
const MAX_OPS: usize = 60;
const MAX_IN_FLIGHT: usize = 8;

/// How the cluster is reached.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' URLs.
    pub endpoints: Vec<String>,
    /// What all keys start with.
    pub prefix: String,
    /// A user and password.
    pub user: Option<(String, String)>,
    /// TLS, if the URLs are `https`.
    pub tls: Option<EtcdTls>,
}

/// How the members prove who they are, and lockd to them. All in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates; the system's, if absent.
    pub ca_pem: Option<Vec<u8>>,
    /// lockd's certificate and key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// The etcd store. Cheap to clone.
#[derive(Clone)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

struct Inner {
    profile: Profile,
    endpoints: Arc<Endpoints>,
    keepalives: Keepalives,
    keyspace: Keyspace,
    /// The fence's revision as last seen; zero before it was ever written.
    fence: AtomicI64,
    checked: OnceCell<()>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore").field("prefix", &self.inner.keyspace.prefix).finish()
    }
}

/// The part of etcd's keys that is ours.
struct Keyspace {
    prefix: String,
}

impl Keyspace {
    fn prefix(&self) -> Vec<u8> {
        self.prefix.as_bytes().to_vec()
    }

    /// The first key after all of ours.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix();
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return end;
            }
        }
        vec![0]
    }

    fn full(&self, key: &Key) -> Vec<u8> {
        [self.prefix.as_bytes(), key.as_bytes()].concat()
    }

    fn strip<'a>(&self, key: &'a [u8]) -> Option<&'a [u8]> {
        key.strip_prefix(self.prefix.as_bytes())
    }

    fn fence(&self) -> Vec<u8> {
        self.full(&Key::new("fence"))
    }

    fn is_fence(&self, key: &[u8]) -> bool {
        key == self.fence()
    }
}

impl EtcdStore {
    /// A store on this cluster. It probes the members and renews leases until `end`.
    ///
    /// An etcd that was restored from a backup without `--bump-revision` is not detected: its
    /// revisions, and so the fencing tokens, have gone back.
    ///
    /// # Errors
    /// The configuration names no endpoint.
    pub fn new(
        config: &EtcdConfig,
        tasks: &Tasks,
        end: CancellationToken,
    ) -> Result<Self, StoreError> {
        let endpoints = Arc::new(Endpoints::new(config)?);
        let (keepalives, renewing) = Keepalives::new(endpoints.clone());
        let renewing = end.clone().run_until_cancelled_owned(renewing);
        tasks.spawn("etcd keepalives", renewing);
        let probed = endpoints.clone();
        let probing = async move { end.run_until_cancelled(probed.probe()).await };
        tasks.spawn("etcd probes", probing);
        let inner = Inner {
            profile: Profile {
                name: "etcd",
                ttl: TtlRange { min: MIN_TTL, max: MAX_TTL },
                max_ops: MAX_OPS,
                max_in_flight: MAX_IN_FLIGHT,
                groups_commits: false,
                revision_per_op: false,
            },
            endpoints,
            keepalives,
            keyspace: Keyspace { prefix: config.prefix.clone() },
            fence: AtomicI64::new(0),
            checked: OnceCell::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Waits for the cluster, for as long as it takes, and checks the version of each member
    /// that answers. Nothing is read or watched for lockd before that.
    ///
    /// # Errors
    /// A version that is not safe to use, or an etcd that refuses to talk to us.
    pub async fn ready(&self) -> Result<(), StoreError> {
        self.inner.checked.get_or_try_init(|| self.inner.check()).await.copied()
    }
}

impl Inner {
    async fn check(&self) -> Result<(), StoreError> {
        let mut pauses = Pauses::new(&self.endpoints);
        loop {
            // A call, for only its error says why: a wrong password will not mend.
            let asked = self.endpoints.call(|mut client| async move { client.status().await });
            match asked.await {
                Ok(_) => break,
                Err(StoreError::Unavailable(why)) => {
                    let endpoints: Vec<_> = self.endpoints.urls().collect();
                    tracing::warn!(?endpoints, why, "waiting for etcd");
                    pauses.after_failure().await;
                }
                Err(error) => return Err(error),
            }
        }
        for (url, status) in self.endpoints.statuses().await {
            version::check(url, status.version())?;
            tracing::info!(url, version = status.version(), "etcd answers");
        }
        Ok(())
    }
}

impl Store for EtcdStore {
    fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    fn grant_lease(&self, lease: LeaseId, ttl: Ttl) -> BoxFuture<'_, Result<Ttl, StoreError>> {
        async move {
            let seconds = whole_seconds(ttl);
            let grant = self.inner.endpoints.call(|mut client| async move {
                let options = LeaseGrantOptions::new().with_id(lease.0);
                client.lease_grant(seconds, Some(options)).await.map(|granted| granted.ttl())
            });
            let granted = match grant.await {
                // The ids are random: one that is taken was taken by an earlier attempt.
                Err(StoreError::Broken(why)) if why.contains("lease already exists") => {
                    self.inner.lease(lease).await?.granted_ttl()
                }
                granted => granted?,
            };
            // What is gone again has no TTL.
            let granted = u64::try_from(granted).map_err(|_| StoreError::LeaseNotFound)?;
            Ok(Ttl::granted(Duration::from_secs(granted)))
        }
        .boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        self.inner.keepalives.renew(lease).boxed()
    }

    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        async move {
            let revoke = self.inner.endpoints.call(move |mut client| async move {
                client.lease_revoke(lease.0).await.map(drop)
            });
            match revoke.await {
                Err(StoreError::LeaseNotFound) => Ok(()),
                revoked => revoked,
            }
        }
        .boxed()
    }

    fn lease_remaining(
        &self,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        async move {
            let left = self.inner.lease(lease).await?.ttl();
            // A lease that is gone has -1 s left.
            Ok(u64::try_from(left).ok().map(Duration::from_secs))
        }
        .boxed()
    }

    fn commit(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        async move { self.inner.commit(&batch).await }.boxed()
    }

    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move { self.inner.read(self.inner.keyspace.full(&key), GetOptions::new()).await }
            .boxed()
    }

    fn first(&self, prefix: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move {
            let options = GetOptions::new()
                .with_prefix()
                .with_sort(SortTarget::Create, SortOrder::Ascend)
                .with_limit(1);
            self.inner.read(self.inner.keyspace.full(&prefix), options).await
        }
        .boxed()
    }

    fn watch(&self) -> BoxStream<'static, Feed> {
        let store = self.clone();
        let checked = async move {
            // What is not safe to use is not read either: the replica never becomes ready.
            if let Err(error) = store.ready().await {
                tracing::error!(%error, "the store can't be used");
                std::future::pending::<()>().await;
            }
            watch::Watch::new(&store)
        };
        stream::once(checked)
            .flat_map(|watch| {
                stream::unfold(watch, async |mut watch| Some((watch.next().await, watch)))
            })
            .boxed()
    }
}

impl Inner {
    async fn lease(&self, lease: LeaseId) -> Result<LeaseTimeToLiveResponse, StoreError> {
        let ask =
            move |mut client: Client| async move { client.lease_time_to_live(lease.0, None).await };
        self.endpoints.call(ask).await
    }

    async fn read(&self, key: Vec<u8>, options: GetOptions) -> Result<Option<Record>, StoreError> {
        let found = self.endpoints.call(|mut client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, Some(options)).await }
        });
        Ok(found.await?.kvs().first().and_then(|kv| txn::record(&self.keyspace, kv)))
    }
}

/// etcd counts whole seconds; a part of one is rounded up, never down.
fn whole_seconds(ttl: Ttl) -> i64 {
    let seconds = ttl.get().as_secs() + u64::from(ttl.get().subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
