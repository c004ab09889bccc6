//! A log in memory that several replicas write to. Each can be cut off: what it appends lands later.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    log::{Delivered, Draft, Event, Floor, Log, LogError, Profile, Standing},
    record::{Position, ReplicaId},
};

/// What is in the log, in order, and who waits for more.
#[derive(Debug, Default)]
struct Inner {
    items: Vec<Event>,
    cut_off: Vec<ReplicaId>,
    /// What was appended by replicas that are cut off.
    late: VecDeque<(ReplicaId, Draft)>,
    wakers: Vec<Waker>,
}

/// The log. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedLog(Arc<Mutex<Inner>>);

/// A replica's end of it.
#[derive(Debug)]
pub(super) struct End {
    log: SharedLog,
    me: ReplicaId,
    profile: Profile,
    is_busy: bool,
    /// What comes before anything of the log.
    first: VecDeque<Event>,
    read: usize,
    /// One of the log's items that this replica never sees, but where it reads the log once more.
    pub(super) loses: Option<usize>,
    barriers: VecDeque<(u64, usize)>,
    /// What is read once more, and how far.
    again: Option<usize>,
}

impl Inner {
    fn add(&mut self, item: Event) {
        self.items.push(item);
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// The first place of the next record. Those of one record are places apart, as on etcd.
    fn next(&self) -> Position {
        Position((self.items.len() as u64 + 1) * 1024)
    }

    fn land(&mut self, author: ReplicaId, draft: Draft) {
        let (at, bytes) = (self.next(), draft.bytes);
        self.add(Event::Record(Delivered { at, author, lane: None, bytes }));
    }
}

impl SharedLog {
    /// Another replica's end.
    pub(super) fn join(&self, me: ReplicaId) -> End {
        let mut inner = self.0.lock();
        let at = inner.next();
        inner.add(Event::Joined { at, replica: me, level: crate::record::LEVEL });
        let profile = Profile { name: "shared", lanes: 1, is_shared: true };
        let first = VecDeque::from([Event::Reset]);
        let (barriers, again, loses) = (VecDeque::new(), None, None);
        let log = self.clone();
        End { log, me, profile, is_busy: false, first, read: 0, loses, barriers, again }
    }

    /// What a replica appends from now on lands later.
    pub(super) fn cut_off(&self, replica: ReplicaId) {
        self.0.lock().cut_off.push(replica);
    }

    /// What was appended by replicas that were cut off lands, in order.
    pub(super) fn reunite(&self) {
        let mut inner = self.0.lock();
        inner.cut_off.clear();
        while let Some((author, draft)) = inner.late.pop_front() {
            inner.land(author, draft);
        }
    }

    /// How many records of replicas that are cut off are under way.
    pub(super) fn late(&self) -> usize {
        self.0.lock().late.len()
    }

    /// A replica is gone, with what it had under way.
    pub(super) fn leave(&self, replica: ReplicaId) {
        let mut inner = self.0.lock();
        inner.late.retain(|(author, _)| *author != replica);
        let at = inner.next();
        inner.add(Event::Left { at, replica });
    }

    /// How many items it has.
    pub(super) fn len(&self) -> usize {
        self.0.lock().items.len()
    }
}

impl End {
    fn own(&mut self, event: Event) -> Event {
        match event {
            Event::Record(record) if record.author == self.me => {
                self.is_busy = false;
                Event::Record(Delivered { lane: Some(0), ..record })
            }
            event => event,
        }
    }

    fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.first.pop_front() {
            return Some(event);
        }
        let log = self.log.clone();
        let inner = log.0.lock();
        if self.barriers.front().is_some_and(|(_, at)| *at <= self.read) {
            return self.barriers.pop_front().map(|(number, _)| Event::Barrier(number));
        }
        self.read += usize::from(self.loses == Some(self.read) && self.read < inner.items.len());
        if let Some(event) = inner.items.get(self.read).cloned() {
            self.read += 1;
            let lives = matches!(event, Event::Joined { replica, .. } if replica == self.me);
            self.first.extend(lives.then_some(Event::Live(self.me)));
            return Some(self.own(event));
        }
        let again = self.again?;
        let event = inner.items.get(again).cloned().map(Box::new);
        self.again = event.is_some().then_some(again + 1);
        Some(Event::Again(event))
    }
}

impl Log for End {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, _: usize) -> bool {
        !self.is_busy
    }

    fn append(&mut self, _: usize, draft: Draft) -> Result<(), LogError> {
        self.is_busy = true;
        let mut inner = self.log.0.lock();
        if inner.cut_off.contains(&self.me) {
            inner.late.push_back((self.me, draft));
        } else {
            inner.land(self.me, draft);
        }
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match self.next() {
            Some(event) => Poll::Ready(event),
            None => {
                self.log.0.lock().wakers.push(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        Ok(Position(self.read as u64 * 1024 + 1023))
    }

    fn barrier(&mut self, number: u64) {
        let at = self.log.0.lock().items.len();
        self.barriers.push_back((number, at));
    }

    fn standing(&self) -> Standing {
        Standing { promise_until: None, is_fresh: true, confirmed: None }
    }

    fn recount(&mut self) {
        self.again = Some(0);
    }

    fn bytes_after_floor(&self) -> u64 {
        0
    }

    fn write_chunk(&mut self, _: Position, _: Bytes) -> Result<(), LogError> {
        Ok(())
    }

    fn finish_checkpoint(&mut self, _: Position) -> Result<(), LogError> {
        Ok(())
    }

    fn trim(&mut self, _: &Floor) -> Result<(), LogError> {
        Ok(())
    }
}
