//! Leases on a log that replicas share, with the real core: pauses, cuts, late and lost messages, lost
//! leases of replicas, crashes, clocks up to 2 % wrong, and clients whose calls go to another replica each
//! time.
//!
//! A client counts from its sending: send time + granted TTL − margin. No session may end, and no other
//! client be granted its lock, while its client's own clock says that it is safe; and when all that is
//! over, every client gets its lock again, and what dead clients left behind is gone.

mod belief;
mod plan;
mod shared_log;
mod store;
mod stream_client;
mod unary_client;
mod world;

use std::{sync::Arc, time::Duration};

use belief::Beliefs;
use lockd_proto::clock::Clock;
use parking_lot::Mutex;
use plan::Plan;
use shared_log::{Process, SharedLog};
use store::SharedStore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use world::{Dice, Node, World};

use super::{super::*, lock, millis};
use crate::telemetry::traces::Traces;

/// The seeds that are run, unless `LOCKD_LEASE_SEEDS` names others, such as `0..3000`. Half a second of CPU
/// each in debug.
const SEEDS: std::ops::Range<u64> = 0..24;

/// All that goes wrong is over by then, and so are the sessions that it has cost.
const QUIET: Duration = Duration::from_secs(50);

/// How long clients have after that to get their locks.
const PROGRESS: Duration = Duration::from_secs(18);

/// The longest TTL, in milliseconds, of sessions that silence ends in that time.
const ENDS_IN_TIME: u32 = 10_000;

/// The cores that clients reach; none while a replica's process is dead.
type Slots = Arc<[Mutex<Option<Handle>>]>;

/// What a client is made of.
struct Tester {
    world: Arc<World>,
    beliefs: Arc<Beliefs>,
    slots: Slots,
    index: usize,
    clock: Clock,
    dice: Dice,
    ttl: Duration,
}

impl Tester {
    fn reply_timeout(&self) -> Duration {
        Duration::from_secs(1).max(self.ttl / 10).min(self.ttl / 2)
    }

    async fn rest(&mut self, from: f64, to: f64) {
        tokio::time::sleep(self.dice.seconds(from, to)).await;
    }
}

fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "a test's own task")]
    tokio::spawn(task)
}

/// One run.
struct Run {
    world: Arc<World>,
    beliefs: Arc<Beliefs>,
    store: Arc<SharedStore>,
    slots: Slots,
    plan: Plan,
    dice: Dice,
}

impl Run {
    fn new(seed: u64) -> Arc<Self> {
        let plan = Plan::roll(seed);
        let mut dice = Dice::new(!seed);
        let world = Arc::new(World::new(plan.faults.clone(), Dice::new(dice.next())));
        let beliefs = Arc::new(Beliefs::default());
        let store = SharedStore::new(world.clone(), beliefs.clone(), plan.store_rate);
        let slots = plan.replica_rates.iter().map(|_| Mutex::default()).collect();
        Arc::new(Self { world, beliefs, store, slots, plan, dice })
    }

    /// Starts the process of a replica. It ends with the token.
    fn boot(&self, index: usize) -> CancellationToken {
        let end = CancellationToken::new();
        let clock = Clock::tokio_at(self.plan.replica_rates[index]);
        let (world, store) = (self.world.clone(), self.store.clone());
        let process =
            Arc::new(Process { world, store, index, clock: clock.clone(), end: end.clone() });
        let parts = Parts {
            name: format!("{index}").into(),
            limits: Limits::default(),
            clock,
            traces: Traces::default(),
            drain: CancellationToken::new(),
            end: CancellationToken::new(),
        };
        let (core, handle) = Core::new(SharedLog::new(process.clone()), parts);
        *self.slots[index].lock() = Some(handle);
        let beliefs = self.beliefs.clone();
        process.spawn(async move {
            if let Err(error) = core.run().await {
                beliefs.wrong(format!("replica {index} has failed: {error}"));
            }
        });
        end
    }

    fn start_replicas(self: &Arc<Self>) {
        for index in 0..self.slots.len() {
            let run = self.clone();
            spawn(async move {
                let mut crashes = run.world.faults().crashes.clone();
                crashes.retain(|(replica, _)| *replica == index);
                crashes.sort_unstable_by_key(|(_, span)| span.0);
                for (_, (from, to)) in crashes {
                    let end = run.boot(index);
                    run.world.reaches(from).await;
                    end.cancel();
                    *run.slots[index].lock() = None;
                    run.world.reaches(to).await;
                }
                run.boot(index);
            });
        }
    }

    fn start_clients(&self) {
        let mut dice = self.dice.clone();
        for (index, &(rate, ttl, streams)) in self.plan.clients.iter().enumerate() {
            let clock = Clock::tokio_at(rate);
            self.beliefs.add(clock.clone());
            let (world, beliefs) = (self.world.clone(), self.beliefs.clone());
            let (slots, own) = (self.slots.clone(), Dice::new(dice.next()));
            let tester = Tester { world, beliefs, slots, index, clock, dice: own, ttl };
            let world = self.world.clone();
            let start = dice.seconds(1.0, 2.0);
            let client = spawn(async move {
                world.reaches(start).await;
                let node = Node::Client(index);
                if streams {
                    world.run(node, stream_client::live(tester)).await;
                } else {
                    world.run(node, unary_client::live(tester)).await;
                }
            });
            let (world, beliefs) = (self.world.clone(), self.beliefs.clone());
            let deaths = self.world.faults().deaths.iter();
            let death = deaths.filter(|(it, _)| *it == index).map(|(_, at)| *at).min();
            if let Some(at) = death {
                spawn(async move {
                    world.reaches(at).await;
                    client.abort();
                    beliefs.begins(index, None);
                });
            }
        }
    }

    fn is_dead(&self, client: usize) -> bool {
        self.world.faults().deaths.iter().any(|(it, _)| *it == client)
    }

    /// What went wrong.
    async fn outcome(self: Arc<Self>) -> Vec<String> {
        spawn(self.store.clone().keep_leases());
        self.start_replicas();
        self.start_clients();
        self.world.reaches(QUIET).await;
        let before = self.beliefs.grants();
        let left = self.store.sessions(ENDS_IN_TIME);
        self.world.reaches(QUIET + PROGRESS).await;
        let mut wrong = self.beliefs.take_wrong();
        let grants = before.into_iter().zip(self.beliefs.grants()).enumerate();
        for (client, (before, after)) in grants {
            if before == after && !self.is_dead(client) {
                wrong.push(format!("client {client} was granted nothing in the end"));
            }
        }
        let alive = self.beliefs.sessions();
        for session in self.store.sessions(ENDS_IN_TIME) {
            if left.contains(&session) && !alive.contains(&session) {
                wrong.push(format!("session {session} is left behind"));
            }
        }
        wrong
    }
}

/// Runs a seed, and says what went wrong.
fn outcome(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async { Run::new(seed).outcome().await })
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(named) = std::env::var("LOCKD_LEASE_SEEDS") else { return SEEDS };
    let (from, to) = named.split_once("..").unwrap();
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn no_session_ends_while_its_client_is_safe_and_all_goes_on_after_faults() {
    let (seeds, bad) = (Mutex::new(seeds()), Mutex::new(Vec::new()));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                loop {
                    let Some(seed) = seeds.lock().next() else { return };
                    let wrong = outcome(seed);
                    if !wrong.is_empty() {
                        bad.lock().push((seed, wrong));
                    }
                }
            });
        }
    });
    let mut bad = bad.into_inner();
    bad.sort_unstable();
    assert!(bad.is_empty(), "{} seeds: {bad:#?}", bad.len());
}
