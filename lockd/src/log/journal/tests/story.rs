//! A journal under test, and what its owner knows of it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use lockd_proto::clock::Clock;

use super::{
    super::{Journal, Options, folder::Folder, keeper::Keeper, opening},
    machine::{Dice, Machine},
};
use crate::{
    log::{Delivered, Draft, Event, Floor, Log as _, LogError, Room},
    record::Position,
};

/// The size of segments in tests.
pub(super) const SEGMENT: u64 = 4096;

pub(super) fn options() -> Options {
    Options { segment_bytes: SEGMENT, ..Options::new(Clock::system()) }
}

/// Opens a journal that does everything at once.
pub(super) fn open(machine: &Machine) -> Result<Journal, LogError> {
    open_with(machine, options())
}

pub(super) fn open_with(machine: &Machine, options: Options) -> Result<Journal, LogError> {
    let folder: Arc<dyn Folder> = Arc::new(machine.clone());
    opening::open("embedded", options, Keeper::at_once(folder))
}

pub(super) fn next(journal: &mut Journal) -> Option<Event> {
    match journal.poll_event(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(event) => Some(event),
        Poll::Pending => None,
    }
}

/// All events that are there.
pub(super) fn events(journal: &mut Journal) -> Vec<Event> {
    std::iter::from_fn(|| next(journal)).collect()
}

/// Appends a record and takes its delivery.
pub(super) fn try_put(journal: &mut Journal, draft: Draft) -> Result<Position, LogError> {
    journal.append(0, draft)?;
    loop {
        match next(journal) {
            Some(Event::Record(record)) => return Ok(record.at),
            Some(Event::Failed(error)) => return Err(error),
            Some(_) => {}
            None => panic!("a record that was appended is not delivered"),
        }
    }
}

pub(super) fn put(journal: &mut Journal, draft: Draft) -> Position {
    try_put(journal, draft).unwrap()
}

pub(super) fn draft(operations: u32, bytes: impl Into<Bytes>) -> Draft {
    Draft { operations, bytes: bytes.into(), room: Room::Ordinary, floor: None }
}

/// Opens a journal that was opened before, and reads all of it.
pub(super) fn reopen(machine: &Machine) -> Result<(Journal, Read), LogError> {
    let mut journal = open(machine)?;
    let read = Read::of(events(&mut journal))?;
    Ok((journal, read))
}

/// What an opening delivers.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) chunks: Vec<Bytes>,
    pub(super) floor: Option<Floor>,
    pub(super) records: Vec<(Position, Bytes)>,
    /// Restores, and how many records came before each.
    pub(super) restored: Vec<(usize, Position)>,
}

impl Read {
    /// Takes events apart, which come in one order only.
    pub(super) fn of(events: Vec<Event>) -> Result<Self, LogError> {
        let mut read = Self::default();
        let mut events = events.into_iter();
        assert_eq!(events.next(), Some(Event::Reset));
        let mut is_live = false;
        for event in events {
            match event {
                Event::Failed(error) => return Err(error),
                event if is_live => panic!("{event:?} after live"),
                Event::Chunk(chunk) if read.floor.is_none() => read.chunks.push(chunk),
                Event::Floor(floor) if read.records.is_empty() => read.floor = Some(floor),
                Event::Record(Delivered { at, lane: None, bytes, .. }) => {
                    read.records.push((at, bytes));
                }
                Event::Restored { at } => read.restored.push((read.records.len(), at)),
                Event::Live(_) => is_live = true,
                other => panic!("{other:?}"),
            }
        }
        assert!(is_live && (read.floor.is_some() || read.chunks.is_empty()));
        Ok(read)
    }

    pub(super) fn payloads(&self) -> Vec<String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        self.records.iter().map(|(_, bytes)| text(bytes)).collect()
    }
}

/// A machine, the journal on it, and its owner.
pub(super) struct Story {
    pub(super) machine: Machine,
    pub(super) journal: Option<Journal>,
    pub(super) known: Known,
    pub(super) dice: Dice,
}

/// What the owner of a journal knows.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// What was delivered, or found again: place, operations, bytes.
    pub(super) records: Vec<(Position, u32, Bytes)>,
    pub(super) acknowledged: Position,
    /// The greatest place ever seen.
    highest: Position,
    /// The floor in force, and the one that is being put in force.
    floors: Vec<Option<Floor>>,
    chunks: BTreeMap<Position, Vec<Bytes>>,
    count: u64,
}

impl Story {
    pub(super) fn begin(seed: u64) -> Self {
        let machine = Machine::new(seed);
        let known = Known { floors: vec![None], ..Known::default() };
        Self { machine, journal: None, known, dice: Dice::new(seed + 1) }
    }

    /// Opens the journal and compares what is in it with what its owner knows.
    pub(super) fn open(&mut self) -> Result<(), LogError> {
        let (journal, read) = reopen(&self.machine)?;
        self.known.finds(&read);
        self.journal = Some(journal);
        Ok(())
    }

    /// Does something, at random.
    pub(super) fn act(&mut self) -> Result<(), LogError> {
        match self.dice.below(20) {
            0..14 => self.group(),
            14..17 => self.settle(),
            17 => self.checkpoint(),
            18 => self.chunk(),
            _ => {
                self.journal = None;
                self.machine.kill();
                self.open()
            }
        }
    }

    fn journal(&mut self) -> &mut Journal {
        self.journal.as_mut().unwrap()
    }

    fn group(&mut self) -> Result<(), LogError> {
        for _ in 0..=self.dice.below(4) {
            let (operations, bytes) = (1 + self.dice.below(3), self.dice.below(400));
            let Self { journal, known, .. } = self;
            known.append(journal.as_mut().unwrap(), operations, bytes, Room::Ordinary)?;
        }
        if self.dice.one_in(5) { Ok(()) } else { self.sync() }
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let durable = self.journal().sync()?;
        self.known.is_acknowledged(durable);
        Ok(())
    }

    pub(super) fn settle(&mut self) -> Result<(), LogError> {
        let durable = self.journal().settle()?;
        self.known.is_acknowledged(durable);
        Ok(())
    }

    /// One chunk of a checkpoint that is not finished.
    fn chunk(&mut self) -> Result<(), LogError> {
        self.journal().write_chunk(Position(u64::MAX), Bytes::from("garbage"))
    }

    fn checkpoint(&mut self) -> Result<(), LogError> {
        self.sync()?;
        self.known.forget_below_floor();
        let at = self.known.last();
        if at == Position(0) {
            return Ok(());
        }
        let count = self.dice.below(3);
        let chunks: Vec<Bytes> = (0..count).map(|n| vec![b'c'; 100 * n + 50].into()).collect();
        for chunk in &chunks {
            self.journal().write_chunk(at, chunk.clone())?;
        }
        self.journal().finish_checkpoint(at)?;
        let Some(Event::Checkpoint { floor, which, chunks: count }) = next(self.journal()) else {
            panic!("no checkpoint");
        };
        let floor = Floor { at: floor, which, chunks: count, ..Floor::default() };
        let Self { journal, known, .. } = self;
        known.chunks.insert(at, chunks);
        known.append(journal.as_mut().unwrap(), 1, 30, Room::Reserve)?;
        self.sync()?;
        if self.known.floors.last().copied().flatten().is_none_or(|it| it.at < at) {
            self.known.floors.push(Some(floor));
        }
        self.journal().trim(&floor)?;
        let last = self.known.floors.pop();
        self.known.floors = last.into_iter().collect();
        Ok(())
    }
}

impl Known {
    fn append(
        &mut self,
        journal: &mut Journal,
        operations: usize,
        bytes: usize,
        room: Room,
    ) -> Result<(), LogError> {
        self.count += 1;
        let operations = u32::try_from(operations).unwrap();
        let mut bytes = vec![b'x'; bytes];
        bytes.extend(self.count.to_string().bytes());
        let bytes = Bytes::from(bytes);
        // It may be in the journal though the call fails.
        self.records.push((Position(0), operations, bytes.clone()));
        journal.append(0, Draft { room, ..draft(operations, bytes.clone()) })?;
        let record = match next(journal) {
            Some(Event::Record(record)) => record,
            Some(Event::Failed(error)) => return Err(error),
            other => panic!("{other:?}"),
        };
        assert_eq!((record.lane, &record.bytes), (Some(0), &bytes));
        assert!(record.at > self.highest, "J4b: {} after {}", record.at, self.highest);
        self.highest = Position(record.at.0 + u64::from(operations) - 1);
        self.records.last_mut().unwrap().0 = record.at;
        Ok(())
    }

    /// One floor is in force for sure: what is below it comes no more.
    fn forget_below_floor(&mut self) {
        if let [Some(floor)] = self.floors[..] {
            self.records.retain(|(at, count, _)| end(*at, *count) > floor.at);
            self.chunks.retain(|at, _| *at >= floor.at);
        }
    }

    fn is_acknowledged(&mut self, durable: Position) {
        assert!(durable >= self.highest);
        self.acknowledged = self.highest;
    }

    /// The last place of what is known.
    fn last(&self) -> Position {
        self.records.last().map_or(Position(0), |(at, count, _)| end(*at, *count))
    }

    /// What was appended and put in force later may be there and need not.
    pub(super) fn may_have(&mut self, later: &Self) {
        self.records.clone_from(&later.records);
        self.chunks.clone_from(&later.chunks);
        (self.highest, self.count) = (later.highest, later.count);
        self.floors.extend(later.floors.iter().copied());
    }

    /// Compares what an opening delivers: all that was acknowledged, in order and nothing else but
    /// what was appended next. Continues with what was found.
    pub(super) fn finds(&mut self, read: &Read) {
        let allowed = self.floors.contains(&read.floor);
        assert!(allowed, "the floor is {:?}, of {:?}", read.floor, self.floors);
        let floor = read.floor.map_or(Position(0), |floor| floor.at);
        if let Some(floor) = read.floor {
            assert_eq!(Some(&read.chunks), self.chunks.get(&floor.at));
        }
        let behind = |(at, count, _): &&(Position, u32, Bytes)| {
            *at == Position(0) || end(*at, *count) > floor
        };
        let expected: Vec<_> = self.records.iter().filter(behind).cloned().collect();
        assert!(read.records.len() <= expected.len(), "more than was appended");
        for ((at, bytes), (known, _, appended)) in read.records.iter().zip(&expected) {
            assert!(at == known || *known == Position(0), "{at} is {known}");
            assert_eq!(bytes, appended);
        }
        let found = read.records.len();
        if let Some((at, ..)) = expected.get(found) {
            let lost = *at != Position(0) && *at <= self.acknowledged;
            assert!(!lost, "{at} was acknowledged, up to {}, and is lost", self.acknowledged);
        }
        self.records = expected;
        self.records.truncate(found);
        for ((at, ..), (found, _)) in self.records.iter_mut().zip(&read.records) {
            *at = *found;
        }
        self.floors = vec![read.floor];
        // What is delivered is durable (J12).
        let highest = self.last().max(floor);
        (self.acknowledged, self.highest) = (highest, highest.max(self.highest));
    }
}

fn end(at: Position, count: u32) -> Position {
    Position(at.0 + u64::from(count) - 1)
}
