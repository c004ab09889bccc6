//! What a process uses.

use std::time::Duration;

/// Resident memory in KiB of the process with this id, or of `self`.
///
/// # Panics
/// When there is no such process.
pub fn resident(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// The CPU time that the process with this id has used so far.
///
/// # Panics
/// When there is no such process.
pub fn cpu_time(pid: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // Fields 14 and 15, counted from after the name, which may hold anything:
    // https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    let fields = stat.rsplit_once(')').expect("its name").1.split_whitespace();
    let ticks: u64 =
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    // A tick is 10 ms on every Linux of today.
    Duration::from_millis(ticks * 10)
}
