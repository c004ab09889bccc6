//! Barriers: parties that come in together and leave together, or break.

use super::*;

fn party(by: u8, number: u8) -> Enqueue {
    Enqueue { mode: Mode::Party { parties: 2 }, ..ask(by, number, "x") }
}

/// Two inside, and one that waits for the next generation.
fn two_inside() -> Log {
    let mut log = Log::new();
    log.queued(party(A, 1));
    log.granted(party(B, 2));
    assert_eq!(log.heard(), ["a/1 granted"]);
    log.queued(party(C, 3));
    log
}

#[test]
fn all_leave_together() {
    let mut log = two_inside();
    assert_eq!(log.release(B, 2), Outcome::Leaving);
    assert!(log.heard().is_empty());
    assert_eq!(log.changed(), ["x"]);
    assert_eq!(log.release(B, 2), Outcome::Leaving, "a retry");
    log.queued(party(D, 4));
    assert_eq!(log.release(A, 1), Outcome::Leaving);
    assert_eq!(log.heard(), ["a/1 released", "b/2 released", "c/3 granted", "d/4 granted"]);
    assert_eq!(log.holders("x"), [(C, 3), (D, 4)]);
}

#[test]
fn one_that_dies_inside_breaks_it() {
    let mut log = two_inside();
    log.dies(A);
    assert_eq!(log.heard(), ["b/2 lost broken"]);
    assert_eq!(log.queue("x"), (vec![], vec![(C, 3)]), "the next generation stays");
    assert_eq!(log.ask(party(B, 2)), Outcome::Refused(Refusal::Broken), "it may have missed it");
    log.granted(party(D, 4));
    assert_eq!(log.heard(), ["c/3 granted"]);
}

#[test]
fn one_that_cancels_before_all_have_come_breaks_it() {
    let mut log = Log::new();
    let parties = |by, number| Enqueue { mode: Mode::Party { parties: 3 }, ..ask(by, number, "x") };
    log.queued(parties(A, 1));
    log.queued(parties(B, 2));
    log.cancel(B, 2);
    assert_eq!(log.heard(), ["b/2 refused cancelled", "a/1 refused broken"]);
    assert_eq!(log.state.queue_len(&lock("x")), 0);
}

#[test]
fn one_whose_wait_ends_or_who_is_taken_out_breaks_it() {
    for why in [WaitEnd::Expired, WaitEnd::Withdrawn, WaitEnd::Abandoned] {
        let mut log = Log::new();
        let parties = |by, n| Enqueue { mode: Mode::Party { parties: 3 }, ..ask(by, n, "x") };
        log.queued(parties(A, 1));
        let token = log.queued(parties(B, 2));
        log.end_wait("x", token, token, why);
        assert_eq!(log.heard().last().map(String::as_str), Some("a/1 refused broken"));
    }
    let mut log = two_inside();
    let token = log.state.entry_of(session(A), request(1)).expect("it is inside").token;
    log.force("x", token);
    assert_eq!(log.heard(), ["a/1 lost forced stuck", "b/2 lost broken"]);
}

#[test]
fn who_has_left_and_dies_or_cancels_is_missed_by_none() {
    for dies in [true, false] {
        let mut log = two_inside();
        log.release(A, 1);
        if dies {
            log.dies(A);
        } else {
            assert_eq!(log.cancel(A, 1), Outcome::Cancelled);
            log.attach(A, 2, Some(&[]));
        }
        assert!(log.heard().is_empty(), "{:?}", log.heard());
        assert_eq!(log.holders("x"), [(A, 1), (B, 2)]);
        log.release(B, 2);
        let own = if dies { vec![] } else { vec!["a/1 released"] };
        assert_eq!(log.heard(), [own, vec!["b/2 released"]].concat());
        assert_eq!(log.queue("x"), (vec![], vec![(C, 3)]));
    }
}

#[test]
fn who_has_left_hears_that_it_was_broken() {
    let mut log = two_inside();
    log.release(A, 1);
    log.dies(B);
    assert_eq!(log.heard(), ["a/1 lost broken"]);
}

#[test]
fn one_that_leaves_from_behind_breaks_nothing() {
    let mut log = two_inside();
    log.queued(Enqueue { ..party(D, 4) });
    log.queued(Enqueue { ..party(D, 5) });
    log.cancel(D, 4);
    assert_eq!(log.heard(), ["d/4 refused cancelled"]);
    log.dies(D);
    assert!(log.heard().is_empty());
    assert_eq!(log.queue("x"), (vec![(A, 1), (B, 2)], vec![(C, 3)]));
}

#[test]
fn a_session_with_several_parties_breaks_the_generation_that_it_was_in() {
    let mut log = Log::new();
    log.queued(party(A, 1));
    log.granted(party(B, 2));
    log.queued(party(C, 3));
    log.queued(party(A, 4));
    log.queued(party(D, 5));
    log.dies(A);
    assert_eq!(log.heard(), ["b/2 lost broken", "c/3 granted", "d/5 granted"]);
}

#[test]
fn a_try_comes_in_if_it_is_the_last() {
    let mut log = Log::new();
    let a_try = |by, number| Enqueue { wait: Waits::Not, ..party(by, number) };
    assert!(matches!(log.ask(a_try(A, 1)), Outcome::Refused(Refusal::Busy(_))));
    log.queued(party(A, 1));
    log.granted(a_try(B, 2));
    assert_eq!(log.heard(), ["a/1 granted"]);
    assert!(matches!(log.ask(a_try(C, 3)), Outcome::Refused(Refusal::Busy(Some(_)))));
    let alone = Enqueue { mode: Mode::Party { parties: 1 }, ..ask(D, 4, "y") };
    log.granted(Enqueue { wait: Waits::Not, ..alone });
    log.release(D, 4);
    assert_eq!(log.heard(), ["d/4 released"]);
}

#[test]
fn a_broken_barrier_begins_anew_with_whoever_comes() {
    let mut log = two_inside();
    log.release(A, 1);
    log.closes(B);
    log.granted(party(D, 4));
    assert_eq!(log.holders("x"), [(C, 3), (D, 4)]);
    log.release(C, 3);
    log.release(D, 4);
    assert_eq!(log.heard(), ["c/3 released", "d/4 released"]);
    assert_eq!(log.state.counts().locks, 0);
}
