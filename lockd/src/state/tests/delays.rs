//! Locks that stay taken for a while after a loss.

use super::*;

fn delayed(by: u8, number: u8) -> Enqueue {
    Enqueue { lock_delay_ms: 500, ..ask(by, number, "x") }
}

fn lapse(log: &mut Log, name: &str, token: Position, since: Position) -> Outcome {
    log.apply(Operation::Lapse { lock: lock(name), token, since })
}

#[test]
fn a_lock_stays_taken_until_its_delay_is_over() {
    let mut log = Log::new();
    let token = log.granted(delayed(A, 1));
    log.queued(ask(B, 2, "x"));
    log.dies(A);
    let since = log.at;
    assert!(log.heard().is_empty());
    assert_eq!(log.changed(), ["x"]);
    assert_eq!(log.followed(), [&format!("x {token} delayed 500 since {since}"), "a Expired"]);
    assert_eq!(
        log.state.delayed().map(|(it, since)| (it.token, since)).last(),
        Some((token, since))
    );
    assert_eq!(log.queue("x"), (vec![(A, 1)], vec![(B, 2)]));
    assert_eq!(lapse(&mut log, "x", token, since), Outcome::Done);
    assert_eq!(log.heard(), ["b/2 granted"]);
    assert_eq!(log.followed(), ["a/1 gave way expired", &format!("x from {token} to b/2")]);
}

/// RULES J22: a lapse names the entry and the end that it counted from; a second one finds nothing.
#[test]
fn a_lapse_is_of_one_entry_and_one_end() {
    let mut log = Log::new();
    let held = log.granted(delayed(C, 9));
    let since = log.at;
    lapse(&mut log, "x", held, since);
    assert_eq!(log.holders("x"), [(C, 9)], "it is alive");
    log.dies(C);
    let since = log.at;
    for (name, token, at) in [
        ("x", held, Position(since.0 - 1)),
        ("x", held, since.after(1)),
        ("x", held.after(1), since),
        ("y", held, since),
    ] {
        assert_eq!(lapse(&mut log, name, token, at), Outcome::Done);
        assert!(log.effects.is_empty());
    }
    lapse(&mut log, "x", held, since);
    log.granted(delayed(A, 1));
    let digest = log.state.digest();
    lapse(&mut log, "x", held, since);
    assert!(log.effects.is_empty() && log.state.digest() == digest, "the second finds nothing");
}

#[test]
fn a_release_a_close_or_a_cancel_leaves_no_delay() {
    let ends: [fn(&mut Log); 3] =
        [|log| drop(log.release(A, 1)), |log| log.closes(A), |log| drop(log.cancel(A, 1))];
    for end in ends {
        let mut log = Log::new();
        log.granted(delayed(A, 1));
        end(&mut log);
        log.granted(ask(B, 2, "x"));
    }
}

#[test]
fn what_only_waited_leaves_no_delay() {
    let mut log = Log::new();
    log.granted(ask(B, 2, "x"));
    log.queued(delayed(A, 1));
    log.dies(A);
    assert_eq!(log.queue("x"), (vec![(B, 2)], vec![]));
}

#[test]
fn a_delay_takes_what_was_held_and_no_more() {
    let mut log = Log::new();
    let shared = |ask| Enqueue { mode: Mode::Shared, ..ask };
    let token = log.granted(shared(delayed(A, 1)));
    log.dies(A);
    let since = log.at;
    log.granted(shared(ask(B, 2, "x")));
    log.queued(ask(C, 3, "x"));
    log.release(B, 2);
    assert!(log.state.size(&lock("x")) == (1, 1));
    lapse(&mut log, "x", token, since);
    assert_eq!(log.heard(), ["c/3 granted"]);
}

#[test]
fn an_operator_ends_a_delay() {
    let mut log = Log::new();
    let token = log.granted(delayed(A, 1));
    log.queued(ask(B, 2, "x"));
    log.dies(A);
    assert!(matches!(log.force("x", token), Outcome::Forced(_)));
    assert_eq!(log.heard(), ["b/2 granted"]);
}

#[test]
fn several_locks_are_delayed_as_one() {
    let mut log = Log::new();
    let token = log.granted(Enqueue { lock_delay_ms: 5, ..ask_all(A, 1, &["y", "x"]) });
    log.dies(A);
    let since = log.at;
    log.queued(ask(B, 2, "x"));
    assert_eq!(log.state.delayed().count(), 1);
    lapse(&mut log, "y", token, since);
    assert_eq!(log.heard(), ["b/2 granted"]);
    assert_eq!(log.state.queue_len(&lock("y")), 0);
}
