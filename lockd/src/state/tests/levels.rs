//! Levels, replicas, and what the digest is of.

use super::*;

/// RULES J19: a level is raised where every replica that can write reads it.
#[test]
fn a_level_is_raised_if_all_can_read_it() {
    let mut log = Log::new();
    let raise = |log: &mut Log, level| log.apply_by(R1, Operation::Level(level));
    log.state.joined(Position(100), R1, 2);
    log.state.joined(Position(101), R2, 1);
    log.at = Position(101);
    let refused = raise(&mut log, 2);
    assert!(matches!(refused, Outcome::Failed(Failure::ChangeRefused(_))));
    assert_eq!(log.state.level, 1);
    log.state.left(Position(103), R2);
    log.at = Position(103);
    assert_eq!(raise(&mut log, 2), Outcome::Done);
    assert_eq!(log.state.level, 2);
    assert_eq!(raise(&mut log, 1), Outcome::Done);
    assert_eq!(log.state.level, 2, "it only grows");
}

#[test]
fn a_replica_that_starts_a_journal_is_the_only_one() {
    let mut log = Log::new();
    log.state.joined(Position(100), R2, 1);
    log.at = Position(100);
    assert!(log.state.is_alive(R2) && !log.state.is_alive(R1));
    assert_eq!(log.apply_by(R1, Operation::Start), Outcome::Done);
    assert_eq!(log.state.replicas().collect::<Vec<_>>(), [R1]);
    assert_eq!(log.apply_by(R1, Operation::Level(2)), Outcome::Done, "it knows what it proposes");
}

#[test]
fn replicas_come_and_go_at_their_places() {
    let mut state = State::default();
    let digest = state.digest();
    state.joined(Position(5), R1, 1);
    state.joined(Position(7), R2, 1);
    assert_eq!((state.position(), state.replicas().count()), (Position(7), 2));
    assert_ne!(state.digest(), digest);
    state.left(Position(9), R1);
    state.left(Position(9), R2);
    assert_eq!((state.position(), state.digest()), (Position(9), digest));
}

/// RULES J28: whatever a condition looks at is in the digest.
#[test]
fn the_digest_is_of_everything_that_is_looked_at() {
    let mut log = Log::new();
    let mut seen = std::collections::HashSet::from([log.state.digest()]);
    let mut changes = |log: &Log, what: &str| assert!(seen.insert(log.state.digest()), "{what}");
    log.attach(A, 2, None);
    changes(&log, "a stream's number and an epoch");
    log.apply_by(R2, Operation::Attach(Attach { session: session(A), stream: 0, open: None }));
    changes(&log, "where a session is attached");
    log.granted(ask(B, 1, "x"));
    changes(&log, "an entry");
    log.granted(ask(B, 1, "x"));
    changes(&log, "a claim");
    log.update(B, 1, Change::Downgrade);
    changes(&log, "a mode");
    log.update(B, 1, Change::Value("v".into()));
    changes(&log, "a value");
    log.apply(Operation::Yield { lock: lock("x"), reason: "r".into() });
    changes(&log, "a wish");
    log.cancel_on(B, 0, 9);
    changes(&log, "a request that has ended");
    log.granted(Enqueue { mode: Mode::Once, ..ask(B, 2, "once") });
    log.update(B, 2, Change::Result("r".into()));
    changes(&log, "a result");
    log.granted(Enqueue { mode: Mode::Share(OnLoss::Fail), ..ask(B, 3, "group") });
    changes(&log, "a share");
    log.cancel(B, 3);
    changes(&log, "a lost share");
    log.granted(Enqueue { lock_delay_ms: 5, ..ask(C, 4, "y") });
    changes(&log, "an entry with a delay");
    log.dies(C);
    changes(&log, "a session's end, and a delay that runs");
    log.granted(Enqueue { mode: Mode::Party { parties: 1 }, ..ask(D, 5, "alone") });
    log.queued(Enqueue { mode: Mode::Party { parties: 2 }, ..ask(B, 6, "pair") });
    log.granted(Enqueue { mode: Mode::Party { parties: 2 }, ..ask(D, 7, "pair") });
    changes(&log, "parties");
    log.release(D, 7);
    changes(&log, "a party that has left");
    log.apply(Operation::Start);
    changes(&log, "the replicas");
    log.apply(Operation::Level(2));
    changes(&log, "the level");
}

/// RULES J28: what a replica knows by itself is not.
#[test]
fn the_digest_is_of_nothing_that_replicas_do_not_share() {
    let mut one = Log::new();
    let mut other = State::default();
    let mut at = Position(0);
    let mut both = |one: &mut Log, operation: Operation| {
        at = at.after(1);
        let cx = Context { at, author: R1, now: 12345 };
        other.apply(operation.clone(), cx, &mut vec![]);
        if at.0 > 4 {
            one.apply(operation);
            assert_eq!(one.state.digest(), other.digest());
        }
    };
    for by in [A, B, C, D] {
        both(&mut one, Operation::Open(Box::new(open(by, 1))));
    }
    let floor = crate::record::Floor { at: Position(3), ..Default::default() };
    for operation in [
        Operation::Enqueue(Box::new(ask(A, 1, "x"))),
        Operation::Enqueue(Box::new(ask(B, 2, "x"))),
        Operation::Close { session: session(A) },
    ] {
        both(&mut one, operation);
    }
    let digest = one.state.digest();
    one.apply(Operation::Floor(floor));
    assert_eq!(one.state.digest(), digest, "a rebuilt state knows a later floor");
}

/// RULES T10: a token is the place of its operation, however far apart places are.
#[test]
fn tokens_are_places_and_only_grow() {
    let mut log = Log::new();
    let mut last = Position(0);
    for (number, jump) in [(1, 1), (2, 1 << 20), (3, 1 << 40)] {
        log.at = log.at.after(jump);
        let token = log.granted(ask(A, number, "x"));
        assert!(token == log.at && token > last);
        assert_eq!(log.state.position(), log.at);
        log.release(A, number);
        last = token;
    }
}
