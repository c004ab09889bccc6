//! Sessions: opened, attached, resumed and ended.

use super::*;

fn opens(log: &mut Log, at: ReplicaId, open: Open) -> Outcome {
    log.apply_by(at, Operation::Open(Box::new(open)))
}

#[test]
fn a_session_is_opened_once_and_found_by_a_retry() {
    let mut log = Log::new();
    assert_eq!(opens(&mut log, R1, open(0xe, 0)), Outcome::Attached);
    assert_eq!(log.followed(), ["e attached anew"]);
    let opened = log.at;
    log.granted(Enqueue { stream: 0, ..ask(0xe, 1, "x") });
    assert_eq!(opens(&mut log, R2, open(0xe, 0)), Outcome::Attached);
    assert_eq!(log.followed(), ["e attached"]);
    let there = log.session(0xe);
    assert_eq!((there.opened, there.epoch, there.author), (opened, log.at, R2));
    assert_eq!(there.entries_len(), 1, "nothing of it is lost");
}

#[test]
fn a_session_is_opened_by_its_secret_alone() {
    let mut log = Log::new();
    let before = log.session(A).clone();
    let other = Open { secret_hash: [9; 32], ..open(A, 2) };
    assert_eq!(opens(&mut log, R2, other), Outcome::SecretMismatch);
    assert!(log.effects.is_empty());
    assert_eq!(*log.session(A), before);
}

/// RULES J27: an attach whose number is not greater changes nothing.
#[test]
fn an_attach_is_of_a_later_stream_or_of_none() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    assert_eq!(log.attach_at(R2, A, 5, None), Outcome::Attached);
    let before = (log.session(A).clone(), log.state.digest());
    for stream in [1, 4, 5] {
        assert_eq!(log.attach(A, stream, Some(&[])), Outcome::Superseded);
        assert_eq!(opens(&mut log, R1, open(A, stream)), Outcome::Superseded);
        assert!(log.effects.is_empty());
    }
    assert_eq!((log.session(A).clone(), log.state.digest()), before);
    // A replica under a new name takes its sessions along.
    assert_eq!(log.attach(A, 0, None), Outcome::Attached);
    assert_eq!((log.session(A).stream, log.session(A).author), (5, R1));
    log.granted(Enqueue { stream: 5, ..ask(A, 2, "y") });
    assert_eq!(log.attach(0xe, 1, None), Outcome::NoSession);
}

#[test]
fn a_session_without_streams_is_reached_by_calls_alone() {
    let mut log = Log::new();
    opens(&mut log, R1, open(0xe, 0));
    assert_eq!(log.ask(ask(0xe, 1, "x")), Outcome::Superseded);
    let call = Operation::Enqueue(Box::new(Enqueue { stream: 0, ..ask(0xe, 1, "x") }));
    assert!(matches!(log.apply_by(R2, call), Outcome::Granted { .. }), "from anywhere");
    assert_eq!(log.attach(0xe, 1, None), Outcome::Attached);
    log.granted(ask(0xe, 2, "y"));
}

/// RULES J2: what the client does not know any more goes, ahead of anything else of that stream.
#[test]
fn a_stream_that_resumes_drops_what_its_client_does_not_name() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.granted(ask(A, 2, "y"));
    log.granted(ask(B, 3, "z"));
    log.queued(ask(A, 4, "z"));
    log.queued(ask(A, 5, "z"));
    log.queued(ask(C, 6, "x"));
    assert_eq!(log.attach_at(R2, A, 2, Some(&[2, 5, 99])), Outcome::Attached);
    assert_eq!(log.heard(), ["a/1 lost by session", "a/4 refused cancelled", "c/6 granted"]);
    assert_eq!(log.followed(), ["a attached", "a/1 gave way released", "x from 5 to c/6"]);
    assert_eq!(log.queue("y"), (vec![(A, 2)], vec![]));
    assert_eq!(log.queue("z"), (vec![(B, 3)], vec![(A, 5)]));
}

#[test]
fn a_stream_that_resumes_leaves_the_entries_of_calls_alone() {
    let mut log = Log::new();
    log.granted(Enqueue { stream: 0, ..ask(A, 1, "x") });
    log.granted(ask(A, 2, "y"));
    log.attach(A, 2, Some(&[]));
    assert_eq!((log.holders("x"), log.holders("y")), (vec![(A, 1)], vec![]));
    log.granted(Enqueue { stream: 2, ..ask(A, 1, "x") });
    log.attach(A, 3, Some(&[]));
    assert_eq!(log.holders("x"), [], "who has taken it over answers for it");
}

#[test]
fn a_stream_that_names_nothing_keeps_everything() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.attach(A, 2, None);
    assert_eq!(log.holders("x"), [(A, 1)]);
    assert_eq!(log.followed(), ["a attached"]);
}

#[test]
fn an_end_is_for_one_attachment() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let epoch = log.session(A).epoch;
    log.attach(A, 2, None);
    let end = |epoch| Operation::End { session: session(A), epoch };
    assert_eq!(log.apply(end(epoch)), Outcome::Superseded);
    assert!(log.effects.is_empty());
    let epoch = log.session(A).epoch;
    assert_eq!(log.apply(end(epoch)), Outcome::Done);
    assert_eq!(log.followed(), ["a Expired", "a/1 gave way expired"]);
    assert_eq!(log.apply(end(epoch)), Outcome::NoSession);
}

#[test]
fn an_end_takes_everything_out_in_one_step() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    log.queued(ask(A, 2, "x"));
    log.queued(ask(B, 3, "x"));
    log.granted(ask(C, 4, "y"));
    log.queued(ask(A, 5, "y"));
    log.dies(A);
    assert_eq!(
        log.heard(),
        ["b/3 granted"],
        "a dead session is granted nothing, and hears nothing"
    );
    assert_eq!(log.followed(), ["a Expired", "a/1 gave way expired", "x from 5 to b/3"]);
    assert_eq!(log.changed(), ["x", "y"]);
    assert_eq!(log.queue("y"), (vec![(C, 4)], vec![]));
}

#[test]
fn a_session_that_is_gone_is_answered_so() {
    let mut log = Log::new();
    log.closes(A);
    assert_eq!(log.followed(), ["a Closed"]);
    let digest = log.state.digest();
    assert_eq!(log.ask(ask(A, 1, "x")), Outcome::NoSession);
    assert_eq!(log.release(A, 1), Outcome::NoSession);
    assert_eq!(log.cancel(A, 1), Outcome::NoSession);
    assert_eq!(log.update(A, 1, Change::Downgrade), Outcome::NoSession);
    assert_eq!(log.apply(Operation::Close { session: session(A) }), Outcome::NoSession);
    assert!(log.effects.is_empty() && log.state.digest() == digest);
}

/// Ids are made by clients: the same one again is another session, and what outlived the first is
/// none of its business.
#[test]
fn a_session_that_is_opened_anew_has_nothing_of_the_one_before() {
    let mut log = Log::new();
    let party = |by, number| Enqueue { mode: Mode::Party { parties: 2 }, ..ask(by, number, "x") };
    log.queued(party(A, 1));
    log.granted(party(B, 2));
    log.release(A, 1);
    log.granted(Enqueue { lock_delay_ms: 5, ..ask(A, 3, "y") });
    log.granted(Enqueue { mode: Mode::Share(OnLoss::Fail), ..ask(A, 4, "z") });
    log.dies(A);
    opens(&mut log, R1, open(A, 1));
    assert_eq!(log.followed(), ["a attached anew"]);
    assert_eq!(log.session(A).entries_len(), 0);
    log.queued(party(A, 1));
    log.queued(ask(A, 3, "y"));
    log.release(B, 2);
    assert_eq!(log.heard(), ["b/2 released"], "who has died does not hear");
    assert_eq!(log.queue("x"), (vec![], vec![(A, 1)]));
    assert_eq!(log.session(A).entries_len(), 2);
    let token = log.state.locks[&lock("y")].queue.iter().next().expect("it stays").0;
    let Outcome::Forced(removed) = log.force("y", token) else { panic!("it is there") };
    assert_eq!(removed.client, None);
    assert_eq!(log.heard(), ["a/3 granted"]);
}
