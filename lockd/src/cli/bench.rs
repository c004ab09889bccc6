//! `lockd bench`: how fast a running lockd is, as seen from here.

mod observers;
mod pairs;
mod recorder;
mod report;
mod sessions;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use clap::Args as ClapArgs;
use lockd_client::{CancelHandle, Client, Context, Error, Group, GroupError};
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use uuid::Uuid;

use self::{recorder::Recorder, report::Report};
use super::{Exit, Globals, exit::CommandError, output};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Work {
    /// Each worker acquires and releases a lock of its own
    Uncontended,
    /// All workers acquire and release one lock, in turn
    Contended,
    /// Two workers hand one lock to each other
    Handoff,
    /// The same in a long queue
    Queue,
    /// Each worker holds a lock, in a session and on a connection of its own
    Sessions,
    /// Each worker observes one election, whose leader proclaims one value after the other
    Observe,
}

impl Work {
    /// How many workers there are, if nothing else is said.
    fn workers(self) -> usize {
        match self {
            Self::Uncontended => 64,
            Self::Contended => 8,
            Self::Handoff => 2,
            Self::Queue | Self::Sessions | Self::Observe => 1000,
        }
    }
}

/// The flags of `lockd bench`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A pair is an acquire and a release, both answered. A handoff is the time from sending a release
to the arrival of the next holder's grant. Every run checks its tokens: they have to rise, and
holders must not overlap; else it fails with 70. Its locks begin with bench/, and none is left.

With --rate a pair counts from when it was to start, so that a server that stalls cannot hide what
it has others wait for.

Examples:
  lockd bench                                    64 workers, each with a lock of its own
  lockd bench --work contended --workers 64      one hot lock
  lockd bench --rate 5000                        latencies at this load
  lockd bench --work sessions --workers 10000 --seconds 60 -o json")]
pub(super) struct Args {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Work::Uncontended)]
    work: Work,

    /// How many are at it at a time [default: 64, 8, 2, 1000, 1000, 1000]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// How many connections they share
    #[arg(long, value_name = "N", default_value = "1")]
    conns: NonZeroUsize,

    /// How long to measure, in seconds
    #[arg(long, value_name = "S", default_value = "10")]
    seconds: u32,

    /// How many pairs to begin a second, in all; without it, one after the other
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("not a number of pairs a second, such as 500".to_owned()),
    }
}

/// What every workload is given.
#[derive(Clone)]
struct Bench {
    clients: Arc<[Client]>,
    workers: usize,
    rate: Option<f64>,
    /// What all names begin with: no two runs meet.
    prefix: Arc<str>,
    recorder: Arc<Recorder>,
    /// Ends with the measurement.
    ctx: Context,
}

/// Why a run is no measurement.
#[derive(Debug, thiserror::Error)]
enum Spoilt {
    #[error(transparent)]
    Error(#[from] Error),
    #[error("{lock}: token {token} was granted after token {before}")]
    Token { lock: String, token: u64, before: u64 },
    #[error("{lock}: token {token} was granted while another held the lock")]
    Overlap { lock: String, token: u64 },
}

impl Bench {
    /// The client that a worker shares with others.
    fn client(&self, worker: usize) -> Option<Client> {
        self.clients.get(worker % self.clients.len()).cloned()
    }

    /// The outcome of a call that the end of the measurement may have ended.
    fn unless_over<T>(&self, outcome: Result<T, Error>) -> Result<Option<T>, Spoilt> {
        match outcome {
            Err(_) if self.ctx.cause().is_some() => Ok(None),
            outcome => Ok(Some(outcome?)),
        }
    }
}

pub(super) async fn run(args: Args, globals: &Globals) -> Result<Exit, CommandError> {
    let workers = args.workers.map_or(args.work.workers(), NonZeroUsize::get);
    let conns = if args.work == Work::Sessions { workers } else { args.conns.get() };
    let (ctx, cancel) = Context::background().with_cancel();
    let bench = Bench {
        clients: sessions::connect(globals, conns).await?.into(),
        workers,
        rate: args.rate,
        prefix: format!("bench/{}/", Uuid::new_v4().simple()).into(),
        recorder: Arc::new(Recorder::new(workers).map_err(CommandError::internal)?),
        ctx,
    };
    let measured = measured(&args, &bench, &cancel).await;
    sessions::shut_down(&bench.clients).await;
    let took = measured?;
    let report = Report { work: args.work, workers, conns, took, times: bench.recorder.take() };
    report.print(globals.output)?;
    Ok(Exit::Success)
}

/// Runs the workers; how long they were measured.
async fn measured(
    args: &Args,
    bench: &Bench,
    cancel: &CancelHandle,
) -> Result<Duration, CommandError> {
    let mut group = Group::new(&Context::background());
    match args.work {
        Work::Uncontended => pairs::spawn(&mut group, bench, bench.workers).await,
        Work::Contended | Work::Handoff => pairs::spawn(&mut group, bench, 1).await,
        Work::Queue => pairs::spawn_queue(&mut group, bench).await,
        Work::Sessions => sessions::spawn(&mut group, bench).await,
        Work::Observe => observers::spawn(&mut group, bench).await,
    }
    let failed = group.context().clone();
    let took = tokio::select! {
        took = measure(args, bench) => Some(took),
        _ = failed.cancelled() => None,
    };
    cancel.cancel();
    match (group.wait().await, took) {
        (Ok(()), Some(took)) => Ok(took),
        (Err(GroupError::Failed(Spoilt::Error(error))), _) => Err(error.into()),
        (Err(error), _) => Err(CommandError::internal(error)),
        (Ok(()), None) => Err(CommandError::internal("the workers have ended before their time")),
    }
}

/// Waits until all are at it, and then for as long as is measured, or until ^C.
async fn measure(args: &Args, bench: &Bench) -> Duration {
    let progress = output::ProgressLine::new();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ready = std::pin::pin!(bench.recorder.ready());
    loop {
        tokio::select! {
            () = &mut ready => break,
            _ = ticks.tick() => progress.show(&bench.recorder.readiness()),
        }
    }
    let start = bench.recorder.begin();
    let end = start + Duration::from_secs(args.seconds.into());
    loop {
        tokio::select! {
            () = sleep_until(end) => break,
            // An interrupt ends the run early; the results so far are shown.
            _ = tokio::signal::ctrl_c() => break,
            _ = ticks.tick() => progress.show(&bench.recorder.progress(start, end)),
        }
    }
    bench.recorder.end();
    start.elapsed()
}
