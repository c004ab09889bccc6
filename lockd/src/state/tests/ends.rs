//! Waits that are ended by others than their clients: expired, abandoned, withdrawn, in a deadlock.

use super::*;
use crate::record::Blocked;

#[test]
fn a_wait_expires_and_says_who_was_ahead() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let token = log.queued(ask(B, 2, "x"));
    assert_eq!(log.end_wait("x", token, token, WaitEnd::Expired), Outcome::Done);
    let [Effect::Entry { news: News::Refused(Refusal::WaitExpired(Some(ahead))), .. }, ..] =
        &log.effects[..]
    else {
        panic!("{:?}", log.effects);
    };
    assert_eq!(ahead.count, 1);
    assert_eq!(ahead.holder.as_ref().map(|it| it.entry.request), Some(request(1)));
}

#[test]
fn a_wait_that_was_granted_is_not_ended() {
    let mut log = Log::new();
    let token = log.granted(ask(A, 1, "x"));
    for why in [WaitEnd::Expired, WaitEnd::Withdrawn] {
        log.end_wait("x", token, token, why);
        assert!(log.effects.is_empty());
    }
    assert_eq!(log.holders("x"), [(A, 1)]);
}

#[test]
fn a_grant_that_was_never_sent_is_given_back() {
    let mut log = Log::new();
    log.granted(ask(A, 1, "x"));
    let token = log.queued(ask(B, 2, "x"));
    log.queued(ask(C, 3, "x"));
    log.release(A, 1);
    log.end_wait("x", token, token, WaitEnd::Abandoned);
    assert_eq!(log.heard(), ["c/3 granted"], "there is no caller that could hear");
}

#[test]
fn what_has_outlived_its_session_is_no_wait() {
    let mut log = Log::new();
    let token = log.granted(Enqueue { lock_delay_ms: 5, ..ask(A, 1, "x") });
    log.dies(A);
    log.end_wait("x", token, token, WaitEnd::Abandoned);
    assert_eq!(log.holders("x"), [(A, 1)]);
}

/// Two owners that wait for each other: o holds x and waits for y, p holds y and waits for x.
struct Deadlock {
    log: Log,
    held: [Position; 2],
    waits: [Position; 2],
}

impl Deadlock {
    fn new() -> Self {
        let mut log = Log::new();
        let o = log.granted(owned("o", ask(A, 1, "x")));
        let p = log.granted(owned("p", ask(B, 2, "y")));
        let o_waits = log.queued(owned("o", ask(A, 3, "y")));
        assert_eq!(log.followed(), ["owner default:o"]);
        let p_waits = log.queued(owned("p", ask(B, 4, "x")));
        Self { log, held: [o, p], waits: [o_waits, p_waits] }
    }

    fn cycle(&self) -> Vec<Blocked> {
        let wait = |name, token, by, owner: &str, blocked_by: &str| Blocked {
            lock: lock(name),
            token,
            by,
            owner: owner.into(),
            blocked_by: blocked_by.into(),
        };
        let ([o, p], [o_waits, p_waits]) = (self.held, self.waits);
        vec![wait("y", o_waits, p, "o", "p"), wait("x", p_waits, o, "p", "o")]
    }

    /// Whether the youngest wait is ended, by what is said of the cycle.
    fn ends(&mut self, cycle: Vec<Blocked>, others: &[Position]) -> bool {
        let token = self.waits[1];
        let why = WaitEnd::Deadlock { cycle, others: others.to_vec() };
        self.log.end_wait("x", token, token, why);
        self.log.state.entry_at(&lock("x"), token).is_none()
    }
}

/// RULES J23: the victim of a deadlock, and it alone.
#[test]
fn a_cycle_that_stands_ends_its_youngest_wait() {
    let mut deadlock = Deadlock::new();
    let cycle = deadlock.cycle();
    assert!(deadlock.ends(cycle.clone(), &[]));
    assert_eq!(deadlock.log.heard(), ["b/4 refused deadlock"]);
    assert_eq!(deadlock.log.queue("y"), (vec![(B, 2)], vec![(A, 3)]));
    let outcome = deadlock.log.ask(owned("p", ask(B, 4, "x")));
    assert_eq!(outcome, Outcome::Refused(Refusal::Deadlock(Box::default())));
    // Another request of the same owner is another wait.
    deadlock.waits[1] = deadlock.log.queued(owned("p", ask(B, 5, "x")));
    assert!(!deadlock.ends(cycle, &[]));
}

/// RULES J23: each edge is looked at where the operation is applied.
#[test]
fn a_cycle_that_does_not_stand_ends_nothing() {
    let changes: [fn(&mut Deadlock); 5] = [
        |it| drop(it.log.release(A, 1)),
        |it| drop(it.log.cancel(A, 3)),
        |it| drop(it.log.release(B, 2)),
        |it| it.log.closes(A),
        // Its entry stays, and is not in the way for ever.
        |it| it.log.dies(A),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut deadlock = Deadlock::new();
        let cycle = deadlock.cycle();
        change(&mut deadlock);
        deadlock.ends(cycle, &[]);
        assert!(!deadlock.log.heard().contains(&"b/4 refused deadlock".to_owned()), "{index}");
    }
    let mut deadlock = Deadlock::new();
    let (token, cycle) = (deadlock.waits[1], deadlock.cycle());
    let why = WaitEnd::Deadlock { cycle, others: vec![] };
    deadlock.log.end_wait("x", token, token.after(1), why);
    assert!(deadlock.log.effects.is_empty(), "another claim");
}

#[test]
fn what_is_no_cycle_ends_nothing() {
    let mut deadlock = Deadlock::new();
    let cycle = deadlock.cycle();
    assert!(!deadlock.ends(vec![], &[]));
    assert!(!deadlock.ends(cycle[..1].to_vec(), &[]), "the victim is not in it");
    assert!(!deadlock.ends(cycle[1..].to_vec(), &[]), "it does not come back to where it began");
    let reversed = cycle.iter().map(|it| Blocked { token: it.by, by: it.token, ..it.clone() });
    assert!(!deadlock.ends(reversed.collect(), &[]));
    let elsewhere = cycle.iter().map(|it| Blocked { lock: lock("z"), ..it.clone() });
    assert!(!deadlock.ends(elsewhere.collect(), &[]));
    assert!(deadlock.ends(cycle, &[]));
}

/// RULES J23: an owner goes on by any of its waits.
#[test]
fn an_owner_with_a_wait_that_is_not_named_may_go_on() {
    let mut deadlock = Deadlock::new();
    let cycle = deadlock.cycle();
    deadlock.log.granted(ask(C, 5, "z"));
    let other = deadlock.log.queued(owned("o", ask(A, 6, "z")));
    assert!(!deadlock.ends(cycle.clone(), &[]));
    assert!(!deadlock.ends(cycle.clone(), &[other.after(1)]));
    assert!(deadlock.ends(cycle, &[other]));
}

#[test]
fn a_holder_that_has_died_is_not_in_the_way_for_ever() {
    let mut log = Log::new();
    let o = log.granted(owned("o", Enqueue { lock_delay_ms: 5, ..ask(A, 1, "x") }));
    let p = log.granted(owned("p", ask(B, 2, "y")));
    let o_waits = log.queued(owned("o", ask(C, 3, "y")));
    let p_waits = log.queued(owned("p", ask(B, 4, "x")));
    let mut deadlock = Deadlock { log, held: [o, p], waits: [o_waits, p_waits] };
    let cycle = deadlock.cycle();
    deadlock.log.dies(A);
    assert!(!deadlock.ends(cycle, &[]));
}

/// A holder beside which there is room for the first that waits is in no one's way, though it was when
/// another one waited there.
#[test]
fn a_holder_that_is_compatible_is_not_in_the_way() {
    let mut log = Log::new();
    let permits = |count, ask| Enqueue { mode: Mode::Permits { count, capacity: 3 }, ..ask };
    let o = log.granted(owned("o", permits(2, ask(A, 1, "x"))));
    log.granted(permits(1, ask(C, 7, "x")));
    let p = log.granted(owned("p", ask(B, 2, "y")));
    let o_waits = log.queued(owned("o", ask(A, 3, "y")));
    log.queued(permits(2, ask(D, 8, "x")));
    let p_waits = log.queued(owned("p", permits(1, ask(B, 4, "x"))));
    let mut deadlock = Deadlock { log, held: [o, p], waits: [o_waits, p_waits] };
    let cycle = deadlock.cycle();
    deadlock.log.cancel(D, 8);
    assert!(!deadlock.ends(cycle.clone(), &[]), "the other one will make room");
    deadlock.log.queued(permits(2, ask(D, 9, "x")));
    assert!(!deadlock.ends(cycle, &[]), "who comes later is not ahead");
}
