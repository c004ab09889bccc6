//! Pairs a second of every service under every load, in rounds: what slows the machine down for a
//! while slows all of them down.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use integration_tests::peers::Peer;
use lockd_client::Client;

use crate::{
    Subject,
    load::{Load, Service, measure as rate},
    services::{EtcdLock, EtcdTxn, Lockd, Redis, ZooKeeper},
};

pub(crate) const EMBEDDED: &str = "lockd, embedded store";
pub(crate) const REDIS: &str = "Redis, synced";
pub(crate) const ZOOKEEPER: &str = "ZooKeeper";
pub(crate) const ON_ETCD: &str = "lockd on etcd, 1 node";
pub(crate) const LOCK: &str = "etcd's lock service, 1 node";
pub(crate) const TXN: &str = "etcd, CAS transaction, 1 node";
pub(crate) const ON_ETCD_3: &str = "lockd on etcd, 3 nodes";
pub(crate) const LOCK_3: &str = "etcd's lock service, 3 nodes";

/// In the order in which they are shown, each with the lockd that it is compared with.
pub(crate) const SERVICES: [(&str, &str); 8] = [
    (EMBEDDED, EMBEDDED),
    (REDIS, EMBEDDED),
    (ZOOKEEPER, EMBEDDED),
    (ON_ETCD, ON_ETCD),
    (LOCK, ON_ETCD),
    (TXN, ON_ETCD),
    (ON_ETCD_3, ON_ETCD_3),
    (LOCK_3, ON_ETCD_3),
];

/// What each round gave.
pub(crate) struct Pairs {
    rounds: BTreeMap<(&'static str, Load), Vec<f64>>,
}

/// The middle of all rounds, and how far they lie apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Pairs {
    pub(crate) fn of(&self, service: &'static str, load: Load) -> Option<Figure> {
        let mut rates = self.rounds.get(&(service, load))?.clone();
        rates.sort_by(f64::total_cmp);
        Some(Figure { median: rates[rates.len() / 2], min: rates[0], max: rates[rates.len() - 1] })
    }

    pub(crate) fn median(&self, service: &'static str, load: Load) -> f64 {
        self.of(service, load).map_or(0.0, |figure| figure.median)
    }

    pub(crate) fn count(&self) -> usize {
        self.rounds.values().map(Vec::len).max().unwrap_or_default()
    }
}

pub(crate) async fn measure(rounds: u64, seconds: u64) -> Pairs {
    let (embedded, one, three) =
        (Subject::embedded().await, Subject::etcd(1).await, Subject::etcd(3).await);
    let (redis, zookeeper) = (Peer::redis().await, Peer::zookeeper().await);
    let members = |subject: &Subject| subject.etcd.as_ref().unwrap().addresses().to_vec();
    let services: [(_, Arc<dyn Service>); 8] = [
        (EMBEDDED, lockd(&embedded).await),
        (REDIS, Arc::new(Redis::connect(&redis.addresses()[0]).await)),
        (ZOOKEEPER, Arc::new(ZooKeeper::connect(&zookeeper.addresses()[0]).await)),
        (ON_ETCD, lockd(&one).await),
        (LOCK, Arc::new(EtcdLock::connect(&members(&one)).await)),
        (TXN, Arc::new(EtcdTxn::connect(&members(&one)).await)),
        (ON_ETCD_3, lockd(&three).await),
        (LOCK_3, Arc::new(EtcdLock::connect(&members(&three)).await)),
    ];
    let mut measured: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for round in 1..=rounds {
        for load in Load::ALL {
            for (name, service) in &services {
                if matches!(load, Load::Hot(_)) && !service.waits() {
                    continue;
                }
                let pairs = rate(service, load, Duration::from_secs(seconds)).await;
                eprintln!(
                    "round {round} of {rounds}, {name}, {}: {pairs:.0} pairs/s",
                    load.title()
                );
                measured.entry((*name, load)).or_default().push(pairs);
            }
        }
    }
    Pairs { rounds: measured }
}

async fn lockd(subject: &Subject) -> Arc<dyn Service> {
    Arc::new(Lockd(Client::connect(&subject.daemon.url()).await.unwrap()))
}
