//! Golden logs: records as they have been written, and the digests of the states that they led to.
//!
//! A log outlives the version that has written it. If this fails, operations have another format or
//! another meaning than before: that needs a new level of operations, and what is here stays (RULES
//! J18, J21).

use super::*;
use crate::record::{Blocked, Floor, Record};

/// Lines of a record and the digest after it, both in hexadecimal.
const LEVEL_1: &str = include_str!("golden/level-1.txt");

fn replay(text: &str) -> State {
    let mut state = State::default();
    for (line, number) in text.lines().zip(1..) {
        let (record, digest) = line.split_once(' ').expect("a record and a digest");
        let bytes = hex::decode(record).expect("hexadecimal");
        let record = Record::decode(&bytes).expect("a record of this level or an earlier one");
        assert_eq!(record.encode().as_deref(), Ok(&bytes[..]), "line {number} is written the same");
        apply(&mut state, number, record);
        assert_eq!(format!("{:032x}", state.digest()), digest, "after line {number}");
        check::state(&state);
    }
    state
}

/// The place of a record's operations is its own, and theirs in it.
fn apply(state: &mut State, number: u64, record: Record) {
    for (operation, place) in record.operations.into_iter().zip(0..) {
        let cx = Context { at: Position(number * 1024 + place), author: R1, now: 0 };
        state.apply(operation, cx, &mut vec![]);
    }
}

#[test]
fn a_log_of_level_1_means_what_it_has_meant() {
    let state = replay(LEVEL_1);
    assert_eq!(state.counts(), Counts { sessions: 3, locks: 4, waiters: 2 });
    assert_eq!(state.result(&lock("once/b")), Some(&"done".into()));
}

/// Every operation, mode and change, written now.
#[test]
fn every_operation_of_level_1_is_in_the_golden_log() {
    let mut state = State::default();
    let mut text = String::new();
    for (operations, number) in everything().into_iter().zip(1..) {
        let digest = (number > 1).then(|| (state.position(), state.digest()));
        let record = Record { digest, operations };
        text += &hex::encode(record.encode().expect("a record"));
        apply(&mut state, number, record);
        text += &format!(" {:032x}\n", state.digest());
    }
    assert_eq!(text, LEVEL_1);
}

fn everything() -> Vec<Vec<Operation>> {
    let opens = |by, stream| Operation::Open(Box::new(open(by, stream)));
    let floor = Floor { at: place(2, 0), which: 1, chunks: 2, items: 3, digest: 4, level: 1 };
    let attach =
        |by, stream, open| Operation::Attach(Attach { session: session(by), stream, open });
    vec![
        vec![Operation::Start, opens(A, 1), opens(B, 1), opens(C, 0), opens(D, 1)],
        vec![
            Operation::Enqueue(Box::new(furnished())),
            with(Mode::Exclusive, ask(B, 2, "orders/42")),
            with(Mode::Exclusive, ask_all(B, 3, &["a", "b"])),
        ],
        in_every_mode(),
        changed_and_released(),
        ended_by_others(),
        in_a_deadlock(),
        vec![attach(A, 2, Some(vec![request(1)])), attach(B, 0, None), Operation::Floor(floor)],
        vec![Operation::Level(1)],
        vec![opens(D, 1), Operation::Close { session: session(D) }],
        vec![with(Mode::Exclusive, Enqueue { wait: Waits::Within(7), ..ask(B, 20, "orders/42") })],
    ]
}

/// An operation's place in a record.
fn place(record: u64, place: u64) -> Position {
    Position(record * 1024 + place)
}

fn with(mode: Mode, ask: Enqueue) -> Operation {
    Operation::Enqueue(Box::new(Enqueue { mode, ..ask }))
}

fn end_wait(name: &str, token: Position, why: WaitEnd) -> Operation {
    Operation::EndWait { lock: lock(name), token, claim: token, why }
}

/// An acquire with everything that there is to say.
fn furnished() -> Enqueue {
    let info = Info {
        metadata: vec![("job".into(), "nightly".into())],
        trace: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        made_unix_ms: 1_700_000_000_000,
        wait_until_unix_ms: 1_700_000_005_000,
        value: "10.0.0.7:80".into(),
        owner: "order-4711".into(),
    };
    Enqueue { info, wait: Waits::Within(5000), ..ask(A, 1, "orders/42") }
}

fn in_every_mode() -> Vec<Operation> {
    let permits = |ask| with(Mode::Permits { count: 2, capacity: 3 }, ask);
    vec![
        with(Mode::Shared, ask(A, 4, "rw")),
        permits(ask(A, 5, "sem")),
        permits(Enqueue { wait: Waits::Not, ..ask(B, 6, "sem") }),
        with(Mode::Party { parties: 2 }, ask(A, 7, "pair")),
        with(Mode::Party { parties: 2 }, ask(B, 8, "pair")),
        with(Mode::Share(OnLoss::Release), ask(A, 9, "group/a")),
        with(Mode::Share(OnLoss::Fail), ask(A, 10, "group/b")),
        with(Mode::Once, ask(A, 11, "once/a")),
        with(Mode::Once, ask(B, 12, "once/b")),
        with(Mode::Exclusive, Enqueue { lock_delay_ms: 500, ..ask(D, 13, "slow") }),
    ]
}

fn changed_and_released() -> Vec<Operation> {
    let release = |by, number, named| {
        let (session, request) = (session(by), request(number));
        Operation::Release(Release { session, request, named })
    };
    let update = |by, number, change| {
        let (session, request) = (session(by), request(number));
        Operation::Update { session, request, change }
    };
    vec![
        update(A, 1, Change::Downgrade),
        update(A, 4, Change::Value("v".into())),
        update(B, 12, Change::Result("done".into())),
        update(A, 11, Change::Result("gone".into())),
        Operation::Forget { lock: lock("once/a") },
        Operation::Yield { lock: lock("orders/42"), reason: "deploy".into() },
        release(A, 7, None),
        release(B, 3, Some((lock("a"), place(2, 2)))),
    ]
}

fn ended_by_others() -> Vec<Operation> {
    vec![
        Operation::End { session: session(D), epoch: place(1, 4) },
        with(Mode::Exclusive, ask(B, 14, "slow")),
        with(Mode::Exclusive, Enqueue { stream: 0, ..ask(C, 15, "slow") }),
        end_wait("slow", place(5, 2), WaitEnd::Expired),
        Operation::Lapse { lock: lock("slow"), token: place(3, 9), since: place(5, 0) },
        Operation::Cancel { session: session(A), stream: 1, request: request(10) },
        Operation::Force { lock: lock("rw"), token: place(3, 0), reason: "stuck".into() },
    ]
}

/// An owner that waits for itself, and some that wait behind it.
fn in_a_deadlock() -> Vec<Operation> {
    let (lock, token, by) = (lock("owned"), place(6, 1), place(6, 0));
    let cycle = vec![Blocked { lock, token, by, owner: "o".into(), blocked_by: "o".into() }];
    let deadlock = WaitEnd::Deadlock { cycle, others: vec![] };
    vec![
        with(Mode::Exclusive, owned("o", ask(A, 16, "owned"))),
        with(Mode::Exclusive, owned("o", ask(B, 17, "owned"))),
        with(Mode::Exclusive, owned("p", ask(B, 18, "owned"))),
        with(Mode::Exclusive, ask(B, 19, "owned")),
        end_wait("owned", place(6, 1), deadlock),
        end_wait("owned", place(6, 2), WaitEnd::Abandoned),
        end_wait("owned", place(6, 3), WaitEnd::Withdrawn),
    ]
}
