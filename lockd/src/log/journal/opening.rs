//! Opens a journal: finds what is there, and begins a segment behind it.
//!
//! An opening never appends to a segment that it finds: bytes of an earlier life may lie behind its
//! end, and would verify again behind a record that happens to be as long as the one before them
//! (J9). The new segment continues at a place beyond any that may have been seen (J4b), and has in
//! it what can be read but may not be durable (J12).

use std::{io, sync::Arc};

use super::{
    Options,
    checkpoint::Name,
    floor::{self, Floors, Kept},
    folder::{self, Folder},
    mark::{self, Mark, Marked},
    refusal,
    replay::{self, Replay},
    room::{self, RESERVE, SPARES, Space},
    segment::{self, Header},
    survey::{self, Link, Survey},
    writer::{self, OpenSegment, Writer},
};
use crate::{
    log::LogError,
    record::{Position, ReplicaId},
};

/// How far an opening continues beyond the greatest place in use.
const JUMP: u64 = 1 << 20;

/// The same where the folder is restored from a backup: what was granted since is not known.
const RESTORED_JUMP: u64 = 1 << 40;

/// An open journal, in parts.
pub(super) struct Opened {
    pub(super) journal: u128,
    pub(super) writer: Writer,
    pub(super) replay: Replay,
    pub(super) space: Space,
    pub(super) floors: Floors,
    /// The segments before the open one, oldest first.
    pub(super) links: Vec<Link>,
    /// The checkpoints that are finished.
    pub(super) checkpoints: Vec<Name>,
    /// The size of the checkpoint in force.
    pub(super) checkpoint_bytes: u64,
    pub(super) floor: Position,
    pub(super) me: ReplicaId,
}

/// Opens the journal in a folder, and makes it if the folder has none.
pub(super) fn open(folder: &Arc<dyn Folder>, options: &Options) -> Result<Opened, LogError> {
    let unusable = |error: io::Error| refusal::unusable(&**folder, "", &error);
    let (mark, mut floors) = identify(&**folder)?;
    let marked = mark.said();
    if !folder.claim(marked.journal).map_err(unusable)? {
        let path = folder.path("");
        return Err(LogError::Broken(format!(
            "\"{path}\" is a copy of a journal that another lockd of this machine has open: stop it, or choose another --data-dir"
        )));
    }
    floors.rewrite().map_err(|error| refusal::unusable(&**folder, floor::NAME, &error))?;
    let kept = floors.newest();
    let checkpoint_bytes = verify_checkpoint(&**folder, marked, kept)?;
    let found = survey::survey(&**folder, marked, kept)?;
    let mut space = Space::new(options.segment_bytes);
    let checkpoints = tidy(&**folder, kept, &found, &mut space).map_err(unusable)?;
    let mut begun = begin(folder, mark, options, (&found, kept, &mut space))?;
    begun.mark.sync().map_err(|error| refusal::unusable(&**folder, mark::NAME, &error))?;
    fill(&**folder, &mut space).map_err(unusable)?;
    let me = ReplicaId(writer::random_id().map_err(unusable)?.half());
    let replay = Replay::new(folder.clone(), kept, me);
    let begun_link = Some(begun.link).filter(|link| link.end.offset > segment::START);
    let all = found.links.iter().copied().chain(begun_link).collect();
    Ok(Opened {
        journal: marked.journal,
        replay: replay.with(all),
        writer: Writer::new(folder.clone(), begun.mark, begun.open, begun.link.header.base),
        space,
        floors,
        links: found.links,
        checkpoints,
        checkpoint_bytes,
        floor: kept.map_or(Position(0), |kept| kept.floor.at),
        me,
    })
}

/// Finds out which journal is in a folder.
fn identify(folder: &dyn Folder) -> Result<(Mark, Floors), LogError> {
    let unusable = |name: &'static str| move |error| refusal::unusable(folder, name, &error);
    let names = folder.list().map_err(unusable(""))?;
    let is_there = |name: &str| names.iter().any(|other| other == name);
    if !is_there(mark::NAME) {
        let rest = |name: &&String| {
            segment::number(name).is_some() || Name::parse(name).is_some() || *name == floor::NAME
        };
        if let Some(rest) = names.iter().find(rest) {
            let what = format!("it says what was acknowledged, and \"{rest}\" is there");
            return Err(refusal::missing(folder, mark::NAME, &what));
        }
        let journal = writer::random_id().map_err(unusable(mark::NAME))?.0;
        let mark = Mark::create(folder, journal).map_err(unusable(mark::NAME))?;
        return Ok((mark, Floors::create(folder).map_err(unusable(floor::NAME))?));
    }
    let mark = Mark::open(folder).map_err(unusable(mark::NAME))?;
    let mark = mark.ok_or_else(|| {
        refusal::damaged(folder, mark::NAME, 0, "what was acknowledged can't be read")
    })?;
    if !is_there(floor::NAME) {
        if mark.said().segment > 0 {
            return Err(refusal::missing(folder, floor::NAME, "it says where the records begin"));
        }
        return Ok((mark, Floors::create(folder).map_err(unusable(floor::NAME))?));
    }
    Ok((mark, Floors::open(folder).map_err(unusable(floor::NAME))?))
}

/// Reads the checkpoint of the floor. Returns its size.
fn verify_checkpoint(
    folder: &dyn Folder,
    marked: Marked,
    kept: Option<Kept>,
) -> Result<u64, LogError> {
    let Some(kept) = kept else { return Ok(0) };
    if kept.journal != marked.journal {
        let what = "it belongs to another journal than the mark";
        return Err(refusal::damaged(folder, floor::NAME, 0, what));
    }
    let mut chunks = replay::open(folder, &kept)?;
    while replay::next_chunk(folder, &kept.floor, &mut chunks)?.is_some() {}
    Ok(chunks.bytes())
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
    for name in folder.list()? {
        if let Some(checkpoint) = Name::parse(&name) {
            let force = kept.map(|kept| Name::of(&kept.floor));
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
    for number in &found.dead {
        recycle(folder, space, *number)?;
    }
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

fn recycle(folder: &dyn Folder, space: &mut Space, number: u64) -> io::Result<()> {
    let (segment, spare) = (segment::name(number), space.name());
    folder.rename(&segment, &spare)?;
    keep_spare(folder, space, spare)
}

/// A segment that was begun.
struct Begun {
    mark: Mark,
    open: OpenSegment,
    link: Link,
}

/// Begins a segment behind what was found, and marks that it is there.
fn begin(
    folder: &Arc<dyn Folder>,
    mut mark: Mark,
    options: &Options,
    (found, kept, space): (&Survey, Option<Kept>, &mut Space),
) -> Result<Begun, LogError> {
    let marked = mark.said();
    let highest = kept.map_or(found.highest, |kept| found.highest.max(kept.floor.at));
    let is_new = found.newest == 0;
    let jump = if options.restored {
        RESTORED_JUMP
    } else if is_new {
        0
    } else {
        JUMP
    };
    let base = highest
        .0
        .checked_add(jump)
        .map(Position)
        .ok_or_else(|| LogError::Broken("the places of the journal are used up".to_owned()))?;
    let after = found.after;
    let carried = writer::last(&found.carried);
    let id = writer::random_id();
    let mut header = Header {
        journal: marked.journal,
        id: id.map_err(|error| refusal::unusable(&**folder, "", &error))?,
        number: found.newest + 1,
        bytes: options.segment_bytes.max(writer::needed(&found.carried)),
        base,
        durable: carried.or(after.map(|end| end.last)).unwrap_or_default(),
        after,
    };
    let made = match found.empty {
        Some(empty) if found.carried.is_empty() => {
            (header.number, header.bytes) = (empty.number, empty.bytes);
            reuse(&**folder, header)
        }
        Some(_) | None => make(&**folder, header, found, space),
    };
    let name = segment::name(header.number);
    let open = made.map_err(|error| refusal::unusable(&**folder, &name, &error))?;
    // From here on a segment that is missing is missed, seal or no seal (J11).
    let said = Marked { segment: header.number, position: base, ..marked };
    mark.write(said).map_err(|error| refusal::unusable(&**folder, mark::NAME, &error))?;
    let link = Link { header, end: open.end() };
    Ok(Begun { mark, open, link })
}

/// Puts another header over that of a segment without records. A crash loop on a full disk takes no
/// further segment this way (J14).
fn reuse(folder: &dyn Folder, header: Header) -> io::Result<OpenSegment> {
    let file = folder.open(&segment::name(header.number))?;
    file.write_at(&header.write(), 0)?;
    file.sync()?;
    folder.sync()?;
    Ok(OpenSegment::new(file, header))
}

/// Makes a segment of a spare, and spares of segments that it takes the place of.
fn make(
    folder: &dyn Folder,
    header: Header,
    found: &Survey,
    space: &mut Space,
) -> io::Result<OpenSegment> {
    let is_usual = header.bytes == space.segment_bytes();
    let spare = match is_usual.then(|| space.take()).flatten() {
        Some(spare) => spare,
        None => {
            let name = space.name();
            room::make(folder, &name, header.bytes)?;
            name
        }
    };
    let open = writer::open(folder, &spare, header, &found.carried)?;
    for number in found.empty.map(|empty| empty.number).into_iter().chain(found.replaced) {
        recycle(folder, space, number)?;
        folder.sync()?;
    }
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
