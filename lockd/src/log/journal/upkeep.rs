//! What an open journal does besides taking records: enters segments, keeps spares, takes in what
//! its keeper has done, and fails.

use std::io;

use super::{
    CHECK_INTERVAL, Journal,
    checkpoint::{Name, Writing},
    folder, frame,
    keeper::{Done, Job, Trim},
    refusal, segment, writer,
};
use crate::{
    log::{Draft, Event, Floor, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Room},
    record::Position,
};

impl Journal {
    /// The next event that is there.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        if let Some(replay) = &mut self.replay
            && self.failed.is_none()
        {
            let next = replay.next();
            // What has failed is the next event.
            if let Ok(Some(event)) = self.checked(next) {
                self.read(&event);
                return Some(event);
            }
        }
        drop(self.collect());
        let event = self.events.pop_front();
        self.is_busy &= !matches!(event, Some(Event::Record(_)));
        event
    }

    /// Takes note of something that is read again.
    fn read(&mut self, event: &Event) {
        if let Event::Record(record) = event {
            let bytes = frame::size(record.bytes.len()) as u64;
            self.growth.add(record.at, bytes);
        } else if matches!(event, Event::Live(_)) {
            self.replay = None;
        }
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
        let fits = self.writer.fits(bytes, self.space.segment_bytes());
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

    /// Goes on in the next segment, if there is one for such a record. Waits for a spare that is
    /// being made: where records come faster than zeros can be written, they have to.
    pub(super) fn enter_next(&mut self, room: Room) -> Result<(), LogError> {
        while !self.space.has_next(room) && self.space.is_making {
            let done = self.keeper.wait();
            self.take_in(done)?;
        }
        if !self.space.has_next(room) {
            return Err(self.space.full());
        }
        self.check_place()?;
        let Some(spare) = self.space.take() else { return Err(self.space.full()) };
        self.closed.push_back(self.writer.closes());
        let entered = self.writer.enter(&spare, self.space.segment_bytes());
        self.checked(entered)?;
        self.measure();
        self.tend()
    }

    /// Has a spare made if one is missing.
    pub(super) fn tend(&mut self) -> Result<(), LogError> {
        if self.space.wanted() > 0 && !self.space.is_making && self.space.refused.is_none() {
            self.space.is_making = true;
            let job = Job::Spare(self.space.name(), self.space.segment_bytes());
            self.start(job)?;
        }
        Ok(())
    }

    /// Checks that what is written is where it can be found again (J15).
    pub(super) fn check_place(&mut self) -> Result<(), LogError> {
        if self.writer.is_in_place() {
            return Ok(());
        }
        let gone = refusal::gone(&*self.folder, &segment::name(self.writer.number()));
        self.checked(Err(gone))
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
        let needed = self.checkpoint_bytes + self.growth.after_floor();
        let path = self.folder.path("");
        self.space.tight = (free < needed).then(|| {
            format!("\"{path}\" has {free} bytes free, and a checkpoint may take {needed}")
        });
    }

    /// The checkpoint at a floor that is being written.
    pub(super) fn begin_checkpoint(&mut self, floor: Position) -> io::Result<&mut Writing> {
        if self.writing.as_ref().is_some_and(|writing| writing.name.floor != floor) {
            self.drop_checkpoint();
        }
        match &mut self.writing {
            Some(writing) => Ok(writing),
            begun @ None => {
                let which = writer::random_id()?.half();
                let writing = Writing::begin(&*self.folder, self.id, Name { floor, which })?;
                Ok(begun.insert(writing))
            }
        }
    }

    /// Gives up the checkpoint that is being written. A disk that is full is no failure.
    pub(super) fn give_up_checkpoint(&mut self, error: &io::Error) -> LogError {
        let name = self.writing.as_ref().map(|writing| writing.name.file()).unwrap_or_default();
        self.drop_checkpoint();
        if folder::is_full(error) {
            return LogError::Full(format!("\"{}\": {error}", self.folder.path(&name)));
        }
        let failed = refusal::failed(&*self.folder, &name, error);
        drop(self.checked::<()>(Err(failed.clone())));
        failed
    }

    fn drop_checkpoint(&mut self) {
        if let Some(writing) = self.writing.take() {
            // An opening removes what is left of it.
            drop(folder::remove_if_there(&*self.folder, &writing.name.unfinished()));
        }
    }

    /// Puts a floor in force: it is durable before anything is given up for it (T3).
    pub(super) fn put_in_force(&mut self, floor: &Floor) -> Result<(), LogError> {
        let name = Name::of(floor);
        if !self.finished.contains(&name) {
            let what = format!("it is the checkpoint at {}, which is to be the floor", floor.at);
            let missing = refusal::missing(&*self.folder, &name.file(), &what);
            return self.checked(Err(missing));
        }
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
        let older = self.finished.extract_if(.., |it| *it != name && it.floor <= floor.at);
        remove.extend(older.map(Name::file));
        let first = self.closed.front().map_or(self.writer.number(), |(number, ..)| *number);
        self.floor = floor.at;
        self.growth.trim(floor.at);
        self.start(Job::Trim(Trim { journal: self.id, floor: *floor, first, remove, recycle }))?;
        self.collect()
    }

    pub(super) fn start(&mut self, job: Job) -> Result<(), LogError> {
        let started = self.keeper.start(job);
        let failed = started.map_err(|error| refusal::failed(&*self.folder, "", &error));
        self.checked(failed)
    }

    /// Takes in what was done.
    pub(super) fn collect(&mut self) -> Result<(), LogError> {
        while let Some(done) = self.keeper.finished() {
            self.take_in(Some(done))?;
        }
        Ok(())
    }

    fn take_in(&mut self, done: Option<Done>) -> Result<(), LogError> {
        let failed = match done {
            None => io::Error::other("its keeper is gone"),
            Some(Done::Spare(name, made)) => {
                self.space.is_making = false;
                match made {
                    Ok(()) => {
                        self.space.add(name);
                        return self.tend();
                    }
                    Err(error) if folder::is_full(&error) => {
                        self.space.refuse(&*self.folder, &error);
                        return Ok(());
                    }
                    Err(error) => error,
                }
            }
            Some(Done::Finish(name, chunks, bytes, Ok(()))) => {
                self.finished.push(name);
                self.checkpoint_bytes = bytes;
                let (floor, which) = (name.floor, name.which);
                self.events.push_back(Event::Checkpoint { floor, which, chunks });
                return Ok(());
            }
            Some(Done::Trim(Ok(spares))) => {
                spares.into_iter().for_each(|spare| self.space.add(spare));
                return Ok(());
            }
            Some(Done::Finish(.., Err(error)) | Done::Trim(Err(error))) => error,
        };
        let failed = refusal::failed(&*self.folder, "", &failed);
        self.checked(Err(failed))
    }
}
