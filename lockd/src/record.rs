//! What is written: the operations of the log, their places, and the bytes that they become.
//!
//! Knows nothing of what an operation does, which is `state`'s, nor of where it is kept, which is
//! `log`'s.

mod codec;
mod floor;
mod lock_id;
mod mode;
mod operation;
mod position;

pub use codec::{LEVEL, Record, RecordError};
pub use floor::Floor;
pub use lock_id::{LockId, prefix_path};
pub use mode::{Mode, OnLoss, QueueKind};
pub use operation::{
    Attach, Blocked, Change, Client, Enqueue, Info, Open, Operation, Release, Wait, WaitEnd,
};
pub use position::{Position, ReplicaId};
