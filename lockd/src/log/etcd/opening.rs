//! Reads the whole log as it is at one revision: the newest floor and its checkpoint, then the records
//! and the replicas' comings and goings after it, in their order.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    fault::EtcdRefusal,
    floor::StoredFloor,
    item::Item,
    keys::Named,
    pages::{Pages, Records},
    replica::{Gone, Known, Replica},
    view::View,
};
use crate::{
    log::{Floor, LogError},
    record::{Position, ReplicaId},
};

/// Why the log is not read, or not followed, any further.
#[derive(Debug)]
pub(super) enum Stop {
    /// etcd has compacted what comes next: all is read again.
    Compacted,
    Failed(LogError),
    /// The log's owner has gone.
    Gone,
}

impl From<Gone> for Stop {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Failed(error)
    }
}

impl From<EtcdRefusal> for Stop {
    fn from(refusal: EtcdRefusal) -> Self {
        match refusal {
            EtcdRefusal::Compacted => Self::Compacted,
            refusal => Self::Failed(refusal.into()),
        }
    }
}

/// What was read, and up to where.
pub(super) struct OpenedLog {
    /// The revision that deliveries go on after.
    pub(super) revision: i64,
    pub(super) floor: Option<Floor>,
}

/// A mark of a replica.
struct ReplicaMark {
    revision: i64,
    named: Named,
    level: u32,
}

/// Reads the whole log: for its owner, or beside what that is given.
pub(super) struct Reader<'a> {
    pub(super) replica: &'a Replica,
    pub(super) known: &'a Known,
    /// Where it is noted what there is.
    pub(super) view: &'a Mutex<View>,
    pub(super) out: &'a mpsc::Sender<Item>,
}

/// Reads the log and hands it to its owner.
pub(super) async fn open(replica: &Replica, known: &Known) -> Result<OpenedLog, Stop> {
    let (view, out) = replica.owner();
    Reader { replica, known, view, out }.read().await
}

impl Reader<'_> {
    /// Reads the log as it is now.
    pub(super) async fn read(&self) -> Result<OpenedLog, Stop> {
        let replica = self.replica;
        let before = replica.watermark.now();
        let read = replica.endpoints.get(replica.keys.floor(), None).await?;
        replica.observe(before, read.header())?;
        let revision = read.header().map_or(0, etcd_client::ResponseHeader::revision);
        self.view().clear();
        self.emit(Item::Reset).await?;
        let mut floor = None;
        if let Some(kv) = read.kvs().first() {
            let kept = StoredFloor::parse(kv.value()).ok_or_else(|| newer("the floor's key"))?;
            self.checkpoint(&kept.floor, revision).await?;
            floor = Some(kept.floor);
        }
        self.presence(revision).await?;
        let marks = self.marks(revision).await?;
        let from = floor.map_or(0, |floor| self.known.history.revision(floor.at));
        self.records((from, revision), marks).await?;
        Ok(OpenedLog { revision, floor })
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn emit(&self, item: Item) -> Result<(), Gone> {
        self.out.send(item).await.map_err(|_| Gone)
    }

    /// Delivers the checkpoint of a floor: exactly the chunks that it names.
    async fn checkpoint(&self, floor: &Floor, revision: i64) -> Result<(), Stop> {
        if floor.level > self.replica.config.level {
            return Err(newer(&format!("the log, of level {},", floor.level)).into());
        }
        let mut pages = Pages::new(self.replica.keys.chunks(floor.at, floor.which, 0), revision);
        for number in 0..floor.chunks {
            let expected = self.replica.keys.chunk(floor.at, floor.which, number);
            let chunk = pages.next(self.replica).await?.filter(|kv| kv.key() == expected);
            let Some(chunk) = chunk else {
                return Err(Stop::Failed(LogError::Broken(format!(
                    "chunk {number} of {} of the checkpoint at {} is missing in etcd: restore a backup",
                    floor.chunks, floor.at
                ))));
            };
            self.emit(Item::Chunk(Bytes::from(chunk.into_key_value().1))).await?;
        }
        self.emit(Item::Floor(*floor)).await?;
        Ok(())
    }

    /// Notes which replicas' keys are there.
    async fn presence(&self, revision: i64) -> Result<(), Stop> {
        let mut pages = Pages::new(self.replica.keys.replicas(), revision);
        while let Some(kv) = pages.next(self.replica).await? {
            match self.replica.keys.parse(kv.key()) {
                Named::Replica(id) => self.view().present(id),
                _ => {
                    return Err(Stop::Failed(LogError::Broken(format!(
                        "{:?} in etcd is no key of this version of lockd: choose another prefix",
                        String::from_utf8_lossy(kv.key())
                    ))));
                }
            }
        }
        Ok(())
    }

    /// The marks of replicas, in order.
    async fn marks(&self, revision: i64) -> Result<VecDeque<ReplicaMark>, Stop> {
        let mut pages = Pages::new(self.replica.keys.members(), revision);
        let mut marks = Vec::new();
        while let Some(kv) = pages.next(self.replica).await? {
            let named = self.replica.keys.parse(kv.key());
            marks.push(ReplicaMark {
                revision: kv.mod_revision(),
                named,
                level: level(kv.value()),
            });
        }
        marks.sort_by_key(|mark| mark.revision);
        Ok(marks.into())
    }

    /// Delivers records and marks after a floor's revision. What survived at or below it is only noted, to
    /// be deleted (RULES T2).
    async fn records(
        &self,
        (floor, revision): (i64, i64),
        mut marks: VecDeque<ReplicaMark>,
    ) -> Result<(), Stop> {
        let mut records = Records::find(self.replica, revision).await?;
        let mut restored = self.known.history.restored_after(floor);
        while let Some(found) = records.next(self.replica).await? {
            let revision = found.kv.mod_revision();
            self.view().record(found.at, found.number, revision);
            if revision <= floor {
                continue;
            }
            while let Some(mark) = marks.pop_front_if(|mark| mark.revision < revision) {
                self.deliver_restored(&mut restored, mark.revision).await?;
                self.deliver(floor, &mark).await?;
            }
            self.deliver_restored(&mut restored, revision).await?;
            let (author, lane) = found.at;
            let (at, number) = (self.known.history.position(revision), found.number);
            let bytes = Bytes::from(found.kv.into_key_value().1);
            self.emit(Item::Record { at, author, lane, number, bytes }).await?;
        }
        for mark in marks {
            self.deliver_restored(&mut restored, mark.revision).await?;
            self.deliver(floor, &mark).await?;
        }
        self.deliver_restored(&mut restored, i64::MAX).await?;
        Ok(())
    }

    /// Says which restores were accepted up to a revision.
    async fn deliver_restored(
        &self,
        restored: &mut VecDeque<(i64, Position)>,
        until: i64,
    ) -> Result<(), Gone> {
        while let Some((_, at)) = restored.pop_front_if(|(from, _)| *from <= until) {
            self.emit(Item::Restored(at)).await?;
        }
        Ok(())
    }

    async fn deliver(&self, floor: i64, mark: &ReplicaMark) -> Result<(), Gone> {
        let Some(item) =
            marked(&mut self.view(), self.known, mark.revision, (mark.named, mark.level))
        else {
            return Ok(());
        };
        if mark.revision > floor { self.emit(item).await } else { Ok(()) }
    }
}

fn newer(what: &str) -> LogError {
    LogError::Broken(format!(
        "{what} in etcd was written by a newer version of lockd: upgrade this one"
    ))
}

/// The level that a replica can read, in its mark; zero if that is not to be understood.
pub(super) fn level(value: &[u8]) -> u32 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Notes a replica's mark, and what it means.
pub(super) fn marked(
    view: &mut View,
    known: &Known,
    revision: i64,
    (named, level): (Named, u32),
) -> Option<Item> {
    let at = known.history.position(revision);
    let (id, item) = match named {
        Named::Join(id) => {
            view.joined(id);
            (id, Item::Joined { at, replica: id, level })
        }
        Named::Left(id) => {
            view.left(id, revision);
            (id, Item::Left { at, replica: id })
        }
        Named::Record { .. } | Named::Replica(_) | Named::History | Named::Other => return None,
    };
    (id != ReplicaId(0)).then_some(item)
}
