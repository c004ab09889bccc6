//! Acquires that are asked for again, and late copies of those that have ended.

use super::*;

fn by_call(ask: Enqueue) -> Enqueue {
    Enqueue { stream: 0, ..ask }
}

fn modes() -> [Mode; 7] {
    [
        Mode::Exclusive,
        Mode::Shared,
        Mode::Permits { count: 2, capacity: 3 },
        Mode::Party { parties: 2 },
        Mode::Share(OnLoss::Release),
        Mode::Share(OnLoss::Fail),
        Mode::Once,
    ]
}

/// A log in which the next acquire of this mode holds the lock, or waits.
fn where_it(holds: bool, mode: Mode) -> Option<Log> {
    let mut log = Log::new();
    let with = |ask| Enqueue { mode, ..ask };
    match (mode, holds) {
        (Mode::Share(_), false) => return None,
        (Mode::Party { .. }, true) => drop(log.queued(with(ask(B, 9, "x")))),
        (Mode::Shared, false) => drop(log.granted(ask(B, 9, "x"))),
        (Mode::Exclusive | Mode::Permits { .. } | Mode::Once, false) => {
            log.granted(with(ask(B, 9, "x")));
        }
        (_, true) | (Mode::Party { .. }, false) => {}
    }
    Some(log)
}

#[test]
fn a_retry_finds_its_own_entry_in_every_mode() {
    for (mode, holds) in modes().into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        for stream in [0, 1] {
            let Some(mut log) = where_it(holds, mode) else { continue };
            let ask = Enqueue { mode, stream, ..ask(A, 1, "x") };
            let first = log.ask(ask.clone());
            let len = log.state.queue_len(&lock("x"));
            for wait in [Waits::Forever, Waits::Within(5)] {
                assert_eq!(log.ask(Enqueue { wait, ..ask.clone() }), first, "{mode:?} {holds}");
                assert!(log.effects.is_empty());
            }
            assert_eq!(log.state.queue_len(&lock("x")), len);
            assert_eq!(matches!(first, Outcome::Granted { .. }), holds);
        }
    }
}

#[test]
fn a_retry_that_would_not_wait_finds_what_holds_and_takes_out_what_waits() {
    for (mode, holds) in modes().into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        for stream in [0, 1] {
            let Some(mut log) = where_it(holds, mode) else { continue };
            let others = log.state.queue_len(&lock("x"));
            let ask = Enqueue { mode, stream, ..ask(A, 1, "x") };
            let first = log.ask(ask.clone());
            let outcome = log.ask(Enqueue { wait: Waits::Not, ..ask.clone() });
            if holds {
                assert_eq!(outcome, first, "{mode:?}");
                assert_eq!(log.state.queue_len(&lock("x")), others + 1);
            } else {
                assert!(matches!(outcome, Outcome::Refused(Refusal::Busy(_))), "{mode:?}");
                assert!(log.heard().is_empty(), "the answer says it");
                assert_eq!(log.state.queue_len(&lock("x")), others);
                assert!(log.state.entry_of(session(A), request(1)).is_none());
            }
        }
    }
}

#[test]
fn who_is_refused_by_a_late_try_hears_who_was_ahead() {
    let mut log = Log::new();
    log.granted(ask(B, 1, "x"));
    log.queued(ask(C, 2, "x"));
    log.queued(ask(A, 3, "x"));
    let outcome = log.ask(Enqueue { wait: Waits::Not, ..ask(A, 3, "x") });
    let Outcome::Refused(Refusal::Busy(Some(ahead))) = outcome else { panic!("{outcome:?}") };
    assert_eq!(ahead.count, 2);
    assert_eq!(ahead.holder.map(|it| it.entry.request), Some(request(1)));
}

#[test]
fn a_request_id_is_for_one_thing() {
    let mut log = Log::new();
    let first = Enqueue {
        info: Info { metadata: vec![("k".into(), "v".into())], ..Info::default() },
        ..ask(A, 1, "x")
    };
    log.granted(first.clone());
    let others = [
        ask(A, 1, "x"),
        owned("o", first.clone()),
        Enqueue { locks: vec![lock("y")], ..first.clone() },
        Enqueue { locks: vec![lock("x"), lock("y")], ..first.clone() },
        Enqueue { mode: Mode::Shared, ..first.clone() },
        Enqueue { mode: Mode::Once, ..first.clone() },
        Enqueue { lock_delay_ms: 1, ..first.clone() },
    ];
    for other in others {
        for wait in [Waits::Not, Waits::Forever] {
            let outcome = log.ask(Enqueue { wait, ..other.clone() });
            assert_eq!(outcome, Outcome::Failed(Failure::RequestIdReused), "{other:?}");
        }
    }
    // What is only shown may differ.
    let info = Info { made_unix_ms: 5, wait_until_unix_ms: 6, value: "v".into(), ..first.info };
    log.granted(Enqueue { info, ..first });
    log.granted(ask(B, 1, "y"));
}

#[test]
fn a_party_that_has_left_is_not_asked_for_again() {
    let mut log = Log::new();
    let party = |by, number| Enqueue { mode: Mode::Party { parties: 2 }, ..ask(by, number, "x") };
    log.queued(party(A, 1));
    log.granted(party(B, 2));
    log.release(A, 1);
    assert_eq!(log.ask(party(A, 1)), Outcome::Failed(Failure::RequestIdReused));
}

#[test]
fn a_retry_says_until_when_it_waits_now() {
    let mut log = Log::new();
    log.granted(ask(B, 2, "x"));
    log.queued(ask(A, 1, "x"));
    let info = Info { wait_until_unix_ms: 77, ..Info::default() };
    log.queued(Enqueue { wait: Waits::Within(7), info, ..ask(A, 1, "x") });
    let entry = log.state.entry_of(session(A), request(1)).expect("it waits");
    let until = entry.details.as_ref().map(|it| it.wait_until_unix_ms);
    assert_eq!((entry.wait, until), (Waits::Within(7), Some(77)));
    log.queued(ask(A, 1, "x"));
    let entry = log.state.entry_of(session(A), request(1)).expect("it waits");
    assert_eq!(entry.details.as_ref().map(|it| it.wait_until_unix_ms), Some(0));
}

/// RULES J25: the wait of a later call is not ended by an earlier one, nor is its grant given back.
#[test]
fn only_the_last_claim_ends_a_wait() {
    let mut log = Log::new();
    log.granted(ask(B, 9, "x"));
    let token = log.queued(by_call(ask(A, 1, "x")));
    log.apply_by(R2, Operation::Enqueue(Box::new(by_call(ask(A, 1, "x")))));
    let claim = log.at;
    let digest = log.state.digest();
    for why in [WaitEnd::Expired, WaitEnd::Abandoned, WaitEnd::Withdrawn] {
        assert_eq!(log.end_wait("x", token, token, why), Outcome::Done);
        assert!(log.effects.is_empty() && log.state.digest() == digest);
    }
    log.release(B, 9);
    log.end_wait("x", token, token, WaitEnd::Abandoned);
    assert_eq!(log.holders("x"), [(A, 1)]);
    log.end_wait("x", token, claim, WaitEnd::Abandoned);
    assert_eq!(log.holders("x"), []);
}

/// RULES J24, J27c: an entry says by whom and how it was asked for last, for the one that counts its time.
#[test]
fn an_entry_keeps_who_asked_last_and_how_long_it_waits() {
    let mut log = Log::new();
    log.granted(ask(B, 9, "x"));
    log.queued(Enqueue { wait: Waits::Within(9), ..by_call(ask(A, 1, "x")) });
    let again = Enqueue { wait: Waits::Within(5), ..by_call(ask(A, 1, "x")) };
    log.apply_by(R2, Operation::Enqueue(Box::new(again)));
    let entry = log.state.entry_of(session(A), request(1)).expect("it waits");
    assert_eq!(entry.asker, Asker { author: R2, stream: 0, claim: log.at });
    assert_eq!(entry.wait, Waits::Within(5));
    let waits: Vec<_> = log.state.waits().map(|it| it.request).collect();
    assert_eq!(waits, [request(1)]);
}

/// RULES J26: each call has a true answer.
#[test]
fn one_call_is_refused_and_a_later_one_granted() {
    let mut log = Log::new();
    log.granted(ask(B, 9, "x"));
    let a_try = Enqueue { wait: Waits::Not, ..by_call(ask(A, 1, "x")) };
    assert!(matches!(log.ask(a_try), Outcome::Refused(Refusal::Busy(_))));
    log.release(B, 9);
    let again = Operation::Enqueue(Box::new(by_call(ask(A, 1, "x"))));
    assert!(matches!(log.apply_by(R2, again), Outcome::Granted { .. }));
}

/// RULES J27: what an old replica still has under way makes no entry that no client waits for.
#[test]
fn nothing_is_done_for_a_stream_that_is_not_the_newest() {
    let mut log = Log::new();
    let held = log.granted(ask(A, 1, "x"));
    assert_eq!(log.attach_at(R2, A, 2, None), Outcome::Attached);
    let digest = log.state.digest();
    let late = [
        Operation::Enqueue(Box::new(ask(A, 2, "y"))),
        Operation::Enqueue(Box::new(ask(A, 1, "x"))),
        Operation::Enqueue(Box::new(Enqueue { stream: 2, ..ask(A, 2, "y") })),
        Operation::Enqueue(Box::new(Enqueue { stream: 3, ..ask(A, 2, "y") })),
        Operation::Cancel { session: session(A), stream: 1, request: request(1) },
        Operation::Cancel { session: session(A), stream: 2, request: request(1) },
    ];
    let here = [
        Operation::Enqueue(Box::new(ask(A, 2, "y"))),
        Operation::Cancel { session: session(A), stream: 1, request: request(1) },
    ];
    let late = late.into_iter().map(|it| (R1, it)).chain(here.into_iter().map(|it| (R2, it)));
    for (author, operation) in late {
        let outcome = log.apply_by(author, operation.clone());
        assert_eq!(outcome, Outcome::Superseded, "{operation:?}");
        assert!(log.effects.is_empty() && log.state.digest() == digest);
    }
    let now = Operation::Enqueue(Box::new(Enqueue { stream: 2, ..ask(A, 1, "x") }));
    assert_eq!(log.apply_by(R2, now), Outcome::Granted { token: held });
    let now = Operation::Cancel { session: session(A), stream: 2, request: request(1) };
    assert_eq!(log.apply_by(R2, now), Outcome::Cancelled);
    assert_eq!(log.holders("x"), []);
}

/// RULES J27: a call that is not numbered always may, and its ended requests are remembered.
#[test]
fn a_late_copy_of_a_call_that_has_ended_makes_no_entry() {
    let ends: [fn(&mut Log, Position); 6] = [
        |log, _| drop(log.release(A, 1)),
        |log, _| drop(log.cancel_on(A, 0, 1)),
        |log, _| drop(log.cancel(A, 1)),
        |log, token| drop(log.end_wait("x", token, token, WaitEnd::Abandoned)),
        |log, token| drop(log.force("x", token)),
        |log, _| drop(log.update(A, 1, Change::Result("r".into()))),
    ];
    for (index, end) in ends.into_iter().enumerate() {
        let mut log = Log::new();
        let call = by_call(Enqueue { mode: Mode::Once, ..ask(A, 1, "x") });
        let token = log.granted(call.clone());
        end(&mut log, token);
        log.apply(Operation::Forget { lock: lock("x") });
        let copy = log.apply_by(R2, Operation::Enqueue(Box::new(call)));
        assert!(matches!(copy, Outcome::Refused(_)), "{index}: {copy:?}");
        assert_eq!(log.holders("x"), []);
    }
}

/// RULES J27, J27b: as above, where the cancel comes first.
#[test]
fn a_late_copy_of_a_call_that_was_cancelled_before_makes_no_entry() {
    let mut log = Log::new();
    assert_eq!(log.cancel_on(A, 0, 1), Outcome::Cancelled);
    let call = Operation::Enqueue(Box::new(by_call(ask(A, 1, "x"))));
    assert_eq!(log.apply_by(R2, call), Outcome::Refused(Refusal::Cancelled));
    let on_a_stream = log.session(B).ended.clone();
    log.cancel(B, 1);
    assert_eq!(log.session(B).ended, on_a_stream, "a stream keeps the order");
    log.granted(ask(B, 1, "x"));
}

/// RULES J27: bounded by count.
#[test]
fn a_session_remembers_the_last_requests_that_have_ended() {
    let mut log = Log::new();
    let last = u8::try_from(session::ENDED).expect("a few");
    for number in 0..=last {
        log.granted(by_call(ask(A, number, "x")));
        log.release(A, number);
    }
    log.cancel_on(A, 0, 5);
    assert_eq!(log.session(A).ended.len(), session::ENDED, "each once");
    log.granted(by_call(ask(A, 0, "x")));
    assert_eq!(log.ask(by_call(ask(A, 1, "x"))), Outcome::Refused(Refusal::Cancelled));
    assert_eq!(log.ask(by_call(ask(A, last, "x"))), Outcome::Refused(Refusal::Cancelled));
}

#[test]
fn a_stream_leaves_nothing_to_remember() {
    let mut log = Log::new();
    let before = log.session(A).clone();
    log.granted(ask(A, 1, "x"));
    log.release(A, 1);
    log.granted(ask(A, 1, "x"));
    log.cancel(A, 1);
    assert_eq!(*log.session(A), before);
}
