//! Writes checkpoints, beside the log and behind its owner's back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use etcd_client::{DeleteOptions, Txn, TxnOp};
use tokio::{sync::mpsc, time::sleep};

use super::{
    item::Item,
    replica::{Replica, random},
};
use crate::{log::LogError, record::Position};

/// Chunks that wait to be written: a few MiB.
const QUEUE: usize = 64;

/// The pause after a refusal.
const REFUSED: Duration = Duration::from_secs(1);

/// Chunks that are deleted in one step.
pub(super) const AT_ONCE: u64 = 256;

/// A checkpoint, among those at the same floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Which {
    floor: Position,
    number: u64,
}

/// What the writer is given.
enum Piece {
    Chunk { which: Which, number: u64, bytes: Bytes },
    Finish { which: Which, chunks: u64 },
}

/// The owner's side: what it hands over waits here.
pub(super) struct Checkpoints {
    queue: mpsc::Sender<Piece>,
    /// The one that is being written, and how many chunks it has.
    current: Option<(Which, u64)>,
}

/// The writer's side.
pub(super) struct Pieces(mpsc::Receiver<Piece>);

/// Both sides of a queue of chunks.
pub(super) fn queue() -> (Checkpoints, Pieces) {
    let (queue, pieces) = mpsc::channel(QUEUE);
    (Checkpoints { queue, current: None }, Pieces(pieces))
}

impl Checkpoints {
    /// Whether a chunk, and the end behind it, find room.
    pub(super) fn has_room(&self) -> bool {
        self.queue.capacity() > 1
    }

    /// Takes the next chunk; the first one of a floor begins a checkpoint.
    pub(super) fn chunk(&mut self, floor: Position, bytes: Bytes) -> Result<(), LogError> {
        let (which, number) = match self.current {
            Some((which, chunks)) if which.floor == floor => (which, chunks),
            _ => (Which { floor, number: random() }, 0),
        };
        self.current = Some((which, number.saturating_add(1)));
        self.send(Piece::Chunk { which, number, bytes })
    }

    /// Takes the end of a checkpoint.
    pub(super) fn finish(&mut self, floor: Position) -> Result<(), LogError> {
        let current = self.current.take().filter(|(which, _)| which.floor == floor);
        // One without chunks: the state is empty.
        let new = || (Which { floor, number: random() }, 0);
        let (which, chunks) = current.unwrap_or_else(new);
        self.send(Piece::Finish { which, chunks })
    }

    fn send(&mut self, piece: Piece) -> Result<(), LogError> {
        self.queue.try_send(piece).map_err(|_| {
            self.current = None;
            LogError::Unavailable("etcd does not keep up with a checkpoint's chunks".to_owned())
        })
    }
}

/// Writes what is handed over, until the log ends.
pub(super) async fn run(replica: Arc<Replica>, mut pieces: Pieces) {
    let mut unfinished = None;
    let mut floors = replica.floor.subscribe();
    loop {
        let piece = tokio::select! {
            piece = pieces.0.recv() => match piece {
                Some(piece) => piece,
                None => return,
            },
            changed = floors.changed() => {
                if changed.is_err() {
                    return;
                }
                // A greater floor makes it needless: it is garbage (DESIGN, Checkpoints).
                if let Some(which) = unfinished.take_if(|which| is_needless(&replica, which)) {
                    delete(&replica, which).await;
                }
                continue;
            }
        };
        match piece {
            Piece::Chunk { which, number, bytes } => {
                if is_needless(&replica, &which) {
                    continue;
                }
                if let Some(before) = unfinished.replace(which).filter(|before| *before != which) {
                    delete(&replica, before).await;
                }
                write(&replica, which, (number, bytes)).await;
            }
            Piece::Finish { which, chunks } => {
                unfinished.take_if(|it| *it == which);
                let (floor, which) = (which.floor, which.number);
                if replica.emit(Item::Checkpoint { floor, which, chunks }).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn is_needless(replica: &Replica, which: &Which) -> bool {
    replica.floor.borrow().is_some_and(|floor| floor.at >= which.floor)
}

/// Writes a chunk, for as long as it takes. Nested, since etcd does not count that against its quota: a
/// checkpoint frees more than it takes.
async fn write(replica: &Replica, which: Which, (number, bytes): (u64, Bytes)) {
    let key = replica.keys.chunk(which.floor, which.number, number);
    let put = TxnOp::put(key, bytes.to_vec(), None);
    let txn = Txn::new().and_then([TxnOp::txn(Txn::new().and_then([put]))]);
    while let Err(refusal) = replica.endpoints.txn(txn.clone()).await {
        tracing::warn!(?refusal, "a chunk of a checkpoint is refused");
        sleep(REFUSED).await;
    }
}

/// Deletes what was written of a checkpoint that will not be finished.
async fn delete(replica: &Replica, which: Which) {
    let (from, to) = replica.keys.chunks(which.floor, which.number, 0);
    delete_range(replica, from, to).await;
}

/// Deletes a range of keys. A refusal leaves them for the next floor.
pub(super) async fn delete_range(replica: &Replica, from: Vec<u8>, to: Vec<u8>) {
    let deleted = replica.endpoints.call(|mut client| {
        let (from, options) = (from.clone(), DeleteOptions::new().with_range(to.clone()));
        async move { client.delete(from, Some(options)).await }
    });
    if let Err(refusal) = deleted.await {
        tracing::warn!(?refusal, "what is needless in etcd can't be deleted");
    }
}
