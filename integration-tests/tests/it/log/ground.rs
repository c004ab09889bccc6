//! Where logs of a test lie.

use std::future::Future;

use integration_tests::{Etcd, unique_prefix};
use lockd::testing::{EtcdConfig, EtcdLog, Journal, JournalOptions, Log, Tasks};
use lockd_proto::clock::Clock;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::driven::Driven;

/// A place for one log, which can be opened again.
pub(super) trait Ground {
    type Log: Log;

    /// Opens the log, and waits until it is live. One that is open has to be closed before, unless the log
    /// is shared.
    fn opens(&self) -> impl Future<Output = Driven<Self::Log>>;
}

/// Keys of a test's own in an etcd.
pub(super) struct OnEtcd {
    pub(super) config: EtcdConfig,
    pub(super) tasks: Tasks,
    /// Never cancelled: a log ends when it is dropped.
    end: CancellationToken,
}

impl OnEtcd {
    pub(super) async fn shared() -> Self {
        Self::at(Etcd::shared().await.endpoints())
    }

    pub(super) fn at(endpoints: Vec<String>) -> Self {
        Self::with(EtcdConfig::new(endpoints, &unique_prefix()))
    }

    pub(super) fn with(config: EtcdConfig) -> Self {
        // Logs go to the test's output.
        drop(tracing_subscriber::fmt().with_test_writer().try_init());
        Self { config, tasks: Tasks::default(), end: CancellationToken::new() }
    }

    /// The same keys, with another configuration.
    pub(super) fn but(&self, change: impl FnOnce(&mut EtcdConfig)) -> Self {
        let mut config = self.config.clone();
        change(&mut config);
        Self::with(config)
    }

    /// A log that was only just made.
    pub(super) fn makes(&self) -> Driven<EtcdLog> {
        let made = EtcdLog::new(self.config.clone(), &self.tasks, &self.end, Clock::system());
        Driven::new(made.unwrap())
    }

    pub(super) fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.config.prefix)
    }
}

impl Ground for OnEtcd {
    type Log = EtcdLog;

    async fn opens(&self) -> Driven<EtcdLog> {
        let mut log = self.makes();
        log.live().await;
        log
    }
}

/// A folder of a test's own.
pub(super) struct OnDisk {
    folder: TempDir,
}

impl OnDisk {
    pub(super) async fn shared() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }
}

impl Ground for OnDisk {
    type Log = Journal;

    async fn opens(&self) -> Driven<Journal> {
        let journal = Journal::open(self.folder.path(), JournalOptions::new(Clock::system()));
        let mut log = Driven::new(journal.unwrap());
        log.live().await;
        log
    }
}
