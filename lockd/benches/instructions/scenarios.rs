//! What is counted: each a step that every lock, or every message, takes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::BoxStream};
use lockd::{
    batcher::Batcher,
    keys::{self, EntryId, LockId},
    mode::Mode,
    queue::{Queue, Seated},
    store::{
        Change, Delete, Durable, Enqueue, Feed, Guard, Join, Key, LeaseId, Op, Outcome, Place,
        Profile, Record, Revision, Store, StoreError,
    },
    view::View,
};
use lockd_proto::{
    LockName, Namespace, RequestId, SessionId, Ttl, TtlRange,
    clock::Clock,
    v1::{self, AttachRequest, AttachResponse, ClientMessage, ServerMessage},
};
use prost::Message as _;

/// Each scenario, and how many rounds are enough for a count that does not move.
pub(crate) const ALL: [(&str, u64); 5] = [
    ("grant: a handoff in a queue of 100", 2_000),
    ("view: an entry that joins and leaves", 2_000),
    ("view: a handoff in a queue of 100", 2_000),
    ("batcher: a write among 256", 10_000),
    ("codec: a pair in frames of 64", 2_048),
];

pub(crate) fn run(scenario: &str, rounds: u64) {
    match ALL.iter().position(|(name, _)| *name == scenario) {
        Some(0) => handoffs(rounds),
        Some(1) => entries(rounds, 0),
        Some(2) => entries(rounds, 100),
        Some(3) => batches(rounds),
        Some(4) => messages(rounds),
        _ => panic!("there is no scenario {scenario:?}"),
    }
}

struct Seat;

impl Seated for Seat {
    fn mode(&self) -> Mode {
        Mode::Exclusive
    }
}

fn handoffs(rounds: u64) {
    let mut queue = Queue::default();
    (1..=100).for_each(|at| queue.insert(Revision(at), Seat));
    assert_eq!(queue.advance().count(), 1);
    for first in 1..=rounds {
        queue.insert(Revision(first + 100), Seat);
        queue.remove(Revision(first));
        assert_eq!(queue.advance().count(), 1);
    }
}

fn lock(number: u64) -> LockId {
    LockId::new(&Namespace::default(), &LockName::parse(format!("orders/{number}")).unwrap())
}

fn id(number: u64) -> EntryId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    EntryId { session: SessionId::from_bytes([7; 16]), request: RequestId::from_bytes(bytes) }
}

fn joins(lock: &LockId, number: u64, at: u64) -> Feed {
    let (created, modified) = (Revision(at), Revision(at));
    let (key, value) = (keys::entry(lock, id(number)), Bytes::new());
    let record = Record { key, value, created, modified, lease: LeaseId(1) };
    Feed::Changes { revision: created, changes: vec![Change::Put(record)] }
}

fn leaves(lock: &LockId, number: u64, at: u64) -> Feed {
    let gone = Change::Deleted(keys::entry(lock, id(number)));
    Feed::Changes { revision: Revision(at), changes: vec![gone] }
}

/// Entries that join one lock and leave it, with so many between the two.
fn entries(rounds: u64, between: u64) {
    let lock = lock(1);
    // The system's clock is read in a way that valgrind does not know.
    let view = View::new(Clock::tokio());
    let mut events = view.subscribe(id(0).session, 4);
    let steps = (1..=rounds + between).flat_map(|number| {
        let join = (number <= rounds).then(|| joins(&lock, number, 2 * number));
        let first = number.checked_sub(between).filter(|first| *first > 0);
        let leave = first.map(|first| leaves(&lock, first, 2 * number + 1));
        join.into_iter().chain(leave)
    });
    let feed: Vec<_> = steps.collect();
    let heard = async { while events.recv().await.is_some() {} };
    let told = async {
        for step in feed {
            view.run(stream::iter([step]).boxed()).await;
            // Whoever listens is given the time to do so.
            tokio::task::yield_now().await;
        }
    };
    on_one_thread(async {
        tokio::select! {
            () = heard => panic!("the listener was cut off"),
            () = told => {}
        }
    });
}

fn batches(rounds: u64) {
    on_one_thread(async move {
        let (batcher, running) = Batcher::new(Arc::new(Instant::default()), Default::default());
        let running = tokio::spawn(running);
        for start in (0..rounds).step_by(256) {
            let writes =
                (start..rounds.min(start + 256)).map(|number| batcher.submit(write(number)));
            let outcomes = futures::future::join_all(writes).await;
            assert!(outcomes.iter().all(Result::is_ok));
        }
        running.abort();
    });
}

/// An acquire or the release of another lock.
fn write(number: u64) -> Op {
    let key = keys::entry(&lock(number % 512), id(number));
    if number.is_multiple_of(2) {
        return Op::Delete(Delete::new(vec![(key, Guard::Exists)]));
    }
    let place = Place { queue: keys::queue_of(&key), key };
    Op::Enqueue(Enqueue {
        places: vec![place],
        value: Bytes::new(),
        session: keys::session(id(0).session),
        lease: LeaseId(1),
        join: Join::Always,
        durable: Durable::Before,
    })
}

/// Frames of all four messages, as a client with 64 workers sends and is sent them.
fn messages(rounds: u64) {
    let mut frames = (AttachRequest::default(), AttachResponse::default());
    for number in 1..=rounds {
        add_pair(number, &mut frames);
        if number % 32 == 0 {
            let (up, down) = std::mem::take(&mut frames);
            let (up, down) = (up.encode_to_vec(), down.encode_to_vec());
            assert_eq!(AttachRequest::decode(up.as_slice()).unwrap().messages.len(), 64);
            assert_eq!(AttachResponse::decode(down.as_slice()).unwrap().messages.len(), 64);
        }
    }
}

fn add_pair(number: u64, (up, down): &mut (AttachRequest, AttachResponse)) {
    use v1::{client_message::Message as Ask, server_message::Message as Told};
    let request_id = id(number).request.as_bytes().to_vec();
    let acquire = v1::Acquire {
        request_id: request_id.clone(),
        name: format!("orders/{number}"),
        ..v1::Acquire::default()
    };
    let release = v1::Release { request_id: request_id.clone() };
    let grant = Some(v1::Grant { token: number });
    let granted = v1::Granted { request_id: request_id.clone(), grant };
    let outcome = v1::ReleaseOutcome::Released.into();
    let released = v1::Released { request_id, outcome, position: 0 };
    let asks = [Ask::Acquire(acquire), Ask::Release(release)];
    let answers = [Told::Granted(granted), Told::Released(released)];
    up.messages.extend(asks.map(|ask| ClientMessage { message: Some(ask) }));
    down.messages.extend(answers.map(|told| ServerMessage { message: Some(told) }));
}

fn on_one_thread(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

/// A store that has done everything at once, and batches as etcd wants it.
#[derive(Debug)]
struct Instant(Profile);

impl Default for Instant {
    fn default() -> Self {
        Self(Profile {
            name: "instant",
            ttl: TtlRange { min: Duration::ZERO, max: Duration::MAX },
            max_ops: 60,
            max_in_flight: 8,
            groups_commits: false,
            revision_per_op: false,
        })
    }
}

impl Store for Instant {
    fn profile(&self) -> &Profile {
        &self.0
    }

    fn commit(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>> {
        let done = batch.iter().map(|_| Outcome::Done(Revision(1))).collect();
        std::future::ready(Ok(done)).boxed()
    }

    fn grant_lease(&self, _: LeaseId, ttl: Ttl) -> BoxFuture<'_, Result<Ttl, StoreError>> {
        std::future::ready(Ok(ttl)).boxed()
    }

    fn keep_alive(&self, _: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn revoke_lease(&self, _: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }

    fn lease_remaining(&self, _: LeaseId) -> BoxFuture<'_, Result<Option<Duration>, StoreError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn get(&self, _: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn first(&self, _: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        std::future::ready(Ok(None)).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Feed> {
        stream::pending().boxed()
    }
}
