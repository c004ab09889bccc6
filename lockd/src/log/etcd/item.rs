//! What the tasks hand to the log's owner, through one queue in order.

use bytes::Bytes;
use lockd_proto::clock::Instant;

use super::numbers::Numbers;
use crate::{
    log::{Delivered, Event, Floor, LogError},
    record::{Position, ReplicaId},
};

/// One life of this replica: a name, and the lease behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) id: ReplicaId,
    pub(super) lease: i64,
    /// How long after a proof's sending answers may promise a whole TTL.
    pub(super) keep: std::time::Duration,
    /// When its lease was asked for: the first proof.
    pub(super) sent: Instant,
    /// The reading of the log that it began after.
    pub(super) reading: u64,
}

/// What happens, in order.
#[derive(Debug)]
pub(super) enum Item {
    Reset,
    Chunk(Bytes),
    Floor(Floor),
    Record {
        at: Position,
        author: ReplicaId,
        lane: usize,
        number: u64,
        bytes: Bytes,
    },
    Joined {
        at: Position,
        replica: ReplicaId,
        level: u32,
    },
    Left {
        at: Position,
        replica: ReplicaId,
    },
    Restored(Position),
    Live(Life),
    Refused {
        life: ReplicaId,
        lane: usize,
        number: u64,
        error: LogError,
    },
    /// All that was in the log when these were asked for has been delivered, and so it had been when
    /// their read was sent.
    Barrier {
        numbers: Numbers,
        sent: Instant,
    },
    /// The same for a read that went with a renewal of the lease, which was granted.
    Proof {
        life: ReplicaId,
        sent: Instant,
    },
    Checkpoint {
        floor: Position,
        which: u64,
        chunks: u64,
    },
    Failed(LogError),
}

impl Item {
    /// The event by which a state is rebuilt; `None` for what happens only once.
    pub(super) fn again(self) -> Option<Event> {
        match self {
            Self::Reset => Some(Event::Reset),
            Self::Chunk(chunk) => Some(Event::Chunk(chunk)),
            Self::Floor(floor) => Some(Event::Floor(floor)),
            Self::Record { at, author, bytes, .. } => {
                Some(Event::Record(Delivered { at, author, lane: None, bytes }))
            }
            Self::Joined { at, replica, level } => Some(Event::Joined { at, replica, level }),
            Self::Left { at, replica } => Some(Event::Left { at, replica }),
            Self::Restored(at) => Some(Event::Restored { at }),
            Self::Live(_) | Self::Refused { .. } | Self::Barrier { .. } | Self::Proof { .. } => {
                None
            }
            Self::Checkpoint { .. } | Self::Failed(_) => None,
        }
    }
}
