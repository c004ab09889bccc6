//! What follows once an operation has changed queues: grants, and who hears of what.
//!
//! All changes of one operation are made before any queue advances, so that an entry that goes in
//! the same step as its holder is never granted anything.

use super::{
    Ahead, Context, Effect, Entry, Handoff, HandoffReason, LossCause, News, Refusal, Stage, State,
    effect::Described, session::Ending,
};
use crate::record::{Blocked, Kind, LockId};

/// What one operation does, collected while it is applied.
pub(super) struct Turn<'a> {
    pub(super) cx: Context,
    pub(super) effects: &'a mut Vec<Effect>,
    /// The locks whose queues have changed.
    touched: Vec<LockId>,
    /// The entries that are gone.
    departed: Vec<Departed>,
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

    pub(super) fn touch(&mut self, lock: &LockId) {
        if self.touched.last() != Some(lock) {
            self.touched.push(lock.clone());
        }
    }
}

impl State {
    /// Takes an entry out of its queues. What follows from that comes with [`settle`](Self::settle).
    pub(super) fn take_out(&mut self, slot: u32, exit: Exit, turn: &mut Turn<'_>) {
        self.open_entry(slot);
        let Some(entry) = self.entries.try_remove(slot as usize) else {
            return;
        };
        for lock in entry.locks.as_slice() {
            if let Some(there) = self.locks.get_mut(lock) {
                there.queue.remove(entry.token);
                there.left -= u32::from(entry.stage == Stage::Left).min(there.left);
                turn.touch(lock);
            }
        }
        self.forget_owner(&entry, slot);
        self.close_request(&entry, &exit);
        let held = entry.is_held();
        turn.departed.push(Departed { entry, held, exit });
    }

    /// Its session does not count the entry any more, and remembers how it ended where a late copy of
    /// its request could ask for it again.
    fn close_request(&mut self, entry: &Entry, exit: &Exit) {
        let (session, request) = (entry.session, entry.request);
        let ending = match exit {
            Exit::Forced(_) => Some(Ending::Forced),
            Exit::Broken => Some(Ending::Broken),
            Exit::Deadlock(_) => Some(Ending::Deadlock),
            Exit::BySession
            | Exit::Unheard
            | Exit::WaitExpired(_)
            | Exit::AllLeft
            | Exit::Done(_) => (entry.asker.stream == 0).then_some(Ending::BySession),
            Exit::SessionExpired | Exit::SessionClosed | Exit::Lapsed => None,
        };
        let Some(there) = self.session_mut(session) else {
            return;
        };
        // An entry that stays for others to see is no request any more, and its id may be another's.
        if matches!(entry.stage, Stage::Lost | Stage::Delayed { .. }) {
            return;
        }
        there.entries.remove(&request);
        if let Some(ending) = ending {
            self.open_session_item(session);
            if let Some(there) = self.session_mut(session) {
                there.remember(request, ending);
            }
            self.seal_session_item(session);
        }
    }

    /// Advances the queues that have changed, and says what follows.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>) {
        if turn.touched.is_empty() {
            return;
        }
        self.clear_barriers(turn);
        let departed = std::mem::take(&mut turn.departed);
        for gone in &departed {
            self.tell_departure(gone, turn);
        }
        let mut touched = std::mem::take(&mut turn.touched);
        touched.sort_unstable();
        touched.dedup();
        for lock in touched {
            self.advance(&lock, &departed, turn);
            turn.effects.push(Effect::Changed(lock));
        }
    }

    fn tell_departure(&mut self, gone: &Departed, turn: &mut Turn<'_>) {
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
        if let Some(news) = gone.news() {
            let (session, request, token) = (entry.session, entry.request, entry.token);
            turn.effects.push(Effect::Entry { session, request, token, news });
        }
        debug_assert!(*held || !matches!(exit, Exit::AllLeft), "parties leave what they held");
    }

    /// Grants what the rule allows by now.
    fn advance(&mut self, lock: &LockId, departed: &[Departed], turn: &mut Turn<'_>) {
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
        self.keep_story(lock, granted.len(), departed, turn.cx.now);
        for slot in granted {
            self.grant(slot, (lock, departed), turn);
        }
    }

    fn grant(&mut self, slot: u32, (lock, departed): (&LockId, &[Departed]), turn: &mut Turn<'_>) {
        let Some(entry) = self.entries.get_mut(slot as usize) else {
            return;
        };
        entry.held_in += 1;
        let (session, request, token) = (entry.session, entry.request, entry.token);
        if let Some(from) = giver(lock, departed).filter(|from| from.held) {
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
        self.look_at_owner_of(slot, turn);
    }

    /// Keeps how a lock came to its holder, for people.
    fn keep_story(&mut self, lock: &LockId, granted: usize, departed: &[Departed], now: u64) {
        let from = giver(lock, departed);
        let handoff = from.filter(|_| now != 0).map(|from| {
            let client = self.session(from.entry.session).map(|session| session.client.clone());
            let from_entry = Described { entry: from.entry.clone(), client };
            Box::new(Handoff { reason: from.reason(), from: from_entry, at: now })
        });
        let Some(there) = self.locks.get_mut(lock) else {
            return;
        };
        if there.queue.held() == granted {
            there.held_since = now;
            there.last = handoff;
        }
    }

    /// A barrier that all have left is over: what is left of it goes, and others may come in.
    fn clear_barriers(&mut self, turn: &mut Turn<'_>) {
        let over: Vec<_> = turn.touched.iter().filter(|lock| self.is_over(lock)).cloned().collect();
        for lock in over {
            for slot in self.parties(&lock) {
                self.take_out(slot, Exit::AllLeft, turn);
            }
        }
    }

    fn is_over(&self, lock: &LockId) -> bool {
        self.locks.get(lock).is_some_and(|lock| match lock.queue.kind() {
            Some(Kind::Barrier { parties }) => lock.left == parties,
            Some(Kind::Lock | Kind::Semaphore { .. } | Kind::Group(_) | Kind::Once) | None => false,
        })
    }
}

/// The entry that gave a lock up in this step: a holder, where there was one.
fn giver<'a>(lock: &LockId, departed: &'a [Departed]) -> Option<&'a Departed> {
    let left = departed.iter().filter(|gone| gone.entry.locks.as_slice().contains(lock));
    left.max_by_key(|gone| gone.held)
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
