//! Cycles that stand and those that do not, against a simulation: owners run, and those that never
//! finish are stuck.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{super::tests::*, *};
use crate::record::{Enqueue, Mode, Operation, WaitEnd};

/// What a search from an owner finds, in pieces of a size.
fn search(state: &State, owner: &str, budget: usize) -> (Option<Cycle>, usize) {
    let mut search = Search::new(format!("default\0{owner}").into());
    for steps in 1.. {
        match search.step(state, budget) {
            Progress::More => {}
            Progress::Nothing => return (None, steps),
            Progress::Found(cycle) => return (Some(cycle), steps),
        }
    }
    unreachable!("a search ends")
}

fn find(log: &Log, owner: &str) -> Option<Cycle> {
    let (found, _) = search(&log.state, owner, usize::MAX);
    assert_eq!(search(&log.state, owner, 1).0, found, "in any pieces");
    found
}

/// Who waits for whom, as it is shown.
fn shown(cycle: &Cycle) -> Vec<String> {
    let wait = |wait: &Blocked| {
        let (lock, owner, blocked_by) = (wait.lock.name(), &wait.owner, &wait.blocked_by);
        format!("{owner} waits for {lock} behind {blocked_by}")
    };
    cycle.waits.iter().map(wait).collect()
}

/// Ends the youngest wait of a cycle, as its replica proposes it.
fn end(log: &mut Log, cycle: Cycle) -> Vec<String> {
    let claim = log.state.entry_at(&cycle.lock, cycle.victim).expect("it waits").asker.claim;
    let why = WaitEnd::Deadlock { cycle: cycle.waits, others: cycle.others };
    let name = cycle.lock.name().to_owned();
    log.end_wait(&name, cycle.victim, claim, why);
    log.heard()
}

fn shared(ask: Enqueue) -> Enqueue {
    Enqueue { mode: Mode::Shared, ..ask }
}

#[test]
fn two_that_wait_for_each_other() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(A, 3, "y")));
    assert_eq!(find(&log, "o"), None);
    let youngest = log.queued(owned("p", ask(B, 4, "x")));
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
    assert_eq!((cycle.victim, cycle.lock.name()), (youngest, "x"));
    assert_eq!(shown(&find(&log, "o").expect("the same")).len(), 2);
    assert_eq!(end(&mut log, cycle), ["b/4 refused deadlock"]);
    assert_eq!((find(&log, "o"), find(&log, "p")), (None, None));
}

#[test]
fn a_chain_that_ends_is_no_cycle() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("p", ask(B, 3, "x")));
    log.queued(owned("q", ask(C, 4, "y")));
    assert_eq!((find(&log, "o"), find(&log, "p"), find(&log, "q")), (None, None, None));
    assert_eq!(find(&log, "another"), None);
}

#[test]
fn who_waits_behind_a_cycle_is_not_in_it() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(A, 3, "y")));
    log.queued(owned("p", ask(B, 4, "x")));
    log.queued(owned("q", ask(C, 5, "x")));
    let cycle = find(&log, "q").expect("q is stuck as well");
    assert_eq!(shown(&cycle), ["o waits for y behind p", "p waits for x behind o"]);
}

#[test]
fn an_owner_goes_on_by_any_of_its_waits() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.granted(owned("p", ask(B, 2, "y")));
    log.granted(ask(C, 9, "z"));
    log.queued(owned("o", ask(A, 3, "y")));
    let other = log.queued(owned("o", ask(A, 4, "z")));
    log.queued(owned("p", ask(B, 5, "x")));
    assert_eq!(find(&log, "p"), None, "z comes free some day");
    // Unless that wait is stuck too.
    log.release(C, 9);
    log.cancel(A, 4);
    log.granted(owned("p", ask(B, 6, "z")));
    let another = log.queued(owned("o", ask(A, 7, "z")));
    assert!(another > other);
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for z behind p"]);
    assert_eq!(cycle.victim, another);
    assert_eq!(cycle.others.len(), 1, "the other wait of o is named");
    assert_eq!(end(&mut log, cycle), ["a/7 refused deadlock"]);
    assert!(find(&log, "p").is_some(), "o is stuck by the other one still");
}

#[test]
fn one_that_waits_for_itself() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.queued(owned("o", ask(B, 2, "x")));
    let cycle = find(&log, "o").expect("a deadlock");
    assert_eq!(shown(&cycle), ["o waits for x behind o"]);
    assert_eq!(end(&mut log, cycle), ["b/2 refused deadlock"]);
}

#[test]
fn who_is_only_ahead_in_a_queue_is_in_the_way_too() {
    let mut log = Log::new();
    log.granted(ask(D, 1, "x"));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask_all(A, 3, &["x", "y"])));
    log.queued(ask(D, 4, "x"));
    assert_eq!(find(&log, "o"), None);
    log.queued(owned("p", ask(B, 5, "x")));
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
    assert_eq!(end(&mut log, cycle), ["b/5 refused deadlock"]);
}

#[test]
fn one_that_gives_up_its_place_lets_those_behind_it_pass() {
    let mut log = Log::new();
    log.granted(owned("q", shared(ask(A, 1, "x"))));
    log.granted(ask(B, 2, "v"));
    log.queued(owned("t", ask(C, 3, "v")));
    log.queued(owned("t", ask(C, 4, "x")));
    log.queued(owned("q", shared(ask_all(A, 5, &["w", "x"]))));
    assert_eq!((find(&log, "q"), find(&log, "t")), (None, None), "t goes on with v");
}

#[test]
fn the_dead_are_not_in_the_way_for_ever() {
    let mut log = Log::new();
    log.granted(owned("o", Enqueue { lock_delay_ms: 9, ..ask(A, 1, "x") }));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(C, 3, "y")));
    log.queued(owned("p", ask(B, 4, "x")));
    assert!(find(&log, "p").is_some());
    log.dies(A);
    assert_eq!(find(&log, "p"), None);
}

#[test]
fn owners_of_another_namespace_are_others() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(A, 3, "y")));
    log.queued(owned("p", ask(B, 4, "x")));
    let mut elsewhere = Search::new("other\0o".into());
    assert_eq!(elsewhere.step(&log.state, 100), Progress::Nothing);
}

#[test]
fn one_that_could_hold_beside_another_is_not_behind_its_owner() {
    let mut log = Log::new();
    // o holds a part of x and waits for y; p waits for x beside it, and holds y.
    log.granted(owned("p", ask(B, 1, "y")));
    log.granted(ask(C, 2, "x"));
    log.queued(owned("o", shared(ask_all(A, 3, &["x", "y"]))));
    log.queued(owned("p", shared(ask(B, 4, "x"))));
    assert_eq!((find(&log, "o"), find(&log, "p")), (None, None));
    // One that wants it for itself is.
    log.cancel(B, 4);
    log.queued(owned("p", ask(B, 5, "x")));
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
    assert_eq!(end(&mut log, cycle), ["b/5 refused deadlock"]);
}

#[test]
fn one_that_is_behind_another_that_is_not_named_waits_for_what_that_waits_for() {
    let mut log = Log::new();
    log.granted(owned("o", shared(ask(A, 1, "x"))));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(A, 3, "y")));
    log.queued(ask(C, 4, "x"));
    log.queued(owned("p", shared(ask(B, 5, "x"))));
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
    let stale = cycle.clone();
    // Without the one between them there is room.
    log.cancel(C, 4);
    assert_eq!(log.holders("x").len(), 2);
    assert!(log.state.entry_at(&stale.lock, stale.victim).is_some_and(|it| it.is_held()));
}

#[test]
fn permits_that_do_not_fit_beside_each_other() {
    let permits = |count, ask| Enqueue { mode: Mode::Permits { count, capacity: 3 }, ..ask };
    let mut log = Log::new();
    log.granted(owned("o", permits(2, ask(A, 1, "x"))));
    log.granted(owned("p", ask(B, 2, "y")));
    log.queued(owned("o", ask(A, 3, "y")));
    log.granted(owned("p", permits(1, ask(B, 4, "x"))));
    assert_eq!(find(&log, "o"), None);
    log.queued(ask(C, 5, "y"));
    log.queued(owned("p", permits(2, ask(B, 6, "x"))));
    log.queued(owned("q", permits(1, ask(C, 7, "x"))));
    let cycle = find(&log, "p").expect("a deadlock");
    assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
    assert!(find(&log, "q").is_some(), "behind it");
    assert_eq!(end(&mut log, cycle), ["b/6 refused deadlock"]);
}

/// A permit that is not stuck comes back, whoever holds the others: a cycle through a semaphore stands only
/// where it leaves no such permit. Holders that are stuck and leave too little room only together are not
/// searched for: such a wait ends by its own limit.
#[test]
fn a_semaphore_is_in_the_way_only_if_no_other_of_its_holders_can_make_room() {
    let permits = |count, ask| Enqueue { mode: Mode::Permits { count, capacity: 3 }, ..ask };
    for other_goes_on in [true, false] {
        let mut log = Log::new();
        log.granted(owned("o", permits(1, ask(A, 1, "x"))));
        log.granted(owned("q", permits(2, ask(C, 2, "x"))));
        log.granted(owned("p", ask(B, 3, "y")));
        log.queued(owned("o", ask(A, 4, "y")));
        if !other_goes_on {
            log.queued(owned("q", ask(C, 5, "y")));
        }
        // It fits beside either of them, and not beside both.
        log.queued(owned("p", permits(1, ask(B, 6, "x"))));
        assert_eq!(["o", "p", "q"].map(|owner| find(&log, owner)), [None, None, None]);
        // It fits only when both are gone.
        log.cancel(B, 6);
        log.queued(owned("p", permits(3, ask(B, 7, "x"))));
        let cycle = find(&log, "p").expect("o is stuck, and in the way");
        assert_eq!(shown(&cycle), ["p waits for x behind o", "o waits for y behind p"]);
        assert_eq!(end(&mut log, cycle), ["b/7 refused deadlock"]);
    }
}

/// What stands is judged where the end of a wait is applied: a permit that has come back is enough.
#[test]
fn a_cycle_through_a_semaphore_does_not_stand_where_its_holder_has_left() {
    let permits = |count, ask| Enqueue { mode: Mode::Permits { count, capacity: 3 }, ..ask };
    let mut log = Log::new();
    log.granted(owned("o", permits(2, ask(A, 1, "x"))));
    log.granted(permits(1, ask(C, 2, "x")));
    log.granted(owned("p", ask(B, 3, "y")));
    log.queued(owned("o", ask(A, 4, "y")));
    log.queued(owned("p", permits(2, ask(B, 5, "x"))));
    let cycle = find(&log, "p").expect("a deadlock");
    log.release(A, 1);
    assert_eq!(log.holders("x"), [(C, 2), (B, 5)]);
    assert!(end(&mut log, cycle).is_empty());
}

#[test]
fn a_party_waits_for_others_to_come() {
    let mut log = Log::new();
    log.granted(owned("o", ask(A, 1, "x")));
    log.queued(owned("o", Enqueue { mode: Mode::Party { parties: 2 }, ..ask(A, 2, "pair") }));
    log.queued(owned("p", ask(B, 3, "x")));
    assert_eq!((find(&log, "o"), find(&log, "p")), (None, None));
}

/// A search that is too large is given up, and says so.
#[test]
fn a_search_is_bounded() {
    let mut log = Log::new();
    fill(&mut log, 9000);
    let mut search = Search::new("default\0o8999".into());
    let mut steps = 0;
    while search.step(&log.state, 512) == Progress::More {
        steps += 1;
    }
    assert!(search.is_too_large());
    assert!((20..200).contains(&steps), "{steps}");
}

/// So many owners in one queue.
fn fill(log: &mut Log, owners: usize) {
    for number in 0..owners {
        put(log, A, number, (&format!("o{number}"), "x"));
    }
}

/// An acquire among many, which is not looked at closely.
fn put(log: &mut Log, by: u8, number: usize, (owner, name): (&str, &str)) {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let request = lockd_proto::RequestId::from_bytes(id);
    let ask = Enqueue { request, ..owned(owner, ask(by, 0, name)) };
    log.apply_unchecked(Operation::Enqueue(Box::new(ask)));
}

/// 1,000 owners in one cycle, and 2,000 that wait in one queue: both have frozen a daemon before.
#[test]
fn a_large_search_costs_in_proportion_and_is_cut_in_pieces() {
    let mut log = Log::new();
    for number in 0..1000 {
        put(&mut log, A, number, (&format!("o{number}"), &format!("l{number}")));
    }
    for number in 0..999 {
        put(&mut log, B, number, (&format!("o{number}"), &format!("l{}", number + 1)));
    }
    assert_eq!(search(&log.state, "o0", 512).0, None);
    put(&mut log, B, 999, ("o999", "l0"));
    let (cycle, steps) = search(&log.state, "o500", 512);
    let cycle = cycle.expect("a deadlock");
    assert_eq!(cycle.waits.len(), 1000);
    assert!(steps < 50, "{steps}");
    assert_eq!(end(&mut log, cycle), ["b/231 refused deadlock"]);

    let mut log = Log::new();
    fill(&mut log, 2000);
    let (found, steps) = search(&log.state, "o1999", 512);
    assert!(found.is_none() && steps < 100, "{steps}");
    put(&mut log, A, 5000, ("o1999", "y"));
    put(&mut log, B, 5001, ("o0", "y"));
    let cycle = search(&log.state, "o0", 512).0.expect("a deadlock");
    assert_eq!(shown(&cycle), ["o0 waits for y behind o1999", "o1999 waits for x behind o0"]);
}

const OWNERS: [&str; 7] = ["", "o", "p", "q", "r", "s", "t"];

#[derive(Debug, Clone)]
enum Step {
    Ask { owner: u8, by: u8, on: u8, shared: bool, both: bool },
    Permits { owner: u8, by: u8, count: u32 },
    Release(u8),
    Die(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ask = (0..7u8, 0..4u8, 0..5u8, any::<bool>(), prop::bool::weighted(0.2));
    let step = prop_oneof![
        20 => ask.prop_map(|(owner, by, on, shared, both)| Step::Ask { owner, by, on, shared, both }),
        3 => (0..7u8, 0..4u8, 1..4u32)
            .prop_map(|(owner, by, count)| Step::Permits { owner, by, count }),
        3 => any::<u8>().prop_map(Step::Release),
        1 => (0..4u8).prop_map(Step::Die),
    ];
    prop::collection::vec(step, 2..24)
}

impl Step {
    fn apply(&self, log: &mut Log, number: u8) {
        match *self {
            Self::Ask { owner, by, on, shared, both } => {
                let names = ["v", "w", "x", "y", "z"];
                let (on, other) = (names[usize::from(on)], names[usize::from(on + 1) % 5]);
                // Who waits in several queues has an owner: no other would be followed.
                let both = both && owner > 0;
                let names = if both { vec![on, other] } else { vec![on] };
                let mode = if shared { Mode::Shared } else { Mode::Exclusive };
                let by = [A, B, C, D][usize::from(by)];
                let ask = Enqueue { mode, lock_delay_ms: 5, ..ask_all(by, number, &names) };
                log.ask(owned(OWNERS[usize::from(owner)], ask));
            }
            Self::Permits { owner, by, count } => {
                let mode = Mode::Permits { count, capacity: 3 };
                let ask = Enqueue { mode, ..ask([A, B, C, D][usize::from(by)], number, "sem") };
                log.ask(owned(OWNERS[usize::from(owner)], ask));
            }
            Self::Release(pick) => {
                let entries: Vec<_> = log.state.entries.iter().map(|(_, it)| it).collect();
                let held: Vec<_> = entries.iter().filter(|it| it.is_held()).collect();
                if let Some(entry) = held.get(usize::from(pick) % held.len().max(1)) {
                    let (by, number) = (entry.session.as_bytes()[0], entry.request.as_bytes()[0]);
                    log.release(by, number);
                }
            }
            Self::Die(by) => {
                let by = [A, B, C, D][usize::from(by)];
                if log.state.session(session(by)).is_some() {
                    log.dies(by);
                }
            }
        }
    }
}

/// Lets all owners run: who has no wait, or is granted one, finishes and gives up everything, and so
/// does who has no owner and holds. Gives the owners that never finish.
fn who_never_finishes(log: &mut Log) -> BTreeSet<String> {
    let waits = |log: &Log| -> BTreeSet<Position> {
        let waits = log.state.entries.iter().filter(|(_, it)| !it.is_held());
        waits.map(|(_, it)| it.token).collect()
    };
    let first = waits(log);
    loop {
        let entries: Vec<_> = log.state.entries.iter().map(|(_, it)| it.clone()).collect();
        let lives = |it: &&Entry| log.state.session_of(it).is_some();
        let goes_on = |owner: &str| {
            let mut own = entries.iter().filter(lives).filter(|it| it.owner() == owner);
            let granted = own.clone().any(|it| it.is_held() && first.contains(&it.token));
            granted || own.all(Entry::is_held)
        };
        let gone = |it: &&Entry| match it.owner() {
            _ if log.state.session_of(it).is_none() => true,
            "" => it.is_held(),
            owner => goes_on(owner),
        };
        let gone: Vec<_> = entries.iter().filter(gone).collect();
        if gone.is_empty() {
            return entries
                .iter()
                .map(|it| it.owner().to_owned())
                .filter(|it| !it.is_empty())
                .collect();
        }
        for entry in gone {
            log.force(entry.locks.as_slice()[0].name(), entry.token);
        }
    }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn an_owner_is_found_stuck_if_and_only_if_it_never_finishes(steps in steps()) {
        let mut log = Log::new();
        for (step, number) in steps.iter().zip(1..) {
            step.apply(&mut log, number);
        }
        let found = OWNERS.map(|owner| (owner, find(&log, owner)));
        let mut again = Log::new();
        for (step, number) in steps.iter().zip(1..) {
            step.apply(&mut again, number);
        }
        let stuck = who_never_finishes(&mut again);
        for (owner, cycle) in &found {
            // Several that are stuck may leave too little room together: that is not searched for.
            let may_miss = steps.iter().any(|step| matches!(step, Step::Permits { .. }));
            let found = cycle.is_some();
            prop_assert!(found == stuck.contains(*owner) || (may_miss && !found), "{}", owner);
        }
        // Every cycle stands where it is judged, and its youngest wait is ended.
        let cycles: Vec<_> = found.into_iter().filter_map(|(_, cycle)| cycle).collect();
        for cycle in cycles.into_iter().take(1) {
            let victim = cycle.victim;
            prop_assert_eq!(cycle.waits.iter().map(|it| it.token).max(), Some(victim));
            let heard = end(&mut log, cycle);
            prop_assert!(heard.iter().any(|it| it.contains("refused deadlock")), "{heard:?}");
        }
    }
}
