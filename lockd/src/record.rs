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

pub(crate) use codec::LEVEL;
pub use codec::Record;
pub use floor::Floor;
pub use lock_id::LockId;
pub(crate) use lock_id::prefix_path;
pub use mode::Mode;
pub(crate) use mode::{OnLoss, QueueKind};
pub(crate) use operation::{Attach, Blocked, Change, WaitEnd};
pub use operation::{Client, Enqueue, Info, Open, Operation, Release, Wait};
pub use position::{Position, ReplicaId};
