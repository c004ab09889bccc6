//! What the owner's side makes of what the tasks hand it, without an etcd.

use super::*;

const ME: ReplicaId = ReplicaId(1);
const BEFORE: ReplicaId = ReplicaId(2);

fn log() -> (EtcdLog, Clock) {
    let clock = Clock::tokio();
    let config = EtcdConfig::new(vec!["http://127.0.0.1:1".to_owned()], "lockd/");
    let (tasks, end) = (Tasks::default(), CancellationToken::new());
    (EtcdLog::new(config, &tasks, &end, clock.clone()).unwrap(), clock)
}

fn life(id: ReplicaId, clock: &Clock) -> Life {
    let (keep, sent) = (Duration::from_secs(4), clock.now());
    Life { id, lease: 1, keep, sent, reading: 1 }
}

fn record(author: ReplicaId, lane: usize, number: u64) -> Item {
    let at = Position(number * 1024);
    Item::Record { at, author, lane, number, bytes: Bytes::from_static(b"record") }
}

fn draft(room: Room) -> Draft {
    Draft { operations: 1, bytes: Bytes::from_static(b"record"), room, floor: None }
}

/// The lane's task takes a record before it can land.
async fn taken() {
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

fn lane_of(event: Option<Event>) -> Option<usize> {
    match event {
        Some(Event::Record(record)) => record.lane,
        event => panic!("{event:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_frees_its_lane_in_the_life_that_it_was_written_in() {
    let (mut log, clock) = log();
    assert!(
        !log.is_idle(0) && log.append(0, draft(Room::Ordinary)).is_err(),
        "it does not live yet"
    );
    log.take(Item::Live(life(ME, &clock)));
    log.append(0, draft(Room::Ordinary)).unwrap();
    taken().await;
    assert_eq!(lane_of(log.take(record(BEFORE, 0, 1))), None, "another one's");
    assert_eq!(lane_of(log.take(record(ME, 1, 1))), None, "another lane's");
    assert_eq!(lane_of(log.take(record(ME, 0, 2))), None, "another number");
    assert!(!log.is_idle(0));
    assert_eq!(lane_of(log.take(record(ME, 0, 1))), Some(0));
    assert!(log.is_idle(0));
    let refused = |life| {
        let error = LogError::Full(String::new());
        Item::Refused { life, lane: 0, number: 2, error }
    };
    log.append(0, draft(Room::Ordinary)).unwrap();
    taken().await;
    assert!(log.take(refused(BEFORE)).is_none());
    assert!(matches!(log.take(refused(ME)), Some(Event::Refused { lane: 0, .. })));
    // The same number is free again: nothing has used it.
    log.append(0, draft(Room::Ordinary)).unwrap();
    taken().await;
    log.take(Item::Left { at: Position(9000), replica: ME });
    assert!(!log.is_idle(0) && log.append(0, draft(Room::Reserve)).is_err());
    log.take(Item::Live(life(ReplicaId(3), &clock)));
    assert!(log.is_idle(0), "a new life begins with idle lanes");
}

#[tokio::test(start_paused = true)]
async fn a_promise_rests_on_the_newest_proof_of_the_present_life() {
    let (mut log, clock) = log();
    let start = clock.now();
    assert_eq!(
        log.standing().promise_until,
        Some(start),
        "nothing is promised before the first life"
    );
    log.take(Item::Live(life(ME, &clock)));
    let promised =
        |log: &EtcdLog| log.standing().promise_until.unwrap().saturating_duration_since(start);
    assert_eq!(promised(&log), Duration::from_secs(4));
    tokio::time::advance(Duration::from_secs(2)).await;
    let sent = clock.now();
    log.take(Item::Proof { life: BEFORE, sent });
    assert_eq!(promised(&log), Duration::from_secs(4), "of another life");
    log.take(Item::Proof { life: ME, sent });
    assert_eq!(promised(&log), Duration::from_secs(6));
    // One that was sent earlier and came later takes nothing back.
    log.take(Item::Proof { life: ME, sent: start });
    assert_eq!(promised(&log), Duration::from_secs(6));
    // A barrier of a question says that deliveries are whole, and nothing of the lease.
    tokio::time::advance(Duration::from_secs(3)).await;
    let mut numbers = Numbers::default();
    numbers.push(1);
    log.take(Item::Barrier { numbers, sent: clock.now() });
    assert_eq!(promised(&log), Duration::from_secs(6));
    assert_eq!(log.standing().confirmed, Some(clock.now()));
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_fresh_for_a_while_after_they_were_known_to_be_whole() {
    let (mut log, clock) = log();
    assert!(!log.standing().is_fresh);
    log.take(Item::Live(life(ME, &clock)));
    log.take(Item::Proof { life: ME, sent: clock.now() });
    tokio::time::advance(FRESH).await;
    assert!(log.standing().is_fresh);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!log.standing().is_fresh);
    log.take(Item::Proof { life: ME, sent: clock.now() });
    assert!(log.standing().is_fresh);
    log.take(Item::Reset);
    assert!(!log.standing().is_fresh && log.standing().confirmed.is_none());
}

#[tokio::test(start_paused = true)]
async fn each_barrier_of_a_shared_read_is_an_event() {
    let (mut log, clock) = log();
    let mut numbers = Numbers::default();
    (4..7).for_each(|number| numbers.push(number));
    let first = log.take(Item::Barrier { numbers, sent: clock.now() });
    assert_eq!(first, Some(Event::Barrier(4)));
    for number in 5..7 {
        let next = std::future::poll_fn(|cx| log.poll_event(cx)).await;
        assert_eq!(next, Event::Barrier(number));
    }
}
