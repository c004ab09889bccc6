//! A replica in memory, on a clock that stands still while anything is to be done: what takes
//! time takes none here, and to the millisecond.

use lockd_proto::{FencingToken, LockName, Namespace, RequestId, clock::Clock, v1::ClientInfo};
use tokio::task::JoinHandle;

use super::*;
use crate::{
    keys::LockId,
    mode::Mode,
    record::EntryRecord,
    requests::{Acquire, Refusal, Reply},
    serve::{Lifecycle, Parts, compose},
    sessions::{Credential, Stream},
    store::embedded::EmbeddedStore,
    traces::Traces,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3000);

struct Replica {
    engine: Engine,
    clock: Clock,
    _life: Lifecycle,
}

/// What an acquire asks for.
#[derive(Clone)]
struct Ask {
    names: Vec<&'static str>,
    owner: &'static str,
    mode: Mode,
    lock_delay: Duration,
    max_wait: Option<Duration>,
}

fn ask(name: &'static str, owner: &'static str) -> Ask {
    let (mode, lock_delay) = (Mode::Exclusive, Duration::ZERO);
    Ask { names: vec![name], owner, mode, lock_delay, max_wait: None }
}

fn lock(name: &str) -> LockId {
    LockId::new(&Namespace::default(), &LockName::parse(name).unwrap())
}

impl Replica {
    async fn new() -> Self {
        let (clock, life) = (Clock::tokio(), Lifecycle::default());
        let store = EmbeddedStore::in_memory(clock.clone(), &life.tasks, life.end.clone()).unwrap();
        let limits = crate::requests::Limits::default();
        let parts = Parts {
            name: "test".to_owned(),
            limits,
            clock: clock.clone(),
            traces: Traces::default(),
        };
        let engine = compose(parts, Arc::new(store), &life);
        engine.view.reached(Revision::default()).await;
        Self { engine, clock, _life: life }
    }

    async fn session(&self, ttl: Duration) -> Credential {
        let (ttl, client) = (Some(ttl), ClientInfo::default());
        let opened = self.engine.sessions.open(ttl, client, Stream::None, None);
        let opened = opened.await.unwrap().expect("the id is new");
        Credential { session: opened.session.id, secret: opened.secret }
    }

    /// Acquires in a task of its own.
    fn acquire(&self, by: &Credential, ask: &Ask) -> JoinHandle<Result<Reply, Error>> {
        self.acquire_as(by, ask, RequestId::random())
    }

    fn acquire_as(
        &self,
        by: &Credential,
        ask: &Ask,
        request: RequestId,
    ) -> JoinHandle<Result<Reply, Error>> {
        let record = EntryRecord {
            owner: ask.owner.to_owned(),
            mode: Some(ask.mode.to_wire()),
            lock_delay_ms: u64::try_from(ask.lock_delay.as_millis()).unwrap(),
            ..EntryRecord::default()
        };
        let acquire = Acquire {
            request,
            locks: ask.names.iter().map(|name| lock(name)).collect(),
            record: Arc::new(record),
            max_wait: ask.max_wait,
        };
        let (engine, by) = (self.engine.clone(), by.clone());
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        tokio::spawn(async move { engine.acquire(&by, acquire).await })
    }

    async fn holds(&self, by: &Credential, ask: &Ask) {
        let reply = self.acquire(by, ask).await.unwrap().unwrap();
        assert!(matches!(reply, Reply::Granted { .. }), "{reply:?}");
    }

    /// Waits until a lock's queue has this many entries.
    async fn queued(&self, name: &str, entries: usize) {
        while self.engine.view.len(&lock(name)) != entries {
            tokio::task::yield_now().await;
        }
    }

    /// Acquires, known to wait behind so many.
    async fn waits(
        &self,
        by: &Credential,
        ask: &Ask,
        behind: usize,
    ) -> JoinHandle<Result<Reply, Error>> {
        let waiting = self.acquire(by, ask);
        self.queued(ask.names[0], behind + 1).await;
        waiting
    }
}

fn is_deadlock(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused { refusal: Refusal::Deadlock(_), .. })
}

/// Two owners, each of which holds a lock: `a` holds x, and `b` holds y.
async fn two_owners(replica: &Replica, ttl_of_b: Duration) -> (Credential, Credential) {
    let (a, b) = (replica.session(LONG).await, replica.session(ttl_of_b).await);
    replica.holds(&a, &ask("x", "a")).await;
    replica.holds(&b, &ask("y", "b")).await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn the_youngest_wait_of_a_cycle_ends_and_no_other() {
    let replica = Replica::new().await;
    let (a, b) = two_owners(&replica, LONG).await;
    let older = replica.waits(&a, &ask("y", "a"), 1).await;
    let youngest = replica.acquire(&b, &ask("x", "b")).await.unwrap().unwrap();
    assert!(is_deadlock(&youngest), "{youngest:?}");
    tokio::time::sleep(10 * SECOND).await;
    assert!(!older.is_finished());
    assert_eq!(replica.engine.view.deadlocks(&lock("x")).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_itself_is_told_so() {
    let replica = Replica::new().await;
    let a = replica.session(LONG).await;
    replica.holds(&a, &ask("x", "a")).await;
    let again = replica.acquire(&a, &ask("x", "a")).await.unwrap().unwrap();
    assert!(is_deadlock(&again), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_another_wait_that_may_end_is_not_stuck() {
    let replica = Replica::new().await;
    let (a, b) = two_owners(&replica, LONG).await;
    let free = replica.session(LONG).await;
    replica.holds(&free, &ask("z", "")).await;
    let blocked = replica.waits(&a, &ask("y", "a"), 1).await;
    let other = replica.waits(&a, &ask("z", "a"), 1).await;
    let crossing = replica.waits(&b, &ask("x", "b"), 1).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(!blocked.is_finished() && !other.is_finished() && !crossing.is_finished());
    // The other wait gives up: now it is stuck, and the youngest of the cycle ends.
    other.abort();
    assert!(is_deadlock(&crossing.await.unwrap().unwrap()));
    assert!(!blocked.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_holder_whose_lease_may_end_is_waited_for() {
    let replica = Replica::new().await;
    let (a, b) = two_owners(&replica, 10 * SECOND).await;
    // Less than half of b's lease is left when the cycle is closed.
    tokio::time::sleep(6 * SECOND).await;
    let waiting = replica.waits(&a, &ask("y", "a"), 1).await;
    let crossing = replica.waits(&b, &ask("x", "b"), 1).await;
    let reply = waiting.await.unwrap().unwrap();
    assert!(matches!(reply, Reply::Granted { .. }), "b has died: {reply:?}");
    let died = crossing.await.unwrap();
    assert!(matches!(died, Err(Error::SessionNotFound(_))), "{died:?}");
    assert!(replica.engine.view.deadlocks(&lock("x")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_cancelled_in_time_ends_nobody_elses() {
    let replica = Replica::new().await;
    let (a, b) = two_owners(&replica, LONG).await;
    let short = Ask { max_wait: Some(SECOND / 5), ..ask("y", "a") };
    let cancelled = replica.waits(&a, &short, 1).await;
    let crossing = replica.waits(&b, &ask("x", "b"), 1).await;
    let reply = cancelled.await.unwrap().unwrap();
    assert!(matches!(reply, Reply::Refused { refusal: Refusal::WaitExpired, .. }), "{reply:?}");
    tokio::time::sleep(60 * SECOND).await;
    assert!(!crossing.is_finished(), "it waits for whoever holds x, and that is no deadlock");
}

#[tokio::test(start_paused = true)]
async fn a_holder_beside_whom_there_is_room_is_not_in_the_way() {
    let replica = Replica::new().await;
    let permit = |owner| Ask { mode: Mode::Permits { count: 1, capacity: 2 }, ..ask("s", owner) };
    let (a, b) = (replica.session(LONG).await, replica.session(LONG).await);
    let other = replica.session(LONG).await;
    replica.holds(&a, &permit("a")).await;
    replica.holds(&other, &permit("")).await;
    replica.holds(&b, &ask("x", "b")).await;
    // b waits for a permit, of which a holds one: but the other one may come back as well.
    let b_waits = replica.waits(&b, &permit("b"), 2).await;
    let a_waits = replica.waits(&a, &ask("x", "a"), 1).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(!a_waits.is_finished() && !b_waits.is_finished());
    replica
        .engine
        .sessions
        .close(&replica.engine.sessions.prove(&other).await.unwrap())
        .await
        .unwrap();
    assert!(matches!(b_waits.await.unwrap(), Ok(Reply::Granted { .. })));
}

#[tokio::test(start_paused = true)]
async fn shared_holders_are_not_in_each_others_way() {
    let replica = Replica::new().await;
    let shared = |name, owner| Ask { mode: Mode::Shared, ..ask(name, owner) };
    let (a, b) = (replica.session(LONG).await, replica.session(LONG).await);
    for (by, name, owner) in [(&a, "x", "a"), (&b, "y", "b"), (&a, "y", "a"), (&b, "x", "b")] {
        replica.holds(by, &shared(name, owner)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_the_next_grant_waits_for_the_lock_delay() {
    let replica = Replica::new().await;
    let dying = replica.session(10 * SECOND).await;
    let delayed = Ask { lock_delay: 30 * SECOND, ..ask("x", "") };
    let since = replica.clock.now();
    replica.holds(&dying, &delayed).await;
    let next = replica.session(LONG).await;
    let reply = replica.acquire(&next, &ask("x", "")).await.unwrap().unwrap();
    assert!(matches!(reply, Reply::Granted { .. }), "{reply:?}");
    let waited = replica.clock.now().saturating_duration_since(since);
    assert!(waited >= 40 * SECOND && waited < 41 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_dies_leaves_no_delay_behind() {
    let replica = Replica::new().await;
    let (holder, dying) = (replica.session(LONG).await, replica.session(10 * SECOND).await);
    replica.holds(&holder, &ask("x", "")).await;
    let delayed = Ask { lock_delay: 30 * SECOND, ..ask("x", "") };
    let waiting = replica.waits(&dying, &delayed, 1).await;
    assert!(matches!(waiting.await.unwrap(), Err(Error::SessionNotFound(_))));
    replica.queued("x", 1).await;
}

/// A call breaks off, and its retry with the same request id comes in at any moment of that:
/// whoever is told that it holds does so, and nothing is left behind otherwise.
#[tokio::test(start_paused = true)]
async fn what_a_retry_was_granted_is_not_taken_out_by_the_call_before_it() {
    let (mut granted, mut again) = (0, 0);
    for moment in 0..60 {
        let replica = Replica::new().await;
        let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
        replica.holds(&holder, &ask("x", "")).await;
        let request = RequestId::random();
        let broken = replica.acquire_as(&by, &ask("x", ""), request);
        replica.queued("x", 2).await;
        let retry = replica.acquire_as(&by, &ask("x", ""), request);
        let holder = replica.engine.sessions.prove(&holder).await.unwrap();
        for step in 0..60 {
            if step == moment {
                broken.abort();
            }
            if step == 20 {
                replica.engine.sessions.close(&holder).await.unwrap();
            }
            tokio::task::yield_now().await;
        }
        broken.abort();
        let told = retry.await.unwrap().unwrap();
        tokio::time::sleep(SECOND).await;
        let entries = replica.engine.view.len(&lock("x"));
        match told {
            Reply::Granted { .. } => {
                granted += 1;
                assert_eq!(entries, 1, "told at {moment} that it holds");
            }
            other => {
                again += 1;
                assert_eq!(entries, 0, "{other:?} at {moment}");
            }
        }
    }
    assert!(granted > 50, "{granted} were granted, {again} had to ask again");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_taken_over_may_end_as_it_likes() {
    let replica = Replica::new().await;
    let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(&holder, &ask("x", "")).await;
    let request = RequestId::random();
    let short = Ask { max_wait: Some(SECOND), ..ask("x", "") };
    let first = replica.acquire_as(&by, &short, request);
    replica.queued("x", 2).await;
    let retry = replica.acquire_as(&by, &ask("x", ""), request);
    let expired = first.await.unwrap().unwrap();
    assert!(matches!(expired, Reply::Refused { refusal: Refusal::WaitExpired, .. }), "{expired:?}");
    assert_eq!(replica.engine.view.len(&lock("x")), 2, "the retry waits on");
    // It gives up too: now the entry goes.
    retry.abort();
    replica.queued("x", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_of_what_waits_is_refused_and_leaves_the_waiter_alone() {
    let replica = Replica::new().await;
    let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(&holder, &ask("x", "")).await;
    let request = RequestId::random();
    let waiting = replica.acquire_as(&by, &ask("x", ""), request);
    replica.queued("x", 2).await;
    let queue = replica.engine.view.queue(&lock("x")).unwrap();
    let token = FencingToken::new(queue.entries[1].entry.created.0).unwrap();
    let refused = replica.engine.release(&by, &lock("x"), request, token).await;
    assert!(matches!(refused, Err(Error::StillWaiting)), "{refused:?}");
    let holder = replica.engine.sessions.prove(&holder).await.unwrap();
    replica.engine.sessions.close(&holder).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Ok(Reply::Granted { .. })));
    tokio::time::sleep(SECOND).await;
    assert_eq!(replica.engine.view.len(&lock("x")), 1, "what was granted stays");
}
