//! The services that are compared, and under which loads each is measured.

use std::collections::BTreeSet;

use integration_tests::peers::Peer;

use crate::{
    load::Load,
    subject::{Store, Subject},
};

/// A service, or what the machine itself can do. In the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// lockd on a journal.
    Journal,
    /// A Redis that syncs each write.
    Redis,
    ZooKeeper,
    /// One write and one sync after the other: no durable grant is faster with one worker.
    Disk,
    /// lockd on an etcd of one node.
    OnEtcd,
    /// The lock service of that etcd.
    EtcdLock,
    /// Its transactions.
    EtcdTxn,
    /// lockd on an etcd of three nodes.
    OnEtcd3,
    /// The lock service of those.
    EtcdLock3,
}

/// Those whose servers run at the same time: what is compared meets the same noise.
pub(crate) const PHASES: [&[Contender]; 2] = [
    &[
        Contender::Journal,
        Contender::Redis,
        Contender::ZooKeeper,
        Contender::Disk,
        Contender::OnEtcd,
        Contender::EtcdLock,
        Contender::EtcdTxn,
    ],
    &[Contender::OnEtcd3, Contender::EtcdLock3],
];

impl Contender {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Journal => "lockd on a journal",
            Self::Redis => "Redis, synced",
            Self::ZooKeeper => "ZooKeeper",
            Self::Disk => "the disk: write and fdatasync",
            Self::OnEtcd => "lockd on etcd, 1 node",
            Self::EtcdLock => "etcd's lock service, 1 node",
            Self::EtcdTxn => "etcd, CAS transaction, 1 node",
            Self::OnEtcd3 => "lockd on etcd, 3 nodes",
            Self::EtcdLock3 => "etcd's lock service, 3 nodes",
        }
    }

    /// The lockd that it is shown beside.
    pub(crate) fn lockd(self) -> Self {
        match self {
            Self::Journal | Self::Redis | Self::ZooKeeper | Self::Disk => Self::Journal,
            Self::OnEtcd | Self::EtcdLock | Self::EtcdTxn => Self::OnEtcd,
            Self::OnEtcd3 | Self::EtcdLock3 => Self::OnEtcd3,
        }
    }

    /// Where it keeps its log, if it is a lockd.
    pub(crate) fn store(self) -> Option<Store> {
        match self {
            Self::Journal => Some(Store::Journal),
            Self::OnEtcd => Some(Store::Etcd(1)),
            Self::OnEtcd3 => Some(Store::Etcd(3)),
            Self::Redis
            | Self::ZooKeeper
            | Self::Disk
            | Self::EtcdLock
            | Self::EtcdTxn
            | Self::EtcdLock3 => None,
        }
    }

    /// Whether it is measured under this load.
    pub(crate) fn bears(self, load: Load) -> bool {
        match self {
            Self::Journal | Self::Redis | Self::OnEtcd | Self::EtcdLock => true,
            Self::ZooKeeper => load != Load::Spread,
            Self::Disk => load == Load::Own(1),
            // A client that finds the key there can only ask again.
            Self::EtcdTxn => matches!(load, Load::Own(_)),
            Self::OnEtcd3 | Self::EtcdLock3 => matches!(load, Load::Own(64) | Load::Spread),
        }
    }
}

/// Where a client finds a service.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The protocol, as [`crate::services::connect`] has it.
    pub(crate) protocol: &'static str,
    /// Its servers, separated by commas.
    pub(crate) addresses: String,
    /// The process of the daemon, where that is a lockd.
    pub(crate) daemon: Option<u32>,
}

/// The servers of a phase. They go away with their value.
pub(crate) struct Servers {
    journal: Option<Subject>,
    redis: Option<Peer>,
    zookeeper: Option<Peer>,
    on_etcd: Option<Subject>,
}

impl Servers {
    /// Starts what these need.
    pub(crate) async fn start(needed: &BTreeSet<Contender>) -> Self {
        let needs = |contender| needed.contains(&contender);
        let mut servers = Self { journal: None, redis: None, zookeeper: None, on_etcd: None };
        if needs(Contender::Journal) {
            servers.journal = Some(Subject::start(Store::Journal).await);
        }
        if needs(Contender::Redis) {
            servers.redis = Some(Peer::redis().await);
        }
        if needs(Contender::ZooKeeper) {
            servers.zookeeper = Some(Peer::zookeeper().await);
        }
        if let Some(store) = needed.iter().find_map(|contender| contender.members()) {
            servers.on_etcd = Some(Subject::start(store).await);
        }
        servers
    }

    /// Where a service is. The disk is nowhere.
    pub(crate) fn target(&self, contender: Contender) -> Option<Target> {
        let lockd = |subject: &Option<Subject>| {
            let daemon = &subject.as_ref().unwrap().daemon;
            Some(Target { protocol: "lockd", addresses: daemon.url(), daemon: Some(daemon.pid()) })
        };
        let other = |protocol, peer: &Option<Peer>| {
            let addresses = peer.as_ref().unwrap().addresses().join(",");
            Some(Target { protocol, addresses, daemon: None })
        };
        let etcd = |protocol| {
            let subject = self.on_etcd.as_ref().unwrap();
            other(protocol, &subject.etcd)
        };
        match contender {
            Contender::Journal => lockd(&self.journal),
            Contender::Redis => other("redis", &self.redis),
            Contender::ZooKeeper => other("zookeeper", &self.zookeeper),
            Contender::Disk => None,
            Contender::OnEtcd | Contender::OnEtcd3 => lockd(&self.on_etcd),
            Contender::EtcdLock | Contender::EtcdLock3 => etcd("etcd-lock"),
            Contender::EtcdTxn => etcd("etcd-txn"),
        }
    }
}

impl Contender {
    /// The store whose etcd it needs.
    fn members(self) -> Option<Store> {
        match self.lockd().store() {
            Some(store @ Store::Etcd(_)) => Some(store),
            Some(Store::Journal) | None => None,
        }
    }
}
