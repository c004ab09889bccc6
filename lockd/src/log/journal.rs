//! The log on disk: segments in a folder, for one machine and without another server.
//!
//! Records are framed into a buffer, delivered at once, and made durable by one write and one
//! `fdatasync` for all that were appended since the last. A failed write or sync is never retried:
//! what the disk has then is not known, so the journal fails for good and the process must end.
//!
//! | file | |
//! |---|---|
//! | `segment-<n>` | records; a header names the segment before it and its end |
//! | `spare-<n>` | zeroed segments to come; the last two are for what frees room |
//! | `mark` | what was acknowledged: distinguishes a torn end from damage |
//! | `floor` | the floor in force and the first segment that is needed |
//! | `checkpoint-<floor>-<which>` | the state at a floor |
//! | `lockd.pid` | locked as long as a process has the folder |

mod checkpoint;
mod disk;
mod floor;
mod folder;
mod frame;
mod keeper;
mod mark;
mod opening;
mod refusal;
mod replay;
mod room;
mod sector;
mod segment;
mod survey;
mod upkeep;
mod void;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use lockd_proto::clock::{Clock, Instant};

use self::{
    checkpoint::Writing, disk::Disk, floor::Floors, folder::Folder, keeper::Keeper, replay::Replay,
    room::Space, upkeep::DurableCheckpoint, void::Void, writer::Writer,
};
use super::{Delivered, Draft, Event, Floor, Log, LogError, Profile, Standing};
use crate::record::{Position, ReplicaId};

/// The size of a segment. A new folder has three of them.
const SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

/// How often it is checked that the folder is still there, and that there is room.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How a journal is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the time is read from.
    pub clock: Clock,
    /// The size of new segments.
    pub segment_bytes: u64,
    /// Goes on with a folder that was restored from a backup: places continue so far beyond those in it
    /// that none is used a second time that was used since. A name of the restore, such as its date; one
    /// that was accepted last accepts nothing more.
    pub accept_restored: Option<String>,
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, segment_bytes: SEGMENT_BYTES, accept_restored: None }
    }
}

/// The log on disk, or in memory.
pub struct Journal {
    profile: Profile,
    clock: Clock,
    id: u128,
    me: ReplicaId,
    folder: Arc<dyn Folder>,
    writer: Writer,
    space: Space,
    keeper: Keeper,
    /// What was there at the opening and is not delivered yet.
    replay: Option<Replay>,
    events: VecDeque<Event>,
    /// Whether a record was appended that is not delivered yet.
    is_busy: bool,
    /// Segments before the open one: number, last place, size.
    closed: VecDeque<(u64, Position, u64)>,
    floors: Floors,
    finished: Vec<DurableCheckpoint>,
    checkpoint_bytes: u64,
    writing: Option<Writing>,
    /// Bytes of records that were appended or read, and of those that the floor makes needless.
    logged: u64,
    below_floor: u64,
    failed: Option<LogError>,
    checked: Instant,
}

impl Journal {
    /// Opens the journal in a folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder can't be used: another process has it, it can't be written, the disk is full, or
    /// a file is damaged or missing, which is named.
    pub fn open(folder: &Path, options: Options) -> Result<Self, LogError> {
        let folder: Arc<dyn Folder> = Arc::new(Disk::open(folder)?);
        let keeper = Keeper::thread(folder.clone()).map_err(refusal::unusable(&*folder, ""))?;
        opening::open("embedded", options, keeper)
    }

    /// A journal that is gone when the process is.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn in_memory(clock: Clock) -> Result<Self, LogError> {
        opening::open("memory", Options::new(clock), Keeper::at_once(Arc::new(Void)))
    }

    /// Takes note of a record of this size.
    fn note(&mut self, payload: usize) {
        self.logged += frame::size(payload);
    }

    /// Checks that the folder and the files in use are still at their paths, and what room there is.
    /// Every [`sync`](Log::sync) and [`settle`](Log::settle) does it once a second.
    ///
    /// # Errors
    /// They are not: what is written would be lost.
    pub fn check(&mut self) -> Result<(), LogError> {
        self.is_alive()?;
        self.checked = self.clock.now();
        self.check_place()?;
        self.measure();
        self.space.refused = None;
        self.tend()
    }
}

impl Log for Journal {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, lane: usize) -> bool {
        lane == 0 && !self.is_busy && self.is_ready().is_ok()
    }

    /// At the end of a segment this syncs what was appended before, in order to enter the next.
    fn append(&mut self, lane: usize, draft: Draft) -> Result<(), LogError> {
        self.is_ready()?;
        if lane != 0 || self.is_busy {
            return Err(LogError::Unavailable(format!("lane {lane} has a record under way")));
        }
        let operations = self.is_valid(&draft)?;
        self.space.admits(draft.room)?;
        if self.writer.is_over(draft.bytes.len()) {
            self.enter_next(draft.room)?;
        } else if self.writer.is_due() {
            self.sync()?;
        }
        let at = self.writer.append(self.me, operations, &draft.bytes);
        self.note(draft.bytes.len());
        let record = Delivered { at, author: self.me, lane: Some(lane), bytes: draft.bytes };
        self.events.push_back(Event::Record(record));
        self.is_busy = true;
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(event) = self.next_event() {
            return Poll::Ready(event);
        }
        self.keeper.wake(cx.waker());
        // A job may have been done in between.
        self.next_event().map_or(Poll::Pending, Poll::Ready)
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        self.is_alive()?;
        if self.writer.is_synced() {
            return Ok(self.writer.durable);
        }
        let synced = self.writer.sync();
        let durable = self.checked(synced)?;
        self.check_in_time()?;
        Ok(durable)
    }

    /// Writes the mark as well, and checks once a second that the folder is still there. From then on
    /// damage to any record is noticed even if the power fails; before, not in the very last group.
    fn settle(&mut self) -> Result<Position, LogError> {
        let durable = self.sync()?;
        let synced = self.writer.sync_mark();
        self.checked(synced)?;
        self.check_in_time()?;
        Ok(durable)
    }

    fn barrier(&mut self, number: u64) {
        if self.failed.is_none() {
            self.events.push_back(Event::Barrier(number));
        }
    }

    fn standing(&self) -> Standing {
        let is_fresh = self.failed.is_none();
        let confirmed = if is_fresh { self.clock.now() } else { self.checked };
        Standing { promise_until: None, is_fresh, confirmed: Some(confirmed) }
    }

    fn bytes_after_floor(&self) -> u64 {
        self.logged - self.below_floor
    }

    fn write_chunk(&mut self, floor: Position, chunk: Bytes) -> Result<(), LogError> {
        self.is_ready()?;
        self.write(floor, Some(chunk))
    }

    fn finish_checkpoint(&mut self, floor: Position) -> Result<(), LogError> {
        self.is_ready()?;
        // A state without an item has no chunk.
        self.write(floor, None)?;
        self.finish()
    }

    fn trim(&mut self, floor: &Floor) -> Result<(), LogError> {
        self.is_alive()?;
        match self.floors.newest() {
            Some(kept) if floor.at <= kept.floor.at => Ok(()),
            Some(_) | None => self.put_in_force(floor),
        }
    }
}
