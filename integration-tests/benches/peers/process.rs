//! What processes use, by their ids.

use std::time::{Duration, Instant};

use integration_tests::{cpu_time, resident};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process and its children have as many files and connections as they may: ten thousand
/// clients have a connection each.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Resident memory in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    resident(&pid.to_string()) * 1024
}

/// The CPU time so far.
pub(crate) fn cpu(pid: u32) -> Duration {
    cpu_time(&pid.to_string())
}

/// How much of a core a process uses while this is awaited, in percent.
pub(crate) struct Share {
    pids: Vec<u32>,
    since: Instant,
    before: Duration,
}

impl Share {
    pub(crate) fn of(pids: &[u32]) -> Self {
        let pids = pids.to_vec();
        Self { before: total(&pids), since: Instant::now(), pids }
    }

    pub(crate) fn percent(&self) -> f64 {
        let used = total(&self.pids).saturating_sub(self.before);
        100.0 * used.as_secs_f64() / self.since.elapsed().as_secs_f64()
    }
}

fn total(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// The process that was started with this argument.
pub(crate) fn started_with(argument: &str) -> u32 {
    let has = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == argument.as_bytes())
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let mut pids = names.filter_map(|name| name.to_str()?.parse().ok());
    pids.find(has).unwrap_or_else(|| panic!("a process was started with {argument}"))
}
