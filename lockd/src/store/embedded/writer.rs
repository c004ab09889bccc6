//! The one place that writes. It takes all requests that wait, applies them in order, makes
//! their effects durable with one fsync, and only then answers and publishes.
//!
//! It runs on a thread of its own, for the disk blocks. Without a disk it is a task, so that a
//! test can pause the time.

use std::{sync::Arc, time::Duration};

use lockd_proto::Ttl;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use super::{
    disk::{Disk, Room},
    leases::Leases,
    state::{Effects, State},
};
use crate::{
    metrics,
    store::{Feed, Key, LeaseId, Op, Outcome, Record, Revision, StoreError},
};

/// The most requests that share an fsync.
const GROUP: usize = 1024;

/// How long a disk that failed is left alone before it is tried again.
const SETTLE_RETRY: Duration = Duration::from_millis(200);

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What a group of writes has changed.
pub(super) type Group = Arc<Vec<Feed>>;

/// The state at one moment, and everything that follows it.
pub(super) struct Snapshot {
    pub(super) revision: Revision,
    pub(super) records: Vec<Record>,
    pub(super) changes: broadcast::Receiver<Group>,
}

/// What the writer can be asked for.
pub(super) enum Request {
    Commit(Vec<Op>, Reply<Vec<Outcome>>),
    Grant(LeaseId, Ttl, Reply<Ttl>),
    End(Vec<LeaseId>, Reply<()>),
    Get(Key, Reply<Option<Record>>),
    First(Key, Reply<Option<Record>>),
    Snapshot(Reply<Snapshot>),
    Revision(Reply<Revision>),
    /// Writes what was put off.
    Flush(Reply<()>),
    /// The end: what came before is answered, the file is closed.
    Close(Reply<()>),
}

/// An answer that waits for the fsync.
type Answer = Box<dyn FnOnce(&Result<(), StoreError>, &State) + Send>;

pub(super) struct Writer {
    state: State,
    /// `None` where nothing outlives the process.
    disk: Option<Disk>,
    requests: mpsc::Receiver<Request>,
    leases: Arc<Leases>,
    published: broadcast::Sender<Group>,
    /// Woken when something is put off: somebody has to ask for a flush in time.
    late: Arc<Notify>,
    health: Health,
    /// Answers to what may or may not have reached a disk that failed.
    unsettled: Vec<(Answer, StoreError)>,
}

/// How the last commit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// It did not fit: what only deletes is written apart from what adds.
    Full,
    /// It failed, and the disk can't be settled yet: nothing is written.
    Unsettled,
}

impl Writer {
    pub(super) fn new(
        state: State,
        disk: Option<Disk>,
        requests: mpsc::Receiver<Request>,
        leases: Arc<Leases>,
        behind: usize,
    ) -> Self {
        let published = broadcast::Sender::new(behind);
        let (late, health, unsettled) = (Arc::default(), Health::Good, Vec::new());
        Self { state, disk, requests, leases, published, late, health, unsettled }
    }

    /// Woken when something is put off.
    pub(super) fn late(&self) -> Arc<Notify> {
        self.late.clone()
    }

    /// Runs until it is told to close, or nobody can ask for anything any more.
    pub(super) fn run_blocking(mut self) {
        let mut group = Vec::new();
        while self.receive(&mut group) {
            if let Some(closed) = self.step(group.drain(..)) {
                self.flush();
                drop(self);
                return tell(closed, Ok(()));
            }
        }
        self.flush();
    }

    /// The same as a task, for a store without a disk.
    pub(super) async fn run(mut self) {
        let mut group = Vec::new();
        while self.requests.recv_many(&mut group, GROUP).await > 0 {
            if let Some(closed) = self.step(group.drain(..)) {
                return tell(closed, Ok(()));
            }
        }
    }

    /// Waits for requests, and for no longer than a while when the disk wants to be settled.
    fn receive(&mut self, group: &mut Vec<Request>) -> bool {
        if self.health != Health::Unsettled {
            return self.requests.blocking_recv_many(group, GROUP) > 0;
        }
        std::thread::sleep(SETTLE_RETRY);
        while group.len() < GROUP {
            match self.requests.try_recv() {
                Ok(request) => group.push(request),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => return !group.is_empty(),
            }
        }
        self.settle();
        true
    }

    /// Handles a group of requests; what it returns asked for the end.
    fn step(&mut self, group: impl Iterator<Item = Request>) -> Option<Reply<()>> {
        let mut close = None;
        let (mut first, mut then) = (Vec::new(), Vec::new());
        for request in group {
            match request {
                Request::Close(reply) => close = Some(reply),
                Request::Flush(reply) => {
                    self.flush();
                    tell(reply, Ok(()));
                }
                Request::Commit(ops, reply) if self.may_put_off(&ops) => self.put_off(ops, reply),
                request if self.health == Health::Full && request.adds() => then.push(request),
                request => first.push(request),
            }
        }
        self.commit(first);
        self.commit(then);
        close
    }

    /// Whether operations may become durable with the next commit, and be answered before.
    fn may_put_off(&self, ops: &[Op]) -> bool {
        let has_room = self.disk.as_ref().is_some_and(Disk::has_room_to_put_off);
        // Each is looked at as if it were alone, so it has to be.
        let [op] = ops else { return false };
        has_room && self.health == Health::Good && self.state.may_wait(op)
    }

    /// Does what nobody gains by, and answers at once. It overtakes what has come with it, which
    /// nobody can have heard of yet.
    fn put_off(&mut self, ops: Vec<Op>, reply: Reply<Vec<Outcome>>) {
        let mut effects = Effects::default();
        let apply = |op| self.state.apply(op, &mut effects);
        let outcomes = ops.into_iter().map(apply).collect();
        if let Some(disk) = &mut self.disk {
            disk.put_off(&effects);
        }
        self.publish(effects);
        tell(reply, Ok(outcomes));
        self.late.notify_one();
    }

    fn commit(&mut self, group: Vec<Request>) {
        if group.is_empty() {
            return;
        }
        let room = if group.iter().any(Request::adds) { Room::Takes } else { Room::Gives };
        let mut effects = Effects::default();
        let answers: Vec<_> =
            group.into_iter().map(|request| self.apply(request, &mut effects)).collect();
        let began = tokio::time::Instant::now();
        match self.make_durable(&effects, room) {
            Ok(()) => {
                if !effects.is_empty() {
                    metrics::committed(answers.len(), began.elapsed());
                }
                if room == Room::Takes && !effects.is_empty() {
                    self.is_now(Health::Good);
                }
                self.publish(effects);
                answers.into_iter().for_each(|answer| answer(&Ok(()), &self.state));
            }
            Err(error) => {
                metrics::not_committed();
                self.state.undo(effects);
                self.failed(error, answers);
            }
        }
    }

    fn make_durable(&mut self, effects: &Effects, room: Room) -> Result<(), StoreError> {
        match &mut self.disk {
            Some(disk) if !effects.is_empty() => disk.commit(effects, self.state.revision(), room),
            Some(_) | None => Ok(()),
        }
    }

    /// Writes what was put off.
    fn flush(&mut self) {
        let Some(disk) = self.disk.as_mut().filter(|disk| disk.has_put_off()) else { return };
        if self.health == Health::Unsettled {
            return;
        }
        if let Err(error) = disk.commit(&Effects::default(), self.state.revision(), Room::Gives) {
            self.failed(error, vec![]);
        }
    }

    /// Answers once it is certain that nothing of a failed group can show up later.
    fn failed(&mut self, error: StoreError, answers: Vec<Answer>) {
        if self.health == Health::Unsettled {
            // It did not get as far as the disk.
            let failed = Err(error);
            return answers.into_iter().for_each(|answer| answer(&failed, &self.state));
        }
        if self.health == Health::Good {
            tracing::error!(%error, "the data file can't be written; what is there stays as it is");
        }
        self.unsettled.extend(answers.into_iter().map(|answer| (answer, error.clone())));
        self.is_now(match error {
            StoreError::Full(_) => Health::Full,
            StoreError::Unavailable(_) | StoreError::LeaseNotFound | StoreError::Broken(_) => {
                Health::Unsettled
            }
        });
        self.settle();
    }

    fn settle(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        if let Err(error) = disk.settle(&self.state) {
            tracing::debug!(%error, "the data file can't be settled yet");
            return self.is_now(Health::Unsettled);
        }
        if self.health == Health::Unsettled {
            self.is_now(Health::Good);
        }
        for (answer, error) in self.unsettled.drain(..) {
            answer(&Err(error), &self.state);
        }
    }

    fn is_now(&mut self, health: Health) {
        if health == Health::Good && self.health != Health::Good {
            tracing::info!("the data file can be written again");
        }
        self.health = health;
    }

    fn apply(&mut self, request: Request, effects: &mut Effects) -> Answer {
        match request {
            Request::Commit(ops, reply) => {
                let apply = |op| self.state.apply(op, effects);
                let outcomes: Vec<_> = ops.into_iter().map(apply).collect();
                Box::new(|done, _| tell(reply, done.clone().map(|()| outcomes)))
            }
            Request::Grant(id, ttl, reply) => {
                let granted = self.state.grant(id, ttl, effects);
                let leases = self.leases.clone();
                Box::new(move |done, _| {
                    // A lease that was there runs from now as well: its TTL is told anew.
                    let gone = StoreError::LeaseNotFound;
                    let renew = |()| if leases.renew(id) { Ok(granted) } else { Err(gone) };
                    tell(reply, done.clone().and_then(renew));
                })
            }
            Request::End(ids, reply) => {
                ids.into_iter().for_each(|id| self.state.end_lease(id, effects));
                Box::new(|done, _| tell(reply, done.clone()))
            }
            // Reads come after the group's writes, or after these were taken back: either way
            // they show what is on disk.
            Request::Get(key, reply) => {
                Box::new(move |_, state| tell(reply, Ok(state.get(&key).cloned())))
            }
            Request::First(prefix, reply) => {
                Box::new(move |_, state| tell(reply, Ok(state.first(&prefix).cloned())))
            }
            Request::Snapshot(reply) => {
                let published = self.published.clone();
                Box::new(move |_, state| {
                    // The group has been published: what comes next is what is not in here.
                    let changes = published.subscribe();
                    let (revision, records) = (state.revision(), state.records().cloned());
                    tell(reply, Ok(Snapshot { revision, records: records.collect(), changes }));
                })
            }
            Request::Revision(reply) => Box::new(move |_, state| tell(reply, Ok(state.revision()))),
            Request::Flush(reply) | Request::Close(reply) => Box::new(|_, _| tell(reply, Ok(()))),
        }
    }

    fn publish(&self, effects: Effects) {
        for (lease, granted) in effects.leases {
            match granted {
                Some(ttl) => self.leases.start(lease, ttl),
                None => self.leases.end(lease),
            }
        }
        let changes = effects.changes.into_iter();
        let group: Vec<_> =
            changes.map(|(revision, changes)| Feed::Changes { revision, changes }).collect();
        if !group.is_empty() {
            // Nobody may be watching.
            drop(self.published.send(Arc::new(group)));
        }
    }
}

impl Request {
    /// Whether it may need more room on the disk. A note beside a deletion hardly does.
    fn adds(&self) -> bool {
        match self {
            Self::Commit(ops, _) => ops.iter().any(|op| !matches!(op, Op::Delete(_))),
            Self::Grant(..) => true,
            Self::End(..)
            | Self::Get(..)
            | Self::First(..)
            | Self::Snapshot(_)
            | Self::Revision(_)
            | Self::Flush(_)
            | Self::Close(_) => false,
        }
    }
}

fn tell<T>(reply: Reply<T>, answer: Result<T, StoreError>) {
    // Whoever asked may have gone.
    drop(reply.send(answer));
}
