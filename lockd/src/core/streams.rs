//! Session streams that end here.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use lockd_proto::{RequestId, SessionId, clock::Instant};
use tokio::sync::oneshot;

use super::{
    Core,
    answer::{Answer, Attached},
    ask::{Acquire, Ask, Begin, Hello, StreamKey},
    error::Error,
    look::Waiting,
    outbox::Outbox,
    sessions::millis,
    tickets::Ticket,
};
use crate::{
    log::Log,
    record::{Attach, Operation, Position, Release},
    state::{Outcome, SessionEnd},
};

/// How long a client may leave its answers unread before its stream is cut off.
const SLOW_CONSUMER: Duration = Duration::from_secs(5);

/// The streams that end here.
#[derive(Debug, Default)]
pub(super) struct Streams {
    all: HashMap<StreamKey, Stream>,
    /// The stream of each session that is attached here by one.
    of: HashMap<SessionId, StreamKey>,
    /// Streams with answers that have yet to leave.
    staged: BTreeSet<StreamKey>,
    /// What has ended in this turn, and whose last answers have yet to leave.
    ending: Vec<Arc<Outbox>>,
    /// Streams that were gone before they were attached. Each is taken out by its first outcome.
    gone: HashMap<StreamKey, SessionId>,
}

#[derive(Debug)]
struct Stream {
    session: SessionId,
    number: u64,
    outbox: Arc<Outbox>,
    /// Who waits for the stream to be attached; `None` once it is.
    begun: Option<oneshot::Sender<Result<(), Error>>>,
    /// Answers that have to follow the first one.
    early: Vec<Answer>,
    /// Requests whose outcome is still to come.
    under_way: usize,
    /// Whether it ends once nothing is under way.
    leaving: Option<Error>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// The stream of a session.
    pub(super) fn of(&self, session: SessionId) -> Option<StreamKey> {
        self.of.get(&session).copied()
    }

    /// The number of a session's stream, where it has one.
    pub(super) fn number(&self, session: SessionId) -> Option<u64> {
        let there = self.all.get(self.of.get(&session)?)?;
        Some(there.number).filter(|number| *number != 0)
    }

    /// The session of a stream.
    pub(super) fn session(&self, stream: StreamKey) -> Option<SessionId> {
        self.all.get(&stream).map(|there| there.session)
    }

    /// Adds an answer that leaves when what it rests on is durable. Says whether there is a stream.
    pub(super) fn stage(&mut self, stream: StreamKey, answer: Answer) -> bool {
        let Some(there) = self.all.get_mut(&stream) else { return false };
        if there.begun.is_some() {
            there.early.push(answer);
            return true;
        }
        there.outbox.stage(answer);
        self.staged.insert(stream);
        true
    }

    /// Adds an answer that need not wait.
    pub(super) fn push(&mut self, stream: StreamKey, answer: Answer) {
        let Some(there) = self.all.get_mut(&stream) else { return };
        if there.begun.is_some() {
            there.early.push(answer);
            return;
        }
        there.outbox.push(answer);
        self.staged.insert(stream);
    }

    pub(super) fn flush(&mut self, durable: Position, now: Instant) {
        for stream in std::mem::take(&mut self.staged) {
            if let Some(there) = self.all.get(&stream) {
                there.outbox.flush(durable, now);
            }
        }
        self.ending.drain(..).for_each(|outbox| outbox.flush(durable, now));
    }

    fn begin_request(&mut self, stream: StreamKey) {
        if let Some(there) = self.all.get_mut(&stream) {
            there.under_way += 1;
        }
    }

    /// A request of a stream has its outcome.
    pub(super) fn end_request(&mut self, stream: StreamKey) {
        if let Some(there) = self.all.get_mut(&stream) {
            there.under_way = there.under_way.saturating_sub(1);
        }
    }

    /// Ends a stream after what was staged for it.
    pub(super) fn end(&mut self, stream: StreamKey, last: Answer) {
        let Some(there) = self.all.remove(&stream) else { return };
        if self.of.get(&there.session) == Some(&stream) {
            self.of.remove(&there.session);
        }
        there.outbox.stage(last);
        there.outbox.close();
        self.staged.remove(&stream);
        self.ending.push(there.outbox);
    }

    /// A session is attached elsewhere by now.
    pub(super) fn superseded(&mut self, session: SessionId) {
        if let Some(stream) = self.of(session) {
            self.end(stream, go_away(Error::Superseded));
        }
    }

    pub(super) fn end_all(&mut self, why: &Error) {
        let keys: Vec<_> = self.all.keys().copied().collect();
        for key in keys {
            if let Some(begun) = self.all.get_mut(&key).and_then(|it| it.begun.take()) {
                // A connection that is gone needs no answer.
                drop(begun.send(Err(why.clone())));
            }
            self.end(key, go_away(why.clone()));
        }
    }

    fn slow(&self, before: Instant) -> Vec<StreamKey> {
        let slow = |it: &Stream| it.outbox.unread_since().is_some_and(|since| since < before);
        self.all.iter().filter(|(_, it)| slow(it)).map(|(key, _)| *key).collect()
    }
}

fn go_away(why: Error) -> Answer {
    Answer::GoAway(Box::new(why))
}

impl<L: Log> Core<L> {
    pub(super) fn begin_stream(&mut self, begin: Begin) {
        let Begin { stream, hello, asks, outbox, reply } = begin;
        let checked = match &hello {
            Hello::Open(open) => self.may_open(open.session, &open.secret_hash),
            Hello::Resume { by, durable, .. } => {
                self.reaches(*durable).and_then(|()| self.is_known(by.session, &by.secret_hash))
            }
        };
        if let Err(error) = checked {
            let unknown = matches!(error, Error::SessionNotFound(_) | Error::LogRestored { .. });
            if unknown && self.log.profile().is_shared && !self.looks.is_passed() {
                // Another replica may have opened it a moment ago.
                let begin = Begin { stream, hello, asks, outbox, reply };
                return self.looks.wait(Waiting::Begin(Box::new(begin)));
            }
            self.note_restored(&error);
            drop(reply.send(Err(error)));
            return;
        }
        let (session, number) = match &hello {
            Hello::Open(open) => (open.session, open.stream),
            Hello::Resume { by, .. } => (by.session, by.stream),
        };
        let begun = Some(reply);
        let early = Vec::new();
        let there = Stream { session, number, outbox, begun, early, under_way: 1, leaving: None };
        self.streams.all.insert(stream, there);
        self.calls.opens(matches!(hello, Hello::Open(_)));
        let (operation, opens) = match hello {
            Hello::Open(open) => (Operation::Open(open), true),
            Hello::Resume { open, .. } => {
                let attach = Attach { session, stream: number, open: Some(open) };
                (Operation::Attach(attach), false)
            }
        };
        self.propose(operation, Ticket::Begin(stream, opens));
        self.frame(stream, asks);
    }

    /// What became of a stream's first operation.
    pub(super) fn begun(&mut self, stream: StreamKey, opens: bool, outcome: &Outcome) {
        self.calls.opened(opens);
        self.streams.end_request(stream);
        let Some(there) = self.streams.all.get_mut(&stream) else {
            return self.unheard_session(stream, opens, outcome);
        };
        let (session, begun, early) =
            (there.session, there.begun.take(), std::mem::take(&mut there.early));
        let error = match outcome {
            Outcome::Attached => None,
            Outcome::NoSession => Some(Error::SessionNotFound(session)),
            Outcome::SecretMismatch => Some(Error::SecretMismatch(session)),
            _ => Some(Error::Superseded),
        };
        if let Some(error) = error {
            self.streams.all.remove(&stream);
            begun.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
            return;
        }
        if let Some(before) = self.streams.of.insert(session, stream)
            && before != stream
        {
            self.streams.end(before, go_away(Error::Superseded));
            self.streams.of.insert(session, stream);
        }
        self.must_sync = true;
        let attached = self.attached_answer(session);
        self.streams.stage(stream, Answer::Attached(Box::new(attached)));
        for answer in early {
            self.streams.stage(stream, answer);
        }
        if let Some(begun) = begun
            && begun.send(Ok(())).is_err()
        {
            self.stream_gone(stream);
            self.streams.gone.insert(stream, session);
            self.unheard_session(stream, opens, outcome);
        }
    }

    /// A stream that could not be attached.
    pub(super) fn refuse_stream(&mut self, stream: StreamKey, error: Error) {
        self.streams.gone.remove(&stream);
        let begun = self.streams.all.remove(&stream).and_then(|it| it.begun);
        // A connection that is gone needs no answer.
        begun.into_iter().for_each(|reply| drop(reply.send(Err(error.clone()))));
    }

    fn attached_answer(&self, session: SessionId) -> Attached {
        let ttl = self.state.session(session).map_or(0, |there| there.ttl_ms);
        let entries = self.state.entries_of(session);
        let mut entries: Vec<_> =
            entries.map(|entry| (entry.request, entry.token, entry.is_held())).collect();
        entries.sort_unstable_by_key(|(_, token, _)| *token);
        Attached { session, ttl: millis(ttl.into()), replica: self.parts.name.clone(), entries }
    }

    /// Ends a session whose stream went away before it was answered: no client can resume it, but
    /// for an open that is sent again, which makes another epoch (RULES L8).
    fn unheard_session(&mut self, stream: StreamKey, opens: bool, outcome: &Outcome) {
        let gone = self.streams.gone.remove(&stream);
        if let (Some(session), true, Outcome::Attached) = (gone, opens, outcome)
            && let Some(epoch) = self.state.session(session).map(|it| it.epoch)
        {
            self.propose(Operation::End { session, epoch }, Ticket::None);
        }
    }

    pub(super) fn frame(&mut self, stream: StreamKey, asks: Vec<Ask>) {
        for ask in asks {
            let Some(there) = self.streams.all.get(&stream) else { return };
            let (session, number) = (there.session, there.number);
            self.ask(stream, (session, number), ask);
        }
    }

    fn ask(&mut self, stream: StreamKey, (session, number): (SessionId, u64), ask: Ask) {
        let (operation, request) = match ask {
            Ask::KeepAlive { sequence } => return self.keep_alive(stream, session, sequence),
            Ask::Malformed(request, error) => {
                let failed = Answer::Failed(request, Box::new(error));
                return self.streams.push(stream, failed);
            }
            Ask::Violation(error) => return self.streams.end(stream, go_away(error)),
            Ask::Close => {
                self.streams.begin_request(stream);
                return self.propose(Operation::Close { session }, Ticket::Close(stream));
            }
            Ask::Acquire(acquire) => return self.acquire(stream, (session, number), *acquire),
            Ask::Cancel(request) => {
                (Operation::Cancel { session, stream: number, request }, request)
            }
            Ask::Release(request) => {
                self.note_release(session, request);
                (Operation::Release(Release { session, request, named: None }), request)
            }
            Ask::Update(request, change) => {
                (Operation::Update { session, request, change }, request)
            }
        };
        self.streams.begin_request(stream);
        self.propose(operation, Ticket::Stream(stream, request));
    }

    fn acquire(&mut self, stream: StreamKey, by: (SessionId, u64), acquire: Acquire) {
        let (session, number) = by;
        let request = acquire.request;
        self.trace((session, request), &acquire);
        if let Some(error) = self.obstacle(session, &acquire) {
            self.streams.push(stream, Answer::Failed(request, Box::new(error)));
            return;
        }
        self.streams.begin_request(stream);
        let ticket = Ticket::Stream(stream, request);
        self.enqueue(acquire.enqueue(session, number), ticket);
    }

    pub(super) fn trace(&self, by: (SessionId, RequestId), acquire: &Acquire) {
        let first = acquire.locks.first().map(|lock| (lock.namespace(), lock.name()));
        self.parts.traces.asked(by, first, acquire.info.trace_parent());
    }

    pub(super) fn stream_gone(&mut self, stream: StreamKey) {
        let Some(there) = self.streams.all.remove(&stream) else { return };
        if self.streams.of.get(&there.session) == Some(&stream) {
            self.streams.of.remove(&there.session);
        }
        if there.begun.is_some() {
            self.streams.gone.insert(stream, there.session);
        }
        self.streams.staged.remove(&stream);
    }

    /// The session of a stream has ended.
    pub(super) fn stream_over(&mut self, session: SessionId, how: SessionEnd) {
        if let Some(stream) = self.streams.of(session) {
            self.streams.end(stream, Answer::Ended(how));
        }
    }

    pub(super) fn cut_off_slow_streams(&mut self) {
        for stream in self.streams.slow(self.now - SLOW_CONSUMER) {
            self.streams.end(stream, go_away(Error::SlowConsumer));
        }
    }

    /// The replica begins to shut down: streams go elsewhere once what they have asked for is answered.
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
        self.fail_calls(&Error::Draining);
        self.observers.end_all(&Error::Draining);
        for there in self.streams.all.values_mut() {
            there.leaving = Some(Error::Draining);
        }
        self.end_leaving_streams();
    }

    /// Ends streams that are to leave and have nothing under way.
    pub(super) fn end_leaving_streams(&mut self) {
        let ready = |it: &Stream| it.under_way == 0 && it.leaving.is_some();
        let all = self.streams.all.iter().filter(|(_, it)| ready(it));
        let all: Vec<_> = all.map(|(key, _)| *key).collect();
        for key in all {
            self.streams.end(key, go_away(Error::Draining));
        }
    }

    /// Remembers when a release came in that others wait for.
    fn note_release(&mut self, session: SessionId, request: RequestId) {
        let Some(entry) = self.state.entry_of(session, request) else { return };
        let waited = entry.locks.as_slice().iter().any(|lock| self.state.size(lock).1 > 0);
        if waited && entry.is_held() {
            let token = entry.token;
            self.calls.releasing(token, self.now);
        }
    }
}
