//! Several locks as one.

use super::*;

#[test]
fn several_locks_are_held_when_all_are() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.granted(ask(B, 2, "z"));
    let token = log.queued(ask_all(C, 3, &["x", "y", "z"]));
    assert_eq!(log.queue("y"), (vec![(C, 3)], vec![]), "a place in each");
    log.release(A, 1);
    assert_eq!(log.heard(), ["a/1 lost by session"]);
    assert_eq!(log.release(C, 3), Outcome::Failed(Failure::StillWaiting));
    log.release(B, 2);
    assert_eq!(log.heard(), ["b/2 lost by session", "c/3 granted"]);
    log.queued(ask(D, 4, "y"));
    log.queued(ask(D, 5, "x"));
    log.release(C, 3);
    assert_eq!(log.heard(), ["c/3 lost by session", "d/5 granted", "d/4 granted"]);
    assert_eq!(log.changed(), ["x", "y", "z"]);
    assert!(log.state.entry_at(&lock("z"), token).is_none());
}

#[test]
fn one_grant_is_heard_though_both_locks_come_free_at_once() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.granted(ask(A, 2, "y"));
    log.queued(ask_all(B, 3, &["x", "y"]));
    log.closes(A);
    assert_eq!(log.heard(), ["b/3 granted"]);
}

#[test]
fn several_that_ask_in_any_order_never_wait_for_each_other() {
    let mut log = Log::new();
    log.granted(ask_all(A, 1, &["x", "y"]));
    log.queued(ask_all(B, 2, &["y", "x"]));
    log.queued(ask_all(C, 3, &["x", "y"]));
    log.release(A, 1);
    assert_eq!(log.heard(), ["a/1 lost by session", "b/2 granted"]);
    log.release(B, 2);
    assert_eq!(log.heard(), ["b/2 lost by session", "c/3 granted"]);
}

#[test]
fn a_try_for_several_takes_all_or_none() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "y"));
    let tries = Enqueue { wait: Waits::Not, ..ask_all(B, 2, &["x", "y"]) };
    let Outcome::Refused(Refusal::Busy(Some(ahead))) = log.ask(tries) else {
        panic!("y is held");
    };
    assert_eq!(ahead.holder.expect("y is held").entry.request, request(1));
    assert_eq!(log.state.queue_len(&lock("x")), 0);
}

#[test]
fn a_part_that_is_held_is_given_back_with_the_rest() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "y"));
    let token = log.queued(ask_all(B, 2, &["x", "y"]));
    log.queued(ask(C, 3, "x"));
    log.end_wait("x", token, token, WaitEnd::Expired);
    assert_eq!(log.heard(), ["b/2 refused wait_expired", "c/3 granted"]);
    assert_eq!(log.followed(), [""; 0], "it never held what it gives up");
}

#[test]
fn a_session_that_dies_while_it_holds_a_part_leaves_no_delay() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "y"));
    log.queued(Enqueue { lock_delay_ms: 5, ..ask_all(B, 2, &["x", "y"]) });
    log.dies(B);
    assert_eq!(log.followed(), ["b Expired"]);
    log.granted(ask(C, 3, "x"));
}

#[test]
fn a_kind_or_an_upgrade_is_looked_at_in_each_lock() {
    let mut log = Log::new();
    log.granted(Enqueue { mode: Mode::Permits { count: 1, capacity: 2 }, ..ask(A, 1, "y") });
    let outcome = log.ask(ask_all(B, 2, &["x", "y"]));
    assert!(matches!(outcome, Outcome::Failed(Failure::KindMismatch { .. })));
    log.granted(owned("o", Enqueue { mode: Mode::Shared, ..ask_all(C, 3, &["a", "b"]) }));
    let outcome = log.ask(owned("o", ask_all(C, 4, &["c", "b"])));
    assert_eq!(outcome, Outcome::Failed(Failure::UpgradeRefused(lock("b"))));
    assert_eq!(log.state.queue_len(&lock("x")) + log.state.queue_len(&lock("c")), 0);
}

#[test]
fn what_is_forced_in_one_lock_is_gone_from_all() {
    let mut log = Log::new();
    let token = log.granted(ask_all(A, 1, &["x", "y"]));
    log.queued(ask(B, 2, "x"));
    log.force("y", token);
    assert_eq!(log.heard(), ["a/1 lost forced stuck", "b/2 granted"]);
    assert_eq!(log.state.queue_len(&lock("y")), 0);
}
