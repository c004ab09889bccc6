//! A core on a log in memory, on a clock that stands still while anything is to be done: what takes
//! time takes none here, and to the millisecond.

mod differ;
mod late;
mod leases;
mod memory;
mod shared;

use std::time::Duration;

use lockd_proto::{FencingToken, LockName, Namespace, RequestId, SessionId, clock::Clock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::memory::MemoryLog;
use super::{
    answer::{AcquireReply, Explained, Found},
    ask::{Acquire, Call, Credential, Look},
    error::Error,
    *,
};
use crate::{
    record::{Info, LockId, Mode, Open, Wait},
    state::{Page, Refusal},
    telemetry::traces::Traces,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(3000);
const ALL: Page = Page { after: Position(0), entries: 1000, bytes: 1 << 20 };

struct Replica {
    core: Handle,
    clock: Clock,
    end: CancellationToken,
    /// How it ends.
    run: JoinHandle<Result<(), LogError>>,
}

/// What an acquire asks for.
#[derive(Clone)]
struct Wanted {
    names: Vec<&'static str>,
    owner: &'static str,
    mode: Mode,
    lock_delay: Duration,
    wait: Wait,
}

type Answered = Result<AcquireReply, Error>;

fn wanted(name: &'static str, owner: &'static str) -> Wanted {
    let (mode, lock_delay) = (Mode::Exclusive, Duration::ZERO);
    Wanted { names: vec![name], owner, mode, lock_delay, wait: Wait::Forever }
}

fn lock(name: &str) -> LockId {
    LockId::new(&Namespace::default(), &LockName::parse(name).unwrap())
}

fn parts(limits: Limits, clock: &Clock, end: &CancellationToken) -> Parts {
    let (clock, drain) = (clock.clone(), CancellationToken::new());
    let traces = Traces::default();
    Parts { name: "test".into(), limits, clock, traces, drain, end: end.clone() }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap()
}

impl Replica {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self::on(MemoryLog::new(), limits)
    }

    fn on(log: impl Log, limits: Limits) -> Self {
        let (clock, end) = (Clock::tokio(), CancellationToken::new());
        let parts = parts(limits, &clock, &end);
        let (core, handle) = Core::new(log, parts);
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        let run = tokio::spawn(core.run());
        Self { core: handle, clock, end, run }
    }

    /// One on a log that it shares with others, which it has read.
    async fn sharing(log: impl Log) -> Self {
        let replica = Self::on(log, Limits::default());
        while !replica.core.status().snapshot().is_live {
            tokio::task::yield_now().await;
        }
        replica
    }

    async fn try_session(&self, ttl: Duration) -> Result<Credential, Error> {
        let (session, secret_hash) = (SessionId::random(), [7; 32]);
        let client = crate::record::Client::default();
        let open = Open { session, stream: 0, secret_hash, ttl_ms: millis(ttl), client };
        self.core.call(|reply| Call::Open(Box::new(open), reply)).await?;
        Ok(Credential { session, secret_hash, stream: 0 })
    }

    async fn session(&self, ttl: Duration) -> Credential {
        self.try_session(ttl).await.unwrap()
    }

    async fn close(&self, by: Credential) {
        self.core.call(|reply| Call::Close(by, reply)).await.unwrap();
    }

    /// Acquires in a task of its own.
    fn acquire(&self, by: Credential, wanted: &Wanted) -> JoinHandle<Answered> {
        self.acquire_as(by, wanted, RequestId::random())
    }

    fn acquire_as(
        &self,
        by: Credential,
        wanted: &Wanted,
        request: RequestId,
    ) -> JoinHandle<Answered> {
        let locks: Vec<_> = wanted.names.iter().map(|name| lock(name)).collect();
        let first = locks.first().cloned();
        let info = Info { owner: wanted.owner.into(), ..Info::default() };
        let (mode, wait, lock_delay_ms) = (wanted.mode, wanted.wait, millis(wanted.lock_delay));
        let acquire = Box::new(Acquire { request, locks, mode, wait, lock_delay_ms, info });
        let core = self.core.clone();
        #[allow(clippy::disallowed_methods, reason = "a test's own task")]
        tokio::spawn(async move { core.acquire((by, first), acquire).await })
    }

    async fn holds(&self, by: Credential, wanted: &Wanted) {
        let reply = self.acquire(by, wanted).await.unwrap().unwrap();
        assert!(is_granted(&reply), "{reply:?}");
    }

    async fn get(&self, name: &str) -> Option<Found> {
        self.core.ask(|reply| Look::Get(lock(name), ALL, reply)).await.ok()
    }

    async fn len(&self, name: &str) -> usize {
        self.get(name).await.map_or(0, |found| found.queue.total)
    }

    async fn explain(&self, name: &str) -> Explained {
        self.core.ask(|reply| Look::Explain(lock(name), ALL, reply)).await.unwrap()
    }

    /// Waits until a lock's queue has this many entries.
    async fn queued(&self, name: &str, entries: usize) {
        while self.len(name).await != entries {
            tokio::task::yield_now().await;
        }
    }

    /// Acquires, known to wait behind so many.
    async fn waits(&self, by: Credential, wanted: &Wanted, behind: usize) -> JoinHandle<Answered> {
        let waiting = self.acquire(by, wanted);
        self.queued(wanted.names[0], behind + 1).await;
        waiting
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

fn is_granted(reply: &AcquireReply) -> bool {
    matches!(reply, AcquireReply::Granted { .. })
}

fn refusal(reply: &AcquireReply) -> Option<&Refusal> {
    match reply {
        AcquireReply::Refused(refusal) => Some(refusal),
        AcquireReply::Granted { .. } => None,
    }
}

fn is_deadlock(reply: &AcquireReply) -> bool {
    matches!(refusal(reply), Some(Refusal::Deadlock(_)))
}

/// Two owners, each of which holds a lock: `a` holds x, and `b` holds y.
async fn two_owners(replica: &Replica) -> (Credential, Credential) {
    let (a, b) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(a, &wanted("x", "a")).await;
    replica.holds(b, &wanted("y", "b")).await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn the_youngest_wait_of_a_cycle_ends_and_no_other() {
    let replica = Replica::new();
    let (a, b) = two_owners(&replica).await;
    let older = replica.waits(a, &wanted("y", "a"), 1).await;
    let youngest = replica.acquire(b, &wanted("x", "b")).await.unwrap().unwrap();
    assert!(is_deadlock(&youngest), "{youngest:?}");
    tokio::time::sleep(10 * SECOND).await;
    assert!(!older.is_finished());
    let explained = replica.explain("x").await;
    assert_eq!(explained.deadlocks.len(), 1);
    assert!(explained.deadlocks[0].ended.is_some());
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_for_itself_is_a_deadlock() {
    let replica = Replica::new();
    let a = replica.session(LONG).await;
    replica.holds(a, &wanted("x", "a")).await;
    let again = replica.acquire(a, &wanted("x", "a")).await.unwrap().unwrap();
    assert!(is_deadlock(&again), "{again:?}");
}

#[tokio::test(start_paused = true)]
async fn an_owner_with_another_wait_that_may_end_is_not_stuck() {
    let replica = Replica::new();
    let (a, b) = two_owners(&replica).await;
    let free = replica.session(LONG).await;
    replica.holds(free, &wanted("z", "")).await;
    let blocked = replica.waits(a, &wanted("y", "a"), 1).await;
    let other = replica.waits(a, &wanted("z", "a"), 1).await;
    let crossing = replica.waits(b, &wanted("x", "b"), 1).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(!blocked.is_finished() && !other.is_finished() && !crossing.is_finished());
    // The other wait gives up: now it is stuck, and the youngest of the cycle ends.
    other.abort();
    assert!(is_deadlock(&crossing.await.unwrap().unwrap()));
    assert!(!blocked.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_cancelled_in_time_ends_no_other() {
    let replica = Replica::new();
    let (a, b) = two_owners(&replica).await;
    let short = Wanted { wait: Wait::Within(200), ..wanted("y", "a") };
    let cancelled = replica.waits(a, &short, 1).await;
    let crossing = replica.waits(b, &wanted("x", "b"), 1).await;
    let reply = cancelled.await.unwrap().unwrap();
    assert!(matches!(refusal(&reply), Some(Refusal::WaitExpired(_))), "{reply:?}");
    tokio::time::sleep(60 * SECOND).await;
    assert!(!crossing.is_finished(), "it waits for the holder of x, and that is no deadlock");
}

#[tokio::test(start_paused = true)]
async fn a_holder_beside_whom_there_is_room_is_not_in_the_way() {
    let replica = Replica::new();
    let mode = Mode::Permits { count: 1, capacity: 2 };
    let permit = |owner| Wanted { mode, ..wanted("s", owner) };
    let (a, b) = (replica.session(LONG).await, replica.session(LONG).await);
    let other = replica.session(LONG).await;
    replica.holds(a, &permit("a")).await;
    replica.holds(other, &permit("")).await;
    replica.holds(b, &wanted("x", "b")).await;
    // b waits for a permit, of which a holds one: but the other one may come back as well.
    let b_waits = replica.waits(b, &permit("b"), 2).await;
    let a_waits = replica.waits(a, &wanted("x", "a"), 1).await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(!a_waits.is_finished() && !b_waits.is_finished());
    replica.close(other).await;
    assert!(is_granted(&b_waits.await.unwrap().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn after_a_loss_the_next_grant_waits_for_the_lock_delay() {
    let replica = Replica::new();
    let dying = replica.session(10 * SECOND).await;
    let delayed = Wanted { lock_delay: 30 * SECOND, ..wanted("x", "") };
    let since = replica.clock.now();
    replica.holds(dying, &delayed).await;
    let next = replica.session(LONG).await;
    let reply = replica.acquire(next, &wanted("x", "")).await.unwrap().unwrap();
    assert!(is_granted(&reply), "{reply:?}");
    let waited = replica.clock.now().saturating_duration_since(since);
    assert!(waited >= 40 * SECOND && waited < 41 * SECOND, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_dies_leaves_no_delay_behind() {
    let replica = Replica::new();
    let (holder, dying) = (replica.session(LONG).await, replica.session(10 * SECOND).await);
    replica.holds(holder, &wanted("x", "")).await;
    let delayed = Wanted { lock_delay: 30 * SECOND, ..wanted("x", "") };
    let waiting = replica.waits(dying, &delayed, 1).await;
    assert!(matches!(waiting.await.unwrap(), Err(Error::SessionNotFound(_))));
    replica.queued("x", 1).await;
}

/// A call breaks off, and its retry with the same request id comes in at any moment of that: one that
/// is granted the lock holds it, and nothing is left behind otherwise.
#[tokio::test(start_paused = true)]
async fn what_a_retry_was_granted_is_not_taken_out_by_the_call_before_it() {
    let (mut granted, mut again) = (0, 0);
    for moment in 0..60 {
        let replica = Replica::new();
        let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
        replica.holds(holder, &wanted("x", "")).await;
        let request = RequestId::random();
        let broken = replica.acquire_as(by, &wanted("x", ""), request);
        replica.queued("x", 2).await;
        let retry = replica.acquire_as(by, &wanted("x", ""), request);
        for step in 0..60 {
            if step == moment {
                broken.abort();
            }
            if step == 20 {
                replica.close(holder).await;
            }
            tokio::task::yield_now().await;
        }
        broken.abort();
        let told = retry.await.unwrap().unwrap();
        tokio::time::sleep(SECOND).await;
        let entries = replica.len("x").await;
        if is_granted(&told) {
            granted += 1;
            assert_eq!(entries, 1, "granted at {moment}");
        } else {
            again += 1;
            assert_eq!(entries, 0, "{told:?} at {moment}");
        }
    }
    assert!(granted > 50, "{granted} were granted, {again} had to ask again");
}

/// RULES J26: the later call is the claim; the call before it takes nothing out.
#[tokio::test(start_paused = true)]
async fn a_call_that_was_taken_over_ends_and_leaves_the_entry() {
    let replica = Replica::new();
    let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(holder, &wanted("x", "")).await;
    let request = RequestId::random();
    let short = Wanted { wait: Wait::Within(1000), ..wanted("x", "") };
    let first = replica.acquire_as(by, &short, request);
    replica.queued("x", 2).await;
    let retry = replica.acquire_as(by, &wanted("x", ""), request);
    assert!(matches!(first.await.unwrap(), Err(Error::Superseded)));
    tokio::time::sleep(10 * SECOND).await;
    assert_eq!(replica.len("x").await, 2, "the retry waits on");
    // It gives up too: now the entry goes.
    retry.abort();
    replica.queued("x", 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_of_what_waits_is_refused_and_leaves_the_waiter_alone() {
    let replica = Replica::new();
    let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(holder, &wanted("x", "")).await;
    let request = RequestId::random();
    let waiting = replica.acquire_as(by, &wanted("x", ""), request);
    replica.queued("x", 2).await;
    let found = replica.get("x").await.unwrap();
    let token = FencingToken::new(found.queue.entries[1].entry.token.0).unwrap();
    let named = (lock("x"), token);
    let refused = replica.core.call(|reply| Call::Release(by, request, named, reply)).await;
    assert!(matches!(refused, Err(Error::StillWaiting)), "{refused:?}");
    replica.close(holder).await;
    assert!(is_granted(&waiting.await.unwrap().unwrap()));
    tokio::time::sleep(SECOND).await;
    assert_eq!(replica.len("x").await, 1, "what was granted stays");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_ttl_and_a_margin_of_silence() {
    let replica = Replica::new();
    let by = replica.session(10 * SECOND).await;
    replica.holds(by, &wanted("x", "")).await;
    tokio::time::sleep(8 * SECOND).await;
    let ttl = replica.core.call(|reply| Call::KeepAlive(by, reply)).await.unwrap();
    assert_eq!(ttl, 10_000);
    tokio::time::sleep(10 * SECOND + Duration::from_millis(400)).await;
    assert_eq!(replica.len("x").await, 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(replica.len("x").await, 0);
    let late = replica.core.call(|reply| Call::KeepAlive(by, reply)).await;
    assert!(matches!(late, Err(Error::SessionNotFound(_))), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn exactly_so_many_sessions_get_in() {
    let replica = Replica::with(Limits { sessions: 20, ..Limits::default() });
    let opening = (0..50).map(|_| replica.try_session(LONG));
    let opened = futures::future::join_all(opening).await;
    assert_eq!(opened.iter().filter(|it| it.is_ok()).count(), 20);
    assert!(
        opened
            .iter()
            .flat_map(|it| it.as_ref().err())
            .all(|error| { matches!(error, Error::TooManySessions { limit: 20 }) })
    );
}

#[tokio::test(start_paused = true)]
async fn a_try_is_refused_while_the_lock_is_held_and_leaves_nothing() {
    let replica = Replica::new();
    let (holder, by) = (replica.session(LONG).await, replica.session(LONG).await);
    replica.holds(holder, &wanted("x", "")).await;
    let attempt = Wanted { wait: Wait::Not, ..wanted("x", "") };
    let reply = replica.acquire(by, &attempt).await.unwrap().unwrap();
    let Some(Refusal::Busy(Some(ahead))) = refusal(&reply) else { panic!("{reply:?}") };
    assert_eq!(ahead.count, 1);
    assert_eq!(ahead.holder.as_ref().map(|it| it.entry.session), Some(holder.session));
    assert_eq!(replica.len("x").await, 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_more_than_a_record_holds_is_answered_with_the_token_of_its_own_lock() {
    let replica = Replica::new();
    let by = replica.session(LONG).await;
    let owner = &*Box::leak("o".repeat(4_000).into_boxed_str());
    let names: Vec<&'static str> =
        (0..1_000).map(|number| &*Box::leak(format!("many/{number}").into_boxed_str())).collect();
    let acquires: Vec<_> =
        names.iter().map(|name| replica.acquire(by, &wanted(name, owner))).collect();
    for (name, acquire) in names.iter().zip(acquires) {
        let reply = acquire.await.unwrap().unwrap();
        let AcquireReply::Granted { token, .. } = reply else { panic!("{name}: {reply:?}") };
        let held = replica.get(name).await.unwrap();
        assert_eq!(held.queue.entries[0].entry.token, token, "{name}");
    }
}

/// RULES J17, J31: clients of the history that was lost may still be safe.
#[tokio::test(start_paused = true)]
async fn after_an_accepted_restore_all_sessions_are_over_and_nothing_is_granted_for_their_ttl() {
    let by = Credential { session: SessionId::random(), secret_hash: [7; 32], stream: 0 };
    let open = Open {
        session: by.session,
        stream: 0,
        secret_hash: by.secret_hash,
        ttl_ms: millis(60 * SECOND),
        client: crate::record::Client::default(),
    };
    let enqueue = crate::record::Enqueue {
        session: by.session,
        stream: 0,
        request: RequestId::random(),
        locks: vec![lock("x")],
        mode: Mode::Exclusive,
        wait: Wait::Forever,
        lock_delay_ms: 0,
        info: Info::default(),
    };
    let (log, trimmed) = MemoryLog::restored(vec![
        crate::record::Operation::Open(Box::new(open)),
        crate::record::Operation::Enqueue(Box::new(enqueue)),
    ]);
    let replica = Replica::on(log, Limits::default());
    let gone = replica.core.call(|reply| Call::KeepAlive(by, reply)).await;
    assert!(matches!(gone, Err(Error::SessionNotFound(_))), "{gone:?}");
    assert_eq!(replica.len("x").await, 0);
    let margin = lockd_proto::safety_margin(60 * SECOND);
    tokio::time::sleep(60 * SECOND + margin - Duration::from_millis(20)).await;
    let early = replica.try_session(LONG).await;
    assert!(matches!(early, Err(Error::Restored(_))), "{early:?}");
    assert!(trimmed.lock().is_none(), "a start after it would count no time");
    tokio::time::sleep(Duration::from_millis(40)).await;
    let next = replica.session(LONG).await;
    let reply = replica.acquire(next, &wanted("x", "")).await.unwrap().unwrap();
    let AcquireReply::Granted { token, .. } = reply else { panic!("{reply:?}") };
    assert!(token.0 > 1 << 40);
    tokio::time::sleep(2 * SECOND).await;
    let floor = trimmed.lock().expect("a checkpoint lies behind the restore");
    assert!(floor.at.0 > 1 << 40);
}
