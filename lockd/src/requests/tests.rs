//! The life of an acquire: single steps, and random interleavings of what a client asks,
//! what the store does, and when either is heard of.

use std::collections::{BTreeMap, VecDeque};

mod model;

use bytes::Bytes;
use lockd_proto::{LockName, Namespace, SessionId, clock::Clock};
use proptest::prelude::*;

use super::*;
use crate::{
    keys::{self, Named},
    store::{Change, Durable, Enqueue, Feed, Join, Key, LeaseId},
    view::SessionEvents,
};

const LEASE: LeaseId = LeaseId(7);

/// One session's requests for one lock, a store that applies writes when told to, and a view
/// that learns of them when told to.
struct World {
    requests: Requests,
    view: View,
    events: SessionEvents,
    entries: BTreeMap<Key, Record>,
    revision: u64,
    submitted: VecDeque<(RequestId, Op)>,
    applied: VecDeque<(RequestId, Outcome)>,
    feed: VecDeque<Feed>,
    told: BTreeMap<RequestId, Vec<Reply>>,
}

fn lock() -> LockId {
    let name = LockName::parse("orders/42").expect("a valid name");
    LockId::new(&Namespace::default(), &name)
}

fn request(n: u8) -> RequestId {
    RequestId::from_bytes([n; 16])
}

fn acquire(n: u8, max_wait: Option<std::time::Duration>) -> Acquire {
    Acquire { request: request(n), locks: [lock()].into(), record: Arc::default(), max_wait }
}

impl World {
    fn new() -> Self {
        let session = SessionId::random();
        let view = View::new(Clock::system());
        let events = view.subscribe(session, 10_000);
        Self {
            requests: Requests::new(Owner { session, lease: LEASE }, Limits::default()),
            view,
            events,
            entries: BTreeMap::new(),
            revision: 1,
            submitted: VecDeque::new(),
            applied: VecDeque::new(),
            feed: VecDeque::new(),
            told: BTreeMap::new(),
        }
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Submit(id, op) => self.submitted.push_back((id, op)),
                Action::Tell(id, reply) => self.told.entry(id).or_default().push(reply),
            }
        }
    }

    fn apply_write(&mut self) {
        let Some((id, op)) = self.submitted.pop_front() else { return };
        let outcome = match op {
            Op::Enqueue(op) => self.enqueue(op),
            Op::Delete(op) => self.delete(&op.keys[0].0),
            Op::Put(_) => unreachable!("requests put nothing"),
        };
        self.applied.push_back((id, outcome));
    }

    fn enqueue(&mut self, op: Enqueue) -> Outcome {
        let key = op.places[0].key.clone();
        if let Some(there) = self.entries.get(&key) {
            return Outcome::Exists(there.clone());
        }
        let first = self.entries.is_empty();
        if !first && op.join == Join::IfEmpty {
            return Outcome::Occupied;
        }
        self.revision += 1;
        let revision = Revision(self.revision);
        let record = Record {
            key: key.clone(),
            value: op.value,
            created: revision,
            modified: revision,
            lease: LEASE,
        };
        self.entries.insert(key, record.clone());
        self.feed.push_back(Feed::Changes { revision, changes: vec![Change::Put(record)] });
        Outcome::Enqueued { revision, first }
    }

    fn delete(&mut self, key: &Key) -> Outcome {
        if self.entries.remove(key).is_none() {
            return Outcome::Refused(None);
        }
        self.revision += 1;
        let (revision, changes) = (Revision(self.revision), vec![Change::Deleted(key.clone())]);
        self.feed.push_back(Feed::Changes { revision, changes });
        Outcome::Done(revision)
    }

    fn hear_outcome(&mut self) {
        let Some((id, outcome)) = self.applied.pop_front() else { return };
        let actions = self.requests.written(id, Ok(outcome), &self.view);
        self.act(actions);
    }

    fn hear_feed(&mut self) {
        let Some(feed) = self.feed.pop_front() else { return };
        self.view.apply([feed]);
        while let Ok(event) = self.events.try_recv() {
            let actions = self.requests.event(event, &self.view);
            self.act(actions);
        }
    }

    fn settle(&mut self) {
        while !(self.submitted.is_empty() && self.applied.is_empty() && self.feed.is_empty()) {
            self.apply_write();
            self.hear_outcome();
            self.hear_feed();
        }
    }

    fn last_told(&self, n: u8) -> Option<&Reply> {
        self.told.get(&request(n)).and_then(|replies| replies.last())
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Acquire(u8),
    Try(u8),
    Cancel(u8),
    Release(u8),
    Force(u8),
    WaitExpired(u8),
    ApplyWrite,
    HearOutcome,
    HearFeed,
}

impl World {
    fn step(&mut self, step: Step) {
        let actions = match step {
            Step::Acquire(n) => self.requests.acquire(acquire(n, None), &self.view),
            Step::Try(n) => {
                let acquire = acquire(n, Some(std::time::Duration::ZERO));
                self.requests.acquire(acquire, &self.view)
            }
            Step::Cancel(n) => self.requests.cancel(request(n), &self.view),
            Step::Release(n) => self.requests.release(request(n), &self.view),
            Step::WaitExpired(n) => self.requests.wait_expired(request(n), &self.view),
            Step::Force(n) => {
                let session = self.requests.owner().session;
                let key = keys::entry(&lock(), EntryId { session, request: request(n) });
                self.delete(&key);
                vec![]
            }
            Step::ApplyWrite => return self.apply_write(),
            Step::HearOutcome => return self.hear_outcome(),
            Step::HearFeed => return self.hear_feed(),
        };
        self.act(actions);
    }

    /// Who holds the lock in the store.
    fn holder(&self) -> Option<RequestId> {
        let first = self.entries.values().min_by_key(|record| record.created)?;
        match keys::parse(&first.key) {
            Some(Named::Entry(_, id)) => Some(id.request),
            _ => None,
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n = 0..5u8;
    let step = prop_oneof![
        3 => n.clone().prop_map(Step::Acquire),
        1 => n.clone().prop_map(Step::Try),
        1 => n.clone().prop_map(Step::Cancel),
        2 => n.clone().prop_map(Step::Release),
        1 => n.clone().prop_map(Step::Force),
        1 => n.prop_map(Step::WaitExpired),
        4 => Just(Step::ApplyWrite),
        4 => Just(Step::HearOutcome),
        4 => Just(Step::HearFeed),
    ];
    proptest::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_wake_up_is_lost_and_nothing_is_left_behind(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        // Whoever holds the lock in the store has been told so, by its latest reply.
        if let Some(holder) = world.holder() {
            let last = world.told.get(&holder).and_then(|replies| replies.last());
            prop_assert!(matches!(last, Some(Reply::Granted { .. })), "{last:?}");
        }
        for n in 0..5 {
            world.step(Step::Cancel(n));
        }
        world.settle();
        prop_assert!(world.entries.is_empty(), "an entry was left behind");
        prop_assert!(world.requests.open.is_empty(), "a request was left behind");
        prop_assert!(world.requests.departed.is_empty(), "a trace of an entry was left behind");
    }
}

#[test]
fn a_free_lock_is_granted_by_the_write_alone() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    world.step(Step::ApplyWrite);
    world.step(Step::HearOutcome);
    assert!(matches!(world.last_told(1), Some(Reply::Granted { token: Revision(2) })));
}

#[test]
fn a_late_look_at_a_released_entry_tells_nobody() {
    let mut world = World::new();
    for step in [Step::Acquire(1), Step::ApplyWrite, Step::HearOutcome] {
        world.step(step);
    }
    for step in [Step::Release(1), Step::ApplyWrite, Step::HearOutcome] {
        world.step(step);
    }
    let told = world.told.get(&request(1)).map(Vec::len);
    world.settle();
    assert_eq!(world.told.get(&request(1)).map(Vec::len), told);
    assert!(matches!(world.last_told(1), Some(Reply::Released(Released::Released))));
}

#[test]
fn a_cancel_on_the_way_to_the_store_takes_the_entry_out_again() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    world.step(Step::Cancel(1));
    world.settle();
    assert!(world.entries.is_empty());
    assert!(matches!(world.last_told(1), Some(Reply::Refused { refusal: Refusal::Cancelled, .. })));
}

#[test]
fn a_try_of_a_held_lock_is_busy() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    world.settle();
    world.step(Step::Try(2));
    world.settle();
    assert!(matches!(world.last_told(2), Some(Reply::Refused { refusal: Refusal::Busy, .. })));
}

#[test]
fn a_request_id_stands_for_one_request() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    let record = EntryRecord { trace: "another".to_owned(), ..EntryRecord::default() };
    let other = Acquire { record: Arc::new(record), ..acquire(1, None) };
    let actions = world.requests.acquire(other, &world.view);
    world.act(actions);
    assert!(
        matches!(world.last_told(1), Some(Reply::Failed(error)) if matches!(**error, Error::RequestIdReused))
    );
}

#[test]
fn a_store_that_fails_ends_the_request() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    let down = StoreError::Unavailable("down".to_owned());
    let actions = world.requests.written(request(1), Err(down), &world.view);
    world.act(actions);
    assert!(
        matches!(world.last_told(1), Some(Reply::Failed(error)) if matches!(**error, Error::Store(_)))
    );
    assert!(world.requests.open.is_empty());
}

#[test]
fn a_damaged_entry_of_ours_is_no_grant() {
    let mut world = World::new();
    world.step(Step::Acquire(1));
    let session = world.requests.owner().session;
    let key = keys::entry(&lock(), EntryId { session, request: request(1) });
    let value = Bytes::from_static(b"\xff\xff");
    let (created, modified) = (Revision(9), Revision(9));
    let found = Outcome::Exists(Record { key, value, created, modified, lease: LEASE });
    let actions = world.requests.written(request(1), Ok(found), &world.view);
    world.act(actions);
    assert!(
        matches!(world.last_told(1), Some(Reply::Failed(error)) if matches!(**error, Error::RequestIdReused))
    );
}

/// A crash may take back what is durable later: never a grant, and nothing that a unary call, which
/// is not resumed, has done.
#[test]
fn only_what_grants_nobody_anything_may_be_durable_later() {
    let durable = |record: EntryRecord| {
        let mut world = World::new();
        let acquire = Acquire { record: Arc::new(record), ..acquire(1, None) };
        let actions = world.requests.acquire(acquire, &world.view);
        world.act(actions);
        let Some((_, Op::Enqueue(joins))) = world.submitted.front().cloned() else { panic!() };
        world.settle();
        let actions = world.requests.release(request(1), &world.view);
        world.act(actions);
        let Some((_, Op::Delete(leaves))) = world.submitted.front().cloned() else { panic!() };
        (joins.durable, leaves.durable)
    };
    let of = |mode: Mode| EntryRecord { mode: Some(mode.to_wire()), ..EntryRecord::default() };
    assert_eq!(durable(of(Mode::Exclusive)), (Durable::After, Durable::After));
    // These may hold beside others, and so need not wait though they are not the first.
    let permits = Mode::Permits { count: 1, capacity: 3 };
    for mode in [Mode::Shared, permits] {
        assert_eq!(durable(of(mode)), (Durable::Before, Durable::After), "{mode:?}");
    }
    let followed = EntryRecord { follower: 7, ..EntryRecord::default() };
    assert_eq!(durable(followed), (Durable::Before, Durable::Before));
}
