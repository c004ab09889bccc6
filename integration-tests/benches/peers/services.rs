//! The lock services, each as its users would call it: one client, shared by all workers.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use etcd_client::{Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use futures::future::BoxFuture;
use lockd_client::{Client, Context};
use zookeeper_client as zk;

use crate::load::{Service, Witness};

/// A lease or lock that is not renewed outlives any measurement.
const LONG_SECONDS: i64 = 3600;

/// A client of the service at these addresses, by the name of its protocol.
pub(crate) async fn connect(protocol: &str, addresses: &str) -> Arc<dyn Service> {
    let endpoints: Vec<_> = addresses.split(',').map(str::to_owned).collect();
    match protocol {
        "lockd" => Arc::new(Lockd(Client::connect(addresses).await.unwrap())),
        "redis" => Arc::new(Redis::connect(addresses).await),
        "zookeeper" => Arc::new(ZooKeeper::connect(addresses).await),
        "etcd-lock" => Arc::new(EtcdLock::connect(&endpoints).await),
        "etcd-txn" => Arc::new(EtcdTxn::connect(&endpoints).await),
        _ => panic!("{protocol} is no protocol of a lock service"),
    }
}

/// lockd, by its client.
struct Lockd(Client);

impl Service for Lockd {
    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let guard = self.0.lock(lock).acquire(&Context::background()).await.unwrap();
            witness.holds(Some(guard.token().get())).await;
            guard.release().await.unwrap();
        })
    }
}

/// etcd's own lock service. Each waiter needs a lease of its own, which identifies it.
struct EtcdLock {
    client: etcd_client::Client,
    idle_leases: Mutex<Vec<i64>>,
}

/// The simplest lock on etcd: a transaction that creates a key if it is not there.
struct EtcdTxn {
    client: etcd_client::Client,
    lease: i64,
}

impl EtcdLock {
    async fn connect(endpoints: &[String]) -> Self {
        let client = etcd_client::Client::connect(endpoints, None).await.unwrap();
        Self { client, idle_leases: Mutex::default() }
    }

    async fn lease(&self) -> i64 {
        let idle = self.idle_leases.lock().unwrap().pop();
        match idle {
            Some(lease) => lease,
            None => granted(&self.client).await,
        }
    }
}

impl EtcdTxn {
    async fn connect(endpoints: &[String]) -> Self {
        let client = etcd_client::Client::connect(endpoints, None).await.unwrap();
        let lease = granted(&client).await;
        Self { client, lease }
    }
}

async fn granted(client: &etcd_client::Client) -> i64 {
    client.clone().lease_grant(LONG_SECONDS, None).await.unwrap().id()
}

impl Service for EtcdLock {
    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut client = self.client.clone();
            let lease = self.lease().await;
            let options = LockOptions::new().with_lease(lease);
            let held = client.lock(lock, Some(options)).await.unwrap();
            witness.holds(None).await;
            client.unlock(held.key()).await.unwrap();
            self.idle_leases.lock().unwrap().push(lease);
        })
    }
}

impl Service for EtcdTxn {
    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut client = self.client.clone();
            let options = PutOptions::new().with_lease(self.lease);
            let acquire = Txn::new()
                .when([Compare::create_revision(lock, CompareOp::Equal, 0)])
                .and_then([TxnOp::put(lock, "", Some(options))]);
            let acquired = client.txn(acquire).await.unwrap();
            assert!(acquired.succeeded(), "no other client wants it");
            let at = acquired.header().unwrap().revision();
            witness.holds(u64::try_from(at).ok()).await;
            let release = Txn::new()
                .when([Compare::create_revision(lock, CompareOp::Equal, at)])
                .and_then([TxnOp::delete(lock, None)]);
            assert!(client.txn(release).await.unwrap().succeeded());
        })
    }
}

/// The most common lock on Redis: no queue, no token, and waiters poll.
struct Redis {
    connection: redis::aio::MultiplexedConnection,
    release: redis::Script,
}

impl Redis {
    /// How soon it is asked again for a lock that is taken.
    const AGAIN: Duration = Duration::from_millis(1);

    async fn connect(address: &str) -> Self {
        let client = redis::Client::open(format!("redis://{address}/")).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let release = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";
        Self { connection, release: redis::Script::new(release) }
    }
}

impl Service for Redis {
    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut connection = self.connection.clone();
            let mine = uuid::Uuid::new_v4().simple().to_string();
            let mut set = redis::cmd("SET");
            set.arg(lock).arg(&mine).arg("NX").arg("PX").arg(30_000);
            while set.query_async::<Option<String>>(&mut connection).await.unwrap().is_none() {
                tokio::time::sleep(Self::AGAIN).await;
            }
            witness.holds(None).await;
            let mut release = self.release.key(lock);
            let released: i32 = release.arg(&mine).invoke_async(&mut connection).await.unwrap();
            assert_eq!(released, 1, "it was still mine");
        })
    }
}

/// ZooKeeper's lock recipe: an ephemeral node in sequence, which watches the one before it.
/// <https://zookeeper.apache.org/doc/current/recipes.html#sc_recipes_Locks>
struct ZooKeeper(zk::Client);

impl ZooKeeper {
    async fn connect(address: &str) -> Self {
        Self(zk::Client::connect(address).await.unwrap())
    }
}

impl Service for ZooKeeper {
    fn prepare<'a>(&'a self, lock: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
            self.0.create(&format!("/{lock}"), &[], &options).await.unwrap();
        })
    }

    fn pair<'a>(&'a self, lock: &'a str, witness: &'a Witness) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let folder = format!("/{lock}");
            let options = zk::CreateMode::EphemeralSequential.with_acls(zk::Acls::anyone_all());
            let (_, sequence) =
                self.0.create(&format!("{folder}/n-"), &[], &options).await.unwrap();
            let mine = format!("n-{sequence}");
            loop {
                let mut nodes = self.0.list_children(&folder).await.unwrap();
                nodes.sort();
                let place = nodes.iter().position(|node| *node == mine).unwrap();
                let Some(ahead) = place.checked_sub(1).map(|before| &nodes[before]) else { break };
                let watched = self.0.check_and_watch_stat(&format!("{folder}/{ahead}")).await;
                if let (Some(_), gone) = watched.unwrap() {
                    gone.changed().await;
                }
            }
            witness.holds(u64::try_from(sequence.into_i64() + 1).ok()).await;
            self.0.delete(&format!("{folder}/{mine}"), None).await.unwrap();
        })
    }
}
