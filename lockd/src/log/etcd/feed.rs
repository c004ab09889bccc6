//! Follows the log: reads it, then delivers what the watch brings, in order.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    item::Item,
    keys::Named,
    opening::{Stop, level, marked, open},
    replica::{Known, Replica},
    start::start,
    waits::{DelayedItem, Waits},
    watch::{Batch, KeyChange, Watch},
};
use crate::{log::LogError, record::ReplicaId};

struct Feed {
    replica: Arc<Replica>,
    known: Known,
    waits: Waits,
    /// Which reading of the log this is.
    reading: u64,
    /// Everything up to here has been delivered.
    reached: i64,
}

/// Follows the log until it fails or its owner is gone. `arriving` are reads whose revisions are waited
/// for.
pub(super) async fn run(replica: Arc<Replica>, mut arriving: mpsc::Receiver<DelayedItem>) {
    let stop = match begin(&replica).await {
        Ok(known) => {
            let waits = Waits::default();
            let mut feed = Feed { replica: replica.clone(), known, waits, reading: 0, reached: 0 };
            feed.follow(&mut arriving).await
        }
        Err(error) => Stop::Failed(error),
    };
    if let Stop::Failed(error) = stop {
        replica.fail(error).await;
    }
}

async fn begin(replica: &Replica) -> Result<Known, LogError> {
    start(replica).await?;
    let missing = || LogError::Broken("the history was not read".to_owned());
    replica.known().cloned().ok_or_else(missing)
}

impl Feed {
    async fn follow(&mut self, arriving: &mut mpsc::Receiver<DelayedItem>) -> Stop {
        loop {
            self.reading += 1;
            let stop = match self.once(arriving).await {
                Ok(never) => match never {},
                Err(stop) => stop,
            };
            self.replica.reading.send_replace(None);
            match stop {
                Stop::Compacted => {
                    tracing::warn!("etcd has compacted what comes next: reading the log again");
                }
                stop => return stop,
            }
        }
    }

    async fn once(
        &mut self,
        arriving: &mut mpsc::Receiver<DelayedItem>,
    ) -> Result<std::convert::Infallible, Stop> {
        let opened = open(&self.replica, &self.known).await?;
        self.reached = opened.revision;
        if let Some(floor) = opened.floor {
            self.replica.floor.send_replace(Some(floor));
        }
        self.replica.reading.send_replace(Some(self.reading));
        let mut watch = Watch::new(&self.replica, opened.revision);
        loop {
            self.release().await?;
            // Both arms are cancel safe.
            tokio::select! {
                biased;
                wait = arriving.recv() => self.waits.push(wait.ok_or(Stop::Gone)?),
                batch = watch.next() => self.take(batch?).await?,
            }
        }
    }

    async fn release(&mut self) -> Result<(), Stop> {
        while let Some(item) = self.waits.pop(self.reached) {
            self.replica.emit(item).await?;
        }
        Ok(())
    }

    async fn take(&mut self, batch: Batch) -> Result<(), Stop> {
        for change in batch.changes {
            self.change(change).await?;
        }
        self.reached = batch.reached;
        Ok(())
    }

    async fn change(&mut self, change: KeyChange) -> Result<(), Stop> {
        let KeyChange { revision, key, value } = change;
        let named = self.replica.keys.parse(&key);
        match (named, value) {
            (Named::Record { author, lane, number }, Some(bytes)) => {
                self.replica.view().record((author, lane), number, revision);
                let (at, bytes) = (self.known.history.position(revision), Bytes::from(bytes));
                self.replica.emit(Item::Record { at, author, lane, number, bytes }).await?;
            }
            (Named::Join(id) | Named::Left(id), Some(value)) => {
                let mark = (named, level(&value));
                let item = marked(&mut self.replica.view(), &self.known, revision, mark);
                if let Some(item) = item {
                    self.replica.emit(item).await?;
                }
                match named {
                    Named::Join(_) => self.live(id).await?,
                    // Its records are now for the first of the others to delete.
                    _ => self.replica.untrimmed.notify_one(),
                }
            }
            (Named::Join(id) | Named::Left(id), None) => self.replica.view().forget(id),
            (Named::Replica(id), Some(_)) => self.replica.view().present(id),
            (Named::Replica(id), None) => {
                self.replica.view().absent(id);
                self.replica.lose(id);
                self.replica.departed.notify_one();
            }
            (Named::History, _) if revision != self.known.revision => {
                return Err(other_era().into());
            }
            (Named::Record { .. } | Named::History | Named::Other, _) => {}
        }
        Ok(())
    }

    /// A replica's join has been delivered: if it is this one's, it lives.
    async fn live(&mut self, id: ReplicaId) -> Result<(), Stop> {
        let life = *self.replica.life.borrow();
        match life.filter(|life| life.id == id && life.reading == self.reading) {
            Some(life) => self.replica.emit(Item::Live(life)).await?,
            None => return Ok(()),
        }
        self.replica.untrimmed.notify_one();
        // Those that died before it came are for it to mark, if it is the first.
        self.replica.departed.notify_one();
        Ok(())
    }
}

/// What a replica says that missed the beginning of a new era.
pub(super) fn other_era() -> LogError {
    LogError::Broken(
        "a restored etcd was accepted by another replica: start this one again".to_owned(),
    )
}
