//! What the machine itself takes for the steps that no service can do without.

use std::{
    fs::OpenOptions,
    io::{Seek as _, Write as _},
    time::{Duration, Instant},
};

use lockd_client::{Client, Context};

use crate::Subject;

const SAMPLES: usize = 1000;

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

fn steps(mut times: Vec<Duration>) -> Steps {
    times.sort();
    Steps { p50: times[times.len() / 2], p99: times[times.len() * 99 / 100] }
}

/// A page written and synced, where the daemon's data lies.
pub(crate) fn fsync() -> Steps {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("fsync");
    let mut file = OpenOptions::new().create_new(true).write(true).open(path).unwrap();
    let page = [7; 4096];
    for _ in 0..256 {
        file.write_all(&page).unwrap();
    }
    file.sync_all().unwrap();
    let once = |_| {
        file.rewind().unwrap();
        file.write_all(&page).unwrap();
        let start = Instant::now();
        file.sync_data().unwrap();
        start.elapsed()
    };
    steps((0..SAMPLES).map(once).collect())
}

/// A request that lockd answers without a disk or an etcd.
pub(crate) async fn round_trip(subject: &Subject) -> Steps {
    let client = Client::connect(&subject.daemon.url()).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        client.status().await.unwrap();
        times.push(start.elapsed());
    }
    steps(times)
}

/// A key written to etcd.
pub(crate) async fn etcd_write(subject: &Subject) -> Option<Steps> {
    let endpoints = subject.etcd.as_ref()?.addresses();
    let mut client = etcd_client::Client::connect(endpoints, None).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        client.put("a key", "a value", None).await.unwrap();
        times.push(start.elapsed());
    }
    Some(steps(times))
}

/// Resident memory in bytes, and the CPU time so far, of a process.
pub(crate) fn used(pid: u32) -> (u64, Duration) {
    let pid = pid.to_string();
    (integration_tests::resident(&pid) * 1024, integration_tests::cpu_time(&pid))
}

/// What an acquire of a lock of its own takes, one after the other.
pub(crate) async fn acquires(client: &Client, prefix: &str) -> Steps {
    let mut times = Vec::new();
    for n in 0..SAMPLES {
        let start = Instant::now();
        let guard = client.lock(format!("{prefix}{n}")).acquire(&Context::background()).await;
        times.push(start.elapsed());
        guard.unwrap().release().await.unwrap();
    }
    steps(times)
}
