//! The suite. Nothing here knows which log it runs on.

use std::collections::HashSet;

use bytes::Bytes;
use lockd::testing::{
    Draft, Event, Floor, Log as _, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Position, Room,
};

use super::{driven::draft, ground::Ground};

pub(super) async fn a_new_log_is_empty_and_live(on: &impl Ground) {
    let log = on.opens().await;
    assert_eq!(log.resets, 1, "it begins with a reset");
    assert!(log.me.is_some());
    assert!(log.lived.records().is_empty() && log.lived.floor.is_none());
    assert!((0..log.log.profile().lanes).all(|lane| log.log.is_idle(lane)));
    assert_eq!(log.log.bytes_after_floor(), 0);
}

pub(super) async fn records_are_delivered_once_and_in_order(on: &impl Ground) {
    let mut log = on.opens().await;
    let texts: Vec<_> = (0..300).map(|number| format!("record {number}")).collect();
    log.writes_many(texts.clone()).await;
    let records = log.lived.records();
    let unique: HashSet<_> = records.iter().cloned().collect();
    assert_eq!(records.len(), 300);
    assert!(texts.iter().all(|text| unique.contains(text.as_bytes())));
    assert!(log.log.bytes_after_floor() >= 300 * 8);
}

/// Each operation of a record has a place of its own.
pub(super) async fn records_of_a_lane_keep_their_order(on: &impl Ground) {
    let mut log = on.opens().await;
    let lanes = log.log.profile().lanes;
    let mut written = vec![0; lanes];
    while written.iter().any(|number| *number < 40) {
        for (lane, number) in written.iter_mut().enumerate() {
            if *number < 40 && log.log.is_idle(lane) {
                let bytes = format!("{lane} {number:04}");
                log.append_on(lane, Draft { operations: 3, ..draft(bytes) });
                *number += 1;
            }
        }
        log.event().await;
    }
    log.settles().await;
    let placed = log.lived.placed();
    assert_eq!(placed.len(), 40 * lanes);
    for lane in 0..lanes {
        let own: Vec<_> = log.lived.records();
        let own: Vec<_> =
            own.iter().filter(|it| it.starts_with(format!("{lane} ").as_bytes())).collect();
        assert!(own.is_sorted(), "lane {lane}: {own:?}");
    }
    for pair in placed.windows(2) {
        assert!(pair[1].0.0 >= pair[0].0.0 + 3, "{pair:?}");
    }
}

pub(super) async fn a_lane_takes_one_record_at_a_time(on: &impl Ground) {
    let mut log = on.opens().await;
    log.append_on(0, draft("first"));
    assert!(!log.log.is_idle(0));
    assert!(log.log.append(0, draft("second")).is_err());
    let none = log.log.profile().lanes;
    assert!(!log.log.is_idle(none) && log.log.append(none, draft("nowhere")).is_err());
    log.settles().await;
    log.writes("third").await;
    assert_eq!(log.lived.records(), ["first", "third"]);
}

pub(super) async fn a_record_that_is_too_large_is_refused(on: &impl Ground) {
    let mut log = on.opens().await;
    let many = u32::try_from(MAX_OPERATIONS).unwrap() + 1;
    for bad in [
        Draft { operations: many, ..draft("many") },
        Draft { operations: 0, ..draft("none") },
        draft(vec![0; MAX_RECORD_BYTES + 1]),
    ] {
        let refused = log.log.append(0, bad);
        assert!(matches!(refused, Err(LogError::Unavailable(_))), "{refused:?}");
    }
    assert!(log.log.is_idle(0));
}

pub(super) async fn the_largest_record_fits(on: &impl Ground) {
    let mut log = on.opens().await;
    let bytes = Bytes::from(vec![7; MAX_RECORD_BYTES]);
    let operations = u32::try_from(MAX_OPERATIONS).unwrap();
    let at = log.append(Draft { operations, ..draft(bytes.clone()) }).await;
    let next = log.writes("next").await;
    assert!(next.0 >= at.0 + 1024);
    drop(log);
    assert_eq!(on.opens().await.lived.records(), [bytes, Bytes::from("next")]);
}

pub(super) async fn what_was_lived_is_read_again(on: &impl Ground) {
    let mut log = on.opens().await;
    log.writes_many((0..100).map(|number| format!("record {number}"))).await;
    let lived = log.lived.placed();
    drop(log);
    let mut again = on.opens().await;
    assert_eq!(again.lived.placed(), lived);
    again.writes("after").await;
    let lived = again.lived.placed();
    drop(again);
    assert_eq!(on.opens().await.lived.placed(), lived);
}

pub(super) async fn places_only_grow_over_openings(on: &impl Ground) {
    let mut last = Position::default();
    for opening in 0..4 {
        let mut log = on.opens().await;
        let at = log.writes(&format!("opening {opening}")).await;
        assert!(at > last, "{at} after {last}");
        last = at;
    }
}

pub(super) async fn a_barrier_comes_after_what_was_appended_before(on: &impl Ground) {
    let mut log = on.opens().await;
    for number in 1..=50 {
        let lane = log.try_append(draft(format!("record {number}")));
        assert!(lane.is_some());
        // Not before it has landed: what is only under way may come later.
        log.settles().await;
        log.catches_up().await;
        assert_eq!(log.lived.records().len(), number);
    }
}

pub(super) async fn every_barrier_is_answered(on: &impl Ground) {
    let mut log = on.opens().await;
    (100..200).for_each(|number| log.log.barrier(number));
    log.writes("beside them").await;
    (200..=300).for_each(|number| log.log.barrier(number));
    // Those of before may have been passed while the record was waited for. Reads that are under way
    // together come back in any order.
    let (mut before, mut after): (HashSet<u64>, HashSet<u64>) =
        ((100..200).collect(), (200..=300).collect());
    while !after.is_empty() {
        if let Event::Barrier(number) = log.event().await {
            assert!(before.remove(&number) || after.remove(&number), "{number} comes once");
        }
    }
}

pub(super) async fn a_checkpoint_stands_in_for_the_records_before_its_floor(on: &impl Ground) {
    let mut log = on.opens().await;
    log.writes_many((0..200).map(|number| format!("before {number:01000}"))).await;
    let at = log.writes("the last one below").await;
    let before = log.log.bytes_after_floor();
    // What comes between the state at the floor and the floor's record is read again.
    log.writes("between").await;
    let floor = log.checkpoints(at, &[b"one", b"two", b"three"]).await;
    log.raises(floor).await;
    log.writes("after").await;
    assert!(log.log.bytes_after_floor() < before);
    drop(log);
    for _ in 0..2 {
        let again = on.opens().await;
        assert_eq!(again.lived.chunks, ["one", "two", "three"]);
        assert_eq!(again.lived.floor, Some(floor));
        let records = again.lived.records();
        let floor = format!("floor {at}");
        assert_eq!(records, ["between".as_bytes(), floor.as_bytes(), b"after"]);
        assert!(again.log.bytes_after_floor() < before);
        // Trimmed again, which changes nothing.
        drop(again);
    }
}

pub(super) async fn a_checkpoint_that_was_not_finished_is_not_read(on: &impl Ground) {
    let mut log = on.opens().await;
    let first = log.writes("first").await;
    log.log.write_chunk(first, Bytes::from("unfinished")).unwrap();
    let second = log.writes("second").await;
    // Another one begins: the one before is garbage.
    let floor = log.checkpoints(second, &[b"whole"]).await;
    drop(log);
    let mut log = on.opens().await;
    assert_eq!(log.lived.records(), ["first", "second"], "its floor was not appended");
    assert!(log.lived.chunks.is_empty());
    // Nor is one whose floor no record has named.
    let other = log.checkpoints(second, &[b"whole too"]).await;
    assert_ne!(floor.which, other.which);
    log.raises(other).await;
    drop(log);
    assert_eq!(on.opens().await.lived.chunks, ["whole too"]);
}

pub(super) async fn a_checkpoint_may_be_empty_or_large(on: &impl Ground) {
    let mut log = on.opens().await;
    let at = log.writes("first").await;
    let floor = log.checkpoints(at, &[]).await;
    log.raises(floor).await;
    drop(log);
    let mut log = on.opens().await;
    assert_eq!(log.lived.floor, Some(floor));
    assert!(log.lived.chunks.is_empty());
    let at = log.writes("second").await;
    let chunks: Vec<Vec<u8>> = (0..150_u8).map(|number| vec![number; 64 * 1024]).collect();
    let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    let floor = log.checkpoints(at, &chunks).await;
    log.raises(floor).await;
    drop(log);
    let log = on.opens().await;
    assert_eq!(log.lived.chunks, chunks);
}

/// Of two floors that were under way together the greater one counts, in whichever order they land.
pub(super) async fn a_lower_floor_changes_nothing(on: &impl Ground) {
    let mut log = on.opens().await;
    let low = log.writes("low").await;
    let low: Floor = log.checkpoints(low, &[b"low"]).await;
    let high = log.writes("high").await;
    let high = log.checkpoints(high, &[b"high"]).await;
    log.raises(high).await;
    let bytes = Bytes::from("a floor that comes late");
    let late = Draft { operations: 1, bytes, room: Room::Reserve, floor: Some(low) };
    log.append(late).await;
    log.log.trim(&low).unwrap();
    log.writes("after").await;
    drop(log);
    let log = on.opens().await;
    assert_eq!(log.lived.floor, Some(high));
    assert_eq!(log.lived.chunks, ["high"]);
    assert_eq!(log.lived.records().last().unwrap(), "after");
}

pub(super) async fn two_checkpoints_at_one_floor_are_kept_apart(on: &impl Ground) {
    let mut log = on.opens().await;
    let at = log.writes("first").await;
    let one = log.checkpoints(at, &[b"one", b"of two"]).await;
    let two = log.checkpoints(at, &[b"two"]).await;
    assert_ne!(one.which, two.which);
    log.raises(two).await;
    drop(log);
    let log = on.opens().await;
    assert_eq!(log.lived.floor, Some(two));
    assert_eq!(log.lived.chunks, ["two"]);
}
