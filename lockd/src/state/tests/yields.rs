//! Holders that are asked to give a lock up.

use super::*;

fn ask_to_yield(log: &mut Log, name: &str) -> Outcome {
    log.apply(Operation::Yield { lock: lock(name), reason: "a release".into() })
}

#[test]
fn every_holder_is_asked_and_none_that_waits() {
    let mut log = Log::new();
    log.granted(Enqueue { mode: Mode::Shared, ..ask(A, 1, "x") });
    log.granted(Enqueue { mode: Mode::Shared, ..ask(B, 2, "x") });
    log.queued(ask(C, 3, "x"));
    let Outcome::Asked(holders) = ask_to_yield(&mut log, "x") else { panic!("it is held") };
    assert_eq!(holders.len(), 2);
    assert_eq!(log.heard(), ["a/1 asked to yield a release", "b/2 asked to yield a release"]);
    assert_eq!(log.changed(), ["x"]);
    assert_eq!(holders[0].entry.yield_reason(), "a release");
}

#[test]
fn who_was_asked_and_releases_has_yielded() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    ask_to_yield(&mut log, "x");
    log.queued(ask(B, 2, "x"));
    log.release(A, 1);
    assert_eq!(log.followed(), ["a/1 gave way yielded", "x from 5 to b/2"]);
    let (_, handoff) = log.state.story(&lock("x"));
    assert_eq!(handoff.map(|it| it.reason), Some(HandoffReason::Yielded));
}

#[test]
fn a_holder_of_one_lock_that_waits_for_another_hears_nothing_yet() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "y"));
    log.queued(ask_all(B, 2, &["x", "y"]));
    let Outcome::Asked(holders) = ask_to_yield(&mut log, "x") else { panic!("it is held") };
    assert_eq!(holders.len(), 1);
    assert!(log.heard().is_empty());
    let entry = log.state.entry_of(session(B), request(2)).expect("it waits");
    assert_eq!(entry.yield_reason(), "a release", "it is shown when it holds");
}

#[test]
fn parties_and_shares_do_not_yield() {
    for mode in [Mode::Party { parties: 1 }, Mode::Share(OnLoss::Release)] {
        let mut log = Log::new();
        log.granted(Enqueue { mode, ..ask(A, 1, "x") });
        let outcome = ask_to_yield(&mut log, "x");
        assert!(matches!(outcome, Outcome::Failed(Failure::ChangeRefused(_))));
        assert!(log.effects.is_empty());
    }
    let mut log = Log::new();
    assert_eq!(ask_to_yield(&mut log, "x"), Outcome::Failed(Failure::LockNotFound));
}

#[test]
fn the_dead_are_described_and_hear_nothing() {
    let mut log = Log::new();
    log.granted(Enqueue { lock_delay_ms: 5, ..ask(A, 1, "x") });
    log.dies(A);
    let Outcome::Asked(holders) = ask_to_yield(&mut log, "x") else { panic!("it is held") };
    assert_eq!(holders[0].client, None);
    assert!(log.heard().is_empty());
}
