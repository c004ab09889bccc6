//! The reference: it keeps sessions, entries and results, and asks the grant rule for everything else.

use std::collections::BTreeMap;

use super::*;
use crate::record::{Blocked, QueueKind};

/// A session as it is known.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) opened: Position,
    pub(super) epoch: Position,
    pub(super) author: ReplicaId,
    pub(super) stream: u64,
    secret_hash: [u8; 32],
    ended: Vec<(RequestId, &'static str)>,
}

/// An entry: what asked for it, and what it is at.
#[derive(Debug, Clone)]
pub(super) struct Place {
    ask: Enqueue,
    pub(super) mode: Mode,
    /// The session's life that it belongs to.
    life: Position,
    pub(super) stage: Stage,
    pub(super) asker: Asker,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Reference {
    pub(super) sessions: BTreeMap<SessionId, Known>,
    pub(super) entries: BTreeMap<Position, Place>,
    pub(super) results: BTreeMap<LockId, Bytes>,
    /// All of this as it was before the operation.
    before: Option<Box<Self>>,
    pub(super) news: Vec<String>,
}

impl Place {
    fn owner(&self) -> Option<String> {
        let owner = &self.ask.info.owner;
        (!owner.is_empty()).then(|| format!("{}\0{owner}", self.ask.locks[0].namespace()))
    }
}

impl Reference {
    fn queue(&self, lock: &LockId) -> Vec<Position> {
        let there = self.entries.iter().filter(|(_, it)| it.ask.locks.contains(lock));
        there.map(|(token, _)| *token).collect()
    }

    fn kind(&self, lock: &LockId) -> Option<QueueKind> {
        self.queue(lock).first().map(|first| self.entries[first].mode.kind())
    }

    fn holders(&self, lock: &LockId) -> Vec<Position> {
        let mut queue = self.queue(lock);
        queue.truncate(queue::holders(queue.iter().map(|token| self.entries[token].mode)));
        queue
    }

    pub(super) fn holds(&self, token: Position) -> bool {
        let locks = self.entries.get(&token).map(|it| &it.ask.locks);
        locks.is_some_and(|it| it.iter().all(|lock| self.holders(lock).contains(&token)))
    }

    pub(super) fn lives(&self, place: &Place) -> bool {
        self.sessions.get(&place.ask.session).is_some_and(|it| it.opened == place.life)
    }

    /// Whether its request is open: its session lives, and has not given it up.
    fn is_open(&self, place: &Place) -> bool {
        self.lives(place) && matches!(place.stage, Stage::Here | Stage::Left)
    }

    fn find(&self, session: SessionId, request: RequestId) -> Option<Position> {
        let mut own = self.entries.iter().filter(|(_, it)| {
            (it.ask.session, it.ask.request) == (session, request) && self.is_open(it)
        });
        own.next().map(|(token, _)| *token)
    }

    fn remember(&mut self, session: SessionId, request: RequestId, how: &'static str) {
        if let Some(known) = self.sessions.get_mut(&session) {
            known.ended.retain(|(id, _)| *id != request);
            known.ended.push((request, how));
        }
    }

    /// Takes an entry out. Its client hears `lost` if it held, else `refused`; empty for nothing.
    fn take_out(&mut self, token: Position, lost: &str, refused: &str, how: Option<&'static str>) {
        let held = self.before.as_ref().is_some_and(|it| it.holds(token));
        let place = self.entries.remove(&token).expect("it is there");
        if !self.is_open(&place) {
            return;
        }
        let news = if held { lost } else { refused };
        if !news.is_empty() {
            let Enqueue { session, request, .. } = &place.ask;
            self.news.push(heard(*session, *request, news));
        }
        let how = how.or((place.asker.stream == 0).then_some("cancelled"));
        if let Some(how) = how {
            self.remember(place.ask.session, place.ask.request, how);
        }
    }

    /// The entries that go with a party that leaves, itself among them.
    fn generation(&self, token: Position) -> Vec<Position> {
        let place = &self.entries[&token];
        let Mode::Party { parties } = place.mode else { return vec![token] };
        let before = self.before.as_ref().expect("an operation is applied");
        let mut queue = before.queue(&place.ask.locks[0]);
        queue.truncate(parties as usize);
        if queue.contains(&token) { queue } else { vec![token] }
    }

    fn break_with(
        &mut self,
        token: Position,
        lost: &str,
        refused: &str,
        how: Option<&'static str>,
    ) {
        for other in self.generation(token) {
            if other == token {
                self.take_out(token, lost, refused, how);
            } else if self.entries.contains_key(&other) {
                self.take_out(other, "lost broken", "refused broken", Some("broken"));
            }
        }
    }

    fn lose(&mut self, token: Position) {
        let place = self.entries.get_mut(&token).expect("it is there");
        place.stage = Stage::Lost;
        let (session, request, call) =
            (place.ask.session, place.ask.request, place.asker.stream == 0);
        if call {
            self.remember(session, request, "cancelled");
        }
    }

    fn give_up(&mut self, token: Position) {
        let place = &self.entries[&token];
        match (place.mode, place.stage) {
            (_, Stage::Left) => {}
            (Mode::Share(OnLoss::Fail), _) => self.lose(token),
            _ => self.break_with(token, "lost by session", "refused cancelled", None),
        }
    }

    fn end(&mut self, session: SessionId, at: Position, expired: bool) {
        let Some(known) = self.sessions.remove(&session) else { return };
        let own = self.entries.iter().filter(|(_, it)| {
            it.ask.session == session
                && it.life == known.opened
                && !matches!(it.stage, Stage::Lost | Stage::Delayed { .. })
        });
        let own: Vec<_> = own.map(|(token, it)| (*token, it.clone())).collect();
        for (token, place) in own {
            if !self.entries.contains_key(&token) || place.stage == Stage::Left {
                continue;
            }
            let held = self.before.as_ref().is_some_and(|it| it.holds(token));
            match place.mode {
                Mode::Share(OnLoss::Fail) => self.lose(token),
                Mode::Party { .. } => self.break_with(token, "", "", None),
                _ if expired && held && place.ask.lock_delay_ms > 0 => {
                    let place = self.entries.get_mut(&token).expect("it is there");
                    place.stage = Stage::Delayed { since: at };
                }
                _ => self.take_out(token, "", "", None),
            }
        }
    }

    /// Applies an operation, and says what became of it.
    pub(super) fn apply(&mut self, operation: &Operation, cx: Context) -> String {
        self.news.clear();
        self.before = None;
        self.before = Some(Box::new(self.clone()));
        let outcome = match operation {
            Operation::Start | Operation::Level(_) | Operation::Floor(_) => "done".to_owned(),
            Operation::Open(open) => self.open(open, cx),
            Operation::Attach(attach) => self.attach(attach, cx),
            Operation::End { session, epoch } => match self.sessions.get(session) {
                None => "no session".to_owned(),
                Some(known) if known.epoch != *epoch => "superseded".to_owned(),
                Some(_) => {
                    self.end(*session, cx.at, true);
                    "done".to_owned()
                }
            },
            Operation::Close { session } => match self.sessions.contains_key(session) {
                false => "no session".to_owned(),
                true => {
                    self.end(*session, cx.at, false);
                    "done".to_owned()
                }
            },
            Operation::Enqueue(ask) => self.enqueue(ask, cx),
            Operation::Cancel { session, stream, request } => {
                self.cancel(*session, (*stream, *request), cx)
            }
            Operation::Release(release) => self.release(release),
            Operation::Update { session, request, change } => {
                self.update(*session, *request, change)
            }
            Operation::EndWait { lock, token, claim, why } => {
                self.end_wait(lock, (*token, *claim), why)
            }
            Operation::Lapse { lock, token, since } => {
                let stage = Stage::Delayed { since: *since };
                if self.queue(lock).contains(token) && self.entries[token].stage == stage {
                    self.take_out(*token, "", "", None);
                }
                "done".to_owned()
            }
            Operation::Force { lock, token, reason } => self.force(lock, *token, reason),
            Operation::Yield { lock, reason } => self.request_yield(lock, reason),
            Operation::Forget { lock } => {
                format!("forgotten {}", self.results.remove(lock).is_some())
            }
        };
        self.hear_grants(cx.at);
        outcome
    }

    /// Who holds now and did not before hears of it, but for the entry that was just made.
    fn hear_grants(&mut self, at: Position) {
        let before = self.before.take().expect("an operation is applied");
        let tokens: Vec<_> = self.entries.keys().copied().filter(|token| *token != at).collect();
        for token in tokens {
            if self.holds(token) && !before.holds(token) {
                let Enqueue { session, request, .. } = &self.entries[&token].ask;
                self.news.push(heard(*session, *request, "granted"));
            }
        }
    }

    fn open(&mut self, open: &Open, cx: Context) -> String {
        match self.sessions.get(&open.session) {
            Some(known) if known.secret_hash != open.secret_hash => "secret mismatch".to_owned(),
            Some(_) => {
                let (session, stream) = (open.session, open.stream);
                self.attach(&Attach { session, stream, open: None }, cx)
            }
            None => {
                let known = Known {
                    opened: cx.at,
                    epoch: cx.at,
                    author: cx.author,
                    stream: open.stream,
                    secret_hash: open.secret_hash,
                    ended: vec![],
                };
                self.sessions.insert(open.session, known);
                "attached".to_owned()
            }
        }
    }

    fn attach(&mut self, attach: &Attach, cx: Context) -> String {
        let Some(known) = self.sessions.get_mut(&attach.session) else {
            return "no session".to_owned();
        };
        if attach.stream > 0 && attach.stream <= known.stream {
            return "superseded".to_owned();
        }
        (known.epoch, known.author) = (cx.at, cx.author);
        known.stream = known.stream.max(attach.stream);
        let own = self.entries.iter().filter(|(_, it)| {
            let named = attach.open.as_ref().is_none_or(|open| open.contains(&it.ask.request));
            it.ask.session == attach.session && self.is_open(it) && it.asker.stream > 0 && !named
        });
        let own: Vec<_> = own.map(|(token, _)| *token).collect();
        for token in own {
            if self.entries.contains_key(&token) {
                self.give_up(token);
            }
        }
        "attached".to_owned()
    }

    fn reaches(&self, session: SessionId, stream: u64, author: ReplicaId) -> Result<(), String> {
        let known = self.sessions.get(&session).ok_or("no session")?;
        let newest = (known.stream, known.author) == (stream, author);
        if stream == 0 || newest { Ok(()) } else { Err("superseded".to_owned()) }
    }

    fn enqueue(&mut self, ask: &Enqueue, cx: Context) -> String {
        if let Err(outcome) = self.reaches(ask.session, ask.stream, cx.author) {
            return outcome;
        }
        let asker = Asker { author: cx.author, stream: ask.stream, claim: cx.at };
        if let Some(token) = self.find(ask.session, ask.request) {
            return self.ask_again(token, ask, asker);
        }
        let known = &self.sessions[&ask.session];
        if let Some((_, how)) = known.ended.iter().find(|(id, _)| *id == ask.request) {
            return format!("refused {how}");
        }
        let is_try = ask.wait == Waits::Not;
        for lock in &ask.locks {
            if ask.mode == Mode::Once && self.results.contains_key(lock) {
                return "refused done".to_owned();
            }
            if self.kind(lock).is_some_and(|kind| kind != ask.mode.kind()) {
                return "failed kind".to_owned();
            }
            let shared = self.holders(lock).into_iter().map(|token| &self.entries[&token]);
            let mut shared = shared.filter(|it| it.mode == Mode::Shared && self.is_open(it));
            let own =
                |it: &Place| (it.ask.session, &it.ask.info.owner) == (ask.session, &ask.info.owner);
            if ask.mode == Mode::Exclusive && !ask.info.owner.is_empty() && shared.any(own) {
                return "failed upgrade".to_owned();
            }
        }
        let life = known.opened;
        let place = Place { ask: ask.clone(), mode: ask.mode, life, stage: Stage::Here, asker };
        self.entries.insert(cx.at, place);
        if self.holds(cx.at) {
            return format!("granted {}", cx.at);
        }
        if is_try {
            self.entries.remove(&cx.at);
            return "refused busy".to_owned();
        }
        format!("queued {}", cx.at)
    }

    fn ask_again(&mut self, token: Position, ask: &Enqueue, asker: Asker) -> String {
        let held = self.holds(token);
        let place = self.entries.get_mut(&token).expect("it is there");
        let downgraded = place.mode == Mode::Shared && ask.mode == Mode::Exclusive;
        let same = place.stage == Stage::Here
            && place.ask.locks == ask.locks
            && (place.mode == ask.mode || downgraded)
            && place.ask.lock_delay_ms == ask.lock_delay_ms
            && place.ask.info.owner == ask.info.owner;
        if !same {
            return "failed reused".to_owned();
        }
        if !held && ask.wait == Waits::Not {
            self.break_with(token, "", "", None);
            return "refused busy".to_owned();
        }
        place.asker = asker;
        let how = if held { "granted" } else { "queued" };
        format!("{how} {token}")
    }

    fn cancel(
        &mut self,
        session: SessionId,
        (stream, request): (u64, RequestId),
        cx: Context,
    ) -> String {
        if let Err(outcome) = self.reaches(session, stream, cx.author) {
            return outcome;
        }
        match self.find(session, request) {
            Some(token) => self.give_up(token),
            None if stream == 0 => self.remember(session, request, "cancelled"),
            None => {}
        }
        "cancelled".to_owned()
    }

    fn release(&mut self, release: &Release) -> String {
        if !self.sessions.contains_key(&release.session) {
            return "no session".to_owned();
        }
        let Some(token) = self.find(release.session, release.request) else {
            let named = release.named.as_ref();
            let other = named.filter(|(lock, token)| self.queue(lock).contains(token));
            let other = other.map(|(_, token)| self.entries[token].ask.session);
            let not_holder = other.is_some_and(|other| other != release.session);
            return if not_holder { "failed holder" } else { "already lost" }.to_owned();
        };
        let place = self.entries[&token].clone();
        if let Some((lock, named)) = &release.named
            && (*named != token || !place.ask.locks.contains(lock))
        {
            return "failed token".to_owned();
        }
        if !self.holds(token) {
            return "failed waiting".to_owned();
        }
        let Mode::Party { parties } = place.mode else {
            let plain = matches!(place.mode, Mode::Exclusive | Mode::Shared | Mode::Permits { .. })
                && place.ask.lock_delay_ms == 0
                && place.asker.stream > 0
                && place.ask.info.value.is_empty()
                && place.ask.locks.iter().all(|lock| self.queue(lock).len() == 1);
            self.take_out(token, "lost by session", "", None);
            return format!("released {plain}");
        };
        self.entries.get_mut(&token).expect("it is there").stage = Stage::Left;
        let generation = self.generation(token);
        let left = |token: &&Position| self.entries[token].stage == Stage::Left;
        if generation.iter().filter(left).count() == parties as usize {
            generation.into_iter().for_each(|token| self.take_out(token, "released", "", None));
        }
        "leaving".to_owned()
    }

    fn update(&mut self, session: SessionId, request: RequestId, change: &Change) -> String {
        if !self.sessions.contains_key(&session) {
            return "no session".to_owned();
        }
        let token = self.find(session, request).filter(|token| self.holds(*token));
        let Some(token) = token.filter(|token| self.entries[token].stage == Stage::Here) else {
            return "failed change".to_owned();
        };
        let place = self.entries.get_mut(&token).expect("it is there");
        match change {
            Change::Downgrade
                if place.mode.kind() == QueueKind::Lock && place.ask.locks.len() == 1 =>
            {
                place.mode = Mode::Shared;
            }
            Change::Value(value) => place.ask.info.value = value.clone(),
            Change::Result(result) if place.mode == Mode::Once => {
                let lock = place.ask.locks[0].clone();
                for other in self.queue(&lock) {
                    self.take_out(other, "lost by session", "refused done", None);
                }
                self.results.insert(lock, result.clone());
            }
            Change::Downgrade | Change::Result(_) => return "failed change".to_owned(),
        }
        "updated".to_owned()
    }

    fn end_wait(
        &mut self,
        lock: &LockId,
        (token, claim): (Position, Position),
        why: &WaitEnd,
    ) -> String {
        let there = self.entries.get(&token).filter(|it| it.ask.locks.contains(lock));
        let stands = there.is_some_and(|it| it.asker.claim == claim && it.stage == Stage::Here);
        if stands {
            let waits = !self.holds(token);
            match why {
                WaitEnd::Expired if waits => {
                    self.break_with(token, "", "refused wait_expired", None)
                }
                WaitEnd::Withdrawn if waits => {
                    self.break_with(token, "", "refused cancelled", None)
                }
                WaitEnd::Abandoned => self.break_with(token, "", "", None),
                WaitEnd::Deadlock { cycle, others } if waits && self.stands(cycle, others) => {
                    self.take_out(token, "", "refused deadlock", Some("deadlock"));
                }
                WaitEnd::Expired | WaitEnd::Withdrawn | WaitEnd::Deadlock { .. } => {}
            }
        }
        "done".to_owned()
    }

    /// Whether each wait of a cycle stands behind the owner of the next one, and none has another way.
    fn stands(&self, cycle: &[Blocked], others: &[Position]) -> bool {
        let named = |token: &Position| {
            others.contains(token) || cycle.iter().any(|wait| wait.token == *token)
        };
        cycle.iter().zip(cycle.iter().cycle().skip(1)).all(|(wait, next)| {
            let (queue, holders) = (self.queue(&wait.lock), self.holders(&wait.lock));
            let waits = queue.contains(&wait.token) && !holders.contains(&wait.token);
            if !waits || !queue.contains(&wait.by) || wait.by >= wait.token {
                return false;
            }
            let by = &self.entries[&wait.by];
            let mut behind = queue.iter().filter(|at| **at > wait.by && **at <= wait.token);
            let of_permits = matches!(by.mode, Mode::Permits { .. });
            let in_the_way = (of_permits && !holders.contains(&wait.by))
                || behind.any(|at| !self.entries[at].mode.is_compatible_with(by.mode));
            let owner = self.entries[&wait.token].owner();
            let mut own = self.entries.iter().filter(|(_, it)| it.owner() == owner);
            let next = self.entries.get(&next.token).and_then(Place::owner);
            by.stage == Stage::Here
                && in_the_way
                && by.owner() == next
                && owner.is_some()
                && own.all(|(token, _)| self.holds(*token) || named(token))
        })
    }

    fn force(&mut self, lock: &LockId, token: Position, reason: &str) -> String {
        if !self.queue(lock).contains(&token) {
            let there = !self.queue(lock).is_empty();
            return if there { "failed token" } else { "failed lock" }.to_owned();
        }
        self.break_with(token, &format!("lost forced {reason}"), "refused forced", Some("forced"));
        format!("forced {token}")
    }

    fn request_yield(&mut self, lock: &LockId, reason: &str) -> String {
        if self.queue(lock).is_empty() {
            return "failed lock".to_owned();
        }
        let holders = self.holders(lock);
        let all = holders.iter().map(|token| (*token, &self.entries[token]));
        if all.clone().any(|(_, it)| matches!(it.mode, Mode::Party { .. } | Mode::Share(_))) {
            return "failed change".to_owned();
        }
        let hear = all.filter(|(token, it)| self.holds(*token) && it.stage == Stage::Here);
        let news = hear.map(|(_, Place { ask, .. })| {
            heard(ask.session, ask.request, &format!("asked to yield {reason}"))
        });
        self.news = news.collect();
        format!("asked {}", holders.len())
    }
}

fn heard(session: SessionId, request: RequestId, news: &str) -> String {
    format!("{:x}/{} {news}", session.as_bytes()[0], request.as_bytes()[0])
}
