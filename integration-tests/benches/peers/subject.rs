//! lockd on one of its stores, as it is measured.

use std::{path::PathBuf, process::Stdio, time::Duration};

use integration_tests::{
    Daemon, StoreKind, daemon::lockd_binary, eventually, peers::Peer, unique_prefix,
};
use lockd_client::Client;
use serde_json::Value;
use tokio::process::{Child, Command};

/// How long a daemon may take to be ready before what needs it counts as failed.
const READY: Duration = Duration::from_secs(60);

/// Where lockd keeps its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Journal,
    /// An etcd of so many members.
    Etcd(usize),
}

/// A running lockd.
pub(crate) struct Subject {
    pub(crate) store: Store,
    pub(crate) daemon: Daemon,
    /// Its members, where the store is etcd.
    pub(crate) etcd: Option<Peer>,
    kind: StoreKind,
    dir: Option<tempfile::TempDir>,
}

impl Store {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Etcd(1) => "etcd",
            Self::Etcd(_) => "etcd, 3 nodes",
        }
    }
}

impl Subject {
    pub(crate) async fn start(store: Store) -> Self {
        let etcd = match store {
            Store::Journal => None,
            Store::Etcd(members) => Some(Peer::etcd(members).await),
        };
        // On the disk that the build is on: a temporary folder may be in memory.
        let dir =
            etcd.is_none().then(|| tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        let kind = match (&etcd, &dir) {
            (Some(etcd), _) => {
                let (endpoints, prefix) = (etcd.addresses().to_vec(), unique_prefix());
                StoreKind::Etcd { endpoints, prefix }
            }
            (None, dir) => StoreKind::Embedded { dir: dir.as_ref().unwrap().path().to_owned() },
        };
        Self { store, daemon: daemon(kind.clone()).await, etcd, kind, dir }
    }

    /// One more replica of it.
    pub(crate) async fn replica(&self) -> Daemon {
        daemon(self.kind.clone()).await
    }

    /// The folder of the journal.
    pub(crate) fn folder(&self) -> Option<PathBuf> {
        self.dir.as_ref().map(|dir| dir.path().to_owned())
    }

    /// Starts `lockd bench`, whose report is in JSON.
    pub(crate) fn bench(&self, args: &[&str]) -> Child {
        Command::new(lockd_binary())
            .args(["bench", "--addr", &self.daemon.url(), "-o", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// What `lockd bench` reports.
    pub(crate) async fn measured(&self, args: &[&str]) -> Value {
        let output = self.bench(args).wait_with_output().await.unwrap();
        assert!(output.status.success(), "lockd bench {args:?}: {}", output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

async fn daemon(store: StoreKind) -> Daemon {
    let flags = [
        // Room for the longest queue, the most locks and the most sessions that are measured.
        ["--max-waiters", "200000"],
        ["--max-entries", "20000"],
        ["--max-sessions", "200000"],
        ["--log", "error"],
    ];
    let builder = Daemon::builder().store(store);
    let builder = flags.concat().into_iter().fold(builder, |builder, flag| builder.arg(flag));
    let daemon = builder.start().await;
    ready(&daemon).await;
    daemon
}

/// Waits until a daemon grants locks: it listens before it has read its log.
pub(crate) async fn ready(daemon: &Daemon) {
    let client = Client::connect(&daemon.url()).await.unwrap();
    eventually("the daemon is ready", READY, async || {
        let status = client.status().await.map_err(|error| error.to_string())?;
        if status.ready { Ok(()) } else { Err(status.not_ready_reason) }
    })
    .await;
}
