//! What the workers have measured: one histogram for each kind of time.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hdrhistogram::{CreationError, Histogram};
use tokio::{sync::Notify, time::Instant};

/// A kind of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TimeKind {
    /// From the acquire to the grant.
    Acquire,
    /// From the release to its answer.
    Release,
    /// Both.
    Pair,
    /// From sending a release to the arrival of the next holder's grant.
    Handoff,
    /// From a proclaimed value to an observer.
    Observed,
    /// From a proclaimed value to the last observer.
    ObservedByAll,
    /// From nothing to a lock held in a new session.
    Opened,
}

impl TimeKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Release => "release",
            Self::Pair => "pair",
            Self::Handoff => "handoff",
            Self::Observed => "observed",
            Self::ObservedByAll => "observed by all",
            Self::Opened => "opened",
        }
    }

    /// What the rate counts, if it is this.
    pub(super) fn unit(self) -> Option<&'static str> {
        match self {
            Self::Pair => Some("pairs/s"),
            Self::ObservedByAll => Some("changes/s"),
            Self::Acquire | Self::Release | Self::Handoff | Self::Observed | Self::Opened => None,
        }
    }
}

/// What is counted, and how many of it there were a second.
pub(super) fn rate(times: &Times, took: Duration) -> Option<(&'static str, f64)> {
    times.iter().find_map(|(kind, times)| {
        #[allow(clippy::cast_precision_loss, reason = "a figure of three digits")]
        let count = times.len() as f64;
        Some((kind.unit()?, count / took.as_secs_f64()))
    })
}

/// Times in nanoseconds, to three digits.
pub(super) type Times = BTreeMap<TimeKind, Histogram<u64>>;

const DIGITS: u8 = 3;

/// The longest time that the histograms record, an hour; what is longer counts as this.
const MAX_NANOS: u64 = 3_600_000_000_000;

/// All that is measured in a run.
pub(super) struct Recorder {
    empty: Histogram<u64>,
    /// A std mutex: it is held to count only, never across an await. One for all is cheaper than
    /// a histogram for each of 100,000 workers.
    times: Mutex<Times>,
    measuring: AtomicBool,
    workers: usize,
    at_it: AtomicUsize,
    all_at_it: Notify,
}

impl Recorder {
    pub(super) fn new(workers: usize) -> Result<Self, CreationError> {
        Ok(Self {
            empty: Histogram::new_with_bounds(1, MAX_NANOS, DIGITS)?,
            times: Mutex::default(),
            measuring: AtomicBool::new(false),
            workers,
            at_it: AtomicUsize::new(0),
            all_at_it: Notify::new(),
        })
    }

    /// A worker has begun its work.
    pub(super) fn is_at_it(&self) {
        if self.at_it.fetch_add(1, Ordering::Relaxed) + 1 == self.workers {
            self.all_at_it.notify_one();
        }
    }

    /// So many workers have begun.
    pub(super) fn are_at_it(&self, count: usize) {
        self.at_it.store(count, Ordering::Relaxed);
        if count == self.workers {
            self.all_at_it.notify_one();
        }
    }

    /// Waits until all workers have begun.
    pub(super) async fn ready(&self) {
        self.all_at_it.notified().await;
    }

    pub(super) fn readiness(&self) -> String {
        format!("{} of {} workers have begun", self.at_it.load(Ordering::Relaxed), self.workers)
    }

    /// From here on it is measured.
    pub(super) fn begin(&self) -> Instant {
        self.measuring.store(true, Ordering::Relaxed);
        Instant::now()
    }

    /// From here on no more.
    pub(super) fn end(&self) {
        self.measuring.store(false, Ordering::Relaxed);
    }

    /// Counts times, if it is measured.
    pub(super) fn record(&self, times: &[(TimeKind, Duration)]) {
        if self.measuring.load(Ordering::Relaxed) {
            self.record_always(times);
        }
    }

    /// Counts times of the start.
    pub(super) fn record_always(&self, times: &[(TimeKind, Duration)]) {
        let mut all = self.times();
        for (kind, time) in times {
            let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            let of_kind = all.entry(*kind).or_insert_with(|| self.empty.clone());
            of_kind.saturating_record(nanoseconds);
        }
    }

    pub(super) fn progress(&self, start: Instant, end: Instant) -> String {
        let so_far = start.elapsed();
        let rate = rate(&self.times(), so_far);
        let rate = rate.map_or(String::new(), |(unit, rate)| format!(", {rate:.0} {unit}"));
        format!("{} of {} s{rate}", so_far.as_secs(), (end - start).as_secs())
    }

    /// All that was measured.
    pub(super) fn take(&self) -> Times {
        std::mem::take(&mut *self.times())
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        // A histogram is whole also when a thread that counted has panicked.
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
