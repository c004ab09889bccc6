//! What an open journal does besides taking records: enters segments, keeps spares, writes checkpoints
//! and puts floors in force, and fails.

use std::io;

use bytes::Bytes;

use super::{
    CHECK_INTERVAL, Journal,
    checkpoint::{self, Name, Writing},
    folder,
    keeper::Job,
    refusal, room, segment, writer,
};
use crate::{
    log::{Draft, Event, Floor, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Room},
    record::Position,
};

/// A checkpoint that is durable.
#[derive(Debug)]
pub(super) struct DurableCheckpoint {
    pub(super) name: Name,
    /// How much log there was when it was begun.
    pub(super) logged: u64,
}

impl Journal {
    /// The next event that is there.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if let Some(replay) = &mut self.replay
            && self.failed.is_none()
        {
            let next = replay.next();
            // What has failed is the next event.
            if let Ok(Some(event)) = self.checked(next) {
                match &event {
                    Event::Record(record) => self.note(record.bytes.len()),
                    Event::Live(_) => self.replay = None,
                    _ => {}
                }
                return Some(event);
            }
        }
        drop(self.collect());
        let event = self.events.pop_front();
        self.is_busy &= !matches!(event, Some(Event::Record(_)));
        event
    }

    /// Whether the journal has not failed.
    pub(super) fn is_alive(&self) -> Result<(), LogError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Whether the journal can be written to.
    pub(super) fn is_ready(&self) -> Result<(), LogError> {
        self.is_alive()?;
        match self.replay {
            Some(_) => Err(LogError::Unavailable("the journal is still being read".to_owned())),
            None => Ok(()),
        }
    }

    /// Whether a record may be as large as it is. Returns how many operations it has.
    pub(super) fn is_valid(&self, draft: &Draft) -> Result<u16, LogError> {
        let count = usize::try_from(draft.operations).unwrap_or(usize::MAX);
        let bytes = draft.bytes.len();
        let fits = writer::fits(bytes, self.space.segment_bytes());
        match u16::try_from(count) {
            Ok(operations) if (1..=MAX_OPERATIONS).contains(&count) && fits => Ok(operations),
            _ => Err(LogError::Unavailable(format!(
                "a record of {count} operations and {bytes} bytes is not one that the journal takes: it takes up to {MAX_OPERATIONS} and {MAX_RECORD_BYTES}"
            ))),
        }
    }

    /// Takes note of a failure: the journal does nothing more (J13).
    pub(super) fn checked<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(error) = &result
            && self.failed.is_none()
        {
            tracing::error!(%error, "the journal has failed");
            self.failed = Some(error.clone());
            self.events.clear();
            self.events.push_back(Event::Failed(error.clone()));
        }
        result
    }

    /// As [`checked`](Self::checked), for what was done with the folder.
    fn written<T>(&mut self, name: &str, result: io::Result<T>) -> Result<T, LogError> {
        let result = result.map_err(refusal::failed(&*self.folder, name));
        self.checked(result)
    }

    /// Goes on in the next segment, if there is one for such a record. Waits for a spare that is
    /// being made: where records come faster than zeros can be written, they have to.
    pub(super) fn enter_next(&mut self, room: Room) -> Result<(), LogError> {
        while !self.space.has_next(room) && self.space.is_making {
            match self.keeper.wait() {
                Some(done) => done(self)?,
                None => self.written("", Err(io::Error::other("its keeper is gone")))?,
            }
        }
        let spare = if self.space.has_next(room) { self.space.take() } else { None };
        let spare = spare.ok_or_else(|| self.space.full())?;
        self.check_place()?;
        let header = self.writer.header();
        self.closed.push_back((header.number, self.writer.last, header.bytes));
        let entered = self.writer.enter(&spare, self.space.segment_bytes());
        self.checked(entered)?;
        self.measure();
        self.tend()
    }

    /// Has a spare made if one is missing.
    pub(super) fn tend(&mut self) -> Result<(), LogError> {
        if self.space.wanted() == 0 || self.space.is_making || self.space.refused.is_some() {
            return Ok(());
        }
        self.space.is_making = true;
        let (name, bytes) = (self.space.name(), self.space.segment_bytes());
        self.start(Box::new(move |folder| {
            let made = room::make(folder, &name, bytes);
            Box::new(move |journal| journal.made_spare(name, made))
        }))
    }

    fn made_spare(&mut self, name: String, made: io::Result<()>) -> Result<(), LogError> {
        self.space.is_making = false;
        match made {
            Err(error) if folder::is_full(&error) => {
                self.space.refuse(&*self.folder, &error);
                Ok(())
            }
            made => {
                self.written(&name, made)?;
                self.space.add(name);
                self.tend()
            }
        }
    }

    pub(super) fn check_place(&mut self) -> Result<(), LogError> {
        let checked = self.writer.check_place();
        self.checked(checked)
    }

    /// Checks it if that was some time ago.
    pub(super) fn check_in_time(&mut self) -> Result<(), LogError> {
        let since = self.clock.now().saturating_duration_since(self.checked);
        if since < CHECK_INTERVAL { Ok(()) } else { self.check() }
    }

    /// Looks whether the disk has room for a checkpoint of what lives, without which it could never
    /// be left again once it is full (T6). What lives is at most what the last checkpoint had, and
    /// what has come since.
    pub(super) fn measure(&mut self) {
        let Ok(free) = self.folder.free_bytes() else { return };
        let needed = self.checkpoint_bytes + self.logged - self.below_floor;
        let path = self.folder.path("");
        self.space.tight = (free < needed).then(|| {
            format!("\"{path}\" has {free} bytes free, and a checkpoint may take {needed}")
        });
    }

    /// Writes to the checkpoint at a floor, which begins if it is another one. A disk that is full is no
    /// failure.
    pub(super) fn write(&mut self, floor: Position, chunk: Option<Bytes>) -> Result<(), LogError> {
        if self.writing.as_ref().is_some_and(|writing| writing.name.floor != floor) {
            self.drop_checkpoint();
        }
        let written = self.begun(floor).and_then(|writing| match chunk {
            Some(chunk) => writing.write(&chunk),
            None => Ok(()),
        });
        match written {
            Err(error) if folder::is_full(&error) => {
                self.drop_checkpoint();
                let path = self.folder.path("");
                Err(LogError::Full(format!("\"{path}\" has no room for a checkpoint: {error}")))
            }
            written => self.written("", written),
        }
    }

    fn begun(&mut self, floor: Position) -> io::Result<&mut Writing> {
        match &mut self.writing {
            Some(writing) => Ok(writing),
            begun @ None => {
                let which = u64::from_le_bytes(writer::random()?);
                let begins = (Name { floor, which }, self.logged);
                Ok(begun.insert(Writing::begin(&*self.folder, self.id, begins)?))
            }
        }
    }

    fn drop_checkpoint(&mut self) {
        if let Some(writing) = self.writing.take() {
            // An opening removes what is left of it.
            drop(folder::remove_if_there(&*self.folder, &writing.name.unfinished()));
        }
    }

    /// Has the checkpoint that was written made durable.
    pub(super) fn finish(&mut self) -> Result<(), LogError> {
        let Some(Writing { name, chunks, bytes, logged, file, .. }) = self.writing.take() else {
            return Ok(());
        };
        self.start(Box::new(move |folder| {
            let finished = checkpoint::finish(folder, &*file, name);
            Box::new(move |journal| {
                journal.written(&name.file(), finished)?;
                journal.checkpoint_bytes = bytes;
                journal.finished.push(DurableCheckpoint { name, logged });
                let Name { floor, which } = name;
                journal.events.push_back(Event::Checkpoint { floor, which, chunks });
                Ok(())
            })
        }))
    }

    /// Puts a floor in force: it is durable before anything is given up for it (T3).
    pub(super) fn put_in_force(&mut self, floor: &Floor) -> Result<(), LogError> {
        let name = Name::of(floor);
        let Some(finished) = self.finished.iter().find(|it| it.name == name) else {
            let what = format!("it is the checkpoint at {}, which is to be the floor", floor.at);
            return self.checked(Err(refusal::missing(&*self.folder, &name.file(), &what)));
        };
        self.below_floor = finished.logged;
        if self.writing.as_ref().is_some_and(|writing| writing.name.floor <= floor.at) {
            self.drop_checkpoint();
        }
        let (mut remove, mut recycle) = (Vec::new(), Vec::new());
        let keeps = self.space.keeps();
        while let Some((number, _, bytes)) = self.closed.pop_front_if(|it| it.1 <= floor.at) {
            if recycle.len() < keeps && bytes == self.space.segment_bytes() {
                recycle.push((segment::name(number), self.space.name()));
            } else {
                remove.push(segment::name(number));
            }
        }
        let needless = |it: &mut DurableCheckpoint| it.name != name && it.name.floor <= floor.at;
        remove.extend(self.finished.extract_if(.., needless).map(|it| it.name.file()));
        let open = self.writer.header().number;
        let first = self.closed.front().map_or(open, |(number, ..)| *number);
        let (kept, file) = self.floors.next(self.id, first, *floor);
        self.start(Box::new(move |folder| {
            let trim = || {
                kept.write(&*file)?;
                // Where a power failure undoes this, the floor's first segment says that they are dead.
                recycle.iter().try_for_each(|(segment, spare)| folder.rename(segment, spare))?;
                remove.iter().try_for_each(|name| folder::remove_if_there(folder, name))
            };
            let trimmed = trim();
            Box::new(move |journal| {
                journal.written("", trimmed)?;
                recycle.into_iter().for_each(|(_, spare)| journal.space.add(spare));
                Ok(())
            })
        }))
    }

    fn start(&mut self, job: Job) -> Result<(), LogError> {
        let started = self.keeper.start(job);
        self.written("", started)?;
        self.collect()
    }

    /// Takes in what was done.
    fn collect(&mut self) -> Result<(), LogError> {
        while let Some(done) = self.keeper.finished() {
            done(self)?;
        }
        Ok(())
    }
}
