//! The log in an etcd cluster: any number of replicas in front of it, none of which keeps anything that
//! a `kill -9` can lose.
//!
//! ```text
//! append ──► lane ── one transaction a record ──► l/<replica>/<lane>/<n>, lane, h
//! poll_event ◄── one queue ◄── feed ◄── one watch of all of it, in order
//!                          ◄── beat: a renewal and a read, each second, prove what may be promised
//! ```
//!
//! Every task hands what happens to one queue, in order: what is delivered is what the watch says, also
//! of this replica's own records.

mod backlog;
mod barrier;
mod beat;
mod checkpoint;
mod compact;
mod departures;
mod endpoints;
mod fault;
mod feed;
mod floor;
mod history;
mod item;
mod keys;
mod lane;
mod lease;
mod newest;
mod numbers;
mod opening;
mod pages;
mod replica;
mod roster;
mod start;
mod trim;
mod version;
mod view;
mod waits;
mod watch;

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use lockd_proto::clock::{Clock, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    backlog::Backlog,
    barrier::Asked,
    checkpoint::Checkpoints,
    item::{Item, Life},
    lane::Job,
    numbers::Numbers,
    replica::Replica,
};
use super::{Delivered, Draft, Event, Floor, Log, LogError, Profile, Room, Standing};
use crate::{record::Position, telemetry::tasks::Tasks};

/// Records under way at once. With more, neighbours of one connection land in any order more often than
/// they gain (DESIGN, etcd).
const LANES: usize = 4;

/// Events that wait for the log's owner. Deliveries stop while it does not take them.
const ITEMS: usize = 1024;

/// Reads whose revisions wait to be delivered.
const WAITS: usize = 16;

/// A log whose deliveries were not proved whole for this long grants nothing and answers no question. A
/// proof follows each second.
const FRESH_FOR: Duration = Duration::from_secs(3);

/// How the cluster is reached, and how the log is kept there.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' URLs.
    pub endpoints: Vec<String>,
    /// What all keys start with.
    pub prefix: String,
    /// A user and password.
    pub user: Option<(String, String)>,
    /// TLS, if the URLs are `https`.
    pub tls: Option<EtcdTls>,
    /// The lease of a replica, as it is asked for.
    pub lease: Duration,
    /// The newest level of operations that this replica can read.
    pub level: u32,
    /// Whether a cluster that was restored from a backup is gone on with.
    pub accept_restored: bool,
    /// How much of its history etcd keeps for watches; `None` where it is compacted by others.
    pub compact_after: Option<Duration>,
}

impl EtcdConfig {
    /// A lease of 5 s, and a minute of history.
    #[must_use]
    pub fn new(endpoints: Vec<String>, prefix: String) -> Self {
        Self {
            endpoints,
            prefix,
            user: None,
            tls: None,
            lease: Duration::from_secs(5),
            level: crate::record::LEVEL,
            accept_restored: false,
            compact_after: Some(Duration::from_secs(60)),
        }
    }
}

/// How the members prove who they are, and lockd to them. All in PEM.
#[derive(Clone, Default)]
pub struct EtcdTls {
    /// The authority that signed the members' certificates; the system's, if absent.
    pub ca_pem: Option<Vec<u8>>,
    /// lockd's certificate and key.
    pub identity_pem: Option<(Vec<u8>, Vec<u8>)>,
}

/// The log in an etcd cluster.
pub struct EtcdLog {
    profile: Profile,
    replica: Arc<Replica>,
    items: mpsc::Receiver<Item>,
    lanes: Vec<Lane>,
    asked: Arc<Asked>,
    /// Barriers that have been passed and are not delivered yet.
    passed: Numbers,
    checkpoints: Checkpoints,
    backlog: Backlog,
    life: Option<Life>,
    /// The sending of the latest pair that proves what may be promised.
    proved: Option<Instant>,
    /// The sending of the latest read up to which everything has been delivered.
    confirmed: Option<Instant>,
    delivered: Position,
    failed: Option<LogError>,
}

/// The owner's side of a lane.
struct Lane {
    jobs: mpsc::Sender<Job>,
    /// The number of its next record.
    next: u64,
    is_idle: bool,
}

impl fmt::Debug for EtcdLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLog")
            .field("prefix", &self.replica.config.prefix)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

impl EtcdLog {
    /// The log on this cluster, which is followed by tasks of its own until `end`.
    #[must_use]
    pub fn new(config: EtcdConfig, clock: Clock, tasks: &Tasks, end: &CancellationToken) -> Self {
        let (out, items) = mpsc::channel(ITEMS);
        let (waits, arriving) = mpsc::channel(WAITS);
        let (checkpoints, pieces) = checkpoint::queue();
        let (asked, compact_after) = (Arc::new(Asked::default()), config.compact_after);
        let end = end.child_token();
        let replica = Arc::new(Replica::new(config, clock, end.clone(), out));
        let lanes = (0..LANES).map(|_| {
            let (jobs, arriving) = mpsc::channel(1);
            let lane = lane::run(replica.clone(), arriving);
            tasks.spawn("etcd lane", end.clone().run_until_cancelled_owned(lane));
            Lane { jobs, next: 1, is_idle: false }
        });
        let lanes = lanes.collect();
        // It revokes the lease at the end, and so is not cut off by that.
        tasks.spawn("etcd lease", lease::run(replica.clone(), waits.clone()));
        let until_end = || end.clone();
        let probed = replica.clone();
        let probe = async move { probed.endpoints.probe().await };
        tasks.spawn("etcd probes", until_end().run_until_cancelled_owned(probe));
        let feed = feed::run(replica.clone(), arriving);
        tasks.spawn_vital("etcd feed", until_end().run_until_cancelled_owned(feed));
        let barriers = barrier::run(replica.clone(), asked.clone(), waits);
        tasks.spawn("etcd barriers", until_end().run_until_cancelled_owned(barriers));
        let written = checkpoint::run(replica.clone(), pieces);
        tasks.spawn("etcd checkpoints", until_end().run_until_cancelled_owned(written));
        let trim = trim::run(replica.clone());
        tasks.spawn("etcd trim", until_end().run_until_cancelled_owned(trim));
        let departures = departures::run(replica.clone());
        tasks.spawn("etcd departures", until_end().run_until_cancelled_owned(departures));
        if let Some(kept) = compact_after {
            let compact = compact::run(replica.clone(), kept);
            tasks.spawn("etcd compaction", until_end().run_until_cancelled_owned(compact));
        }
        Self {
            profile: Profile { name: "etcd", lanes: LANES, is_shared: true },
            replica,
            items,
            lanes,
            asked,
            passed: Numbers::default(),
            checkpoints,
            backlog: Backlog::default(),
            life: None,
            proved: None,
            confirmed: None,
            delivered: Position::default(),
            failed: None,
        }
    }

    /// What an item is to the log's owner; `None` where it concerns this side only.
    fn event(&mut self, item: Item) -> Option<Event> {
        match item {
            Item::Reset => {
                self.end_life();
                self.backlog.clear();
                Some(Event::Reset)
            }
            Item::Chunk(chunk) => Some(Event::Chunk(chunk)),
            Item::Floor(floor) => Some(Event::Floor(floor)),
            Item::Record { at, author, lane, number, bytes } => {
                self.backlog.add(at, bytes.len());
                self.delivered = at;
                let own = self.life.is_some_and(|life| life.id == author);
                let lane = Some(lane).filter(|lane| own && self.settled(*lane, number));
                Some(Event::Record(Delivered { at, author, lane, bytes }))
            }
            Item::Joined { at, replica, level } => Some(Event::Joined { at, replica, level }),
            Item::Left { at, replica } => {
                if self.life.is_some_and(|life| life.id == replica) {
                    self.end_life();
                }
                Some(Event::Left { at, replica })
            }
            Item::Live(life) => {
                self.life = Some(life);
                (self.proved, self.confirmed) = (Some(life.sent), Some(life.sent));
                for lane in &mut self.lanes {
                    (lane.next, lane.is_idle) = (1, true);
                }
                Some(Event::Live(life.id))
            }
            Item::Refused { life, lane, number, error } => {
                let own = self.life.is_some_and(|now| now.id == life);
                let settled = own && self.refused(lane, number);
                settled.then_some(Event::Refused { lane, error })
            }
            Item::Barrier { numbers, sent } => {
                self.confirmed = self.confirmed.max(Some(sent));
                self.passed.append(numbers);
                None
            }
            Item::Proof { life, sent } => {
                if self.life.is_some_and(|now| now.id == life) {
                    self.proved = self.proved.max(Some(sent));
                    self.confirmed = self.confirmed.max(Some(sent));
                }
                None
            }
            Item::Checkpoint { floor, which, chunks } => {
                Some(Event::Checkpoint { floor, which, chunks })
            }
            Item::Failed(error) => {
                self.failed = Some(error.clone());
                Some(Event::Failed(error))
            }
        }
    }

    fn end_life(&mut self) {
        (self.life, self.proved, self.confirmed) = (None, None, None);
        self.lanes.iter_mut().for_each(|lane| lane.is_idle = false);
    }

    /// A record of a lane has been delivered: says whether it is the one that is under way.
    fn settled(&mut self, lane: usize, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let is_next = !lane.is_idle && lane.next == number;
        if is_next {
            (lane.next, lane.is_idle) = (number.saturating_add(1), true);
        }
        is_next
    }

    /// A record of a lane will never land: its number is used by the next one.
    fn refused(&mut self, lane: usize, number: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let is_next = !lane.is_idle && lane.next == number;
        lane.is_idle |= is_next;
        is_next
    }

    fn is_alive(&self) -> Result<Life, LogError> {
        match (&self.failed, self.life) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(life)) => Ok(life),
            (None, None) => {
                let text = "this replica has no lease in etcd at this moment";
                Err(LogError::Unavailable(text.to_owned()))
            }
        }
    }
}

impl Log for EtcdLog {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, lane: usize) -> bool {
        self.life.is_some() && self.lanes.get(lane).is_some_and(|lane| lane.is_idle)
    }

    fn append(&mut self, index: usize, draft: Draft) -> Result<(), LogError> {
        let life = self.is_alive()?;
        if draft.room == Room::Ordinary && self.replica.endpoints.are_full() {
            return Err(LogError::Full("etcd's quota is used up".to_owned()));
        }
        let busy = || LogError::Unavailable("a record is under way on this lane".to_owned());
        let lane = self.lanes.get_mut(index).filter(|lane| lane.is_idle).ok_or_else(busy)?;
        let job = Job { life, lane: index, number: lane.next, draft };
        lane.jobs.try_send(job).map_err(|_| busy())?;
        lane.is_idle = false;
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(number) = self.passed.pop() {
                return Poll::Ready(Event::Barrier(number));
            }
            let Some(item) = std::task::ready!(self.items.poll_recv(cx)) else {
                return Poll::Pending;
            };
            if let Some(event) = self.event(item) {
                return Poll::Ready(event);
            }
        }
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            // What the watch delivers a majority of the members has on disk.
            None => Ok(self.delivered),
        }
    }

    fn barrier(&mut self, number: u64) {
        self.asked.push(number);
    }

    fn standing(&self) -> Standing {
        let now = self.replica.clock.now();
        let keep = self.life.map_or(Duration::ZERO, |life| life.keep);
        // Before the first proof nothing can be promised.
        let promise_until = self.proved.map_or(now - Duration::MAX, |proved| proved + keep);
        let age = self.confirmed.map(|at| now.saturating_duration_since(at));
        let is_fresh = self.life.is_some() && age.is_some_and(|age| age <= FRESH_FOR);
        Standing { promise_until: Some(promise_until), is_fresh, confirmed: self.confirmed }
    }

    fn promise_window(&self) -> Duration {
        self.life.map_or(Duration::ZERO, |life| life.keep)
    }

    fn bytes_after_floor(&self) -> u64 {
        self.backlog.bytes()
    }

    fn takes_chunks(&self) -> bool {
        self.checkpoints.has_room()
    }

    fn write_chunk(&mut self, floor: Position, chunk: Bytes) -> Result<(), LogError> {
        self.checkpoints.chunk(floor, chunk)
    }

    fn finish_checkpoint(&mut self, floor: Position) -> Result<(), LogError> {
        self.checkpoints.finish(floor)
    }

    fn trim(&mut self, floor: &Floor) -> Result<(), LogError> {
        self.backlog.cut(floor.at);
        self.replica.floor.send_if_modified(|there| {
            let is_greater = there.is_none_or(|there| there.at < floor.at);
            if is_greater {
                *there = Some(*floor);
            }
            is_greater
        });
        Ok(())
    }
}
