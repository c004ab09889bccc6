//! A log with an owner that remembers all that it was given, and sentences to say about it.

use std::{collections::HashMap, future::poll_fn, time::Duration};

use bytes::Bytes;
use lockd::testing::{Draft, Event, Floor, Log, LogError, Position, ReplicaId, Room};
use tokio::time::timeout;

/// How long an event may take. An election and a lease fit in.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A log and its owner.
pub(super) struct Driven<L> {
    pub(super) log: L,
    pub(super) lived: Lived,
    /// The name that it writes under, while it does.
    pub(super) me: Option<ReplicaId>,
    /// How often it was given everything anew.
    pub(super) resets: usize,
    /// What is under way, by lane.
    pub(super) under_way: HashMap<usize, Bytes>,
    pub(super) refused: Vec<(Bytes, LogError)>,
    last: Position,
    barriers: u64,
}

/// What a state would have been made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lived {
    pub(super) chunks: Vec<Bytes>,
    pub(super) floor: Option<Floor>,
    pub(super) happened: Vec<Happened>,
}

/// What happens to a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    Record(Position, ReplicaId, Bytes),
    Joined(Position, ReplicaId, u32),
    Left(Position, ReplicaId),
}

impl Happened {
    pub(super) fn at(&self) -> Position {
        match self {
            Self::Record(at, ..) | Self::Joined(at, ..) | Self::Left(at, _) => *at,
        }
    }
}

impl Lived {
    /// The records, in order.
    pub(super) fn records(&self) -> Vec<Bytes> {
        self.placed().into_iter().map(|(_, bytes)| bytes).collect()
    }

    pub(super) fn placed(&self) -> Vec<(Position, Bytes)> {
        let record = |happened: &Happened| match happened {
            Happened::Record(at, _, bytes) => Some((*at, bytes.clone())),
            Happened::Joined(..) | Happened::Left(..) => None,
        };
        self.happened.iter().filter_map(record).collect()
    }

    /// What happened up to a place.
    pub(super) fn until(&self, last: Position) -> Vec<Happened> {
        self.happened.iter().filter(|it| it.at() <= last).cloned().collect()
    }
}

pub(super) fn draft(bytes: impl Into<Bytes>) -> Draft {
    Draft { operations: 1, bytes: bytes.into(), room: Room::Ordinary, floor: None }
}

impl<L: Log> Driven<L> {
    pub(super) fn new(log: L) -> Self {
        Self {
            log,
            lived: Lived::default(),
            me: None,
            resets: 0,
            under_way: HashMap::new(),
            refused: Vec::new(),
            last: Position::default(),
            barriers: 0,
        }
    }

    /// The next event, which it has taken into account.
    pub(super) async fn event(&mut self) -> Event {
        let event = timeout(PATIENCE, poll_fn(|cx| self.log.poll_event(cx))).await;
        let event = event.expect("an event comes in time");
        self.take(&event);
        event
    }

    fn take(&mut self, event: &Event) {
        match event {
            Event::Reset => {
                self.lived = Lived::default();
                (self.me, self.last) = (None, Position::default());
                self.under_way.clear();
                self.resets += 1;
            }
            Event::Chunk(chunk) => self.lived.chunks.push(chunk.clone()),
            Event::Floor(floor) => {
                self.lived.floor = Some(*floor);
                self.moves_on(floor.at);
            }
            Event::Record(record) => {
                self.moves_on(record.at);
                if let Some(lane) = record.lane {
                    assert_eq!(Some(record.author), self.me, "its own");
                    let sent = self.under_way.remove(&lane);
                    assert_eq!(sent.as_ref(), Some(&record.bytes), "the one under way");
                    assert!(self.log.is_idle(lane), "the lane is idle again");
                }
                let durable = self.log.sync().unwrap();
                assert!(
                    durable >= record.at,
                    "what was delivered is durable once that was asked for"
                );
                let record = (record.at, record.author, record.bytes.clone());
                self.lived.happened.push(Happened::Record(record.0, record.1, record.2));
            }
            Event::Restored { at } => self.moves_on(*at),
            Event::Live(id) => self.me = Some(*id),
            Event::Joined { at, replica, level } => {
                self.moves_on(*at);
                self.lived.happened.push(Happened::Joined(*at, *replica, *level));
            }
            Event::Left { at, replica } => {
                self.moves_on(*at);
                self.lived.happened.push(Happened::Left(*at, *replica));
                if self.me == Some(*replica) {
                    self.me = None;
                    self.under_way.clear();
                }
            }
            Event::Refused { lane, error } => {
                let record = self.under_way.remove(lane).expect("it was under way");
                self.refused.push((record, error.clone()));
            }
            Event::Barrier(_) | Event::Again(_) | Event::Checkpoint { .. } | Event::Failed(_) => {}
        }
    }

    fn moves_on(&mut self, at: Position) {
        assert!(at > self.last, "{at} comes after {}", self.last);
        self.last = at;
    }

    /// Runs until an event of a kind.
    pub(super) async fn until<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(found) = wanted(&event) {
                return found;
            }
            if let Event::Failed(error) = event {
                panic!("{error}");
            }
        }
    }

    pub(super) async fn live(&mut self) -> ReplicaId {
        self.until(|event| match event {
            Event::Live(id) => Some(*id),
            _ => None,
        })
        .await
    }

    pub(super) async fn fails(&mut self) -> LogError {
        self.until(|event| match event {
            Event::Failed(error) => Some(error.clone()),
            Event::Live(_) => panic!("it lives"),
            _ => None,
        })
        .await
    }

    /// Appends on the first idle lane, if there is one.
    pub(super) fn try_append(&mut self, draft: Draft) -> Option<usize> {
        let lane = (0..self.log.profile().lanes).find(|lane| self.log.is_idle(*lane))?;
        self.append_on(lane, draft);
        Some(lane)
    }

    pub(super) fn append_on(&mut self, lane: usize, draft: Draft) {
        self.under_way.insert(lane, draft.bytes.clone());
        self.log.append(lane, draft).unwrap();
    }

    /// Appends a record and waits until it is delivered.
    pub(super) async fn append(&mut self, draft: Draft) -> Position {
        let bytes = draft.bytes.clone();
        while self.try_append(draft.clone()).is_none() {
            self.event().await;
        }
        self.until(|event| match event {
            Event::Record(record) if record.lane.is_some() && record.bytes == bytes => {
                Some(record.at)
            }
            Event::Refused { error, .. } => panic!("{error}"),
            _ => None,
        })
        .await
    }

    pub(super) async fn writes(&mut self, text: &str) -> Position {
        self.append(draft(text.to_owned())).await
    }

    /// Appends many records, on all lanes.
    pub(super) async fn writes_many(&mut self, texts: impl IntoIterator<Item = String>) {
        for text in texts {
            while self.try_append(draft(text.clone())).is_none() {
                self.event().await;
            }
        }
        self.settles().await;
    }

    /// Runs until nothing is under way.
    pub(super) async fn settles(&mut self) {
        while !self.under_way.is_empty() {
            self.event().await;
        }
    }

    /// Runs until a barrier that it asks for is passed.
    pub(super) async fn catches_up(&mut self) {
        self.barriers += 1;
        let number = self.barriers;
        self.log.barrier(number);
        self.until(|event| (*event == Event::Barrier(number)).then_some(())).await;
    }

    /// Runs for a time, whatever happens.
    pub(super) async fn runs_for(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(event) =
            tokio::time::timeout_at(end, poll_fn(|cx| self.log.poll_event(cx))).await
        {
            self.take(&event);
        }
    }

    /// Writes a checkpoint at a floor, and gives back the floor that can be appended.
    pub(super) async fn checkpoints(&mut self, at: Position, chunks: &[&[u8]]) -> Floor {
        for chunk in chunks {
            while !self.log.takes_chunks() {
                self.runs_for(Duration::from_millis(5)).await;
            }
            self.log.write_chunk(at, Bytes::copy_from_slice(chunk)).unwrap();
        }
        while !self.log.takes_chunks() {
            self.runs_for(Duration::from_millis(5)).await;
        }
        self.log.finish_checkpoint(at).unwrap();
        let (which, count) = self
            .until(|event| match event {
                Event::Checkpoint { floor, which, chunks } if *floor == at => {
                    Some((*which, *chunks))
                }
                _ => None,
            })
            .await;
        assert_eq!(count, chunks.len() as u64);
        Floor { at, which, chunks: count, items: 7, digest: u128::MAX - 5, level: 1 }
    }

    /// Appends the record of a floor, and trims to it.
    pub(super) async fn raises(&mut self, floor: Floor) -> Position {
        let bytes = Bytes::from(format!("floor {}", floor.at));
        let draft = Draft { operations: 1, bytes, room: Room::Reserve, floor: Some(floor) };
        let at = self.append(draft).await;
        self.log.trim(&floor).unwrap();
        at
    }
}
