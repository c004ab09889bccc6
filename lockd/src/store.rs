//! What lockd needs of a store: leases, atomic batches, reads and one watch.
//!
//! Two implementations, [`embedded`] and [`etcd`], pass one conformance suite. Nothing here
//! knows what a lock is; keys and values are made in [`crate::keys`] and [`crate::record`].

pub mod embedded;
pub mod etcd;

use std::{fmt, time::Duration};

use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use lockd_proto::{Ttl, TtlRange};

/// A durable, ordered key-value store with leases.
///
/// Every call may be cancelled; whether it was applied is then open. No call waits for ever
/// unless its docs say so.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// What this store is and can do.
    fn profile(&self) -> &Profile;

    /// Creates a lease. Granting an id that exists already is a retry and succeeds.
    fn grant_lease(&self, lease: LeaseId, ttl: Ttl) -> BoxFuture<'_, Result<Ttl, StoreError>>;

    /// Renews a lease for the TTL that was granted. It runs from some moment after the call
    /// was made, so whoever counts from before the call is on the safe side.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Ends a lease and deletes every key attached to it, at one revision. A lease that is
    /// gone already is a success.
    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>>;

    /// What is left of a lease; `None` when it is gone.
    fn lease_remaining(
        &self,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Option<Duration>, StoreError>>;

    /// Applies operations in one atomic step, durable before it returns, but for what
    /// may be [`Durable::After`], and gives one outcome for each, in their order.
    ///
    /// The caller sends at most [`Profile::max_ops`], counted by their width unless there is
    /// just one, never two with a key in common, and, where [`Profile::revision_per_op`] is
    /// false, at most one [`Enqueue`] per queue.
    ///
    /// An attempt with an unknown outcome is settled here: it is made certain that it can't
    /// be applied any more, then the batch is tried again, for as long as it takes. An `Err`
    /// therefore means that nothing was applied, now or later.
    fn commit(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<Vec<Outcome>, StoreError>>;

    /// The record of a key, no older than this call.
    fn get(&self, key: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// The first record by creation under a prefix, no older than this call.
    fn first(&self, prefix: Key) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// Everything in the store, then every change in order. Never ends and never fails: it
    /// reconnects by itself, and starts over with a new snapshot where changes were missed.
    fn watch(&self) -> BoxStream<'static, Feed>;
}

/// The most places of one [`Enqueue`]. etcd allows 128 operations in a transaction, and takes
/// from that what the transaction around it has, which is the batch.
pub const MAX_PLACES: usize = 32;

/// The most keys of one [`Delete`], for the same reason.
pub const MAX_DELETES: usize = 100;

/// What a store is and can do.
#[derive(Debug, Clone)]
pub struct Profile {
    /// "embedded", "memory" or "etcd".
    pub name: &'static str,
    /// The TTLs of its leases.
    pub ttl: TtlRange,
    /// The most operations in one batch.
    pub max_ops: usize,
    /// The most batches that are worth having under way at once.
    pub max_in_flight: usize,
    /// Whether commits that are under way together share what it costs to make them durable,
    /// and are applied in the order of their calls: nothing is gained by batching them.
    pub groups_commits: bool,
    /// Whether operations of one batch get revisions of their own. Where they share one, two
    /// entries of one queue in a batch would share a fencing token.
    pub revision_per_op: bool,
}

/// A point in the store's history. Grows with every commit, never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision(pub u64);

/// Names a lease. Chosen by the caller, at random, positive as etcd wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

impl LeaseId {
    /// No lease: what is attached to it stays until it is deleted.
    pub const NONE: Self = Self(0);
}

/// A key, without the prefix that a shared store may put before it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Bytes);

impl Key {
    /// The key made of these bytes.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key without so many of its last bytes, which it shares.
    #[must_use]
    pub fn without_last(&self, bytes: usize) -> Self {
        Self(self.0.slice(..self.0.len().saturating_sub(bytes)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0.escape_ascii())
    }
}

/// A key and what the store knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// When it was created.
    pub created: Revision,
    /// When it was last written.
    pub modified: Revision,
    /// The lease that it is attached to.
    pub lease: LeaseId,
}

/// One operation of a batch.
#[derive(Debug, Clone)]
pub enum Op {
    /// Adds an entry to one queue or several.
    Enqueue(Enqueue),
    /// Writes a key.
    Put(Put),
    /// Deletes keys.
    Delete(Delete),
}

impl Op {
    /// The keys that it writes, but for a note.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        let (places, put, deleted) = match self {
            Self::Enqueue(op) => (op.places.as_slice(), None, [].as_slice()),
            Self::Put(op) => ([].as_slice(), Some(&op.key), [].as_slice()),
            Self::Delete(op) => ([].as_slice(), None, op.keys.as_slice()),
        };
        let places = places.iter().map(|place| &place.key);
        places.chain(put).chain(deleted.iter().map(|(key, _)| key))
    }

    /// How many keys it writes, but for a note.
    #[must_use]
    pub fn width(&self) -> usize {
        match self {
            Self::Enqueue(op) => op.places.len(),
            Self::Put(_) => 1,
            Self::Delete(op) => op.keys.len(),
        }
    }
}

/// Adds an entry to one queue, or at one revision to several, if it is in none of them yet
/// and its session lives.
#[derive(Debug, Clone)]
pub struct Enqueue {
    /// Where. Never empty.
    pub places: Vec<Place>,
    /// What is to be stored, in each place.
    pub value: Bytes,
    /// The session's key. It exists as long as the session's lease does.
    pub session: Key,
    /// The session's lease, or none for an entry that may outlive its session.
    pub lease: LeaseId,
    /// Whether to join queues that are not empty.
    pub join: Join,
    /// When it is durable. A moment after its answer only where it joins a queue that is not
    /// empty, and so waits.
    pub durable: Durable,
}

/// A place in a queue.
#[derive(Debug, Clone)]
pub struct Place {
    /// The entry's key; starts with `queue`.
    pub key: Key,
    /// The prefix of all entries of the queue.
    pub queue: Key,
}

/// Whether an [`Enqueue`] joins a queue that is not empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// It does, and waits.
    Always,
    /// It does not: a try.
    IfEmpty,
}

/// Writes `key`, attached to `lease`, if the guard holds.
#[derive(Debug, Clone)]
pub struct Put {
    /// The key.
    pub key: Key,
    /// The new value.
    pub value: Bytes,
    /// The lease to attach it to, if any. Must exist if the guard holds.
    pub lease: LeaseId,
    /// When to do it.
    pub guard: Guard,
}

/// Deletes keys, all or none of them.
#[derive(Debug, Clone)]
pub struct Delete {
    /// The keys, each with what must hold of it. A key that is not there is refused.
    pub keys: Vec<(Key, Guard)>,
    /// A key to write in the same step: why it was done, or what came of it.
    pub note: Option<Note>,
    /// When it is durable. A moment after its answer only where it leaves `queues` empty.
    pub durable: Durable,
    /// The prefixes of the queues that the keys are in, if that matters.
    pub queues: Vec<Key>,
}

impl Delete {
    /// Deletes these keys, each with what must hold of it, and is durable before it is answered.
    #[must_use]
    pub fn new(keys: Vec<(Key, Guard)>) -> Self {
        Self { keys, note: None, durable: Durable::Before, queues: Vec::new() }
    }
}

/// When a write is durable, on a store that makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durable {
    /// Before it is answered.
    Before,
    /// A moment after, if it is one by which nobody is granted anything: who gains by it
    /// writes later, and what is written later is durable no sooner. A crash in between undoes
    /// it.
    After,
}

/// Written beside a deletion.
#[derive(Debug, Clone)]
pub struct Note {
    /// Its key.
    pub key: Key,
    /// Its value.
    pub value: Bytes,
    /// The lease that it goes with, if any.
    pub lease: LeaseId,
}

/// What must hold of a key for an operation to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// It does not exist.
    Absent,
    /// It exists.
    Exists,
    /// It exists and was last written at this revision.
    At(Revision),
    /// It exists and was created at this revision.
    Made(Revision),
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The entry joined its queues at this revision.
    Enqueued {
        /// Its creation revision.
        revision: Revision,
        /// Whether nothing is known to have been ahead anywhere. Where it is not, the watch tells.
        first: bool,
    },
    /// The entry was there before: a retry, or a request id used twice.
    Exists(Record),
    /// A try found a queue not empty.
    Occupied,
    /// The session, and so its lease, is gone.
    SessionGone,
    /// A put or delete was done, at this revision.
    Done(Revision),
    /// A guard did not hold: this is what was found of the first key.
    Refused(Option<Record>),
}

/// What a watch delivers.
#[derive(Debug, Clone)]
pub enum Feed {
    /// The whole state at a revision: what is not in it is gone.
    Snapshot {
        /// The revision.
        revision: Revision,
        /// Every record.
        records: Vec<Record>,
    },
    /// All changes made at one revision. Revisions come in order, each whole.
    Changes {
        /// The revision.
        revision: Revision,
        /// The changes.
        changes: Vec<Change>,
    },
    /// Nothing new: the state is what was delivered so far, and the link is alive.
    Confirmed(Revision),
}

/// One change.
#[derive(Debug, Clone)]
pub enum Change {
    /// A key was written.
    Put(Record),
    /// A key was deleted.
    Deleted(Key),
}

/// Why a store did not do what it was asked. Nothing was applied unless it says so.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It can't be reached.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It has no space left. Deletes and keepalives still work.
    #[error("the store is full: {0}; make room, waiting locks are safe")]
    Full(String),
    /// The lease is gone.
    #[error("the lease is gone")]
    LeaseNotFound,
    /// It can't be opened or is damaged: not to be mended by a retry.
    #[error("{0}")]
    Broken(String),
}

impl StoreError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Full(_) => true,
            Self::LeaseNotFound | Self::Broken(_) => false,
        }
    }
}
