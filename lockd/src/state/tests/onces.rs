//! Runs of what is to succeed once.

use super::*;

fn once(by: u8, number: u8) -> Enqueue {
    Enqueue { mode: Mode::Once, ..ask(by, number, "x") }
}

#[test]
fn a_result_ends_it_for_all_and_for_ever() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    log.queued(once(B, 2));
    log.queued(once(C, 3));
    assert_eq!(log.update(A, 1, Change::Result("r".into())), Outcome::Updated);
    assert_eq!(log.heard(), ["a/1 lost by session", "b/2 refused done", "c/3 refused done"]);
    assert_eq!(log.state.result(&lock("x")), Some(&"r".into()));
    let done = Outcome::Refused(Refusal::Done("r".into()));
    assert_eq!(log.ask(once(D, 4)), done);
    assert_eq!(log.ask(Enqueue { wait: Waits::Not, ..once(D, 5) }), done);
    let again = log.update(A, 1, Change::Result("s".into()));
    assert!(matches!(again, Outcome::Failed(Failure::ChangeRefused(_))));
    assert_eq!(log.state.result(&lock("x")), Some(&"r".into()));
}

#[test]
fn who_waits_hears_the_result_itself() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    let token = log.queued(once(B, 2));
    log.update(A, 1, Change::Result("r".into()));
    let news = News::Refused(Refusal::Done("r".into()));
    let done = Effect::Entry { session: session(B), request: request(2), token, news };
    assert!(log.effects.contains(&done));
}

#[test]
fn a_run_that_fails_is_followed_by_the_next() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    log.queued(once(B, 2));
    log.queued(once(C, 3));
    assert_eq!(log.release(A, 1), Outcome::Released { is_plain: false });
    assert_eq!(log.heard(), ["a/1 lost by session", "b/2 granted"]);
    log.dies(B);
    assert_eq!(log.heard(), ["c/3 granted"]);
}

#[test]
fn only_the_run_that_holds_has_a_result() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    log.queued(once(B, 2));
    log.granted(ask(C, 3, "y"));
    for (by, number) in [(B, 2), (C, 3), (D, 4)] {
        let outcome = log.update(by, number, Change::Result("r".into()));
        assert!(matches!(outcome, Outcome::Failed(Failure::ChangeRefused(_))));
    }
    assert_eq!(log.state.result(&lock("x")), None);
}

#[test]
fn a_result_that_is_forgotten_lets_it_run_again() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    log.update(A, 1, Change::Result("r".into()));
    assert_eq!(log.apply(Operation::Forget { lock: lock("x") }), Outcome::Forgotten(true));
    assert_eq!(log.apply(Operation::Forget { lock: lock("x") }), Outcome::Forgotten(false));
    log.granted(once(B, 2));
    log.update(B, 2, Change::Result("s".into()));
    assert_eq!(log.state.result(&lock("x")), Some(&"s".into()));
}

#[test]
fn a_result_is_no_obstacle_to_another_kind() {
    let mut log = Log::new();
    log.granted(once(A, 1));
    log.update(A, 1, Change::Result("r".into()));
    log.granted(ask(B, 2, "x"));
    assert_eq!(log.ask(once(C, 3)), Outcome::Refused(Refusal::Done("r".into())));
}
