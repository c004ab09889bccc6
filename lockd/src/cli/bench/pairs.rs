//! Pairs of acquire and release, of locks that their workers share or have for themselves.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lockd_client::{Client, FencingToken, Group};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Bench, Spoilt, recorder::TimeKind};

/// A lock, and what is known of its holders.
struct BenchLock {
    name: String,
    /// The token of its last holder.
    last: AtomicU64,
    held: AtomicBool,
    /// When the last release was sent.
    released: Mutex<Option<Instant>>,
}

/// How often it is asked how long the queue is.
const QUEUE_INTERVAL: Duration = Duration::from_millis(50);

/// Starts the workers, each of which uses one of so many locks.
pub(super) async fn spawn(group: &mut Group<Spoilt>, bench: &Bench, locks: usize) {
    let lanes: Vec<_> =
        (0..locks).map(|n| Arc::new(BenchLock::new(format!("{}{n}", bench.prefix)))).collect();
    for (worker, lane) in (0..bench.workers).zip(lanes.iter().cycle()) {
        let begins = begins(bench.clone(), worker, Arc::clone(lane));
        // It fails once a worker has, which says why.
        if group.spawn(|_| begins).await.is_err() {
            return;
        }
    }
}

/// Starts the workers of one lock, which have all begun as soon as its queue is as long as it gets:
/// until each of very many has held the lock takes minutes.
pub(super) async fn spawn_queue(group: &mut Group<Spoilt>, bench: &Bench) {
    let Some(client) = bench.client(0) else { return };
    // A server that does not answer fails the workers as well.
    let others = client.status().await.map_or(0, |status| status.waiters);
    let fills = fills(bench.clone(), client, others);
    if group.spawn(|_| fills).await.is_err() {
        return;
    }
    let lane = Arc::new(BenchLock::new(format!("{}0", bench.prefix)));
    for worker in 0..bench.workers {
        let works = work(bench.clone(), worker, Arc::clone(&lane));
        if group.spawn(|_| works).await.is_err() {
            return;
        }
    }
}

/// Watches the queue grow. The waiters of other clients are taken to be as many as before.
async fn fills(bench: Bench, client: Client, others: u64) -> Result<(), Spoilt> {
    // Some are served at any moment: they have released, or are granted the lock.
    let served = (bench.workers / 100 + 2).min(bench.workers);
    while bench.ctx.cause().is_none() {
        let waiters = client.status().await?.waiters.saturating_sub(others);
        let waiters = usize::try_from(waiters).unwrap_or(usize::MAX).min(bench.workers - served);
        if waiters + served == bench.workers {
            bench.recorder.are_at_it(bench.workers);
            break;
        }
        bench.recorder.are_at_it(waiters);
        sleep(QUEUE_INTERVAL).await;
    }
    Ok(())
}

async fn begins(bench: Bench, worker: usize, lane: Arc<BenchLock>) -> Result<(), Spoilt> {
    let Some(client) = bench.client(worker) else { return Ok(()) };
    // It has a session, and a place among the others.
    let Some(first) = bench.unless_over(client.lock(&lane.name).acquire(&bench.ctx).await)? else {
        return Ok(());
    };
    bench.recorder.is_at_it();
    first.release().await?;
    work(bench, worker, lane).await
}

async fn work(bench: Bench, worker: usize, lane: Arc<BenchLock>) -> Result<(), Spoilt> {
    let Some(client) = bench.client(worker) else { return Ok(()) };
    let mut pace = Pace::new(&bench, worker);
    while let Some(due) = pace.next(&bench).await {
        let asked = Instant::now();
        let acquired = client.lock(&lane.name).acquire(&bench.ctx).await;
        let Some(guard) = bench.unless_over(acquired)? else { break };
        let granted = Instant::now();
        let released = lane.granted(guard.token())?;
        // Another holder, if there is one, gets the time to be detected.
        tokio::task::yield_now().await;
        lane.releases();
        guard.release().await?;
        let recorder = &bench.recorder;
        let (acquire, release) = (granted - due, granted.elapsed());
        let pair = (TimeKind::Pair, acquire + release);
        recorder.record(&[(TimeKind::Acquire, acquire), (TimeKind::Release, release), pair]);
        // Only a client that has waited for the release was handed the lock.
        if let Some(released) = released.filter(|released| *released > asked) {
            recorder.record(&[(TimeKind::Handoff, granted - released)]);
        }
    }
    Ok(())
}

impl BenchLock {
    fn new(name: String) -> Self {
        Self {
            name,
            last: AtomicU64::new(0),
            held: AtomicBool::new(false),
            released: Mutex::new(None),
        }
    }

    /// Records a grant, and returns when the lock was last released.
    fn granted(&self, token: FencingToken) -> Result<Option<Instant>, Spoilt> {
        let token = token.get();
        if self.held.swap(true, Ordering::SeqCst) {
            return Err(Spoilt::Overlap { lock: self.name.clone(), token });
        }
        let before = self.last.swap(token, Ordering::SeqCst);
        if before >= token {
            return Err(Spoilt::Token { lock: self.name.clone(), token, before });
        }
        Ok(*self.released())
    }

    /// It is about to be released.
    fn releases(&self) {
        self.held.store(false, Ordering::SeqCst);
        *self.released() = Some(Instant::now());
    }

    fn released(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a worker's pairs begin.
struct Pace {
    /// When the next one is to begin, and how much later the one after it.
    plan: Option<(Instant, Duration)>,
}

impl Pace {
    /// The workers of a run take turns.
    fn new(bench: &Bench, worker: usize) -> Self {
        let share = |part: usize, rate: f64| {
            let part = u32::try_from(part).unwrap_or(u32::MAX);
            Duration::from_secs_f64(f64::from(part) / rate)
        };
        let first = |rate| (Instant::now() + share(worker, rate), share(bench.workers, rate));
        Self { plan: bench.rate.map(first) }
    }

    /// When the next pair began, or was to; `None` at the end.
    async fn next(&mut self, bench: &Bench) -> Option<Instant> {
        let due = match &mut self.plan {
            None => Instant::now(),
            Some((next, step)) => {
                let due = *next;
                *next += *step;
                tokio::select! {
                    () = sleep_until(due) => {}
                    _ = bench.ctx.cancelled() => {}
                }
                due
            }
        };
        bench.ctx.cause().is_none().then_some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    #[test]
    fn holders_that_overlap_spoil_a_run() {
        let lane = BenchLock::new("lane".to_owned());
        assert_eq!(lane.granted(token(2)).unwrap(), None);
        assert!(matches!(lane.granted(token(3)), Err(Spoilt::Overlap { token: 3, .. })));
        lane.releases();
        assert!(lane.granted(token(4)).unwrap().is_some());
    }

    #[test]
    fn tokens_that_do_not_rise_spoil_a_run() {
        for again in [6, 7] {
            let lane = BenchLock::new("lane".to_owned());
            lane.granted(token(7)).unwrap();
            lane.releases();
            let spoilt = lane.granted(token(again));
            assert!(matches!(spoilt, Err(Spoilt::Token { before: 7, .. })), "{spoilt:?}");
        }
    }
}
