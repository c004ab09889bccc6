//! Opens a journal: finds what is there, and begins a segment behind it.
//!
//! An opening never appends to a segment that it finds: bytes of an earlier life may lie behind its
//! end, and would verify again behind a record that happens to be as long as the one before them
//! (J9). The new segment continues at a place beyond any that may have been seen (J4b), and has in
//! it what can be read but may not be durable (J12).

use std::{collections::VecDeque, io};

use super::{
    Journal, Options,
    checkpoint::{Chunks, Name},
    floor::{self, Floors, Kept},
    folder::{self, Folder},
    keeper::Keeper,
    mark::{self, Mark, Marked},
    refusal,
    replay::Replay,
    room::{self, RESERVE, SPARES, Space},
    segment::{self, AcceptedRestore, Header},
    survey::{self, Link, Survey},
    upkeep::DurableCheckpoint,
    writer::{self, OpenSegment, Writer},
};
use crate::{
    log::{LogError, Profile},
    record::{Position, ReplicaId},
};

/// How far an opening continues beyond the greatest place in use.
const JUMP: u64 = 1 << 20;

/// The same where a restore from a backup is accepted: what was granted since is not known.
const RESTORED_JUMP: u64 = 1 << 40;

/// Opens the journal in a folder, and makes it if the folder has none. Everything that is needed is read
/// and verified before anything is changed.
pub(super) fn open(
    name: &'static str,
    options: Options,
    keeper: Keeper,
) -> Result<Journal, LogError> {
    let folder = &keeper.folder();
    let unusable = refusal::unusable(&**folder, "");
    let (mut mark, floors) = identify(&**folder)?;
    let (marked, kept) = (mark.said(), floors.newest());
    if !folder.claim(marked.journal).map_err(&unusable)? {
        let path = folder.path("");
        return Err(LogError::Broken(format!(
            "\"{path}\" is a copy of a journal that another lockd of this machine has open: stop it, or choose another --data-dir"
        )));
    }
    if kept.is_some_and(|kept| kept.journal != marked.journal) {
        let what = "it belongs to another journal than the mark";
        return Err(refusal::damaged(&**folder, floor::NAME, 0, what));
    }
    let found = survey::survey(&**folder, marked, kept)?;
    let me = ReplicaId(u64::from_le_bytes(writer::random().map_err(&unusable)?));
    let mut verified = Replay::new(folder.clone(), kept, found.links.clone(), me);
    while verified.next()?.is_some() {}
    let checkpoint_bytes = match &kept {
        Some(kept) => Chunks::open(&**folder, kept)?.bytes,
        None => 0,
    };
    let mut space = Space::new(options.segment_bytes);
    let checkpoints = tidy(&**folder, kept, &found, &mut space).map_err(&unusable)?;
    let floor = kept.map_or(Position(0), |kept| kept.floor.at);
    let header = header(&**folder, &options, (&found, floor, marked))?;
    let begun = begin(&**folder, header, &found, &mut space);
    let begun = begun.map_err(refusal::unusable(&**folder, &segment::name(header.number)))?;
    // From here on a segment that is missing is missed, seal or no seal (J11).
    let said = Marked { segment: begun.header.number, position: header.base, ..marked };
    let said = mark.write(said).and_then(|()| mark.sync());
    said.map_err(refusal::unusable(&**folder, mark::NAME))?;
    fill(&**folder, &mut space).map_err(&unusable)?;
    let is_needed = begun.end.offset > segment::START || header.restore.since > floor;
    let link = is_needed.then_some(Link { header: begun.header, end: begun.end });
    let links = found.links.iter().copied().chain(link).collect();
    let closed = found.links.iter().map(|it| (it.header.number, it.end.last, it.header.bytes));
    let finished = checkpoints.into_iter().map(|name| DurableCheckpoint { name, logged: 0 });
    let mut journal = Journal {
        profile: Profile { name, lanes: 1, is_shared: false },
        checked: options.clock.now(),
        clock: options.clock,
        id: marked.journal,
        me,
        writer: Writer::new(folder.clone(), mark, begun),
        space,
        replay: Some(Replay::new(folder.clone(), kept, links, me)),
        events: VecDeque::new(),
        is_busy: false,
        closed: closed.collect(),
        floors,
        finished: finished.collect(),
        checkpoint_bytes,
        writing: None,
        logged: 0,
        below_floor: 0,
        failed: None,
        folder: folder.clone(),
        keeper,
    };
    journal.tend()?;
    Ok(journal)
}

/// Finds out which journal is in a folder.
fn identify(folder: &dyn Folder) -> Result<(Mark, Floors), LogError> {
    let names = folder.list().map_err(refusal::unusable(folder, ""))?;
    let is_there = |name: &str| names.iter().any(|other| other == name);
    let of_mark = refusal::unusable(folder, mark::NAME);
    let of_floor = refusal::unusable(folder, floor::NAME);
    let mark = if is_there(mark::NAME) {
        let mark = Mark::open(folder).map_err(of_mark)?;
        mark.map_err(|what| refusal::damaged(folder, mark::NAME, 0, what))?
    } else {
        let begins = |name: &&String| {
            name.starts_with("segment-") || name.starts_with("checkpoint-") || *name == floor::NAME
        };
        if let Some(rest) = names.iter().find(begins) {
            let what = format!("it says what was acknowledged, and \"{rest}\" is there");
            return Err(refusal::missing(folder, mark::NAME, &what));
        }
        let journal = writer::random().map(u128::from_le_bytes);
        journal.and_then(|journal| Mark::create(folder, journal)).map_err(of_mark)?
    };
    let floors = match (is_there(floor::NAME), mark.said().segment) {
        (true, _) => Floors::open(folder),
        (false, 0) => Floors::create(folder),
        (false, _) => {
            return Err(refusal::missing(folder, floor::NAME, "it says where the records begin"));
        }
    };
    Ok((mark, floors.map_err(of_floor)?))
}

/// Removes what was not finished and what is not needed, and makes spares of segments that are not.
/// Returns the checkpoints that are there.
fn tidy(
    folder: &dyn Folder,
    kept: Option<Kept>,
    found: &Survey,
    space: &mut Space,
) -> io::Result<Vec<Name>> {
    let mut checkpoints = Vec::new();
    let force = kept.map(|kept| Name::of(&kept.floor));
    for name in folder.list()? {
        if let Some(checkpoint) = Name::parse(&name) {
            if force == Some(checkpoint) || force.is_none_or(|it| it.floor < checkpoint.floor) {
                checkpoints.push(checkpoint);
            } else {
                folder.remove(&name)?;
            }
        } else if name.ends_with(".new") {
            folder.remove(&name)?;
        } else if name.starts_with("spare-") {
            keep_spare(folder, space, name)?;
        }
    }
    recycle(folder, space, found.dead.iter().copied())?;
    folder.sync()?;
    Ok(checkpoints)
}

fn keep_spare(folder: &dyn Folder, space: &mut Space, name: String) -> io::Result<()> {
    let bytes = folder.open(&name)?.bytes()?;
    if bytes != space.segment_bytes() || space.keeps() == 0 {
        return folder.remove(&name);
    }
    space.add(name);
    Ok(())
}

fn recycle(
    folder: &dyn Folder,
    space: &mut Space,
    segments: impl Iterator<Item = u64>,
) -> io::Result<()> {
    for number in segments {
        let spare = space.name();
        folder.rename(&segment::name(number), &spare)?;
        keep_spare(folder, space, spare)?;
    }
    Ok(())
}

/// The header of the segment that is to follow what was found.
fn header(
    folder: &dyn Folder,
    options: &Options,
    (found, floor, marked): (&Survey, Position, Marked),
) -> Result<Header, LogError> {
    let accepted = options.accept_restored.as_deref().map(AcceptedRestore::hash);
    let accepted = accepted.filter(|name| *name != found.restore.name);
    let jump = match (found.newest, accepted) {
        (0, _) => 0,
        (_, Some(_)) => RESTORED_JUMP,
        (_, None) => JUMP,
    };
    let used_up = || LogError::Broken("the places of the journal are used up".to_owned());
    let base = found.highest.max(floor).0.checked_add(jump).map(Position).ok_or_else(used_up)?;
    // What may not be durable is in the new segment, and durable with it.
    let carried = found.carried.last();
    let carried = carried.map(|it| it.at.after(u64::from(it.operations.saturating_sub(1))));
    let id = writer::random().map_err(refusal::unusable(folder, ""))?;
    Ok(Header {
        journal: marked.journal,
        id: u128::from_le_bytes(id),
        number: found.newest + 1,
        bytes: options.segment_bytes.max(writer::needed(&found.carried)),
        base,
        // A name that a new journal is begun with belongs to a restore of before.
        restore: accepted.map_or(found.restore, |name| AcceptedRestore { name, since: base }),
        durable: carried.or(found.after.map(|end| end.last)).unwrap_or_default(),
        after: found.after,
    })
}

/// Begins a segment: in place of one without records, so that a crash loop on a full disk takes no
/// further segment (J14), or of a spare.
fn begin(
    folder: &dyn Folder,
    header: Header,
    found: &Survey,
    space: &mut Space,
) -> io::Result<OpenSegment> {
    if let Some(empty) = found.empty.filter(|_| found.carried.is_empty()) {
        let header = Header { number: empty.number, bytes: empty.bytes, ..header };
        return OpenSegment::make(folder, &segment::name(empty.number), header, &[]);
    }
    let is_usual = header.bytes == space.segment_bytes();
    let spare = match is_usual.then(|| space.take()).flatten() {
        Some(spare) => spare,
        None => {
            let name = space.name();
            room::make(folder, &name, header.bytes)?;
            name
        }
    };
    let open = OpenSegment::make(folder, &spare, header, &found.carried)?;
    let replaced = found.empty.map(|empty| empty.number).into_iter().chain(found.replaced);
    recycle(folder, space, replaced)?;
    folder.sync()?;
    Ok(open)
}

/// Makes the reserve whole. On a full disk it is not, and only what frees room is taken.
fn fill(folder: &dyn Folder, space: &mut Space) -> io::Result<()> {
    while SPARES - space.wanted() < RESERVE {
        let name = space.name();
        match room::make(folder, &name, space.segment_bytes()) {
            Ok(()) => space.add(name),
            Err(error) if folder::is_full(&error) => {
                space.refuse(folder, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
