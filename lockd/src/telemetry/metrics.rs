//! What a replica counts and measures, for Prometheus: every name is here, and what it means.
//!
//! Nothing is decided by any of it. Without an [`Exporter`], as in most tests, it goes nowhere.

mod names;

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use metrics::{
    Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::runtime::{Handle, RuntimeMetrics};

use names::Names;

use super::traces::Reported;

/// From the commit of a fast disk to a long wait.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0,
    3600.0,
];

/// How many writes leave together.
const SIZES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

const RESULTS: [&str; 8] =
    ["granted", "busy", "wait_expired", "cancelled", "forced", "deadlock", "broken", "done"];
const REASONS: [&str; 5] = ["released", "yielded", "expired", "closed", "forced"];

const UNLABELLED: [&str; 10] = [
    "lockd_commits_failed_total",
    "lockd_deadlines_cut_total",
    "lockd_deadlines_received_total",
    "lockd_fencing_rejections_total",
    "lockd_keepalives_failed_total",
    "lockd_keepalives_total",
    "lockd_lease_expiries_total",
    "lockd_log_restored_total",
    "lockd_requests_failed_total",
    "lockd_task_panics_total",
];

/// The series of the hot path, looked up once.
static GRANTED: LazyLock<Counter> =
    LazyLock::new(|| counter!("lockd_acquires_total", "result" => "granted"));
static RELEASED: LazyLock<Counter> =
    LazyLock::new(|| counter!("lockd_releases_total", "reason" => "released"));
static WAIT: LazyLock<Histogram> = LazyLock::new(|| histogram!("lockd_wait_seconds"));
static HOLD: LazyLock<Histogram> = LazyLock::new(|| histogram!("lockd_hold_seconds"));
static BATCH: LazyLock<Histogram> = LazyLock::new(|| histogram!("lockd_batch_size"));
static COMMIT: LazyLock<Histogram> = LazyLock::new(|| histogram!("lockd_commit_seconds"));

/// Set where names are labels. Beside the recorder, which is one for the process as well.
static NAMES: OnceLock<Names> = OnceLock::new();

/// Whether series have the names of locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LockNames {
    /// None has.
    Left,
    /// A few have, for at most 500 locks.
    Labelled,
}

/// Gathers what is counted. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Exporter {
    series: PrometheusHandle,
    /// The runtime that is measured, which may not be the one that serves what was gathered.
    runtime: Handle,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

impl Exporter {
    /// Gathers from now on, for the whole process. The runtime that this is called in is measured too.
    ///
    /// # Errors
    /// Something else gathers already.
    pub(crate) fn install(names: LockNames) -> Result<Self, BuildError> {
        let series = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), &SIZES)?
            .install_recorder()?;
        describe();
        // A series that begins with its first event hides that event from rate().
        for result in RESULTS {
            counter!("lockd_acquires_total", "result" => result).absolute(0);
        }
        for reason in REASONS {
            counter!("lockd_releases_total", "reason" => reason).absolute(0);
        }
        for name in UNLABELLED {
            counter!(name).absolute(0);
        }
        if names == LockNames::Labelled {
            NAMES.get_or_init(Names::new);
        }
        Ok(Self { series, runtime: Handle::current() })
    }

    /// How things are at this replica, in Prometheus' text format. `sizes` are those of the locks that
    /// have [series of their own](Self::named).
    #[must_use]
    pub(crate) fn render(&self, gauges: &Gauges, sizes: &[QueueSize]) -> String {
        look_at(gauges, &self.runtime.metrics());
        names::look_at(sizes);
        self.series.render()
    }

    /// The locks that have series of their own: namespace and name.
    #[must_use]
    pub(crate) fn named(&self) -> Vec<(String, String)> {
        NAMES.get().map(Names::known).unwrap_or_default()
    }

    /// Puts what was measured into its buckets. To be called regularly: what is never
    /// scraped would pile up.
    pub(crate) fn tidy(&self) {
        self.series.run_upkeep();
    }
}

fn describe() {
    describe_gauge!("lockd_locks", "Locks that are held or waited for");
    describe_gauge!("lockd_waiters", "Entries that wait; in elections, candidates");
    describe_gauge!("lockd_sessions", "Sessions in the store");
    describe_gauge!("lockd_streams", "Session streams that end at this replica");
    describe_gauge!("lockd_ready", "Whether this replica grants: 1 or 0");
    describe_counter!(
        "lockd_log_restored_total",
        "Clients that know more of the log than there is: it was restored from a backup"
    );
    describe_gauge!("lockd_store_up", "Whether the log has been read and is followed: 1 or 0");
    describe_gauge!(
        "lockd_replica_differs",
        "Whether the state of another replica is not what the log says: 1 or 0"
    );
    describe_gauge!(
        "lockd_largest_turn",
        "The most that the core has done in one turn: messages, timers, operations, and what followed"
    );
    describe_gauge!(
        "lockd_view_lag_seconds",
        "Since when deliveries of the log are not known to be whole"
    );
    describe_gauge!("lockd_revision", "The position in the log that was applied last");
    describe_gauge!("lockd_uptime_seconds", "How long this replica has been up");
    describe_gauge!("lockd_tasks", "The daemon's own tasks that are alive");
    describe_gauge!("lockd_runtime_workers", "Threads of the runtime");
    describe_gauge!("lockd_runtime_tasks", "Tasks of the runtime that are alive");
    describe_gauge!("lockd_runtime_queue_depth", "Tasks that wait for a thread");
    describe_counter!(
        "lockd_runtime_busy_seconds_total",
        "How long threads were busy, rounded down"
    );
    describe_counter!("lockd_acquires_total", "Acquires that were answered here, by result");
    describe_counter!(
        "lockd_requests_failed_total",
        "Requests on streams that failed, of any kind"
    );
    describe_counter!(
        "lockd_releases_total",
        "Holders that gave way, by reason, as this replica has seen them: every replica sees all"
    );
    describe_counter!(
        "lockd_lease_expiries_total",
        "Sessions whose lease has run out, as this replica has seen them: every replica sees all"
    );
    describe_counter!("lockd_keepalives_total", "Leases renewed by streams that end here");
    describe_counter!("lockd_keepalives_failed_total", "Renewals that the store has not applied");
    describe_counter!("lockd_deadlines_received_total", "Calls that came with a deadline");
    describe_counter!("lockd_deadlines_cut_total", "Calls that were ended by theirs");
    describe_counter!(
        "lockd_fencing_rejections_total",
        "Releases that were refused: their token is another holder's, or an earlier one's"
    );
    describe_counter!(
        "lockd_task_panics_total",
        "Tasks that have panicked, each a defect of lockd"
    );
    describe_counter!("lockd_commits_failed_total", "Commits that failed");
    describe_histogram!("lockd_wait_seconds", "From joining a queue to the grant, if told here");
    describe_histogram!("lockd_hold_seconds", "How long a lock was held by its first holder");
    describe_histogram!(
        "lockd_handoff_seconds",
        "From a release that came in here to the grant that follows from it"
    );
    describe_histogram!(
        "lockd_keepalive_margin_seconds",
        "What was left of a lease at its renewal"
    );
    describe_histogram!("lockd_commit_seconds", "How long a commit took");
    describe_histogram!("lockd_batch_size", "Writes of a commit");
}

/// What is looked at rather than counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gauges {
    /// Locks that are held or waited for.
    pub locks: usize,
    /// Entries that wait.
    pub waiters: usize,
    /// Sessions.
    pub sessions: usize,
    /// Session streams that end at this replica.
    pub streams: usize,
    /// Whether this replica grants.
    pub ready: bool,
    /// Whether the log is followed.
    pub store_up: bool,
    /// Whether the state of another replica is not what the log says.
    pub differs: bool,
    /// The most that the core has done in one turn.
    pub largest_turn: usize,
    /// Since when the log was not known to be followed.
    pub lag: Duration,
    /// The position that was applied last.
    pub position: u64,
    /// How long the replica has been up.
    pub uptime: Duration,
    /// The daemon's own tasks.
    pub tasks: usize,
}

/// How many entries hold a lock, and how many wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueSize {
    /// The lock's namespace.
    pub namespace: String,
    /// Its name.
    pub lock: String,
    /// Entries that hold it.
    pub holders: usize,
    /// Entries that wait.
    pub waiters: usize,
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; these are small")]
fn look_at(gauges: &Gauges, runtime: &RuntimeMetrics) {
    let yes = |yes: bool| if yes { 1.0 } else { 0.0 };
    gauge!("lockd_locks").set(gauges.locks as f64);
    gauge!("lockd_waiters").set(gauges.waiters as f64);
    gauge!("lockd_sessions").set(gauges.sessions as f64);
    gauge!("lockd_streams").set(gauges.streams as f64);
    gauge!("lockd_ready").set(yes(gauges.ready));
    gauge!("lockd_store_up").set(yes(gauges.store_up));
    gauge!("lockd_replica_differs").set(yes(gauges.differs));
    gauge!("lockd_largest_turn").set(gauges.largest_turn as f64);
    gauge!("lockd_view_lag_seconds").set(gauges.lag.as_secs_f64());
    gauge!("lockd_revision").set(gauges.position as f64);
    gauge!("lockd_uptime_seconds").set(gauges.uptime.as_secs_f64());
    gauge!("lockd_tasks").set(gauges.tasks as f64);
    gauge!("lockd_runtime_workers").set(runtime.num_workers() as f64);
    gauge!("lockd_runtime_tasks").set(runtime.num_alive_tasks() as f64);
    gauge!("lockd_runtime_queue_depth").set(runtime.global_queue_depth() as f64);
    let busy = |worker| runtime.worker_total_busy_duration(worker);
    let busy: Duration = (0..runtime.num_workers()).map(busy).sum();
    counter!("lockd_runtime_busy_seconds_total").absolute(busy.as_secs());
}

/// The client of an acquire hears how it ended.
pub(crate) fn told(told: &Reported) {
    match told {
        Reported::Granted(_) => GRANTED.increment(1),
        Reported::Refused { reason, .. } => {
            counter!("lockd_acquires_total", "result" => *reason).increment(1);
        }
        Reported::Failed => counter!("lockd_requests_failed_total").increment(1),
    }
}

/// A lock is granted that its request has waited for: namespace and name.
pub(crate) fn lock_granted(namespace: &str, lock: &str) {
    if let Some(names) = NAMES.get() {
        names.granted(namespace, lock);
    }
}

/// How long a granted request has waited.
pub(crate) fn waited(wait: Duration) {
    WAIT.record(wait);
}

/// A lock has passed on, so long after its release came in here.
pub(crate) fn handed_over(took: Duration) {
    histogram!("lockd_handoff_seconds").record(took);
}

/// A token was refused.
pub(crate) fn fenced() {
    counter!("lockd_fencing_rejections_total").increment(1);
}

/// A holder has given way.
pub(crate) fn gave_way(reason: &'static str, held: Option<Duration>) {
    if reason == "released" {
        RELEASED.increment(1);
    } else {
        counter!("lockd_releases_total", "reason" => reason).increment(1);
    }
    if let Some(held) = held {
        HOLD.record(held);
    }
}

/// A session's lease has run out.
pub(crate) fn expired() {
    counter!("lockd_lease_expiries_total").increment(1);
}

/// A lease was renewed that would have lasted this much longer.
pub(crate) fn renewed(margin: Duration) {
    counter!("lockd_keepalives_total").increment(1);
    histogram!("lockd_keepalive_margin_seconds").record(margin);
}

/// A call has come with a deadline.
pub(crate) fn deadline_received() {
    counter!("lockd_deadlines_received_total").increment(1);
}

/// A call was ended by its deadline.
pub(crate) fn deadline_cut() {
    counter!("lockd_deadlines_cut_total").increment(1);
}

/// A lease could not be renewed.
pub(crate) fn not_renewed() {
    counter!("lockd_keepalives_failed_total").increment(1);
}

/// A client knows more of the log than there is.
pub(crate) fn restored() {
    counter!("lockd_log_restored_total").increment(1);
}

/// A task has panicked.
pub(crate) fn panicked() {
    counter!("lockd_task_panics_total").increment(1);
}

/// So many writes were committed together.
#[allow(clippy::cast_precision_loss, reason = "a batch is small")]
pub(crate) fn committed(writes: usize, took: Duration) {
    BATCH.record(writes as f64);
    COMMIT.record(took);
}

/// A commit has failed.
pub(crate) fn not_committed() {
    counter!("lockd_commits_failed_total").increment(1);
}
