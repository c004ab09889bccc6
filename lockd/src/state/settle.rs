//! What follows once an operation has changed queues: grants, and who hears of what.
//!
//! All changes of one operation are made before any queue advances, so that an entry that goes in
//! the same step as its holder is never granted anything.

use lockd_proto::{RequestId, SessionId};

use super::{
    Ahead, Context, Effect, Entry, Handoff, HandoffReason, LossCause, News, Refusal, Stage, State,
    session::Ending,
};
use crate::record::{Blocked, LockId};

/// What one operation does, collected while it is applied.
pub(super) struct Turn<'a> {
    pub(super) cx: Context,
    pub(super) effects: &'a mut Vec<Effect>,
    /// The locks whose queues have changed.
    touched: Vec<Touched>,
    /// The entries that are gone.
    departed: Vec<Departed>,
}

/// A change to a queue.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    lock: LockId,
    /// The entry that leaves it, by its place among those that are gone.
    gone: Option<usize>,
}

/// An entry that is gone.
struct Departed {
    entry: Entry,
    held: bool,
    exit: Exit,
}

/// Why an entry leaves its queues.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Exit {
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
    pub(super) fn new(cx: Context, effects: &'a mut Vec<Effect>) -> Self {
        Self { cx, effects, touched: Vec::new(), departed: Vec::new() }
    }

    /// Something about a lock's queue has changed.
    pub(super) fn touch(&mut self, lock: &LockId) {
        self.touched.push(Touched { lock: lock.clone(), gone: None });
    }

    fn depart(&mut self, departed: Departed) {
        let gone = Some(self.departed.len());
        let locks = departed.entry.locks.as_slice().iter().cloned();
        self.touched.extend(locks.map(|lock| Touched { lock, gone }));
        self.departed.push(departed);
    }
}

impl State {
    /// Takes an entry out. It leaves its queues with [`settle`](Self::settle), together with all others
    /// that leave in this operation: until then they are as they were before.
    pub(super) fn take_out(&mut self, slot: u32, exit: Exit, turn: &mut Turn<'_>) {
        self.open_entry(slot);
        let Some(entry) = self.entries.try_remove(slot as usize) else {
            return;
        };
        self.owners.forget(&entry);
        self.close_request(slot, (entry.session, entry.request), exit.ending(&entry));
        let held = entry.is_held();
        turn.depart(Departed { entry, held, exit });
    }

    /// The request that made an entry ends, if it is open. One whose entry stays for others to see has
    /// ended before, and its id may be another's.
    pub(super) fn close_request(
        &mut self,
        slot: u32,
        (session, request): (SessionId, RequestId),
        ending: Option<Ending>,
    ) {
        let Some(there) = self.session_mut(session) else {
            return;
        };
        if there.entries.get(&request) != Some(&slot) {
            return;
        }
        there.entries.remove(&request);
        if let Some(ending) = ending {
            self.remember(session, request, ending);
        }
    }

    /// A session remembers how a request has ended, for a late copy of it.
    pub(super) fn remember(&mut self, session: SessionId, request: RequestId, ending: Ending) {
        self.open_session_item(session);
        if let Some(there) = self.session_mut(session) {
            there.remember(request, ending);
        }
        self.seal_session_item(session);
    }

    /// Advances the queues that have changed, and says what follows.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        if turn.touched.is_empty() {
            return;
        }
        let departed = std::mem::take(&mut turn.departed);
        for gone in &departed {
            self.report_departure(gone, turn);
        }
        let mut touched = std::mem::take(&mut turn.touched);
        touched.sort_unstable();
        for changes in touched.chunk_by(|one, other| one.lock == other.lock) {
            let gone = changes.iter().filter_map(|change| departed.get(change.gone?));
            let Some(Touched { lock, .. }) = changes.first() else {
                continue;
            };
            self.leave(lock, gone.clone());
            // A holder gives the lock up, where there was one.
            self.advance(lock, gone.max_by_key(|gone| gone.held), turn);
            turn.effects.push(Effect::Changed(lock.clone()));
        }
    }

    fn leave<'a>(&mut self, lock: &LockId, gone: impl Iterator<Item = &'a Departed> + Clone) {
        let Some(there) = self.locks.get_mut(lock) else {
            return;
        };
        let left = gone.clone().filter(|gone| gone.entry.stage == Stage::Left).count();
        there.left -= u32::try_from(left).unwrap_or(u32::MAX).min(there.left);
        let mut tokens: Vec<_> = gone.map(|gone| gone.entry.token).collect();
        tokens.sort_unstable();
        there.queue.remove(&tokens);
    }

    fn report_departure(&mut self, gone: &Departed, turn: &mut Turn<'_>) {
        let Departed { entry, held, exit } = gone;
        if *held {
            let first = entry.locks.as_slice().first().and_then(|lock| self.locks.get(lock));
            turn.effects.push(Effect::GaveWay {
                session: entry.session,
                request: entry.request,
                held_since: first.map_or(0, |lock| lock.held_since),
                reason: gone.reason(),
            });
        } else {
            self.look_at_owner(entry, turn);
        }
        let is_open = matches!(entry.stage, Stage::Here | Stage::Left);
        let hears = is_open && self.session_of(entry).is_some();
        if let Some(news) = gone.news().filter(|_| hears) {
            let (session, request, token) = (entry.session, entry.request, entry.token);
            turn.effects.push(Effect::Entry { session, request, token, news });
        }
        debug_assert!(*held || !matches!(exit, Exit::AllLeft), "parties leave what they held");
    }

    /// Grants what the rule allows by now.
    fn advance(&mut self, lock: &LockId, from: Option<&Departed>, turn: &mut Turn<'_>) {
        let Some(there) = self.locks.get_mut(lock) else {
            return;
        };
        let granted: Vec<u32> = there.queue.advance().map(|seat| seat.slot).collect();
        let waiting = there.queue.len() - there.queue.held();
        self.waiting = self.waiting + waiting - there.waiting as usize;
        there.waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        if there.queue.is_empty() {
            self.locks.remove(lock);
            return;
        }
        if granted.is_empty() {
            return;
        }
        self.keep_story(lock, granted.len(), from, turn.cx.now);
        for slot in granted {
            self.grant(slot, lock, from.filter(|from| from.held), turn);
        }
    }

    fn grant(&mut self, slot: u32, lock: &LockId, from: Option<&Departed>, turn: &mut Turn<'_>) {
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        entry.held_in += 1;
        let (session, request, token) = (entry.session, entry.request, entry.token);
        if let Some(from) = from {
            turn.effects.push(Effect::HandedOver {
                lock: lock.clone(),
                from: from.entry.token,
                trace: (!from.entry.trace().is_empty()).then(|| from.entry.trace().into()),
                from_request: from.entry.request,
                session,
                request,
            });
        }
        // Its own operation answers for an entry that was just made.
        if entry.is_held() && token < turn.cx.at {
            let joined = entry.joined;
            turn.effects.push(Effect::Entry {
                session,
                request,
                token,
                news: News::Granted { joined },
            });
        }
        self.note_granted(slot);
        if let Some(entry) = self.entry(slot) {
            self.look_at_owner(entry, turn);
        }
    }

    /// Keeps how a lock came to its holder, for people.
    fn keep_story(&mut self, lock: &LockId, granted: usize, from: Option<&Departed>, now: u64) {
        let handoff = from.filter(|_| now != 0).map(|from| {
            Box::new(Handoff { reason: from.reason(), from: self.describe(&from.entry), at: now })
        });
        let Some(there) = self.locks.get_mut(lock) else {
            return;
        };
        if there.queue.held() == granted {
            there.held_since = now;
            there.last = handoff;
        }
    }
}

impl Exit {
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
    fn news(&self) -> Option<News> {
        let held = self.held;
        let refused = |refusal| Some(News::Refused(refusal));
        match &self.exit {
            Exit::Unheard | Exit::SessionExpired | Exit::SessionClosed | Exit::Lapsed => None,
            Exit::AllLeft => Some(News::Released),
            Exit::BySession if held => Some(News::Lost(LossCause::BySession)),
            Exit::BySession => refused(Refusal::Cancelled),
            Exit::WaitExpired(ahead) => refused(Refusal::WaitExpired(ahead.clone())),
            Exit::Deadlock(cycle) => refused(Refusal::Deadlock(cycle.clone())),
            Exit::Forced(reason) if held => Some(News::Lost(LossCause::Forced(reason.clone()))),
            Exit::Forced(_) => refused(Refusal::Forced),
            Exit::Broken if held => Some(News::Lost(LossCause::Broken)),
            Exit::Broken => refused(Refusal::Broken),
            Exit::Done(result) => refused(Refusal::Done(result.clone())),
        }
    }

    fn reason(&self) -> HandoffReason {
        match &self.exit {
            Exit::SessionExpired | Exit::Lapsed => HandoffReason::Expired,
            Exit::SessionClosed => HandoffReason::Closed,
            Exit::Forced(reason) => HandoffReason::Forced(reason.clone()),
            _ if !self.held => HandoffReason::Cancelled,
            _ if !self.entry.yield_reason().is_empty() => HandoffReason::Yielded,
            _ => HandoffReason::Released,
        }
    }
}
