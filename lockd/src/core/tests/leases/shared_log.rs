//! The log of one replica on the shared store: what it proves, and what it may promise.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use lockd_proto::clock::{Clock, Instant};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    spawn,
    store::{LEASE, Sent, SharedStore, Written, place},
    world::{Node, World},
};
use crate::{
    log::{Delivered, Draft, Event, Floor, Log, LogError, Profile, Standing},
    record::{Position, ReplicaId},
};

const LANES: usize = 3;

/// How old the newest proof may be of a replica that grants and answers.
const FRESH: Duration = Duration::from_secs(3);

/// How often a proof is asked for, and again while there is none.
const BEAT: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(300);

/// When a message without an answer is sent again.
const RESEND: Duration = Duration::from_secs(1);

/// How long after a proof's sending answers may promise a whole TTL.
pub(super) const KEEP: Duration = Duration::from_millis(LEASE.as_secs() * 980 - 250);

/// The process of one replica.
pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) store: Arc<SharedStore>,
    pub(super) index: usize,
    pub(super) clock: Clock,
    pub(super) end: CancellationToken,
}

impl Process {
    pub(super) fn node(&self) -> Node {
        Node::Replica(self.index)
    }

    /// Runs a task that stands still with the process, and ends with it.
    pub(super) fn spawn<F>(self: &Arc<Self>, task: F)
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let process = self.clone();
        spawn(async move {
            let run = process.world.run(process.node(), task);
            process.end.run_until_cancelled(run).await
        });
    }

    /// Asks the store until there is an answer. Also says when what was answered was sent.
    async fn insist<T: Send + 'static>(
        &self,
        act: impl Fn(&SharedStore) -> T + Clone + Send + 'static,
    ) -> (Instant, T) {
        loop {
            let sent = self.clock.now();
            let answer = self.store.ask(self.node(), act.clone());
            if let Ok(Ok(answer)) = timeout(RESEND, answer).await {
                return (sent, answer);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Life {
    id: ReplicaId,
    /// When it was asked for: its first proof.
    sent: Instant,
}

/// What the tasks hand over, in order.
enum Item {
    Written(usize, Written),
    Live(Life),
    Barrier(u64, Instant),
    Proof(ReplicaId, Instant),
}

/// An item that follows once so much of the log has been delivered.
type Awaited = (usize, Item);

pub(super) struct SharedLog {
    process: Arc<Process>,
    profile: Profile,
    items: mpsc::Receiver<Item>,
    awaited: mpsc::Sender<Awaited>,
    was_reset: bool,
    life: Option<Life>,
    /// The number of each lane's next record, and whether one is under way.
    lanes: [(u64, bool); LANES],
    delivered: Position,
    confirmed: Option<Instant>,
    promise_until: Instant,
}

impl SharedLog {
    pub(super) fn new(process: Arc<Process>) -> Self {
        let (out, items) = mpsc::channel(1024);
        let (awaited, arriving) = mpsc::channel(1024);
        let lives = watch::Sender::new(None);
        process.spawn(live(process.clone(), lives.clone(), awaited.clone()));
        process.spawn(follow(process.clone(), (lives, arriving), out));
        let promise_until = process.clock.now();
        Self {
            process,
            profile: Profile { name: "shared", lanes: LANES, is_shared: true },
            items,
            awaited,
            was_reset: false,
            life: None,
            lanes: [(1, false); LANES],
            delivered: Position::default(),
            confirmed: None,
            promise_until,
        }
    }

    fn take(&mut self, item: Item) -> Option<Event> {
        Some(match item {
            Item::Written(index, written) => {
                let at = place(index);
                self.delivered = Position(at.0 + 1023);
                match written {
                    Written::Record { author, lane, number, bytes } => {
                        let lane = self.landed(author, lane, number);
                        Event::Record(Delivered { at, author, lane, bytes })
                    }
                    Written::Joined(replica) => Event::Joined { at, replica, level: 1 },
                    Written::Left(replica) => {
                        self.life = self.life.filter(|life| life.id != replica);
                        Event::Left { at, replica }
                    }
                }
            }
            Item::Live(life) => {
                (self.life, self.lanes) = (Some(life), [(1, false); LANES]);
                self.proved(life.sent);
                Event::Live(life.id)
            }
            Item::Barrier(number, sent) => {
                self.confirmed = self.confirmed.max(Some(sent));
                Event::Barrier(number)
            }
            Item::Proof(life, sent) => {
                self.confirmed = self.confirmed.max(Some(sent));
                if self.life.is_some_and(|now| now.id == life) {
                    self.proved(sent);
                }
                return None;
            }
        })
    }

    fn proved(&mut self, sent: Instant) {
        self.promise_until = self.promise_until.max(sent + KEEP);
    }

    fn landed(&mut self, author: ReplicaId, lane: usize, number: u64) -> Option<usize> {
        self.life.filter(|life| life.id == author)?;
        (self.lanes[lane] == (number, true)).then_some(())?;
        self.lanes[lane] = (number + 1, false);
        Some(lane)
    }
}

impl Log for SharedLog {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn is_idle(&self, lane: usize) -> bool {
        self.life.is_some() && !self.lanes[lane].1
    }

    fn append(&mut self, lane: usize, draft: Draft) -> Result<(), LogError> {
        let away = || LogError::Unavailable("no lease".to_owned());
        let author = self.life.ok_or_else(away)?.id;
        let (number, is_busy) = &mut self.lanes[lane];
        *is_busy = true;
        let (process, sent) = (self.process.clone(), Sent { author, lane, number: *number, draft });
        self.process.spawn(async move { process.insist(move |store| store.append(&sent)).await });
        Ok(())
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if !self.was_reset {
            self.was_reset = true;
            return Poll::Ready(Event::Reset);
        }
        loop {
            let Some(item) = ready!(self.items.poll_recv(cx)) else { return Poll::Pending };
            if let Some(event) = self.take(item) {
                return Poll::Ready(event);
            }
        }
    }

    fn sync(&mut self) -> Result<Position, LogError> {
        Ok(self.delivered)
    }

    fn barrier(&mut self, number: u64) {
        let (process, awaited) = (self.process.clone(), self.awaited.clone());
        self.process.spawn(async move {
            let (sent, length) = process.insist(SharedStore::len).await;
            awaited.send((length, Item::Barrier(number, sent))).await
        });
    }

    fn standing(&self) -> Standing {
        let age = self.confirmed.map(|it| self.process.clock.now().saturating_duration_since(it));
        Standing {
            promise_until: Some(self.promise_until),
            is_fresh: age.is_some_and(|age| age <= FRESH),
            confirmed: self.confirmed,
        }
    }

    fn promise_window(&self) -> Duration {
        self.life.map_or(Duration::ZERO, |_| KEEP)
    }

    fn bytes_after_floor(&self) -> u64 {
        0
    }

    fn write_chunk(&mut self, _: Position, _: Bytes) -> Result<(), LogError> {
        Ok(())
    }

    fn finish_checkpoint(&mut self, _: Position) -> Result<(), LogError> {
        Ok(())
    }

    fn trim(&mut self, _: &Floor) -> Result<(), LogError> {
        Ok(())
    }
}

/// Delivers the log in its order, and behind it what waits for so much of it.
async fn follow(
    process: Arc<Process>,
    (lives, mut arriving): (watch::Sender<Option<Life>>, mpsc::Receiver<Awaited>),
    out: mpsc::Sender<Item>,
) -> Option<()> {
    let mut length = process.store.length();
    let mut waiting: Vec<Awaited> = Vec::new();
    let mut reached = 0;
    loop {
        let (ready, rest) = waiting.into_iter().partition(|(length, _)| *length <= reached);
        waiting = rest;
        let ready: Vec<Awaited> = ready;
        for (_, item) in ready {
            out.send(item).await.ok()?;
        }
        tokio::select! {
            biased;
            item = arriving.recv() => waiting.push(item?),
            grown = grows(&mut length, reached) => {
                grown?;
                process.world.flows(Node::Store, process.node()).await;
                while process.world.lags(process.index) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                for written in process.store.after(reached) {
                    let life = *lives.borrow();
                    let mine = |id| life.filter(|life| life.id == id);
                    let lives_now = match written {
                        Written::Joined(id) => mine(id),
                        Written::Left(id) if mine(id).is_some() => {
                            lives.send_replace(None);
                            None
                        }
                        Written::Left(_) | Written::Record { .. } => None,
                    };
                    out.send(Item::Written(reached, written)).await.ok()?;
                    reached += 1;
                    if let Some(life) = lives_now {
                        out.send(Item::Live(life)).await.ok()?;
                    }
                }
            }
        }
    }
}

async fn grows(length: &mut watch::Receiver<usize>, beyond: usize) -> Option<()> {
    length.wait_for(|length| *length > beyond).await.ok().map(drop)
}

/// Lives under one lease after the other.
async fn live(
    process: Arc<Process>,
    lives: watch::Sender<Option<Life>>,
    awaited: mpsc::Sender<Awaited>,
) {
    loop {
        let id = ReplicaId(process.world.roll(super::world::Dice::next));
        let life = Life { id, sent: process.clock.now() };
        lives.send_replace(Some(life));
        process.insist(move |store| store.join(id)).await;
        let over = async { drop(lives.subscribe().wait_for(|now| *now != Some(life)).await) };
        tokio::select! {
            biased;
            () = over => {}
            never = beat(&process, (&lives, life), &awaited) => match never {},
        }
    }
}

/// Asks for proofs.
async fn beat(
    process: &Arc<Process>,
    (lives, life): (&watch::Sender<Option<Life>>, Life),
    awaited: &mpsc::Sender<Awaited>,
) -> std::convert::Infallible {
    loop {
        let next = process.clock.now() + BEAT;
        let answered = Arc::new(tokio::sync::Notify::new());
        loop {
            let sent = process.clock.now();
            let answer = process.store.ask(process.node(), move |store| store.renew(life.id));
            let (awaited, lives, told) = (awaited.clone(), lives.clone(), answered.clone());
            process.spawn(async move {
                match answer.await {
                    Ok(Some(length)) => {
                        drop(awaited.send((length, Item::Proof(life.id, sent))).await);
                        told.notify_one();
                    }
                    Ok(None) => {
                        lives.send_if_modified(|now| now.take_if(|it| *it == life).is_some());
                    }
                    Err(_) => {}
                }
            });
            let again = sent + AGAIN;
            tokio::select! {
                biased;
                () = answered.notified() => break,
                () = process.clock.sleep_until(again) => {}
            }
        }
        process.clock.sleep_until(next).await;
    }
}
