//! One election, its leader, and those who observe it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use lockd_client::{Group, Observed};
use tokio::{sync::Notify, time::Instant};

use super::{Bench, Spoilt, recorder::TimeKind};

/// The value that the leader has proclaimed last.
struct Proclamation {
    value: Mutex<(u64, Instant)>,
    /// How many have not heard of it.
    left: AtomicUsize,
    observed_by_all: Notify,
}

/// Starts the leader and its observers.
pub(super) async fn spawn(group: &mut Group<Spoilt>, bench: &Bench) {
    let stage = Arc::new(Proclamation {
        value: Mutex::new((0, Instant::now())),
        left: AtomicUsize::new(bench.workers),
        observed_by_all: Notify::new(),
    });
    let leads = leads(bench.clone(), Arc::clone(&stage));
    if group.spawn(|_| leads).await.is_err() {
        return;
    }
    for worker in 0..bench.workers {
        let observes = observes(bench.clone(), worker, Arc::clone(&stage));
        if group.spawn(|_| observes).await.is_err() {
            return;
        }
    }
}

/// Proclaims a value when all observers have received the one before.
async fn leads(bench: Bench, stage: Arc<Proclamation>) -> Result<(), Spoilt> {
    let Some(client) = bench.client(0) else { return Ok(()) };
    let election = client.election(format!("{}election", bench.prefix));
    let mut leadership = election.campaign(&bench.ctx, 0_u64.to_be_bytes()).await?;
    for value in 1_u64.. {
        tokio::select! {
            () = stage.observed_by_all.notified() => {}
            _ = bench.ctx.cancelled() => break,
        }
        stage.left.store(bench.workers, Ordering::SeqCst);
        *stage.value() = (value, Instant::now());
        let proclaimed = leadership.proclaim(&bench.ctx, value.to_be_bytes()).await;
        if bench.unless_over(proclaimed)?.is_none() {
            break;
        }
    }
    leadership.resign().await?;
    Ok(())
}

async fn observes(bench: Bench, worker: usize, stage: Arc<Proclamation>) -> Result<(), Spoilt> {
    let Some(client) = bench.client(worker) else { return Ok(()) };
    let mut observation = client.election(format!("{}election", bench.prefix)).observe();
    let mut seen = None;
    loop {
        let observed = tokio::select! {
            observed = observation.next() => observed?,
            _ = bench.ctx.cancelled() => return Ok(()),
        };
        let Observed::Leader(leader) = observed else { continue };
        let (value, proclaimed) = *stage.value();
        // An observation that had to begin anew repeats what it has already delivered.
        if leader.value != value.to_be_bytes() || seen == Some(value) {
            continue;
        }
        if seen.replace(value).is_none() {
            bench.recorder.is_at_it();
        }
        bench.recorder.record(&[(TimeKind::Observed, proclaimed.elapsed())]);
        if stage.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            bench.recorder.record(&[(TimeKind::ObservedByAll, proclaimed.elapsed())]);
            stage.observed_by_all.notify_one();
        }
    }
}

impl Proclamation {
    fn value(&self) -> std::sync::MutexGuard<'_, (u64, Instant)> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
