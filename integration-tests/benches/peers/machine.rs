//! What the machine itself takes for the steps that no service can do without.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use integration_tests::peers::Peer;
use lockd_client::{Client, Context};

use crate::subject::Subject;

/// How often a step is measured for its quantiles.
const SAMPLES: usize = 1000;

/// What is written for each sync: about what lockd's journal and etcd's log write for one operation.
const RECORD: [u8; 200] = [7; 200];

/// The size of a segment of lockd's journal.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// The cores, the memory and the system, in a line.
pub(crate) fn described() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory, version) =
        (read("/proc/cpuinfo"), read("/proc/meminfo"), read("/proc/version"));
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned())).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let kib: u64 = field(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    let kernel = version.split_whitespace().nth(2).unwrap_or_default();
    format!("{cores} cores ({}), {} GiB, Linux {kernel}", field(&cpu, "model name"), kib >> 20)
}

/// The time that all but one of a hundred do not exceed, and all but half.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Steps {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
    }

    /// The median of each over several rounds.
    pub(crate) fn median(rounds: &[Self]) -> Self {
        let middle = |time: fn(&Self) -> Duration| {
            let mut times: Vec<_> = rounds.iter().map(time).collect();
            times.sort();
            times[times.len() / 2]
        };
        Self { p50: middle(|steps| steps.p50), p99: middle(|steps| steps.p99) }
    }
}

/// A file as lockd's journal has it: allocated, zeroed and synced, where the daemon's data lies.
struct Segment {
    file: File,
    written: u64,
    _dir: tempfile::TempDir,
}

impl Segment {
    fn create() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("segment");
        let file = OpenOptions::new().create_new(true).read(true).write(true).open(path).unwrap();
        file.write_all_at(&vec![0; SEGMENT_BYTES], 0).unwrap();
        file.sync_all().unwrap();
        Self { file, written: 0, _dir: dir }
    }

    /// Writes a record behind the last one and syncs it.
    fn append(&mut self) -> Duration {
        if self.written + RECORD.len() as u64 > SEGMENT_BYTES as u64 {
            self.written = 0;
        }
        let start = Instant::now();
        self.file.write_all_at(&RECORD, self.written).unwrap();
        self.file.sync_data().unwrap();
        self.written += RECORD.len() as u64;
        start.elapsed()
    }
}

/// A write and a sync, as lockd's journal does them.
pub(crate) fn sync() -> Steps {
    let mut segment = Segment::create();
    Steps::of((0..SAMPLES).map(|_| segment.append()).collect())
}

/// How many writes and syncs a second there are, one after the other.
pub(crate) fn syncs_a_second(time: Duration) -> f64 {
    let mut segment = Segment::create();
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        segment.append();
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// A request that lockd answers without a disk or an etcd.
pub(crate) async fn round_trip(subject: &Subject) -> Steps {
    let client = Client::connect(&subject.daemon.url()).await.unwrap();
    let calls = async move {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let start = Instant::now();
            client.status().await.unwrap();
            times.push(start.elapsed());
        }
        times
    };
    Steps::of(on_a_worker(calls).await)
}

/// A key written to etcd.
pub(crate) async fn etcd_write(etcd: &Peer) -> Steps {
    let mut client = etcd_client::Client::connect(etcd.addresses(), None).await.unwrap();
    let calls = async move {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let start = Instant::now();
            client.put("a key", RECORD, None).await.unwrap();
            times.push(start.elapsed());
        }
        times
    };
    Steps::of(on_a_worker(calls).await)
}

/// What an acquire of a lock of its own takes, one after the other.
pub(crate) async fn acquires(client: &Client, prefix: &'static str) -> Steps {
    let client = client.clone();
    let calls = async move {
        let mut times = Vec::new();
        for n in 0..SAMPLES {
            let lock = client.lock(format!("{prefix}{n}"));
            let start = Instant::now();
            let guard = lock.acquire(&Context::background()).await.unwrap();
            times.push(start.elapsed());
            guard.release().await.unwrap();
        }
        times
    };
    Steps::of(on_a_worker(calls).await)
}

/// The main task has a thread to itself, which each answer would have to wake.
async fn on_a_worker<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(task).await.unwrap()
}
