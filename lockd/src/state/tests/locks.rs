//! Exclusive locks, and what is the same of all: joining, leaving, being taken out, kinds and limits.

use super::*;

#[test]
fn the_first_holds_and_the_others_follow_in_order() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let second = log.queued(ask(B, 2, "x"));
    log.queued(ask(C, 3, "x"));
    assert_eq!(log.queue("x"), (vec![(A, 1)], vec![(B, 2), (C, 3)]));

    assert_eq!(log.release(A, 1), Outcome::Released { is_plain: false });
    assert_eq!(log.heard(), ["a/1 lost by session", "b/2 granted"]);
    assert_eq!(log.followed(), ["a/1 gave way released", "x from 5 to b/2"]);
    assert_eq!(log.changed(), ["x"]);
    assert_eq!(log.state.entry_of(session(B), request(2)).map(|it| it.token), Some(second));
}

#[test]
fn a_grant_says_when_its_entry_joined() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let Position(joined) = log.queued(ask(B, 2, "x"));
    log.release(A, 1);
    let (token, news) = (Position(joined), News::Granted { joined });
    let granted = Effect::Entry { session: session(B), request: request(2), token, news };
    assert!(log.effects.contains(&granted));
}

#[test]
fn a_waiter_that_leaves_makes_way_for_those_behind_it_only_when_it_held_them_up() {
    let mut log = Log::new();
    log.granted(Enqueue { mode: Mode::Shared, ..ask(A, 1, "x") });
    log.queued(ask(B, 2, "x"));
    log.queued(Enqueue { mode: Mode::Shared, ..ask(C, 3, "x") });
    assert_eq!(log.cancel(B, 2), Outcome::Cancelled);
    assert_eq!(log.heard(), ["b/2 refused cancelled", "c/3 granted"]);
    assert_eq!(log.followed(), [""; 0], "who waited hands nothing over");
}

#[test]
fn a_try_is_refused_and_leaves_nothing() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let digest = log.state.digest();
    let Outcome::Refused(Refusal::Busy(Some(ahead))) =
        log.ask(Enqueue { wait: Waits::Not, ..ask(B, 2, "x") })
    else {
        panic!("it is busy");
    };
    assert_eq!(ahead.count, 1);
    let holder = ahead.holder.expect("it is held");
    assert_eq!(holder.entry.request, request(1));
    assert_eq!(&*holder.client.expect("it lives").name, "client-a");
    assert!(log.effects.is_empty() && log.state.digest() == digest);
    assert_eq!(log.queue("x"), (vec![(A, 1)], vec![]));
}

#[test]
fn a_try_never_waits_whatever_it_asks_for() {
    let too_many = Mode::Permits { count: 4, capacity: 3 };
    for mode in [Mode::Party { parties: 2 }, too_many] {
        let mut log = Log::new();
        let outcome = log.ask(Enqueue { mode, wait: Waits::Not, ..ask(A, 1, "x") });
        assert!(matches!(outcome, Outcome::Refused(Refusal::Busy(None))), "{mode:?}: {outcome:?}");
        assert_eq!(log.state.counts().locks, 0);
    }
}

#[test]
fn a_lock_that_is_free_again_is_forgotten() {
    let mut log = Log::new();
    let digest = log.state.digest();
    let token = log.granted(ask(A, 1, "x"));
    assert_eq!(log.release(A, 1), Outcome::Released { is_plain: true });
    assert_eq!(log.state.digest(), digest);
    assert_eq!(log.state.counts(), Counts { sessions: 4, locks: 0, waiters: 0 });
    assert!(log.granted(ask(A, 2, "x")) > token, "tokens only grow");
}

#[test]
fn a_release_finds_its_own_entry_or_none() {
    let mut log = Log::new();
    let token = log.granted(ask(A, 1, "x"));
    let name = |by, number, name, token| {
        let named = Some((lock(name), token));
        Operation::Release(Release { session: session(by), request: request(number), named })
    };
    log.queued(ask(B, 2, "x"));
    assert_eq!(log.release(B, 2), Outcome::Failed(Failure::StillWaiting));
    assert_eq!(log.apply(name(C, 9, "x", token)), Outcome::Failed(Failure::NotHolder));
    assert_eq!(log.apply(name(A, 9, "x", token)), Outcome::AlreadyLost);
    assert_eq!(log.apply(name(A, 9, "x", Position(99))), Outcome::AlreadyLost);
    let mismatch = Outcome::Failed(Failure::TokenMismatch);
    assert_eq!(log.apply(name(A, 1, "x", Position(99))), mismatch);
    assert_eq!(log.apply(name(A, 1, "y", token)), mismatch);
    assert_eq!(log.release(C, 1), Outcome::AlreadyLost, "another session's request");
    assert_eq!(log.holders("x"), [(A, 1)]);
    assert!(log.effects.is_empty());
    assert_eq!(log.apply(name(A, 1, "x", token)), Outcome::Released { is_plain: false });
    assert_eq!(log.release(A, 1), Outcome::AlreadyLost, "a retry");
}

/// A plain release may be undone by a power failure: no other may be answered early (RULES J1, J3).
#[test]
fn a_release_is_plain_if_nothing_but_its_entry_could_come_back() {
    let plain = |ask: Enqueue| {
        let mut log = Log::new();
        log.granted(ask);
        log.release(A, 1) == Outcome::Released { is_plain: true }
    };
    let with = |mode| Enqueue { mode, ..ask(A, 1, "x") };
    assert!(plain(ask(A, 1, "x")));
    assert!(plain(ask_all(A, 1, &["x", "y"])));
    assert!(plain(with(Mode::Shared)));
    assert!(plain(with(Mode::Permits { count: 1, capacity: 2 })));
    assert!(!plain(Enqueue { stream: 0, ..ask(A, 1, "x") }), "by a call");
    assert!(!plain(Enqueue { lock_delay_ms: 1, ..ask(A, 1, "x") }));
    assert!(!plain(with(Mode::Once)));
    assert!(!plain(with(Mode::Share(OnLoss::Release))));
    assert!(!plain(with(Mode::Share(OnLoss::Fail))));

    let mut log = Log::new();
    log.granted(ask_all(A, 1, &["x", "y"]));
    log.queued(ask(B, 2, "y"));
    assert_eq!(log.release(A, 1), Outcome::Released { is_plain: false }, "another one waits");
}

#[test]
fn a_cancel_takes_out_what_waits_and_what_is_held() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.queued(ask(B, 2, "x"));
    assert_eq!(log.cancel(B, 2), Outcome::Cancelled);
    assert_eq!(log.heard(), ["b/2 refused cancelled"]);
    assert_eq!(log.cancel(A, 1), Outcome::Cancelled);
    assert_eq!(log.heard(), ["a/1 lost by session"]);
    assert_eq!(log.cancel(A, 1), Outcome::Cancelled, "there is none");
    assert!(log.effects.is_empty());
    assert_eq!(log.state.counts().locks, 0);
}

#[test]
fn force_takes_out_whom_it_names() {
    let mut log = Log::new();
    let held = log.granted(ask(A, 1, "x"));
    let waits = log.queued(ask(B, 2, "x"));
    assert_eq!(log.force("y", held), Outcome::Failed(Failure::LockNotFound));
    assert_eq!(log.force("x", Position(99)), Outcome::Failed(Failure::TokenMismatch));
    let Outcome::Forced(removed) = log.force("x", waits) else { panic!("it is there") };
    assert_eq!((removed.entry.token, removed.client.is_some()), (waits, true));
    assert_eq!(log.heard(), ["b/2 refused forced"]);
    assert!(matches!(log.force("x", held), Outcome::Forced(_)));
    assert_eq!(log.heard(), ["a/1 lost forced stuck"]);
    assert_eq!(log.followed(), ["a/1 gave way forced"]);
}

#[test]
fn who_asks_again_after_force_hears_of_it() {
    let mut log = Log::new();
    let token = log.granted(ask(A, 1, "x"));
    log.force("x", token);
    assert_eq!(log.ask(ask(A, 1, "x")), Outcome::Refused(Refusal::Forced));
    log.granted(ask(A, 2, "x"));
}

#[test]
fn a_queue_is_of_one_kind() {
    let modes = [
        Mode::Exclusive,
        Mode::Permits { count: 1, capacity: 2 },
        Mode::Permits { count: 1, capacity: 3 },
        Mode::Party { parties: 2 },
        Mode::Party { parties: 3 },
        Mode::Share(OnLoss::Release),
        Mode::Share(OnLoss::Fail),
        Mode::Once,
    ];
    for first in modes {
        for then in modes.into_iter().filter(|then| *then != first) {
            let mut log = Log::new();
            log.ask(Enqueue { mode: first, ..ask(A, 1, "x") });
            for wait in [Waits::Not, Waits::Forever] {
                let (asked, there) = (then.kind(), first.kind());
                let failure = Failure::KindMismatch { lock: lock("x"), asked, there };
                let outcome = log.ask(Enqueue { mode: then, wait, ..ask(B, 2, "x") });
                assert_eq!(outcome, Outcome::Failed(failure), "{first:?}, then {then:?}");
            }
            assert_eq!(log.state.queue_len(&lock("x")), 1);
        }
    }
}

#[test]
fn the_kind_is_that_of_what_is_there_now() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.release(A, 1);
    log.granted(Enqueue { mode: Mode::Permits { count: 1, capacity: 2 }, ..ask(A, 2, "x") });
}

/// RULES T7: the end of a session is one operation, and bounded.
#[test]
fn a_session_has_so_many_entries_and_no_more() {
    let mut log = Log::new();
    let mut at = log.at;
    for number in 0..MAX_ENTRIES as u64 {
        at = at.after(1);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(number + 1000).to_le_bytes());
        let ask = Enqueue { request: RequestId::from_bytes(id), ..ask(A, 0, "x") };
        let cx = Context { at, author: R1, now: 0 };
        log.state.apply(Operation::Enqueue(Box::new(ask)), cx, &mut vec![]);
    }
    log.at = at;
    assert_eq!(log.ask(ask(A, 1, "y")), Outcome::Failed(Failure::TooManyEntries));
    log.granted(ask(B, 1, "y"));
    log.dies(A);
    assert_eq!(log.state.counts(), Counts { sessions: 3, locks: 1, waiters: 0 });
}

#[test]
fn the_entry_that_is_asked_for_again_is_no_entry_more() {
    let mut log = Log::new();
    let token = log.granted(ask(A, 1, "x"));
    let first = log.state.digest();
    assert_eq!(log.granted(ask(A, 1, "x")), token);
    assert_ne!(log.state.digest(), first, "another claim");
    assert_eq!(log.session(A).entries_len(), 1);
}

#[test]
fn the_story_of_a_lock_says_since_when_and_from_whom() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    assert_eq!(log.state.story(&lock("x")), (log.at.0, None));
    log.queued(ask(B, 2, "x"));
    log.queued(ask(C, 3, "x"));
    log.cancel(B, 2);
    log.closes(A);
    let (since, handoff) = log.state.story(&lock("x"));
    let handoff = handoff.expect("it was handed over");
    assert_eq!((since, handoff.at), (log.at.0, log.at.0));
    assert_eq!((handoff.reason, handoff.from.client), (HandoffReason::Closed, None));
    assert_eq!(handoff.from.entry.request, request(1));
}
