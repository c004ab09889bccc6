//! The log in an etcd cluster: any number of replicas write to it, and each applies all of it.
//!
//! A record is one transaction on one of the replica's lanes (`lane`). One watch delivers all of them in
//! order (`feed`, `watch`), after what was there was read (`opening`). A replica lives under an etcd lease
//! (`lease`), and proves each second what it may promise (`beat`). Its owner, the core loop, is given all
//! of that through one queue; nothing here makes it wait.

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
mod mark;
mod newest;
mod numbers;
mod opening;
mod pages;
mod recount;
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
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use backlog::Backlog;
use bytes::Bytes;
use checkpoint::CheckpointQueue;
use history::History;
use item::{Item, Life};
use lane::LaneRecord;
use lockd_proto::clock::{Clock, Instant};
use numbers::Numbers;
use replica::Replica;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Delivered, Draft, Event, Floor, Log, LogError, MAX_OPERATIONS, MAX_RECORD_BYTES, Profile, Room,
    Standing,
};
use crate::{
    record::{Position, ReplicaId},
    telemetry::tasks::Tasks,
};

/// How many records can be under way at once. With 4 to 8 of them etcd writes them to its disk together.
const LANES: usize = 8;

/// Events that wait for the owner. With records of the largest size they take 32 MiB.
const QUEUE: usize = 128;

/// Reads whose revisions wait to be delivered, on their way to the task that delivers.
const WAITS: usize = 64;

/// The shortest lease that etcd grants at its default election timeout.
const MIN_LEASE: Duration = Duration::from_secs(2);

/// How old the newest proof that deliveries are whole may be before this replica grants nothing and
/// answers no question. Above the interval of proofs and an election.
const FRESH: Duration = Duration::from_secs(3);

/// How the cluster is reached, and what is done there.
#[derive(Clone)]
pub struct EtcdConfig {
    /// The members' URLs.
    pub endpoints: Vec<String>,
    /// What all keys start with, such as `lockd/`.
    pub prefix: String,
    /// A user and password.
    pub user: Option<(String, String)>,
    /// TLS, if the URLs are `https`.
    pub tls: Option<EtcdTls>,
    /// The TTL of the replica's lease, at least 2 s. etcd may grant more.
    pub lease: Duration,
    /// The newest level of operations that this replica can read.
    pub level: u32,
    /// Goes on with a cluster that was restored from a backup: positions jump ahead of all before. A name
    /// of the restore, such as its date; each new one is accepted once, by whichever replica comes first.
    pub accept_restored: Option<String>,
    /// A file beside etcd that says how far the log had come, by which an older one is recognised that
    /// shows nothing of its restore.
    pub mark_file: Option<PathBuf>,
    /// How long etcd's history is kept. `None` leaves compacting to others that share the cluster.
    pub history_kept: Option<Duration>,
}

impl EtcdConfig {
    /// A cluster without passwords or TLS, and the defaults of all else.
    #[must_use]
    pub fn new(endpoints: Vec<String>, prefix: &str) -> Self {
        Self {
            endpoints,
            prefix: prefix.to_owned(),
            user: None,
            tls: None,
            lease: Duration::from_secs(5),
            level: crate::record::LEVEL,
            accept_restored: None,
            mark_file: None,
            history_kept: Some(Duration::from_secs(60)),
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

/// The log in etcd. Its tasks end when it is dropped.
pub struct EtcdLog {
    replica: Arc<Replica>,
    profile: Profile,
    items: mpsc::Receiver<Item>,
    lanes: Vec<OwnLane>,
    /// The life that [`Event::Live`] has named.
    life: Option<Life>,
    barriers: Arc<barrier::BarrierQueue>,
    /// Barriers that are passed and not handed out yet.
    passed: Numbers,
    checkpoints: CheckpointQueue,
    /// The way to the task that reads the log once more, and what it has read.
    recounts: mpsc::Sender<mpsc::Sender<Item>>,
    again: Option<mpsc::Receiver<Item>>,
    backlog: Backlog,
    delivered: Position,
    confirmed: Option<Instant>,
    promise_until: Instant,
    has_failed: bool,
    _end: DropGuard,
}

/// A lane of this replica in its present life.
struct OwnLane {
    /// The number of its next record, or of the one under way.
    number: u64,
    is_busy: bool,
    jobs: mpsc::Sender<LaneRecord>,
}

impl fmt::Debug for EtcdLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = &self.replica.config.prefix;
        f.debug_struct("EtcdLog").field("prefix", prefix).field("life", &self.life).finish()
    }
}

impl EtcdLog {
    /// A log on this cluster. Returns at once: what can't be used is said by [`Event::Failed`].
    ///
    /// # Errors
    /// The configuration names no endpoint, too short a lease, or a restore by no word.
    pub fn new(
        config: EtcdConfig,
        tasks: &Tasks,
        end: &CancellationToken,
        clock: Clock,
    ) -> Result<Self, LogError> {
        if config.endpoints.is_empty() {
            return Err(LogError::Broken("no etcd endpoint: give --etcd-endpoints".to_owned()));
        }
        if config.lease < MIN_LEASE {
            let text = format!("a lease of {:?} is too short: 2 s at least", config.lease);
            return Err(LogError::Broken(text));
        }
        if let Some(name) = config.accept_restored.as_ref().filter(|name| !History::is_name(name)) {
            let text = format!("{name:?} names no restore: give one word of at most 64 characters");
            return Err(LogError::Broken(text));
        }
        let end = end.child_token();
        let (out, items) = mpsc::channel(QUEUE);
        let promise_until = clock.now();
        let (history_kept, mark_file) = (config.history_kept, config.mark_file.clone());
        let replica = Arc::new(Replica::new(config, clock, end.clone(), out));
        let (checkpoints, pieces) = checkpoint::queue();
        let barriers = Arc::new(barrier::BarrierQueue::default());
        let (waits, arriving) = mpsc::channel(WAITS);
        let spawner = Spawner { tasks, end: end.clone() };
        let probed = replica.clone();
        spawner.run("etcd probes", async move { probed.endpoints.probe().await });
        let feed = feed::run(replica.clone(), arriving);
        // Without it nothing is delivered, whatever else goes on.
        tasks.spawn_vital("etcd feed", end.clone().run_until_cancelled_owned(feed));
        let read = barrier::run(replica.clone(), barriers.clone(), waits.clone());
        spawner.run("etcd barriers", read);
        spawner.run("etcd departures", departures::run(replica.clone()));
        spawner.run("etcd checkpoints", checkpoint::run(replica.clone(), pieces));
        let (recounts, asked) = mpsc::channel(1);
        spawner.run("etcd recount", recount::run(replica.clone(), asked));
        spawner.run("etcd trimming", trim::run(replica.clone()));
        if let Some(path) = mark_file {
            spawner.run("etcd mark", mark::run(replica.clone(), path));
        }
        if let Some(kept) = history_kept {
            spawner.run("etcd compaction", compact::run(replica.clone(), kept));
        }
        let lanes = (0..LANES).map(|_| {
            let (jobs, arriving) = mpsc::channel(1);
            spawner.run("etcd lane", lane::run(replica.clone(), arriving));
            OwnLane { number: 1, is_busy: false, jobs }
        });
        let lanes = lanes.collect();
        // It goes on after the end, to revoke its lease.
        tasks.spawn("etcd lease", lease::run(replica.clone(), waits));
        Ok(Self {
            replica,
            profile: Profile { name: "etcd", lanes: LANES, is_shared: true },
            items,
            lanes,
            life: None,
            barriers,
            passed: Numbers::default(),
            checkpoints,
            recounts,
            again: None,
            backlog: Backlog::default(),
            delivered: Position::default(),
            confirmed: None,
            promise_until,
            has_failed: false,
            _end: end.drop_guard(),
        })
    }

    fn take(&mut self, item: Item) -> Option<Event> {
        Some(match item {
            Item::Reset => {
                self.backlog.clear();
                (self.life, self.confirmed) = (None, None);
                Event::Reset
            }
            Item::Chunk(chunk) => Event::Chunk(chunk),
            Item::Floor(floor) => {
                self.delivered = floor.at;
                Event::Floor(floor)
            }
            Item::Record { at, author, lane, number, bytes } => {
                self.backlog.add(at, bytes.len());
                self.delivered = History::last_of(at);
                let lane = self.landed(author, lane, number);
                Event::Record(Delivered { at, author, lane, bytes })
            }
            Item::Joined { at, replica, level } => {
                self.delivered = History::last_of(at);
                Event::Joined { at, replica, level }
            }
            Item::Left { at, replica } => {
                self.delivered = History::last_of(at);
                self.life = self.life.filter(|life| life.id != replica);
                Event::Left { at, replica }
            }
            Item::Restored(at) => {
                self.delivered = at;
                Event::Restored { at }
            }
            Item::Live(life) => {
                for lane in &mut self.lanes {
                    (lane.number, lane.is_busy) = (1, false);
                }
                self.life = Some(life);
                self.proved(life.sent);
                Event::Live(life.id)
            }
            Item::Refused { life, lane, number, error } => {
                self.refused(life, (lane, number), error)?
            }
            Item::Barrier { numbers, sent } => {
                self.confirmed = self.confirmed.max(Some(sent));
                self.passed.append(numbers);
                Event::Barrier(self.passed.pop()?)
            }
            Item::Proof { life, sent } => {
                self.confirmed = self.confirmed.max(Some(sent));
                if self.life.is_some_and(|now| now.id == life) {
                    self.proved(sent);
                }
                return None;
            }
            Item::Checkpoint { floor, which, chunks } => Event::Checkpoint { floor, which, chunks },
            Item::Failed(error) => {
                self.has_failed = true;
                self.life = None;
                Event::Failed(error)
            }
        })
    }

    /// What is read once more: only when nothing has happened.
    fn poll_again(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Some(again) = &mut self.again else { return Poll::Pending };
        let event = ready!(again.poll_recv(cx)).and_then(Item::again);
        if event.is_none() {
            self.again = None;
        }
        Poll::Ready(Event::Again(event.map(Box::new)))
    }

    /// A record was delivered: the lane that it was under way on, if it is this replica's.
    fn landed(&mut self, author: ReplicaId, index: usize, number: u64) -> Option<usize> {
        self.life.filter(|life| life.id == author)?;
        let lane =
            self.lanes.get_mut(index).filter(|lane| lane.is_busy && lane.number == number)?;
        (lane.number, lane.is_busy) = (number.saturating_add(1), false);
        Some(index)
    }

    fn refused(
        &mut self,
        life: ReplicaId,
        (index, number): (usize, u64),
        error: LogError,
    ) -> Option<Event> {
        self.life.filter(|now| now.id == life)?;
        let lane =
            self.lanes.get_mut(index).filter(|lane| lane.is_busy && lane.number == number)?;
        lane.is_busy = false;
        Some(Event::Refused { lane: index, error })
    }

    /// The lease lived when this was sent, and all that was in the log by then has been delivered.
    fn proved(&mut self, sent: Instant) {
        if let Some(life) = self.life {
            self.promise_until = self.promise_until.max(sent + life.keep);
        }
    }

    fn check(&self, draft: &Draft) -> Result<Life, LogError> {
        let operations = usize::try_from(draft.operations).unwrap_or(usize::MAX);
        let bytes = draft.bytes.len();
        if operations == 0 || operations > MAX_OPERATIONS || bytes > MAX_RECORD_BYTES {
            return Err(LogError::Unavailable(format!(
                "a record of {operations} operations and {bytes} bytes is not one that a log takes"
            )));
        }
        if draft.room == Room::Ordinary && self.replica.endpoints.are_full() {
            return Err(LogError::Full("etcd's NOSPACE alarm is raised".to_owned()));
        }
        self.working()
    }

    fn working(&self) -> Result<Life, LogError> {
        if self.has_failed || self.replica.end.is_cancelled() {
            return Err(LogError::Broken("the log has ended".to_owned()));
        }
        self.life.ok_or_else(|| {
            LogError::Unavailable("this replica has no lease in etcd at this moment".to_owned())
        })
    }
}

impl Log for EtcdLog {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, lane: usize) -> bool {
        self.life.is_some() && self.lanes.get(lane).is_some_and(|lane| !lane.is_busy)
    }

    fn append(&mut self, index: usize, draft: Draft) -> Result<(), LogError> {
        let life = self.check(&draft)?;
        let busy = || LogError::Unavailable(format!("lane {index} has a record under way"));
        let lane = self.lanes.get_mut(index).filter(|lane| !lane.is_busy).ok_or_else(busy)?;
        let job = LaneRecord { life, lane: index, number: lane.number, draft };
        // The task took the one before: that has landed or was refused.
        lane.jobs.try_send(job).map_err(|_| busy())?;
        lane.is_busy = true;
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            if let Some(number) = self.passed.pop() {
                return Poll::Ready(Event::Barrier(number));
            }
            let item = match self.items.poll_recv(cx) {
                Poll::Ready(Some(item)) => item,
                // After the end there are no more events.
                Poll::Ready(None) => return Poll::Pending,
                Poll::Pending => return self.poll_again(cx),
            };
            if let Some(event) = self.take(item) {
                return Poll::Ready(event);
            }
        }
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        // A majority of the members had written it before it was delivered.
        Ok(self.delivered)
    }

    fn barrier(&mut self, number: u64) {
        self.barriers.push(number);
    }

    fn standing(&self) -> Standing {
        let now = self.replica.clock.now();
        let age = self.confirmed.map(|confirmed| now.saturating_duration_since(confirmed));
        Standing {
            promise_until: Some(self.promise_until),
            is_fresh: age.is_some_and(|age| age <= FRESH),
            confirmed: self.confirmed,
        }
    }

    fn promise_window(&self) -> Duration {
        self.life.map_or(Duration::ZERO, |life| life.keep)
    }

    fn recount(&mut self) {
        let (out, again) = mpsc::channel(recount::QUEUE);
        // Where the task has no time for it, it ends at once.
        drop(self.recounts.try_send(out));
        self.again = Some(again);
    }

    fn bytes_after_floor(&self) -> u64 {
        self.backlog.bytes()
    }

    fn takes_chunks(&self) -> bool {
        self.checkpoints.has_room()
    }

    fn write_chunk(&mut self, floor: Position, chunk: Bytes) -> Result<(), LogError> {
        self.working()?;
        self.checkpoints.chunk(floor, chunk)
    }

    fn finish_checkpoint(&mut self, floor: Position) -> Result<(), LogError> {
        self.working()?;
        self.checkpoints.finish(floor)
    }

    fn trim(&mut self, floor: &Floor) -> Result<(), LogError> {
        if self.has_failed {
            return Err(LogError::Broken("the log has ended".to_owned()));
        }
        self.backlog.cut(floor.at);
        self.replica.floor.send_if_modified(|newest| {
            let is_greater = newest.is_none_or(|newest| newest.at < floor.at);
            if is_greater {
                *newest = Some(*floor);
            }
            is_greater
        });
        Ok(())
    }
}

struct Spawner<'a> {
    tasks: &'a Tasks,
    end: CancellationToken,
}

impl Spawner<'_> {
    /// Runs a task until the log ends.
    fn run(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(name, self.end.clone().run_until_cancelled_owned(task));
    }
}

#[cfg(test)]
mod tests;
