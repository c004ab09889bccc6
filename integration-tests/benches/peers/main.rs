//! How fast lockd is beside what its users would pick instead: `make bench-peers` measures, prints
//! the tables, and writes `docs/benchmarks.md` and its picture.
//!
//! `ROUNDS` and `SECONDS` make it shorter, for a first look; `ONLY=pairs` (or `handoff`, `queue`,
//! `locks`, `sessions`, `observe`) measures one part, prints it, and writes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what cannot be set up ends the benchmark; figures are printed"
)]

mod deep;
mod load;
mod locks;
mod machine;
mod pairs;
mod picture;
mod report;
mod services;

use integration_tests::{Daemon, StoreKind, peers::Peer, unique_prefix};

/// lockd on one of its stores.
pub(crate) struct Subject {
    pub(crate) store: &'static str,
    pub(crate) daemon: Daemon,
    /// Its members, where that is etcd.
    pub(crate) etcd: Option<Peer>,
    _dir: Option<tempfile::TempDir>,
}

impl Subject {
    async fn embedded() -> Self {
        // On the disk that the build is on: a temporary folder may be in memory.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let store = StoreKind::Embedded { dir: dir.path().to_owned() };
        Self { store: "embedded", daemon: start(store).await, etcd: None, _dir: Some(dir) }
    }

    async fn etcd(members: usize) -> Self {
        let etcd = Peer::etcd(members).await;
        let (endpoints, prefix) = (etcd.addresses().to_vec(), unique_prefix());
        let daemon = start(StoreKind::Etcd { endpoints, prefix }).await;
        let store = if members == 1 { "etcd" } else { "etcd, 3 nodes" };
        Self { store, daemon, etcd: Some(etcd), _dir: None }
    }
}

async fn start(store: StoreKind) -> Daemon {
    // Room for the longest queue and the most locks that are measured.
    let limits = ["--max-waiters", "200000", "--max-entries", "20000", "--log", "error"];
    let daemon = limits.into_iter().fold(Daemon::builder().store(store), |d, arg| d.arg(arg));
    daemon.start().await
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let only = std::env::var("ONLY").ok().filter(|only| !only.is_empty());
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    let mut report = report::Report::default();
    if wants("pairs") {
        report.pairs = Some(pairs::measure(number("ROUNDS", 5), number("SECONDS", 2)).await);
    }
    for part in ["handoff", "queue", "locks", "sessions", "observe"] {
        if !wants(part) {
            continue;
        }
        for members in [0, 1] {
            let subject = match members {
                0 => Subject::embedded().await,
                members => Subject::etcd(members).await,
            };
            eprintln!("measuring {part}, {} …", subject.store);
            report.rows.extend(match part {
                "handoff" => deep::handoff(&subject).await,
                "queue" => deep::queue(&subject).await,
                "locks" => locks::many(&subject).await,
                "sessions" => deep::sessions(&subject).await,
                _ => deep::observe(&subject).await,
            });
        }
    }
    let text = report.markdown();
    println!("{text}");
    if only.is_none() {
        report.write(&text).unwrap();
    }
}
