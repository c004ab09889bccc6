//! The room that a journal has: spare segments, two of which are for what frees room, and space for
//! a checkpoint.
//!
//! A spare is a file that is zeroed and synced under another name before it has its own. It takes
//! no space from the disk when it becomes a segment.

use std::io;

use super::folder::{self, Folder};
use crate::log::{LogError, Room};

/// Segments that only records which free room may enter.
pub(super) const RESERVE: usize = 2;

/// How many spares there are when nothing is wrong: the next segment, and the reserve.
pub(super) const SPARES: usize = RESERVE + 1;

/// How many spares are kept when segments are given up: no zeros need be written for these.
const POOL: usize = 8;

/// How much is zeroed at a time.
const STEP: usize = 1024 * 1024;

/// The spare segments, and why there are no more.
#[derive(Debug)]
pub(super) struct Space {
    ready: Vec<String>,
    /// The size of new ones.
    bytes: u64,
    named: u64,
    /// One is being made.
    pub(super) is_making: bool,
    /// Why no more could be made.
    pub(super) refused: Option<String>,
    /// What is missing for a checkpoint.
    pub(super) tight: Option<String>,
}

impl Space {
    pub(super) fn new(bytes: u64) -> Self {
        let (ready, refused, tight) = (Vec::new(), None, None);
        Self { ready, bytes, named: 0, is_making: false, refused, tight }
    }

    /// The size of a new segment.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.bytes
    }

    /// Notes a spare that is there.
    pub(super) fn add(&mut self, name: String) {
        let number = name.strip_prefix("spare-").and_then(|number| number.parse().ok());
        self.named = self.named.max(number.unwrap_or(0));
        self.ready.push(name);
        if self.ready.len() >= SPARES {
            self.refused = None;
        }
    }

    /// A name for another spare.
    pub(super) fn name(&mut self) -> String {
        self.named += 1;
        format!("spare-{}", self.named)
    }

    /// How many more are wanted.
    pub(super) fn wanted(&self) -> usize {
        SPARES.saturating_sub(self.ready.len())
    }

    /// How many segments that are given up are kept as spares.
    pub(super) fn keeps(&self) -> usize {
        let most = if self.tight.is_some() { SPARES } else { POOL };
        most.saturating_sub(self.ready.len())
    }

    /// Whether a record may be written into the segment that is open.
    pub(super) fn admits(&self, room: Room) -> Result<(), LogError> {
        match room {
            Room::Reserve => Ok(()),
            // While one is being made there may be room yet: the next segment waits for it.
            Room::Ordinary if self.ready.len() < RESERVE && !self.is_making => Err(self.full()),
            Room::Ordinary if self.tight.is_some() => Err(self.full()),
            Room::Ordinary => Ok(()),
        }
    }

    /// Whether there is a spare to enter for a record.
    pub(super) fn has_next(&self, room: Room) -> bool {
        match room {
            Room::Reserve => !self.ready.is_empty(),
            Room::Ordinary => self.ready.len() > RESERVE,
        }
    }

    /// Notes that no more spares can be made.
    pub(super) fn refuse(&mut self, folder: &dyn Folder, error: &io::Error) {
        let (path, bytes) = (folder.path(""), self.bytes);
        self.refused = Some(format!("\"{path}\" has no room for {bytes} bytes more ({error})"));
    }

    /// Takes a spare out.
    pub(super) fn take(&mut self) -> Option<String> {
        self.ready.pop()
    }

    /// What is said where there is no room.
    pub(super) fn full(&self) -> LogError {
        let why = self.refused.as_ref().or(self.tight.as_ref());
        LogError::Full(why.cloned().unwrap_or_else(|| "no spare segment is left".to_owned()))
    }
}

/// Makes a spare: zeros are really written, so that nothing but the records themselves is left to
/// write when it is used. What was made of it is removed where it does not fit.
pub(super) fn make(folder: &dyn Folder, name: &str, bytes: u64) -> io::Result<()> {
    let unfinished = format!("{name}.new");
    let made = zero(folder, &unfinished, bytes);
    if made.is_err() {
        drop(folder::remove_if_there(folder, &unfinished));
    }
    made.and_then(|()| folder.rename(&unfinished, name))
}

fn zero(folder: &dyn Folder, name: &str, bytes: u64) -> io::Result<()> {
    let file = folder.create(name)?;
    let step = usize::try_from(bytes).unwrap_or(STEP).min(STEP);
    let zeros = vec![0; step];
    let mut offset = 0;
    while offset < bytes {
        let left = usize::try_from(bytes - offset).unwrap_or(STEP);
        let zeros = zeros.get(..left).unwrap_or(&zeros);
        file.write_at(zeros, offset)?;
        // A little at a time, so that the records' own syncs do not wait for all of it.
        file.sync()?;
        offset += u64::try_from(zeros.len()).map_err(io::Error::other)?;
    }
    file.sync()
}
