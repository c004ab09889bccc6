//! The state by its behaviour: what became of an operation, who hears of what, and what must hold of
//! every state after every operation.

mod barriers;
mod check;
mod delays;
mod ends;
mod golden;
mod groups;
mod history;
mod levels;
mod locks;
mod model;
mod onces;
mod reference;
mod restore;
mod retries;
mod sessions;
mod several;
mod sharing;
mod yields;

pub(super) use model::cases;

use lockd_proto::{LockName, Namespace, RequestId, SessionId};

use super::*;
use crate::record::{
    Attach, Change, Client, Enqueue, Info, LEVEL, Mode, OnLoss, Open, Release, Wait as Waits,
    WaitEnd,
};

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);
pub(super) const A: u8 = 0xa;
pub(super) const B: u8 = 0xb;
pub(super) const C: u8 = 0xc;
pub(super) const D: u8 = 0xd;

impl State {
    /// A session changes by itself, as in memory that is damaged.
    pub(crate) fn flip_a_bit(&mut self) {
        self.sessions.iter_mut().for_each(|(_, session)| session.ttl_ms ^= 1);
    }
}

/// A session and its request.
pub(super) type Who = (u8, u8);

pub(super) fn session(by: u8) -> SessionId {
    SessionId::from_bytes([by; 16])
}

pub(super) fn request(number: u8) -> RequestId {
    RequestId::from_bytes([number; 16])
}

pub(super) fn lock(name: &str) -> LockId {
    let name = LockName::parse(name).expect("a valid name");
    LockId::new(&Namespace::default(), &name)
}

/// A patient acquire of one lock for itself, by the session's first stream.
pub(super) fn ask(by: u8, number: u8, name: &str) -> Enqueue {
    ask_all(by, number, &[name])
}

pub(super) fn ask_all(by: u8, number: u8, names: &[&str]) -> Enqueue {
    Enqueue {
        session: session(by),
        stream: 1,
        request: request(number),
        locks: names.iter().map(|name| lock(name)).collect(),
        mode: Mode::Exclusive,
        wait: Waits::Forever,
        lock_delay_ms: 0,
        info: Info::default(),
    }
}

pub(super) fn owned(owner: &str, ask: Enqueue) -> Enqueue {
    Enqueue { info: Info { owner: owner.into(), ..ask.info }, ..ask }
}

fn open(by: u8, stream: u64) -> Open {
    let client = Client { name: format!("client-{by:x}").into(), ..Client::default() };
    Open { session: session(by), stream, secret_hash: [by; 32], ttl_ms: 10_000, client }
}

/// A log, and the state that follows from it. Every state is checked.
pub(super) struct Log {
    pub(super) state: State,
    at: Position,
    /// What the last operation brought about.
    effects: Vec<Effect>,
}

impl Log {
    /// Four sessions, each attached to the first replica by its first stream.
    pub(super) fn new() -> Self {
        let mut log = Self { state: State::default(), at: Position(0), effects: vec![] };
        for by in [A, B, C, D] {
            assert_eq!(log.apply(Operation::Open(Box::new(open(by, 1)))), Outcome::Attached);
        }
        log
    }

    pub(super) fn apply(&mut self, operation: Operation) -> Outcome {
        self.apply_by(R1, operation)
    }

    pub(super) fn apply_by(&mut self, author: ReplicaId, operation: Operation) -> Outcome {
        self.at = self.at.after(1);
        self.effects.clear();
        let cx = Context { at: self.at, author, now: self.at.0 };
        let outcome = self.state.apply(operation, cx, &mut self.effects);
        check::state(&self.state);
        outcome
    }

    /// One of so many that to check each state would take too long.
    pub(super) fn apply_unchecked(&mut self, operation: Operation) -> Outcome {
        self.at = self.at.after(1);
        self.effects.clear();
        let cx = Context { at: self.at, author: R1, now: self.at.0 };
        self.state.apply(operation, cx, &mut self.effects)
    }

    pub(super) fn ask(&mut self, ask: Enqueue) -> Outcome {
        self.apply(Operation::Enqueue(Box::new(ask)))
    }

    /// The token of an acquire that is granted at once.
    pub(super) fn granted(&mut self, ask: Enqueue) -> Position {
        match self.ask(ask) {
            Outcome::Granted { token } => token,
            other => panic!("it was not granted: {other:?}"),
        }
    }

    /// The token of an acquire that waits.
    pub(super) fn queued(&mut self, ask: Enqueue) -> Position {
        match self.ask(ask) {
            Outcome::Queued { token } => token,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    pub(super) fn release(&mut self, by: u8, number: u8) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Release(Release { session, request, named: None }))
    }

    pub(super) fn cancel(&mut self, by: u8, number: u8) -> Outcome {
        self.cancel_on(by, 1, number)
    }

    pub(super) fn cancel_on(&mut self, by: u8, stream: u64, number: u8) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Cancel { session, stream, request })
    }

    pub(super) fn update(&mut self, by: u8, number: u8, change: Change) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Update { session, request, change })
    }

    pub(super) fn end_wait(
        &mut self,
        name: &str,
        token: Position,
        claim: Position,
        why: WaitEnd,
    ) -> Outcome {
        self.apply(Operation::EndWait { lock: lock(name), token, claim, why })
    }

    pub(super) fn attach(&mut self, by: u8, stream: u64, open: Option<&[u8]>) -> Outcome {
        self.attach_at(R1, by, stream, open)
    }

    pub(super) fn attach_at(
        &mut self,
        at: ReplicaId,
        by: u8,
        stream: u64,
        open: Option<&[u8]>,
    ) -> Outcome {
        let open = open.map(|open| open.iter().map(|number| request(*number)).collect());
        self.apply_by(at, Operation::Attach(Attach { session: session(by), stream, open }))
    }

    pub(super) fn force(&mut self, name: &str, token: Position) -> Outcome {
        self.apply(Operation::Force { lock: lock(name), token, reason: "stuck".into() })
    }

    /// Its client is silent for longer than its TTL.
    pub(super) fn dies(&mut self, by: u8) {
        let epoch = self.session(by).epoch;
        let end = Operation::End { session: session(by), epoch };
        assert_eq!(self.apply(end), Outcome::Done);
    }

    pub(super) fn closes(&mut self, by: u8) {
        assert_eq!(self.apply(Operation::Close { session: session(by) }), Outcome::Done);
    }

    pub(super) fn session(&self, by: u8) -> &Session {
        self.state.session(session(by)).expect("the session lives")
    }

    /// Who holds a lock, and who waits for it.
    pub(super) fn queue(&self, name: &str) -> (Vec<Who>, Vec<Who>) {
        let Some(there) = self.state.locks.get(&lock(name)) else {
            return Default::default();
        };
        let entries = there.queue.iter().map(|(_, seat)| &self.state.entries[seat.slot as usize]);
        let mut entries =
            entries.map(|entry| (entry.session.as_bytes()[0], entry.request.as_bytes()[0]));
        let holders = entries.by_ref().take(there.queue.held()).collect();
        (holders, entries.collect())
    }

    pub(super) fn holders(&self, name: &str) -> Vec<Who> {
        self.queue(name).0
    }

    /// What clients heard of the last operation, beside its outcome.
    pub(super) fn heard(&self) -> Vec<String> {
        let heard = |effect: &Effect| match effect {
            Effect::Entry { session, request, news, .. } => {
                let (by, number) = (session.as_bytes()[0], request.as_bytes()[0]);
                Some(format!("{by:x}/{number} {}", name_of(news)))
            }
            _ => None,
        };
        self.effects.iter().filter_map(heard).collect()
    }

    /// The effects of the last operation but for what clients hear and for changed queues.
    pub(super) fn followed(&self) -> Vec<String> {
        self.effects.iter().filter_map(describe).collect()
    }

    pub(super) fn changed<'a>(&'a self) -> Vec<&'a str> {
        let changed = |effect: &'a Effect| match effect {
            Effect::Changed(lock) => Some(lock.name()),
            _ => None,
        };
        self.effects.iter().filter_map(changed).collect()
    }
}

fn name_of(news: &News) -> String {
    match news {
        News::Granted { .. } => "granted".to_owned(),
        News::Refused(refusal) => format!("refused {}", refusal.name()),
        News::Lost(LossCause::BySession) => "lost by session".to_owned(),
        News::Lost(LossCause::Forced(reason)) => format!("lost forced {reason}"),
        News::Lost(LossCause::Broken) => "lost broken".to_owned(),
        News::Released => "released".to_owned(),
        News::YieldRequested(reason) => format!("asked to yield {reason}"),
    }
}

fn describe(effect: &Effect) -> Option<String> {
    let of = |session: &SessionId, request: &RequestId| {
        format!("{:x}/{}", session.as_bytes()[0], request.as_bytes()[0])
    };
    let text = match effect {
        Effect::Attached { session, is_new, .. } => {
            format!("{:x} attached{}", session.as_bytes()[0], if *is_new { " anew" } else { "" })
        }
        Effect::Ended { session, how } => format!("{:x} {how:?}", session.as_bytes()[0]),
        Effect::GaveWay { session, request, reason, .. } => {
            format!("{} gave way {}", of(session, request), reason.name())
        }
        Effect::HandedOver { lock, from, session, request, .. } => {
            format!("{} from {from} to {}", lock.name(), of(session, request))
        }
        Effect::Delayed { lock, token, since, delay_ms } => {
            format!("{} {token} delayed {delay_ms} since {since}", lock.name())
        }
        Effect::OwnerBlocked(owner) => format!("owner {}", owner.replace('\0', ":")),
        Effect::Floor(floor) => format!("floor {}", floor.at),
        Effect::Entry { .. } | Effect::Changed(_) => return None,
    };
    Some(text)
}
