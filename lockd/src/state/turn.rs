//! What one operation does, collected while it is applied, and why entries go.

use super::{
    Ahead, Context, Effect, Entry, HandoffReason, LossCause, News, Refusal, Seat, session::Ending,
};
use crate::record::{Blocked, LockId, Position};

/// Buffers that are larger are given back.
const KEPT: usize = 64;

/// What one operation does, collected while it is applied.
pub(super) struct Turn<'a> {
    pub(super) cx: Context,
    pub(super) effects: &'a mut Vec<Effect>,
    /// The entry that joins the queues of the locks that it has touched.
    pub(super) joining: Option<(Position, Seat)>,
    /// How many locks have become free.
    pub(super) freed: usize,
    pub(super) buffers: Buffers,
}

/// What is empty between two operations: memory that is used again.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The locks whose queues have changed.
    pub(super) touched: Vec<Touched>,
    /// The entries that are gone.
    pub(super) departed: Vec<Departed>,
    /// Those that leave one queue.
    pub(super) tokens: Vec<Position>,
}

/// A change to a queue.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Touched {
    pub(super) lock: LockId,
    /// The entry that leaves it, by its place among those that are gone.
    pub(super) gone: Option<usize>,
}

/// An entry that is gone.
#[derive(Debug)]
pub(super) struct Departed {
    pub(super) entry: Entry,
    pub(super) held: bool,
    pub(super) exit: LeaveCause,
}

/// Why an entry leaves its queues.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum LeaveCause {
    /// By its own session: released, cancelled, completed, or not named by a stream that resumes.
    BySession,
    /// By its own session, which hears of it in another way: a try, or a wait of a call that is gone.
    Unheard,
    /// Its time to wait is over. These were ahead.
    WaitExpired(Option<Box<Ahead>>),
    Deadlock(Box<[Blocked]>),
    Forced(Box<str>),
    /// Its barrier is broken.
    Broken,
    /// All parties to its barrier have left.
    AllLeft,
    /// Its once has been done.
    Done(bytes::Bytes),
    SessionExpired,
    SessionClosed,
    /// Its lock-delay is over.
    Lapsed,
}

impl<'a> Turn<'a> {
    pub(super) fn new(cx: Context, effects: &'a mut Vec<Effect>, buffers: Buffers) -> Self {
        Self { cx, effects, joining: None, freed: 0, buffers }
    }

    /// Something about a lock's queue has changed.
    pub(super) fn touch(&mut self, lock: &LockId) {
        self.buffers.touched.push(Touched { lock: lock.clone(), gone: None });
    }

    /// An entry is gone, and is to leave its queues.
    pub(super) fn depart(&mut self, departed: Departed) {
        let gone = Some(self.buffers.departed.len());
        let locks = departed.entry.locks.as_slice().iter().cloned();
        self.buffers.touched.extend(locks.map(|lock| Touched { lock, gone }));
        self.buffers.departed.push(departed);
    }

    /// The end of the operation.
    pub(super) fn into_buffers(self) -> Buffers {
        let Buffers { touched, departed, tokens } = &self.buffers;
        let most = touched.capacity().max(departed.capacity()).max(tokens.capacity());
        if most > KEPT { Buffers::default() } else { self.buffers }
    }
}

impl LeaveCause {
    /// How the request of an entry has ended, where a late copy of it could ask again.
    pub(super) fn ending(&self, entry: &Entry) -> Option<Ending> {
        match self {
            Self::Forced(_) => Some(Ending::Forced),
            Self::Broken => Some(Ending::Broken),
            Self::Deadlock(_) => Some(Ending::Deadlock),
            Self::BySession
            | Self::Unheard
            | Self::WaitExpired(_)
            | Self::AllLeft
            | Self::Done(_) => (entry.asker.stream == 0).then_some(Ending::BySession),
            Self::SessionExpired | Self::SessionClosed | Self::Lapsed => None,
        }
    }
}

impl Departed {
    /// What the entry's client hears; `None` where it hears nothing, or in another way.
    pub(super) fn news(&self) -> Option<News> {
        let held = self.held;
        let refused = |refusal| Some(News::Refused(refusal));
        match &self.exit {
            LeaveCause::Unheard
            | LeaveCause::SessionExpired
            | LeaveCause::SessionClosed
            | LeaveCause::Lapsed => None,
            LeaveCause::AllLeft => Some(News::Released),
            LeaveCause::BySession if held => Some(News::Lost(LossCause::BySession)),
            LeaveCause::BySession => refused(Refusal::Cancelled),
            LeaveCause::WaitExpired(ahead) => refused(Refusal::WaitExpired(ahead.clone())),
            LeaveCause::Deadlock(cycle) => refused(Refusal::Deadlock(cycle.clone())),
            LeaveCause::Forced(reason) if held => {
                Some(News::Lost(LossCause::Forced(reason.clone())))
            }
            LeaveCause::Forced(_) => refused(Refusal::Forced),
            LeaveCause::Broken if held => Some(News::Lost(LossCause::Broken)),
            LeaveCause::Broken => refused(Refusal::Broken),
            LeaveCause::Done(result) => refused(Refusal::Done(result.clone())),
        }
    }

    /// Why it gave way.
    pub(super) fn reason(&self) -> HandoffReason {
        match &self.exit {
            LeaveCause::SessionExpired | LeaveCause::Lapsed => HandoffReason::Expired,
            LeaveCause::SessionClosed => HandoffReason::Closed,
            LeaveCause::Forced(reason) => HandoffReason::Forced(reason.clone()),
            _ if !self.held => HandoffReason::Cancelled,
            _ if !self.entry.yield_reason().is_empty() => HandoffReason::Yielded,
            _ => HandoffReason::Released,
        }
    }
}
