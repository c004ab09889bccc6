//! Every primitive under random interleavings: sessions on two replicas acquire, cancel,
//! release, die and lose their replica, while writes and the watch are late at will. What the
//! clients are told is compared with a small reference: the store's truth, and the grant rule
//! applied to it.

mod store;

use std::collections::BTreeSet;

use prost::Message as _;
use store::Store;

use super::*;
use crate::{
    barrier::Stage,
    mode::OnLoss,
    queue::holders,
    reaper::{Fate, fate},
    record::SessionRecord,
    store::Guard,
};

const SESSIONS: usize = 3;
const REPLICAS: usize = 2;
const LOCKS: usize = 2;

struct Session {
    replica: usize,
    alive: bool,
    requests: Requests,
    events: SessionEvents,
    submitted: VecDeque<(RequestId, Op)>,
    applied: VecDeque<(RequestId, Outcome)>,
    /// The last thing that the client was told of each request.
    told: BTreeMap<RequestId, Told>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Granted(u64),
    Ended,
}

struct Fleet {
    store: Store,
    views: [View; REPLICAS],
    sessions: Vec<Session>,
    /// Every entry that was ever told to hold a lock, with its token.
    grants: BTreeMap<LockId, BTreeSet<u64>>,
    /// Successes of the once.
    successes: usize,
}

#[derive(Debug, Clone)]
enum Move {
    Acquire { by: usize, request: u8, on: usize, how: How, wait: bool },
    Both { by: usize, request: u8 },
    Cancel(usize, u8),
    Release(usize, u8),
    Complete(usize, u8),
    Die(usize),
    LoseReplica(usize),
    Write(usize),
    HearOutcome(usize),
    HearFeed(usize),
    Reap,
}

/// What is asked for. Each lock is of one kind, but for the odd mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Exclusive,
    Shared,
    Permits(u32),
    Party,
    Share,
    Once,
}

impl How {
    fn mode(self) -> Mode {
        match self {
            Self::Exclusive => Mode::Exclusive,
            Self::Shared => Mode::Shared,
            Self::Permits(count) => Mode::Permits { count, capacity: 3 },
            Self::Party => Mode::Party { parties: 2 },
            Self::Share => Mode::Share(OnLoss::Fail),
            Self::Once => Mode::Once,
        }
    }
}

fn name(on: usize) -> LockId {
    let name = LockName::parse(format!("lock-{on}")).expect("a valid name");
    LockId::new(&Namespace::default(), &name)
}

fn id(by: usize) -> SessionId {
    SessionId::from_bytes([u8::try_from(by).expect("few sessions"); 16])
}

impl Fleet {
    fn new() -> Self {
        let views = [View::new(Clock::system()), View::new(Clock::system())];
        let mut store = Store { revision: 1, ..Store::default() };
        let sessions = (0..SESSIONS)
            .map(|by| {
                store.revision += 1;
                let value = SessionRecord::default().encode_to_vec().into();
                let change = store.put(&keys::session(id(by)), &value);
                store.step(vec![change]);
                Session::on(by % REPLICAS, id(by), &views)
            })
            .collect();
        let mut fleet = Self { store, views, sessions, grants: BTreeMap::new(), successes: 0 };
        fleet.settle();
        fleet
    }

    fn make(&mut self, by: usize, request: u8, locks: &[LockId], how: How, wait: bool) {
        let names = locks.iter().map(|lock| lock.name().to_owned());
        let record = EntryRecord {
            mode: Some(how.mode().to_wire()),
            names: if locks.len() > 1 { names.collect() } else { vec![] },
            ..EntryRecord::default()
        };
        let tried = (!wait && how != How::Party).then_some(Duration::ZERO);
        let acquire = Acquire {
            request: super::request(request),
            locks: locks.into(),
            record: Arc::new(record),
            max_wait: tried,
        };
        self.with(by, |requests, view| requests.acquire(acquire, view));
    }

    fn with(&mut self, by: usize, input: impl FnOnce(&mut Requests, &View) -> Vec<Action>) {
        let session = &mut self.sessions[by];
        if session.alive {
            let actions = input(&mut session.requests, &self.views[session.replica]);
            self.act(by, actions);
        }
    }

    fn act(&mut self, by: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Submit(id, op) => self.sessions[by].submitted.push_back((id, op)),
                Action::Tell(id, reply) => self.tell(by, id, &reply),
            }
        }
    }

    fn tell(&mut self, by: usize, request: RequestId, reply: &Reply) {
        let told = match reply {
            Reply::Granted { token } => {
                self.granted(EntryId { session: id(by), request }, token.0);
                Told::Granted(token.0)
            }
            Reply::Updated => {
                self.successes += 1;
                Told::Ended
            }
            Reply::Queued(_) | Reply::YieldRequested(_) => return,
            Reply::Refused { .. } | Reply::Failed(_) | Reply::Released(_) | Reply::Lost { .. } => {
                Told::Ended
            }
        };
        // What is refused of a request that goes on does not end it.
        let open = self.sessions[by].requests.open.get(&request);
        let goes_on = open.is_some_and(|open| !matches!(open.phase, Phase::Leaving { .. }));
        if told == Told::Ended && goes_on {
            return;
        }
        self.sessions[by].told.insert(request, told);
    }

    /// Whoever is told that it holds does so in the store, by the grant rule; and tokens grow.
    fn granted(&mut self, entry: EntryId, token: u64) {
        for on in 0..LOCKS {
            let lock = name(on);
            let queue = self.store.queue(&lock);
            let found = queue.iter().find(|(at, id, _)| (*at, *id) == (token, entry));
            let Some((_, _, record)) = found else {
                continue;
            };
            let held = self.store.holders(&lock);
            let state = (&held, &queue);
            assert!(held.contains(&(token, entry)), "{token} was granted {lock}: {state:?}");
            if record.mode() == Mode::Once {
                let done = self.store.records.contains_key(&keys::result(&lock));
                assert!(!done, "{lock} is never run again");
            }
            let earlier = self.grants.entry(lock).or_default();
            if record.mode().is_alone() {
                let last = earlier.last().copied().unwrap_or_default();
                assert!(last <= token, "{token} was granted after {last}");
            }
            earlier.insert(token);
        }
    }

    fn write(&mut self, by: usize) {
        if let Some((request, op)) = self.sessions[by].submitted.pop_front() {
            let outcome = self.store.apply(op);
            self.sessions[by].applied.push_back((request, outcome));
        }
    }

    fn hear_outcome(&mut self, by: usize) {
        if let Some((request, outcome)) = self.sessions[by].applied.pop_front() {
            self.with(by, |requests, view| requests.written(request, Ok(outcome), view));
        }
    }

    fn hear_feed(&mut self, replica: usize) {
        if let Some(feed) = self.store.unheard[replica].pop_front() {
            self.views[replica].apply([feed]);
        }
        for by in 0..SESSIONS {
            while let Ok(event) = self.sessions[by].events.try_recv() {
                if let SessionEvent::Ended = event {
                    self.sessions[by].dies();
                }
                self.with(by, |requests, view| requests.event(event, view));
            }
        }
    }

    /// What the reaper of a replica does.
    fn reap(&mut self) {
        for replica in 0..REPLICAS {
            let view = &self.views[replica];
            let orphans = view.orphans().into_iter().filter(|orphan| fate(orphan) != Fate::Stays);
            let mut gone: Vec<Vec<_>> = orphans.map(|orphan| vec![orphan.entry]).collect();
            gone.extend(view.barriers_over());
            for entries in gone {
                let keys = entries.iter().flat_map(|entry| {
                    let guard = Guard::Made(entry.created);
                    keys::entries(&entry.locks, entry.id).map(move |key| (key, guard))
                });
                let keys = keys.collect();
                self.store.delete(keys, None);
            }
        }
    }

    /// A replica dies with all that it knew, and its sessions are resumed at the other one.
    fn lose_replica(&mut self, replica: usize) {
        self.views[replica] = View::new(Clock::system());
        self.store.unheard[replica].clear();
        let records = self.store.records.values().cloned().collect();
        let revision = Revision(self.store.revision);
        self.views[replica].apply([Feed::Snapshot { revision, records }]);
        // The other one is caught up with before anybody is taken over.
        let other = (replica + 1) % REPLICAS;
        while !self.store.unheard[other].is_empty() {
            self.hear_feed(other);
        }
        for by in 0..SESSIONS {
            if !self.sessions[by].alive || self.sessions[by].replica != replica {
                continue;
            }
            // What was submitted may be applied all the same: it was on its way.
            while !self.sessions[by].submitted.is_empty() {
                self.write(by);
            }
            while !self.store.unheard[other].is_empty() {
                self.hear_feed(other);
            }
            self.sessions[by] = Session::on(other, id(by), &self.views);
            for (entry, _) in self.views[other].entries_of(id(by)) {
                let place = self.views[other].place(&entry.locks[0], entry.created);
                if matches!(place, Place::Held) && entry.record.mark() == Mark::Here {
                    // The first message on the new stream lists it as granted.
                    self.granted(entry.id, entry.created.0);
                    let granted = Told::Granted(entry.created.0);
                    self.sessions[by].told.insert(entry.id.request, granted);
                }
                self.with(by, |requests, view| requests.adopt(&entry, view));
            }
        }
    }

    fn play(&mut self, step: Move) {
        match step {
            Move::Acquire { by, request, on, how, wait } => {
                self.make(by, request, &[name(on)], how, wait);
            }
            Move::Both { by, request } => {
                // In either order of names.
                let locks = [name(usize::from(request % 2)), name(usize::from((request + 1) % 2))];
                self.make(by, request, &locks, How::Exclusive, true);
            }
            Move::Cancel(by, n) => {
                self.with(by, |requests, view| requests.cancel(super::request(n), view));
            }
            Move::Release(by, n) => {
                self.with(by, |requests, view| requests.release(super::request(n), view));
            }
            Move::Complete(by, n) => {
                let result = Bytes::from_static(b"done");
                self.with(by, |requests, _| requests.complete(super::request(n), result));
            }
            Move::Die(by) => self.store.expire(id(by)),
            Move::LoseReplica(replica) => self.lose_replica(replica),
            Move::Write(by) => self.write(by),
            Move::HearOutcome(by) => self.hear_outcome(by),
            Move::HearFeed(replica) => self.hear_feed(replica),
            Move::Reap => self.reap(),
        }
    }

    fn is_busy(&self) -> bool {
        let busy =
            |session: &Session| !(session.submitted.is_empty() && session.applied.is_empty());
        self.sessions.iter().any(busy) || self.store.unheard.iter().any(|feed| !feed.is_empty())
    }

    fn settle(&mut self) {
        loop {
            while self.is_busy() {
                (0..SESSIONS).for_each(|by| self.write(by));
                (0..SESSIONS).for_each(|by| self.hear_outcome(by));
                (0..REPLICAS).for_each(|replica| self.hear_feed(replica));
            }
            self.reap();
            if !self.is_busy() {
                return;
            }
        }
    }

    /// What must hold when everything has been heard.
    fn check(&self) {
        for on in 0..LOCKS {
            let lock = name(on);
            let (queue, held) = (self.store.queue(&lock), self.store.holders(&lock));
            let kinds: BTreeSet<_> =
                queue.iter().map(|(_, _, record)| record.mode().kind().to_string()).collect();
            assert!(kinds.len() <= 1, "{lock} has entries of several kinds: {kinds:?}");
            for (created, entry, record) in &queue {
                let alive = self.store.is_alive(entry.session);
                let all = record.names.is_empty()
                    || (0..LOCKS)
                        .all(|on| self.store.holders(&name(on)).contains(&(*created, *entry)));
                let holds = held.contains(&(*created, *entry)) && all;
                if !alive {
                    assert!(record.outlives_session(), "nothing else outlives its session");
                    continue;
                }
                if record.mark() != Mark::Here || self.store.stage(&lock) != Stage::Open {
                    continue;
                }
                let by = usize::from(entry.session.as_bytes()[0]);
                let told = self.sessions[by].told.get(&entry.request);
                let knows = told == Some(&Told::Granted(*created));
                assert_eq!(knows, holds, "{entry:?} of {lock} was told {told:?}: {queue:?}");
            }
            assert_ne!(self.store.stage(&lock), Stage::Broken, "all parties know, or are dead");
        }
        let done = |on: &usize| self.store.records.contains_key(&keys::result(&name(*on)));
        let results = (0..LOCKS).filter(done).count();
        assert!(self.successes <= results, "a success is never run again, and never forgotten");
    }

    /// Everybody gives up everything.
    fn clear(&mut self) {
        for by in 0..SESSIONS {
            for n in 0..6 {
                self.play(Move::Cancel(by, n));
            }
        }
        self.settle();
        for by in 0..SESSIONS {
            assert!(self.sessions[by].requests.open.is_empty(), "a request was left behind");
        }
        for on in 0..LOCKS {
            let left = self.store.queue(&name(on));
            let stays = |(_, _, record): &(u64, EntryId, EntryRecord)| {
                // A failed group stays failed until an operator looks at it.
                matches!(record.mode(), Mode::Share(OnLoss::Fail))
            };
            assert!(left.iter().all(stays), "an entry was left behind: {left:?}");
        }
    }
}

impl Session {
    fn on(replica: usize, session: SessionId, views: &[View; REPLICAS]) -> Self {
        Self {
            replica,
            alive: true,
            requests: Requests::new(Owner { session, lease: LEASE }, Limits::default()),
            events: views[replica].subscribe(session, 10_000),
            submitted: VecDeque::new(),
            applied: VecDeque::new(),
            told: BTreeMap::new(),
        }
    }

    fn dies(&mut self) {
        self.alive = false;
        self.requests.open.clear();
    }
}

fn moves(hows: Vec<How>, both: u32) -> impl Strategy<Value = Vec<Move>> {
    let (by, n, on) = (0..SESSIONS, 0..6u8, 0..LOCKS);
    let acquire = (by.clone(), n.clone(), on, proptest::sample::select(hows), any::<bool>());
    let acquire = acquire.prop_map(|(by, request, on, how, wait)| Move::Acquire {
        by,
        request,
        on,
        how,
        wait,
    });
    let one = (by.clone(), n.clone());
    let step = prop_oneof![
        6 => acquire,
        1 + both => one.clone().prop_map(move |(by, request)| match both {
            0 => Move::Reap,
            _ => Move::Both { by, request },
        }),
        2 => one.clone().prop_map(|(by, n)| Move::Cancel(by, n)),
        4 => one.clone().prop_map(|(by, n)| Move::Release(by, n)),
        1 => one.prop_map(|(by, n)| Move::Complete(by, n)),
        1 => by.clone().prop_map(Move::Die),
        1 => (0..REPLICAS).prop_map(Move::LoseReplica),
        8 => by.clone().prop_map(Move::Write),
        8 => by.prop_map(Move::HearOutcome),
        8 => (0..REPLICAS).prop_map(Move::HearFeed),
    ];
    proptest::collection::vec(step, 0..150)
}

fn play(moves: Vec<Move>) {
    let mut fleet = Fleet::new();
    for step in moves {
        fleet.play(step);
    }
    fleet.settle();
    fleet.check();
    fleet.clear();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn read_write_locks(moves in moves(vec![How::Exclusive, How::Shared, How::Shared], 0)) {
        play(moves);
    }

    #[test]
    fn several_locks_as_one(moves in moves(vec![How::Exclusive, How::Shared], 4)) {
        play(moves);
    }

    #[test]
    fn semaphores(moves in moves(vec![How::Permits(1), How::Permits(2), How::Permits(3)], 0)) {
        play(moves);
    }

    #[test]
    fn barriers(moves in moves(vec![How::Party], 0)) {
        play(moves);
    }

    #[test]
    fn wait_groups(moves in moves(vec![How::Share], 0)) {
        play(moves);
    }

    #[test]
    fn onces(moves in moves(vec![How::Once], 0)) {
        let on_one = |step: Move| match step {
            Move::Acquire { by, request, how, wait, .. } => {
                Move::Acquire { by, request, on: 0, how, wait }
            }
            step => step,
        };
        play(moves.into_iter().map(on_one).collect());
    }

    #[test]
    fn kinds_that_do_not_go_together(
        moves in moves(
            vec![How::Exclusive, How::Permits(1), How::Share, How::Once, How::Shared],
            1,
        )
    ) {
        play(moves);
    }
}
