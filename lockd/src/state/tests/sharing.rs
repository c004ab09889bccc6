//! Read/write locks, downgrades and semaphores.

use super::*;

fn shared(by: u8, number: u8) -> Enqueue {
    Enqueue { mode: Mode::Shared, ..ask(by, number, "x") }
}

fn permits(by: u8, number: u8, count: u32) -> Enqueue {
    Enqueue { mode: Mode::Permits { count, capacity: 3 }, ..ask(by, number, "x") }
}

#[test]
fn readers_hold_together_and_writers_alone() {
    let mut log = Log::new();
    log.granted(shared(A, 1));
    log.granted(shared(B, 2));
    log.queued(ask(C, 3, "x"));
    log.queued(shared(D, 4));
    log.release(A, 1);
    assert_eq!(log.heard(), ["a/1 lost by session"]);
    log.release(B, 2);
    assert_eq!(log.heard(), ["b/2 lost by session", "c/3 granted"]);
    log.release(C, 3);
    assert_eq!(log.heard(), ["c/3 lost by session", "d/4 granted"]);
}

#[test]
fn a_try_holds_beside_others_if_none_waits() {
    let mut log = Log::new();
    let a_try = |by, number| Enqueue { wait: Waits::Not, ..shared(by, number) };
    log.granted(a_try(A, 1));
    log.granted(a_try(B, 2));
    log.queued(ask(C, 3, "x"));
    assert!(matches!(log.ask(a_try(D, 4)), Outcome::Refused(Refusal::Busy(Some(_)))));
}

#[test]
fn a_downgrade_lets_the_readers_in() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.queued(shared(B, 2));
    log.queued(ask(C, 3, "x"));
    assert_eq!(log.update(A, 1, Change::Downgrade), Outcome::Updated);
    assert_eq!(log.heard(), ["b/2 granted"]);
    assert_eq!(log.changed(), ["x"]);
    assert_eq!(log.queue("x"), (vec![(A, 1), (B, 2)], vec![(C, 3)]));
    assert_eq!(log.update(A, 1, Change::Downgrade), Outcome::Updated, "a retry");
    assert_eq!(log.granted(ask(A, 1, "x")), log.granted(shared(A, 1)), "either finds it");
}

#[test]
fn only_one_lock_that_is_held_is_downgraded() {
    let refused = |outcome| matches!(outcome, Outcome::Failed(Failure::ChangeRefused(_)));
    let mut log = Log::new();
    log.granted(ask_all(A, 1, &["y", "z"]));
    assert!(refused(log.update(A, 1, Change::Downgrade)));
    log.granted(permits(A, 2, 1));
    assert!(refused(log.update(A, 2, Change::Downgrade)));
    log.queued(ask(B, 3, "y"));
    assert!(refused(log.update(B, 3, Change::Downgrade)), "it waits");
    assert!(refused(log.update(B, 9, Change::Downgrade)), "there is none");
}

#[test]
fn a_value_is_changed_by_its_holder() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.queued(ask(B, 2, "x"));
    assert_eq!(log.update(A, 1, Change::Value("v".into())), Outcome::Updated);
    assert_eq!(log.changed(), ["x"]);
    let value = |log: &Log| {
        let page = Page { after: Position(0), entries: 9, bytes: 9999 };
        let page = log.state.queue_page(&lock("x"), page).expect("it is held");
        page.entries[0].entry.details.clone().unwrap_or_default().value
    };
    assert_eq!(value(&log), "v");
    let outcome = log.update(B, 2, Change::Value("w".into()));
    assert!(matches!(outcome, Outcome::Failed(Failure::ChangeRefused(_))), "it waits");
    assert_eq!(value(&log), "v");
    log.granted(ask(A, 1, "x"));
}

#[test]
fn an_owner_that_holds_shared_does_not_ask_for_more() {
    let mut log = Log::new();
    log.granted(owned("o", shared(A, 1)));
    let refused = Outcome::Failed(Failure::UpgradeRefused(lock("x")));
    assert_eq!(log.ask(owned("o", ask(A, 2, "x"))), refused);
    log.queued(owned("p", ask(A, 3, "x")));
    log.queued(owned("o", ask(B, 4, "x")));
    log.queued(ask(A, 5, "x"));
    log.release(A, 1);
    assert_eq!(log.holders("x"), [(A, 3)]);
    assert_eq!(log.update(A, 3, Change::Downgrade), Outcome::Updated);
    let again = log.ask(owned("p", ask(A, 6, "x")));
    assert_eq!(again, refused, "after a downgrade too");
}

#[test]
fn who_waits_for_a_shared_lock_may_ask_for_it_alone() {
    let mut log = Log::new();
    log.granted(ask(B, 1, "x"));
    log.queued(owned("o", shared(A, 2)));
    log.queued(owned("o", ask(A, 3, "x")));
}

#[test]
fn permits_fit_the_capacity_in_order() {
    let mut log = Log::new();
    log.granted(permits(A, 1, 2));
    log.granted(permits(B, 2, 1));
    log.queued(permits(C, 3, 3));
    log.queued(permits(D, 4, 1));
    log.release(A, 1);
    assert_eq!(log.heard(), ["a/1 lost by session"], "a big request is not overtaken");
    log.release(B, 2);
    assert_eq!(log.heard(), ["b/2 lost by session", "c/3 granted"]);
    log.release(C, 3);
    assert_eq!(log.heard(), ["c/3 lost by session", "d/4 granted"]);
}

/// RULES T11: the capacity is the entries' own, and no setting of a replica.
#[test]
fn the_capacity_travels_with_the_entries() {
    let mut log = Log::new();
    for (by, number) in [(A, 1), (B, 2)] {
        let mode = Mode::Permits { count: 1, capacity: 1 };
        log.ask(Enqueue { mode, ..ask(by, number, "one") });
        log.granted(Enqueue { lock_delay_ms: 5, ..permits(by, number + 2, 1) });
    }
    assert_eq!(log.queue("one"), (vec![(A, 1)], vec![(B, 2)]));
    log.dies(A);
    assert!(
        log.followed().iter().any(|it| it.contains("x 6 delayed 5 since")),
        "{:?}",
        log.followed()
    );
}

#[test]
fn several_permits_that_come_free_grant_several() {
    let mut log = Log::new();
    log.granted(permits(A, 1, 3));
    log.queued(permits(B, 2, 1));
    log.queued(permits(C, 3, 2));
    log.queued(permits(D, 4, 1));
    log.closes(A);
    assert_eq!(log.heard(), ["b/2 granted", "c/3 granted"]);
    assert_eq!(
        log.followed(),
        ["a Closed", "a/1 gave way closed", "x from 5 to b/2", "x from 5 to c/3",]
    );
}
