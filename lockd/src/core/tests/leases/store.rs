//! A log that several replicas share, as etcd would keep it: one order, a lease a replica, and lanes on
//! which a record lands once.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};

use super::{
    belief::Beliefs,
    spawn,
    world::{Dice, Node, World},
};
use crate::{
    log::Draft,
    record::{Position, Record, ReplicaId},
    state::{Context, Effect, SessionEnd, State},
};

/// The TTL of a replica's lease.
pub(super) const LEASE: Duration = Duration::from_secs(5);

/// How often ended leases are looked for.
const SWEEP: Duration = Duration::from_millis(50);

/// What stands in the log.
#[derive(Debug, Clone)]
pub(super) enum Written {
    Record { author: ReplicaId, lane: usize, number: u64, bytes: Bytes },
    Joined(ReplicaId),
    Left(ReplicaId),
}

/// A record on its way.
#[derive(Clone)]
pub(super) struct Sent {
    pub(super) author: ReplicaId,
    pub(super) lane: usize,
    pub(super) number: u64,
    pub(super) draft: Draft,
}

/// The place of the entry with this index.
pub(super) fn place(index: usize) -> Position {
    Position(1024 * (1 + u64::try_from(index).unwrap()))
}

pub(super) struct SharedStore {
    world: Arc<World>,
    beliefs: Arc<Beliefs>,
    rate: f64,
    kept: Mutex<Kept>,
    length: watch::Sender<usize>,
}

#[derive(Default)]
struct Kept {
    log: Vec<Written>,
    leases: BTreeMap<ReplicaId, Duration>,
    joined: HashMap<ReplicaId, usize>,
    versions: HashMap<(ReplicaId, usize), u64>,
    /// The state by what stands in the log, whatever any replica knows.
    truth: State,
}

impl SharedStore {
    pub(super) fn new(world: Arc<World>, beliefs: Arc<Beliefs>, rate: f64) -> Arc<Self> {
        let (kept, length) = (Mutex::default(), watch::Sender::new(0));
        Arc::new(Self { world, beliefs, rate, kept, length })
    }

    /// Has something done here by a message, and answers with another one; either may be lost. Now and
    /// then the message comes twice.
    pub(super) fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        from: Node,
        act: impl Fn(&Self) -> T + Clone + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        if self.world.roll(Dice::share) < 0.01 {
            let (store, again) = (self.clone(), act.clone());
            spawn(async move {
                sleep(store.world.roll(|dice| dice.seconds(0.0, 2.0))).await;
                store.receive(from, again).await;
            });
        }
        let store = self.clone();
        spawn(async move {
            let Some(done) = store.receive(from, act).await else { return };
            if store.world.passes(Node::Store, from).await {
                drop(answer.send(done));
            }
        });
        answered
    }

    async fn receive<T>(&self, from: Node, act: impl Fn(&Self) -> T) -> Option<T> {
        let arrives = self.world.passes(from, Node::Store).await;
        (arrives && !self.world.is_store_away()).then(|| act(self))
    }

    /// Begins a life, once. Answers with the length of the log.
    pub(super) fn join(&self, id: ReplicaId) -> usize {
        let mut kept = self.kept.lock();
        if !kept.joined.contains_key(&id) {
            let at = kept.log.len();
            kept.joined.insert(id, at);
            kept.truth.joined(place(at), id, 1);
            kept.leases.insert(id, self.end_of_lease());
            self.write(&mut kept, Written::Joined(id));
        }
        kept.log.len()
    }

    /// Renews a lease and reads how long the log is; `None` if the lease has ended.
    pub(super) fn renew(&self, id: ReplicaId) -> Option<usize> {
        let mut kept = self.kept.lock();
        *kept.leases.get_mut(&id)? = self.end_of_lease();
        Some(kept.log.len())
    }

    pub(super) fn len(&self) -> usize {
        self.kept.lock().log.len()
    }

    pub(super) fn append(&self, sent: &Sent) {
        let mut kept = self.kept.lock();
        let Sent { author, lane, number, ref draft } = *sent;
        let lives = kept.leases.contains_key(&author);
        let version = kept.versions.entry((author, lane)).or_insert(1);
        if !lives || *version != number {
            return;
        }
        *version += 1;
        let bytes = draft.bytes.clone();
        let mut at = place(kept.log.len());
        for operation in Record::decode(&bytes).unwrap().operations {
            let mut effects = Vec::new();
            kept.truth.apply(operation, Context { at, author, now: 0 }, &mut effects);
            for effect in effects {
                if let Effect::Ended { session, how: SessionEnd::Expired } = effect {
                    self.beliefs.ended(session);
                }
            }
            at = at.after(1);
        }
        self.write(&mut kept, Written::Record { author, lane, number, bytes });
    }

    fn write(&self, kept: &mut Kept, written: Written) {
        kept.log.push(written);
        self.length.send_replace(kept.log.len());
    }

    /// What follows an index.
    pub(super) fn after(&self, index: usize) -> Vec<Written> {
        self.kept.lock().log[index..].to_vec()
    }

    pub(super) fn length(&self) -> watch::Receiver<usize> {
        self.length.subscribe()
    }

    /// The sessions that there are, with a TTL of at most so many milliseconds.
    pub(super) fn sessions(&self, ttl_ms: u32) -> Vec<lockd_proto::SessionId> {
        let kept = self.kept.lock();
        let sessions = kept.truth.sessions().filter(|session| session.ttl_ms <= ttl_ms);
        sessions.map(|session| session.id).collect()
    }

    /// Leases end by the store's own clock, up to a second late.
    fn end_of_lease(&self) -> Duration {
        let late = self.world.roll(|dice| (dice.share() - 0.5).max(0.0) * 2.0);
        self.world.now() + LEASE.div_f64(self.rate) + Duration::from_secs_f64(late)
    }

    /// Ends leases, but for the time while it is away; after that all begin anew.
    pub(super) async fn keep_leases(self: Arc<Self>) {
        let mut was_away = false;
        loop {
            sleep(SWEEP).await;
            let away = self.world.is_store_away();
            let mut kept = self.kept.lock();
            if was_away && !away {
                let anew = self.end_of_lease();
                kept.leases.values_mut().for_each(|end| *end = anew);
            }
            was_away = away;
            if away {
                continue;
            }
            let now = self.world.now();
            let over = kept.leases.iter().filter(|(_, end)| **end <= now);
            let over: Vec<_> = over.map(|(id, _)| *id).collect();
            for id in over {
                kept.leases.remove(&id);
                let at = place(kept.log.len());
                kept.truth.left(at, id);
                self.write(&mut kept, Written::Left(id));
            }
        }
    }
}
