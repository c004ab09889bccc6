//! The state by its behaviour: what became of an operation, who hears of what, and what must hold of
//! every state after every operation.

mod barriers;
mod check;
mod delays;
mod ends;
mod groups;
mod history;
mod locks;
mod model;
mod onces;
mod restore;
mod retries;
mod sessions;
mod several;
mod sharing;
mod yields;

use lockd_proto::{LockName, Namespace, RequestId, SessionId};

use super::*;
use crate::record::{
    Attach, Change, Client, Enqueue, Info, LEVEL, Mode, OnLoss, Open, Release, Wait as Waits,
    WaitEnd,
};

const R1: ReplicaId = ReplicaId(1);
const R2: ReplicaId = ReplicaId(2);
const A: u8 = 0xa;
const B: u8 = 0xb;
const C: u8 = 0xc;
const D: u8 = 0xd;

/// A session and its request.
type Who = (u8, u8);

fn session(by: u8) -> SessionId {
    SessionId::from_bytes([by; 16])
}

fn request(number: u8) -> RequestId {
    RequestId::from_bytes([number; 16])
}

fn lock(name: &str) -> LockId {
    let name = LockName::parse(name).expect("a valid name");
    LockId::new(&Namespace::default(), &name)
}

/// A patient acquire of one lock for itself, by the session's first stream.
fn ask(by: u8, number: u8, name: &str) -> Enqueue {
    ask_all(by, number, &[name])
}

fn ask_all(by: u8, number: u8, names: &[&str]) -> Enqueue {
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

fn owned(owner: &str, ask: Enqueue) -> Enqueue {
    Enqueue { info: Info { owner: owner.into(), ..ask.info }, ..ask }
}

fn open(by: u8, stream: u64) -> Open {
    let client = Client { name: format!("client-{by:x}").into(), ..Client::default() };
    Open { session: session(by), stream, secret_hash: [by; 32], ttl_ms: 10_000, client }
}

/// A log, and the state that follows from it. Every state is checked.
struct Log {
    state: State,
    at: Position,
    /// What the last operation brought about.
    effects: Vec<Effect>,
}

impl Log {
    /// Four sessions, each attached to the first replica by its first stream.
    fn new() -> Self {
        let mut log = Self { state: State::default(), at: Position(0), effects: vec![] };
        for by in [A, B, C, D] {
            assert_eq!(log.apply(Operation::Open(Box::new(open(by, 1)))), Outcome::Attached);
        }
        log
    }

    fn apply(&mut self, operation: Operation) -> Outcome {
        self.apply_by(R1, operation)
    }

    fn apply_by(&mut self, author: ReplicaId, operation: Operation) -> Outcome {
        self.at = self.at.after(1);
        self.effects.clear();
        let cx = Context { at: self.at, author, now: self.at.0 };
        let outcome = self.state.apply(operation, cx, &mut self.effects);
        check::state(&self.state);
        outcome
    }

    fn ask(&mut self, ask: Enqueue) -> Outcome {
        self.apply(Operation::Enqueue(Box::new(ask)))
    }

    /// The token of an acquire that is granted at once.
    fn granted(&mut self, ask: Enqueue) -> Position {
        match self.ask(ask) {
            Outcome::Granted { token } => token,
            other => panic!("it was not granted: {other:?}"),
        }
    }

    /// The token of an acquire that waits.
    fn queued(&mut self, ask: Enqueue) -> Position {
        match self.ask(ask) {
            Outcome::Queued { token } => token,
            other => panic!("it does not wait: {other:?}"),
        }
    }

    fn release(&mut self, by: u8, number: u8) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Release(Release { session, request, named: None }))
    }

    fn cancel(&mut self, by: u8, number: u8) -> Outcome {
        self.cancel_on(by, 1, number)
    }

    fn cancel_on(&mut self, by: u8, stream: u64, number: u8) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Cancel { session, stream, request })
    }

    fn update(&mut self, by: u8, number: u8, change: Change) -> Outcome {
        let (session, request) = (session(by), request(number));
        self.apply(Operation::Update { session, request, change })
    }

    fn end_wait(&mut self, name: &str, token: Position, claim: Position, why: WaitEnd) -> Outcome {
        self.apply(Operation::EndWait { lock: lock(name), token, claim, why })
    }

    fn attach(&mut self, by: u8, stream: u64, open: Option<&[u8]>) -> Outcome {
        self.attach_at(R1, by, stream, open)
    }

    fn attach_at(&mut self, at: ReplicaId, by: u8, stream: u64, open: Option<&[u8]>) -> Outcome {
        let open = open.map(|open| open.iter().map(|number| request(*number)).collect());
        self.apply_by(at, Operation::Attach(Attach { session: session(by), stream, open }))
    }

    fn force(&mut self, name: &str, token: Position) -> Outcome {
        self.apply(Operation::Force { lock: lock(name), token, reason: "stuck".into() })
    }

    /// Its client is silent for longer than its TTL.
    fn dies(&mut self, by: u8) {
        let epoch = self.session(by).epoch;
        let end = Operation::End { session: session(by), epoch };
        assert_eq!(self.apply(end), Outcome::Done);
    }

    fn closes(&mut self, by: u8) {
        assert_eq!(self.apply(Operation::Close { session: session(by) }), Outcome::Done);
    }

    fn session(&self, by: u8) -> &Session {
        self.state.session(session(by)).expect("the session lives")
    }

    /// Who holds a lock, and who waits for it.
    fn queue(&self, name: &str) -> (Vec<Who>, Vec<Who>) {
        let Some(there) = self.state.locks.get(&lock(name)) else {
            return Default::default();
        };
        let entries = there.queue.iter().map(|(_, seat)| &self.state.entries[seat.slot as usize]);
        let mut entries =
            entries.map(|entry| (entry.session.as_bytes()[0], entry.request.as_bytes()[0]));
        let holders = entries.by_ref().take(there.queue.held()).collect();
        (holders, entries.collect())
    }

    fn holders(&self, name: &str) -> Vec<Who> {
        self.queue(name).0
    }

    /// What clients heard of the last operation, beside its outcome.
    fn heard(&self) -> Vec<String> {
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
    fn followed(&self) -> Vec<String> {
        self.effects.iter().filter_map(describe).collect()
    }

    fn changed<'a>(&'a self) -> Vec<&'a str> {
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
