//! Damage: what was acknowledged is there, or the journal is refused by file and offset.

use super::{
    super::{
        Journal,
        frame::{Frame, Kind, Seed},
        mark::{self, Marked},
        segment::{self, Contents, Header},
        survey,
    },
    machine::{Fault, Machine},
    story::{SEGMENT, draft, next, open, put, reopen},
};
use crate::{
    log::{Event, Floor, Log as _, LogError},
    record::{Position, ReplicaId},
};

/// Appends a record for each of these, and syncs them together.
fn group(journal: &mut Journal, payloads: &[&'static str]) -> Position {
    for payload in payloads {
        put(journal, draft(1, *payload));
    }
    journal.sync().unwrap()
}

fn opened(machine: &Machine) -> Journal {
    reopen(machine).unwrap().0
}

fn checkpoint(journal: &mut Journal, at: Position) -> Floor {
    journal.write_chunk(at, "state".into()).unwrap();
    journal.finish_checkpoint(at).unwrap();
    let Some(Event::Checkpoint { floor, which, chunks }) = next(journal) else { panic!() };
    Floor { at: floor, which, chunks, ..Floor::default() }
}

fn refused(machine: &Machine) -> String {
    match reopen(machine) {
        Err(LogError::Broken(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok((_, read)) => panic!("opened: {read:?}"),
    }
}

/// The mark as a power failure can leave it: as it was at an earlier time.
fn older_mark(machine: &Machine, segment: u64, position: Position) {
    let read = mark::Mark::open(machine).unwrap().unwrap().said();
    mark::Mark::open(machine)
        .unwrap()
        .unwrap()
        .write(Marked { segment, position, ..read })
        .unwrap();
}

fn flip(machine: &Machine, name: &str, byte: usize, bit: u32) {
    machine.damage(name, |bytes| bytes[byte] ^= 1 << bit);
}

/// Where a record's payload is in the first segment.
fn place(machine: &Machine, name: &str, payload: &str) -> usize {
    let bytes = machine.read(name);
    bytes.windows(payload.len()).position(|it| it == payload.as_bytes()).unwrap()
}

/// A journal of three segments, with a checkpoint, that was left alone for a moment.
fn small() -> Machine {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    let large: &str = "large".repeat(300).leak();
    let floor = group(&mut journal, &["one", "two"]);
    group(&mut journal, &[large, large]);
    let floor = checkpoint(&mut journal, floor);
    group(&mut journal, &["floor"]);
    journal.trim(&floor).unwrap();
    group(&mut journal, &[large, "three", "four"]);
    group(&mut journal, &["five"]);
    journal.settle().unwrap();
    drop(journal);
    machine.kill();
    assert_eq!(machine.named("segment-").len(), 2);
    machine
}

fn needed(machine: &Machine) -> Vec<String> {
    ["segment-", "mark", "floor", "checkpoint-"].iter().flat_map(|it| machine.named(it)).collect()
}

#[test]
fn one_flipped_bit_anywhere_is_refused_or_changes_nothing() {
    let machine = small();
    let (_, exact) = reopen(&machine.copy(1)).unwrap();
    assert_eq!(exact.chunks.len(), 1);
    let unfloored = machine.copy(1);
    unfloored.damage("floor", |bytes| bytes.fill(0));
    let (_, without_floor) = reopen(&unfloored).unwrap();
    assert_eq!(without_floor.records.len(), exact.records.len() + 2);
    let (mut same, mut refused) = (0, 0);
    for name in needed(&machine) {
        for byte in 0..machine.read(&name).len() {
            // What lies behind the records is zero and looked at by the byte alone.
            let is_used = machine.read(&name)[byte] != 0 || byte < 1024;
            let one = u32::try_from(byte % 8).unwrap();
            for bit in if is_used { 0..8 } else { one..one + 1 } {
                let copy = machine.copy(7);
                flip(&copy, &name, byte, bit);
                match reopen(&copy) {
                    Ok((_, read)) => {
                        // Without the floor's newer half, all that is below it is still there.
                        let is_same = read == exact || read == without_floor;
                        assert!(is_same, "bit {bit} of byte {byte} of {name}");
                        same += 1;
                    }
                    Err(LogError::Broken(text)) => {
                        assert!(text.contains("/data/"), "{text}");
                        refused += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(same > 1000 && refused > 10_000, "{same} the same, {refused} refused");
}

/// J8: a mark that is older, as after a power failure, hides damage in the last group alone.
#[test]
fn behind_an_older_mark_a_flipped_bit_costs_at_most_the_last_group() {
    let machine = small();
    let (_, exact) = reopen(&machine.copy(1)).unwrap();
    let last = &*machine.named("segment-").pop().unwrap();
    older_mark(&machine, 1, Position(1));
    let end = place(&machine, last, "five") + 8;
    for byte in 0..end {
        let copy = machine.copy(7);
        flip(&copy, last, byte, u32::try_from(byte % 8).unwrap());
        if let Ok((_, read)) = reopen(&copy) {
            let lost = exact.records.len() - read.records.len();
            assert!(
                lost <= 1 && exact.records.starts_with(&read.records),
                "byte {byte}: {lost} lost"
            );
        }
    }
}

/// J8
#[test]
fn a_later_record_proves_that_an_earlier_one_was_acknowledged() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one"]);
    group(&mut journal, &["two"]);
    group(&mut journal, &["three"]);
    drop(journal);
    machine.kill();
    older_mark(&machine, 1, Position(0));
    let name = segment::name(1);
    let byte = place(&machine, &name, "two");
    flip(&machine, &name, byte, 0);
    let text = refused(&machine);
    // 512 for the header, 48 for the first record: there the damaged one begins.
    assert!(
        text.starts_with("\"/data/segment-0000000000000001\" is damaged at byte 560"),
        "{text}"
    );
    assert!(text.contains("a later record, 3, says that 2 was durable"), "{text}");
}

#[test]
fn an_acknowledged_end_that_is_damaged_is_refused_by_the_mark() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one"]);
    group(&mut journal, &["two"]);
    drop(journal);
    machine.kill();
    let name = segment::name(1);
    let byte = place(&machine, &name, "two");
    flip(&machine, &name, byte, 0);
    assert!(refused(&machine).contains("at byte 560: records up to 2 were acknowledged"));
}

#[test]
fn a_torn_end_that_was_not_acknowledged_is_cut() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one"]);
    group(&mut journal, &["two", "three"]);
    drop(journal);
    machine.kill();
    older_mark(&machine, 1, Position(1));
    let name = segment::name(1);
    let byte = place(&machine, &name, "two");
    flip(&machine, &name, byte, 0);
    let (journal, read) = reopen(&machine).unwrap();
    assert_eq!(read.payloads(), ["one"]);
    drop(journal);
}

/// J8, J12: what a later record proves to be durable is not written again.
#[test]
fn behind_an_older_mark_only_the_last_group_is_written_again() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    let large: &str = "large".repeat(200).leak();
    group(&mut journal, &[large]);
    group(&mut journal, &["one", "two"]);
    group(&mut journal, &["three", "four"]);
    drop(journal);
    machine.kill();
    older_mark(&machine, 1, Position(0));
    let marked = mark::Mark::open(&machine).unwrap().unwrap().said();
    let found = survey::survey(&machine, marked, None).unwrap();
    assert_eq!(found.carried.iter().map(|it| it.at.0).collect::<Vec<_>>(), [4, 5]);
}

/// J9: of a group of two the second record alone has reached the disk.
#[test]
fn a_record_behind_the_cut_never_comes_back() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    // So large that the segment is not carried over whole.
    let large: &str = "large".repeat(200).leak();
    group(&mut journal, &[large, large]);
    group(&mut journal, &["eleven", "twelve"]);
    drop(journal);
    machine.kill();
    older_mark(&machine, 1, Position(2));
    let name = segment::name(1);
    let byte = place(&machine, &name, "eleven");
    machine.damage(&name, |bytes| bytes[byte - 40..byte + 8].fill(0));
    for payload in ["ELEVEN", "eleven"] {
        let mut journal = opened(&machine);
        group(&mut journal, &[payload]);
        drop(journal);
        machine.kill();
    }
    let (_, read) = reopen(&machine).unwrap();
    assert_eq!(read.payloads(), [large, large, "ELEVEN", "eleven"]);
}

/// J10
#[test]
fn the_frames_of_another_segment_never_verify() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one", "two"]);
    drop(journal);
    let contents = Contents::load(&machine, 1).unwrap();
    assert_eq!(contents.behind(segment::START).count(), 2);
    let header = Header { id: contents.header.id ^ 1, ..contents.header };
    machine.damage(&segment::name(1), |bytes| {
        let sector = header.write();
        bytes[..sector.len()].copy_from_slice(&sector);
    });
    let contents = Contents::load(&machine, 1).unwrap();
    assert_eq!(contents.behind(segment::START).count(), 0);
}

/// J10: and neither do those of the same segment at another place.
#[test]
fn a_frame_that_was_moved_does_not_verify() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one", "two"]);
    drop(journal);
    machine.damage(&segment::name(1), |bytes| bytes.copy_within(512..1024, 1024));
    let contents = Contents::load(&machine, 1).unwrap();
    assert_eq!(contents.behind(1024).count(), 0);
}

/// J10: a frame of this very place that does not follow the one before it.
#[test]
fn a_frame_that_names_another_predecessor_is_no_successor() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one"]);
    drop(journal);
    machine.kill();
    let contents = Contents::load(&machine, 1).unwrap();
    let mut end = contents.header.start();
    contents.next(&mut end, SEGMENT).unwrap();
    for (previous, found) in [(end.checksum, 2), (end.checksum ^ 1, 1)] {
        let (kind, operations, author) = (Kind::Record, 1, ReplicaId(1));
        let (at, synced, payload) = (Position(2), Position(1), b"two".as_slice());
        let frame = Frame { kind, operations, at, synced, author, previous, payload };
        let mut forged = Vec::new();
        frame.write(&mut forged, Seed::of(contents.header.id), end.offset);
        let place = usize::try_from(end.offset).unwrap();
        let copy = machine.copy(1);
        let name = segment::name(1);
        copy.damage(&name, |bytes| bytes[place..place + forged.len()].copy_from_slice(&forged));
        assert_eq!(reopen(&copy).unwrap().1.records.len(), found);
    }
}

/// J11, for a segment that was entered and for one that an opening began.
#[test]
fn a_last_segment_that_was_deleted_is_missed_even_by_an_older_mark() {
    let large: &str = "large".repeat(200).leak();
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    for _ in 0..4 {
        group(&mut journal, &[large]);
    }
    drop(journal);
    machine.kill();
    assert_eq!(machine.named("segment-").len(), 2);
    let entered = machine.copy(1);
    older_mark(&entered, 1, Position(1));
    entered.delete(&segment::name(2));
    assert!(refused(&entered).contains("segment-0000000000000002\" is missing"));
    // The mark of an opening is durable, so this one can be no older.
    let mut journal = opened(&machine);
    journal.append(0, draft(1, "one")).unwrap();
    journal.sync().unwrap();
    drop(journal);
    machine.lose_power();
    let newest = machine.named("segment-").pop().unwrap();
    machine.delete(&newest);
    assert!(refused(&machine).contains(&format!("{newest}\" is missing")));
}

#[test]
fn a_gap_a_strange_segment_and_a_strange_mark_are_refused() {
    let machine = Machine::new(1);
    let large: &str = "large".repeat(200).leak();
    let mut journal = opened(&machine);
    for _ in 0..8 {
        group(&mut journal, &[large]);
    }
    drop(journal);
    machine.kill();
    let gap = machine.copy(1);
    gap.delete(&segment::name(2));
    assert!(refused(&gap).contains("segment-0000000000000002\" is missing"));
    let swapped = machine.copy(1);
    swapped.damage(&segment::name(2), |bytes| *bytes = machine.read(&segment::name(3)));
    assert!(refused(&swapped).contains("it has another number than its name"));
    let cut_off = machine.copy(1);
    cut_off.damage(&segment::name(2), |bytes| bytes.truncate(2000));
    assert!(refused(&cut_off).contains("it is cut off"));
    let other = Machine::new(2);
    drop(opened(&other));
    let strange = machine.copy(1);
    strange.damage("mark", |bytes| *bytes = other.read("mark"));
    assert!(refused(&strange).contains("it belongs to another journal than the mark"));
    let stranger = machine.copy(1);
    stranger.put(&segment::name(9), other.read(&segment::name(1)));
    assert!(refused(&stranger).contains("segment-0000000000000009"));
}

#[test]
fn what_stands_beside_the_segments_is_missed() {
    let machine = small();
    for name in needed(&machine) {
        let copy = machine.copy(1);
        copy.delete(&name);
        let text = refused(&copy);
        assert!(text.contains(&name) && text.contains("missing"), "{name}: {text}");
        if name == "floor" {
            continue;
        }
        let copy = machine.copy(1);
        copy.damage(&name, |bytes| bytes.truncate(bytes.len() / 3));
        let text = refused(&copy);
        assert!(text.contains("/data/"), "{name}: {text}");
    }
}

/// T2: records up to the floor that survived their deletion.
#[test]
fn a_segment_below_the_floor_that_is_still_there_changes_nothing() {
    let machine = Machine::new(1);
    let large: &str = "large".repeat(200).leak();
    let mut journal = opened(&machine);
    for _ in 0..4 {
        group(&mut journal, &[large]);
    }
    let first = machine.read(&segment::name(1));
    let at = group(&mut journal, &["last"]);
    let floor = checkpoint(&mut journal, at);
    group(&mut journal, &["floor"]);
    journal.trim(&floor).unwrap();
    drop(journal);
    machine.kill();
    assert!(!machine.named("segment-").contains(&segment::name(1)));
    machine.put(&segment::name(1), first);
    let (_, read) = reopen(&machine).unwrap();
    assert_eq!((read.floor, read.payloads()), (Some(floor), vec!["floor".to_owned()]));
    assert!(!machine.named("segment-").contains(&segment::name(1)), "it is not deleted");
}

/// T3: a checkpoint that is finished deletes nothing, and is still there when its floor is found.
#[test]
fn until_a_floor_is_put_in_force_everything_is_there() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    let at = group(&mut journal, &["one", "two"]);
    let floor = checkpoint(&mut journal, at);
    group(&mut journal, &["floor"]);
    drop(journal);
    machine.lose_power();
    let (mut journal, read) = reopen(&machine).unwrap();
    assert_eq!(
        (read.floor, read.payloads()),
        (None, vec!["one", "two", "floor"].into_iter().map(str::to_owned).collect())
    );
    journal.trim(&floor).unwrap();
    drop(journal);
    machine.lose_power();
    let (_, read) = reopen(&machine).unwrap();
    assert_eq!((read.floor, read.payloads()), (Some(floor), vec!["floor".to_owned()]));
}

/// A checkpoint that is not there can't be put in force.
#[test]
fn a_floor_without_its_checkpoint_fails_the_journal() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    let at = group(&mut journal, &["one"]);
    let floor = Floor { at, which: 7, ..Floor::default() };
    assert!(
        matches!(journal.trim(&floor), Err(LogError::Broken(text)) if text.contains("missing"))
    );
    assert!(matches!(next(&mut journal), Some(Event::Failed(_))));
}

#[test]
fn a_read_only_disk_is_refused_by_name() {
    let machine = small();
    machine.fail(Fault::ReadOnly);
    let text = refused(&machine);
    assert!(text.contains("/data/floor") && text.contains("read-only"), "{text}");
    let new = Machine::new(1);
    new.fail(Fault::ReadOnly);
    assert!(open(&new).is_err());
}

/// J12: what an opening has written again is durable, whatever the mark says.
#[test]
fn damage_to_what_was_carried_over_is_refused_by_the_header() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["one", "two"]);
    drop(journal);
    machine.kill();
    drop(opened(&machine));
    machine.kill();
    let name = segment::name(2);
    let byte = place(&machine, &name, "two");
    flip(&machine, &name, byte, 0);
    assert!(refused(&machine).contains("records up to 2 were durable"));
}

/// J11: a segment that was begun proves what was durable in the one before it, even without a record.
#[test]
fn damage_before_an_empty_segment_is_refused_by_its_header() {
    let machine = Machine::new(1);
    let mut journal = opened(&machine);
    group(&mut journal, &["large".repeat(400).leak()]);
    group(&mut journal, &["last"]);
    // The next segment is written, synced and named; then the power fails.
    machine.fail(Fault::DeadAt(machine.operations() + 5));
    assert!(journal.append(0, draft(1, vec![0; 2000])).is_err());
    drop(journal);
    machine.kill();
    older_mark(&machine, 1, Position(0));
    assert_eq!(reopen(&machine.copy(1)).unwrap().1.records.len(), 2);
    let name = segment::name(1);
    let byte = place(&machine, &name, "last");
    flip(&machine, &name, byte, 0);
    assert!(refused(&machine).contains("records up to 2 were durable"));
}
