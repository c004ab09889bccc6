//! What is counted: each a step that every lock, or every message, takes.

use std::{future::poll_fn, time::Duration};

use lockd::testing::{
    Acquire, Answers, Ask, Client, Context, Core, Effect, Enqueue, Hello, Info, Journal, Limits,
    LockId, Mode, Open, Operation, Parts, Position, Queue, Record, Release, ReplicaId, Seated,
    State, StreamHandle, Traces, Wait,
};
use lockd_proto::{
    LockName, Namespace, RequestId, SessionId,
    clock::Clock,
    v1::{self, AttachRequest, AttachResponse, ClientMessage, ServerMessage},
};
use prost::Message as _;

/// Each scenario, and how many rounds are enough for a count that does not move.
pub(crate) const ALL: [(&str, u64); 6] = [
    ("grant: a handoff in a queue of 100", 2_000),
    ("state: a pair on a free lock", 2_000),
    ("state: a handoff in a queue of 100", 2_000),
    ("record: the bytes of a pair", 2_000),
    ("core: a pair among 64 in a frame", 2_048),
    ("codec: the frames of a pair", 2_000),
];

pub(crate) fn run(scenario: &str, rounds: u64) {
    match ALL.iter().position(|(name, _)| *name == scenario) {
        Some(0) => handoffs(rounds),
        Some(1) => applied(rounds, 0),
        Some(2) => applied(rounds, 100),
        Some(3) => records(rounds),
        Some(4) => turns(rounds),
        Some(5) => frames(rounds),
        _ => panic!("there is no scenario {scenario:?}"),
    }
}

struct Seat;

impl Seated for Seat {
    fn mode(&self) -> Mode {
        Mode::Exclusive
    }
}

fn handoffs(rounds: u64) {
    let mut queue = Queue::default();
    (1..=100).for_each(|at| queue.insert(Position(at), Seat));
    assert_eq!(queue.advance().count(), 1);
    for first in 1..=rounds {
        queue.insert(Position(first + 100), Seat);
        queue.remove(&[Position(first)]);
        assert_eq!(queue.advance().count(), 1);
    }
}

fn lock(number: u64) -> LockId {
    LockId::new(&Namespace::default(), &LockName::parse(format!("orders/{number}")).unwrap())
}

fn request(number: u64) -> RequestId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    RequestId::from_bytes(bytes)
}

const SESSION: SessionId = SessionId::from_bytes([7; 16]);

fn open() -> Open {
    let client = Client::default();
    Open { session: SESSION, stream: 1, secret_hash: [0; 32], ttl_ms: 15_000, client }
}

fn enqueue(lock: LockId, number: u64) -> Operation {
    Operation::Enqueue(Box::new(Enqueue {
        session: SESSION,
        stream: 1,
        request: request(number),
        locks: vec![lock],
        mode: Mode::Exclusive,
        wait: Wait::Forever,
        lock_delay_ms: 0,
        info: Info::default(),
    }))
}

fn release(number: u64) -> Operation {
    Operation::Release(Release { session: SESSION, request: request(number), named: None })
}

/// Entries that join one lock and leave it, with so many between the two.
fn applied(rounds: u64, between: u64) {
    let (lock, mut state, mut at) = (lock(1), State::default(), 0);
    let mut effects: Vec<Effect> = Vec::new();
    let mut apply = |operation| {
        at += 1;
        let cx = Context { at: Position(at), author: ReplicaId(1), now: at };
        state.apply(operation, cx, &mut effects);
        effects.clear();
    };
    apply(Operation::Open(Box::new(open())));
    for number in 1..=rounds + between {
        if number <= rounds {
            apply(enqueue(lock.clone(), number));
        }
        if let Some(first) = number.checked_sub(between).filter(|first| *first > 0) {
            apply(release(first));
        }
    }
    assert_eq!(state.counts().locks, 0);
}

fn records(rounds: u64) {
    for number in 0..rounds {
        let operations = vec![enqueue(lock(number), number), release(number)];
        let bytes = Record { digest: None, operations }.encode().unwrap();
        assert_eq!(Record::decode(&bytes).unwrap().operations.len(), 2);
    }
}

/// Pairs through the core's loop: 64 acquires in a frame, then their releases in another.
fn turns(rounds: u64) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let parts = Parts {
            name: "counted".into(),
            limits: Limits::default(),
            // The system's clock is read in a way that valgrind does not know.
            clock: Clock::tokio(),
            traces: Traces::default(),
            drain: Default::default(),
            end: Default::default(),
        };
        let (core, handle) = Core::new(Journal::in_memory(Clock::tokio()).unwrap(), parts);
        let running = tokio::spawn(core.run());
        let stream = handle.attach(Hello::Open(Box::new(open())), vec![]).await.unwrap();
        let answers = stream.answers();
        answered(&answers, 1).await;
        for start in (0..rounds).step_by(64) {
            let numbers = start..rounds.min(start + 64);
            round(&stream, &answers, numbers.clone().map(acquire).collect()).await;
            round(&stream, &answers, numbers.map(|it| Ask::Release(request(it))).collect()).await;
        }
        running.abort();
    });
}

fn acquire(number: u64) -> Ask {
    Ask::Acquire(Box::new(Acquire {
        request: request(number),
        locks: vec![lock(number % 512)],
        mode: Mode::Exclusive,
        wait: Wait::Forever,
        lock_delay_ms: 0,
        info: Info::default(),
    }))
}

async fn round(stream: &StreamHandle, answers: &Answers, asks: Vec<Ask>) {
    let count = asks.len();
    stream.frame(asks).await.unwrap();
    answered(answers, count).await;
}

/// Waits for so many answers.
async fn answered(answers: &Answers, count: usize) {
    let mut seen = 0;
    while seen < count {
        let next =
            tokio::time::timeout(Duration::from_secs(60), poll_fn(|cx| answers.poll_frame(cx)));
        seen +=
            next.await.expect("an answer in time").expect("a stream that goes on").answers.len();
    }
}

fn frames(rounds: u64) {
    use v1::{client_message::Message as Asked, server_message::Message as Told};
    for number in 0..rounds {
        let request_id = request(number).as_bytes().to_vec();
        let acquire = v1::Acquire {
            request_id: request_id.clone(),
            name: format!("orders/{number}"),
            ..v1::Acquire::default()
        };
        let release = v1::Release { request_id: request_id.clone() };
        let grant = Some(v1::Grant { token: number });
        let granted = v1::Granted { request_id: request_id.clone(), grant };
        let outcome = v1::ReleaseOutcome::Released.into();
        let released = v1::Released { request_id, outcome, position: number };
        for asked in [Asked::Acquire(acquire), Asked::Release(release)] {
            let messages = vec![ClientMessage { message: Some(asked) }];
            let bytes = AttachRequest { messages }.encode_to_vec();
            assert_eq!(AttachRequest::decode(bytes.as_slice()).unwrap().messages.len(), 1);
        }
        for told in [Told::Granted(granted), Told::Released(released)] {
            let messages = vec![ServerMessage { message: Some(told) }];
            let bytes = AttachResponse { messages, durable: number }.encode_to_vec();
            assert_eq!(AttachResponse::decode(bytes.as_slice()).unwrap().messages.len(), 1);
        }
    }
}
