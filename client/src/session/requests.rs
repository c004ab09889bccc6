//! What the session has asked for and not yet let go of: the life of each request.
//!
//! ```text
//! Waiting ──granted──► Held ──release, drop, expiry──► Releasing ──► gone
//!    └─────abandoned──► Leaving ──► gone
//! ```
//!
//! A request is followed until the server has answered, over any number of streams, so that
//! nothing is left behind at the server.

mod answers;
mod kept;
mod resume;
mod update;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use lockd_proto::{
    FencingToken, RequestId,
    clock::Instant,
    retry::Retry,
    v1::{self, client_message::Message},
};
use tokio::sync::oneshot;

pub(super) use answers::Grantor;
use kept::Kept;

use super::{Acquire, AcquireReply, Denied, ReleaseReply, UpdateReply, Wait, outbox::Outbox};
use crate::{
    error::{ErrorKind, Fault},
    held::{Held, LossReason, Released},
};

/// The most requests of one session, held locks included; the server's limit too.
const MAX_OPEN: usize = 10_000;

/// The shortest wait that is sent: zero would make it a try.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// The open requests of one session.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: HashMap<RequestId, Request>,
    /// When requests are asked again; what a request does not say of itself any more is void.
    again: BTreeSet<(Instant, RequestId)>,
    /// How many acquires there were.
    acquires: u64,
    /// Releases that were answered, and that a power failure may undo.
    kept: Kept,
    /// The server's log was durable up to here.
    pub(super) durable: u64,
    pub(super) outbox: Outbox,
}

#[derive(Debug)]
struct Request {
    phase: Phase,
    /// Its place among the acquires of this session; zero once it is no acquire any more.
    place: u64,
    /// When to ask again, after a failure that may pass.
    again_at: Option<Instant>,
    /// Made at the first failure.
    retry: Option<Box<Retry>>,
}

#[derive(Debug)]
enum Phase {
    Waiting(Box<Acquire>, Sent),
    Held(Arc<Held>, u64, Updates),
    Releasing(Option<oneshot::Sender<ReleaseReply>>, Doubt),
    Leaving,
}

/// Changes to what is held, in order. The first one is on its way.
type Updates = VecDeque<(v1::change::Change, oneshot::Sender<UpdateReply>)>;

/// Whether a server may know of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Never,
    /// On the present stream only: if that is refused, no server knows of it.
    OnThisStream,
    /// On an earlier stream.
    Before,
}

/// Whether an earlier attempt to release may have succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    MayBeDone,
}

impl Request {
    fn new(phase: Phase) -> Self {
        Self { phase, place: 0, again_at: None, retry: None }
    }
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How far each request has come.
    pub(super) fn census(&self) -> Vec<super::Phase> {
        let phase = |request: &Request| match &request.phase {
            Phase::Waiting(acquire, _) => super::Phase::Waiting(acquire.message.name.clone()),
            Phase::Held(_, token, _) => match FencingToken::new(*token) {
                Some(token) => super::Phase::Held(token),
                None => super::Phase::Leaving,
            },
            Phase::Releasing(..) | Phase::Leaving => super::Phase::Leaving,
        };
        self.open.values().map(phase).collect()
    }

    /// Whether an acquire is still to be answered.
    pub(super) fn is_waiting(&self) -> bool {
        self.open.values().any(|request| matches!(request.phase, Phase::Waiting(..)))
    }

    /// Whether a caller waits for the outcome of a release.
    pub(super) fn is_awaited(&self) -> bool {
        self.open.values().any(|request| matches!(request.phase, Phase::Releasing(Some(_), _)))
    }

    /// All up to this place in the log survives a power failure.
    pub(super) fn durable(&mut self, position: u64) {
        self.kept.durable(position);
        self.durable = self.durable.max(position);
    }

    pub(super) fn acquire(&mut self, acquire: Acquire, now: Instant) {
        if acquire.reply.is_closed() {
            return;
        }
        if self.open.len() >= MAX_OPEN {
            let message = "10000 locks and acquires are open in this session";
            deny(acquire, Denied::Failed(Fault::new(ErrorKind::ResourceExhausted, message)));
            return;
        }
        let id = acquire.id;
        self.acquires += 1;
        let waiting = Phase::Waiting(Box::new(acquire), Sent::Never);
        self.open.insert(id, Request { place: self.acquires, ..Request::new(waiting) });
        self.ask(id, now);
    }

    pub(super) fn abandon(&mut self, id: RequestId) {
        let Some(request) = self.open.get_mut(&id) else { return };
        match &request.phase {
            Phase::Waiting(_, Sent::Never) => {
                self.open.remove(&id);
            }
            Phase::Waiting(_, Sent::OnThisStream | Sent::Before) => {
                *request = Request::new(Phase::Leaving);
                self.outbox.cancel(id);
            }
            Phase::Held(..) => self.release(id, None),
            Phase::Releasing(..) | Phase::Leaving => {}
        }
    }

    pub(super) fn release(&mut self, id: RequestId, reply: Option<oneshot::Sender<ReleaseReply>>) {
        match self.open.get_mut(&id) {
            Some(request) if matches!(request.phase, Phase::Held(..)) => {
                if let Phase::Held(held, ..) = &request.phase {
                    held.lose(LossReason::Released);
                }
                *request = Request::new(Phase::Releasing(reply, Doubt::None));
                self.outbox.release(id);
            }
            // Lost in the meantime, and dealt with then.
            Some(_) | None => answer(reply, Ok(Released::AlreadyLost)),
        }
    }

    /// Asks the server once more, or for the first time.
    fn ask(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.open.get_mut(&id) else { return };
        request.again_at = None;
        match &mut request.phase {
            Phase::Waiting(acquire, sent) => {
                let message = Message::Acquire(wire(acquire, now));
                if self.outbox.push(message) && *sent == Sent::Never {
                    *sent = Sent::OnThisStream;
                }
            }
            Phase::Held(_, _, updates) => {
                if let Some((change, _)) = updates.front() {
                    self.outbox.update(id, change.clone());
                }
            }
            Phase::Releasing(..) => {
                self.outbox.release(id);
            }
            Phase::Leaving => {
                self.outbox.cancel(id);
            }
        }
    }

    pub(super) fn ask_again(&mut self, now: Instant) {
        while let Some(due) = self.again.first().copied().filter(|(at, _)| *at <= now) {
            self.again.remove(&due);
            let (at, id) = due;
            if self.open.get(&id).is_some_and(|request| request.again_at == Some(at)) {
                self.ask(id, now);
            }
        }
    }

    pub(super) fn next_ask(&self) -> Option<Instant> {
        self.again.first().map(|(at, _)| *at)
    }
}

fn wire(acquire: &Acquire, now: Instant) -> v1::Acquire {
    let max_wait = match acquire.wait {
        Wait::Not => Some(Duration::ZERO),
        Wait::Until(at) => Some(at.saturating_duration_since(now).max(SHORTEST_WAIT)),
        Wait::Forever => None,
    };
    // A wait too long for the wire is as good as for ever.
    let max_wait = max_wait.and_then(|wait| wait.try_into().ok());
    v1::Acquire { max_wait, ..acquire.message.clone() }
}

fn deny(acquire: Acquire, denied: Denied) {
    let reply: AcquireReply = Err(denied);
    // A caller that no longer waits needs no answer.
    drop(acquire.reply.send(reply));
}

fn answer(reply: Option<oneshot::Sender<ReleaseReply>>, answer: ReleaseReply) {
    if let Some(reply) = reply {
        // A caller that no longer waits needs no answer.
        drop(reply.send(answer));
    }
}
