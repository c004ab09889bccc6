//! Very many locks that are held at once: what they take of memory and disk, and whether they slow down
//! an acquire, a restart, or a replica that starts beside.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use integration_tests::Daemon;
use lockd_client::Client;
use tokio::{task::JoinHandle, time::sleep};

use crate::{
    fleet::{Fleet, Size},
    machine::{self, Steps},
    process,
    report::{Row, ms},
    subject::{Subject, ready},
};

pub(crate) const ROWS: [&str; 5] = [MEMORY, ACQUIRE, RESTART, REPLICA, DISK];

const MEMORY: &str = "1,000,000 held locks of 10,000 sessions, memory";
const ACQUIRE: &str = "1,000,000 held locks of 10,000 sessions, acquire p99";
const RESTART: &str = "1,000,000 held locks of 10,000 sessions, `kill -9`, start, ready";
const REPLICA: &str = "1,000,000 held locks of 10,000 sessions, another replica starts, ready";
const DISK: &str = "1,000,000 held locks of 10,000 sessions, log and checkpoint on disk";

/// Their TTL is long enough for a restart and a checkpoint after it.
const SIZE: Size = Size { sessions: 10_000, connections: 100, ttl: Duration::from_secs(120) };

const LOCKS_EACH: usize = 100;

const LOCKS: usize = 1_000_000;

/// So many sessions hold a lock each, to be compared with.
const FEW: usize = 1000;

/// How often acquires are measured, before and after.
const ROUNDS: usize = 5;

/// How long a checkpoint may take to come.
const PATIENCE: Duration = Duration::from_secs(100);

const MIB: f64 = 1024.0 * 1024.0;

pub(crate) async fn many(subject: &mut Subject) -> Vec<Row> {
    let url = subject.daemon.url();
    let client = Client::connect(&url).await.unwrap();
    let peak = subject.folder().map(Peak::watch);
    let fleet = Fleet::open(&url, SIZE).await;
    // Pools and buffers get their size before memory is looked at.
    machine::acquires(&client, "warm/").await;
    let sessions_alone = process::memory(subject.daemon.pid());
    fleet.hold(0..FEW, 1).await;
    let few = acquires(&client).await;
    fleet.hold(0..FEW, LOCKS_EACH - 1).await;
    fleet.hold(FEW..SIZE.sessions, LOCKS_EACH).await;
    assert_eq!(client.status().await.unwrap().locks, LOCKS as u64);
    let many = acquires(&client).await;
    let full = process::memory(subject.daemon.pid());
    assert_eq!(fleet.lost(), 0, "sessions were lost");
    let mut rows =
        vec![memory(subject, full.saturating_sub(sessions_alone)), acquire(subject, few, many)];
    match peak {
        Some(peak) => {
            rows.push(restart(subject).await);
            rows.push(disk(subject, peak).await);
        }
        None => rows.push(replica(subject).await),
    }
    rows
}

async fn acquires(client: &Client) -> Steps {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        rounds.push(machine::acquires(client, "one/").await);
    }
    Steps::median(&rounds)
}

fn memory(subject: &Subject, bytes: u64) -> Row {
    let most = 400.0;
    let each = bytes as f64 / LOCKS as f64;
    let texts = (format!("≤ {most} bytes a lock"), format!("{each:.0} bytes"));
    Row::new(MEMORY, subject, texts, each <= most)
}

fn acquire(subject: &Subject, few: Steps, many: Steps) -> Row {
    let limit = few.p99.mul_f64(1.5);
    let found = format!("{}, with {FEW} locks {}", ms(many.p99), ms(few.p99));
    Row::new(ACQUIRE, subject, (format!("≤ {}", ms(limit)), found), many.p99 <= limit)
}

/// The daemon dies and is started again on its journal.
async fn restart(subject: &mut Subject) -> Row {
    subject.daemon.kill9().await;
    let start = Instant::now();
    subject.daemon.start_again().await;
    ready(&subject.daemon).await;
    let took = start.elapsed();
    has_all(&subject.daemon).await;
    in_time(RESTART, subject, 5, took)
}

/// A second replica starts on the same etcd.
async fn replica(subject: &Subject) -> Row {
    let start = Instant::now();
    // It is ready when this returns.
    let daemon = subject.replica().await;
    let took = start.elapsed();
    has_all(&daemon).await;
    in_time(REPLICA, subject, 15, took)
}

/// All locks are there: their sessions live on until their TTL is over.
async fn has_all(daemon: &Daemon) {
    let client = Client::connect(&daemon.url()).await.unwrap();
    assert_eq!(client.status().await.unwrap().locks, LOCKS as u64);
}

fn in_time(what: &str, subject: &Subject, seconds: u64, took: Duration) -> Row {
    let found = format!("{:.1} s", took.as_secs_f64());
    Row::new(what, subject, (format!("≤ {seconds} s"), found), took <= Duration::from_secs(seconds))
}

/// What the folder takes at most until a checkpoint has all that lives, beside the size of that.
async fn disk(subject: &Subject, peak: Peak) -> Row {
    /// Frames between two looks at the folder.
    const FRAMES: usize = 8;
    let before = checkpoints(&peak.folder);
    let size = Size { sessions: 1, connections: 1, ..SIZE };
    let fleet = Fleet::open(&subject.daemon.url(), size).await;
    let start = Instant::now();
    let lives = loop {
        let now = checkpoints(&peak.folder);
        // Of a daemon that has started after the last lock was acquired, each one has all.
        if let Some((_, bytes)) =
            now.iter().find(|(name, _)| !before.iter().any(|(it, _)| it == name))
        {
            break *bytes as f64;
        }
        assert!(start.elapsed() < PATIENCE, "a checkpoint is written");
        fleet.pairs(FRAMES).await;
    };
    let found = peak.bytes.load(Ordering::Relaxed) as f64;
    let limit = 3.0 * lives + 64.0 * MIB;
    let text = format!("{:.0} MiB, where {:.0} MiB live", found / MIB, lives / MIB);
    Row::new(DISK, subject, (format!("≤ {:.0} MiB", limit / MIB), text), found <= limit)
}

/// The finished checkpoints of a journal: names and sizes.
fn checkpoints(folder: &Path) -> Vec<(String, u64)> {
    let mut files = files(folder);
    files.retain(|(name, _)| name.starts_with("checkpoint-") && !name.contains('.'));
    files
}

fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    // A file may go away while it is looked at.
    let file = |entry: std::fs::DirEntry| {
        Some((entry.file_name().into_string().ok()?, entry.metadata().ok()?.len()))
    };
    entries.filter_map(file).collect()
}

/// The most bytes that a folder has had.
struct Peak {
    folder: PathBuf,
    bytes: Arc<AtomicU64>,
    watch: JoinHandle<()>,
}

impl Peak {
    fn watch(folder: PathBuf) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let (most, watched) = (Arc::clone(&bytes), folder.clone());
        let watch = tokio::spawn(async move {
            loop {
                let now = files(&watched).iter().map(|(_, bytes)| bytes).sum();
                most.fetch_max(now, Ordering::Relaxed);
                sleep(Duration::from_millis(100)).await;
            }
        });
        Self { folder, bytes, watch }
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
