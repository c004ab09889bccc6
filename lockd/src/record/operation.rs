//! The operations of the log: everything that changes anything.

use bytes::Bytes;
use lockd_proto::{RequestId, SessionId, TraceParent};
use serde::{Deserialize, Serialize};

use super::{LockId, Mode, Position, floor::Floor};

/// One operation. Its conditions are judged where it is applied, never before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Operation {
    /// The author begins a life as the only replica: all others are gone. Journals only.
    Start,
    /// Opens a session, or attaches it if it is there with the same secret.
    Open(Box<Open>),
    /// Attaches a session to the author.
    Attach(Attach),
    /// Ends a session whose client has been silent, if its epoch is still this one.
    End {
        /// The session.
        session: SessionId,
        /// The place of the operation that attached it.
        epoch: Position,
    },
    /// Ends a session as its client asked for.
    Close {
        /// The session.
        session: SessionId,
    },
    /// Adds an entry to the queues of its locks.
    Enqueue(Box<Enqueue>),
    /// The client takes an entry out, waiting or granted.
    Cancel {
        /// The session that owns it.
        session: SessionId,
        /// The stream that this came by; 0 for a call that is not numbered.
        stream: u64,
        /// The request that made it.
        request: RequestId,
    },
    /// The client releases what it holds.
    Release(Release),
    /// The client changes what it holds.
    Update {
        /// The session that holds it.
        session: SessionId,
        /// The request that made the entry.
        request: RequestId,
        /// What to change.
        change: Change,
    },
    /// A wait that its asker ends.
    EndWait {
        /// A lock that it waits for.
        lock: LockId,
        /// The entry.
        token: Position,
        /// The claim by which the asker asked. Another one since then: nothing changes.
        claim: Position,
        /// Why it ends.
        why: WaitEnd,
    },
    /// A lock-delay is over.
    Lapse {
        /// A lock of the entry.
        lock: LockId,
        /// The entry that its session left behind.
        token: Position,
        /// The place of the session's end.
        since: Position,
    },
    /// An operator takes an entry out.
    Force {
        /// A lock that it is in.
        lock: LockId,
        /// Its token.
        token: Position,
        /// What the operator says.
        reason: Box<str>,
    },
    /// Holders are asked to give a lock up.
    Yield {
        /// The lock.
        lock: LockId,
        /// Why.
        reason: Box<str>,
    },
    /// The result of a once is forgotten.
    Forget {
        /// The once.
        lock: LockId,
    },
    /// From the next operation on, operations mean what they mean at this level.
    Level(u32),
    /// Records up to here are needless: a checkpoint of the state is durable.
    Floor(Floor),
}

/// Opens a session. Id and secret come from the client, so that a retry finds its own session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The session.
    pub session: SessionId,
    /// The first stream, from 1; 0 for a client without streams.
    pub stream: u64,
    /// SHA-256 of the session's secret.
    pub secret_hash: [u8; 32],
    /// How long it lives without a keepalive, in milliseconds.
    pub ttl_ms: u32,
    /// Who opens it.
    pub client: Client,
}

/// Who a session belongs to, for people who look at a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Client {
    /// A name such as "api-7".
    pub name: Box<str>,
    /// The host that it runs on.
    pub host: Box<str>,
    /// Its process id; zero where there is none.
    pub pid: u32,
}

/// Attaches a session to the author of the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attach {
    /// The session.
    pub session: SessionId,
    /// The stream's number, greater than that of every stream before; 0 for a client without streams.
    pub stream: u64,
    /// The requests that the client still has open: every other entry that a stream of the session has
    /// made is taken out. `None` leaves all as they are.
    pub open: Option<Vec<RequestId>>,
}

/// Adds an entry to the queues of its locks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Enqueue {
    /// The session that asks.
    pub session: SessionId,
    /// The stream that this came by; 0 for a call that is not numbered.
    pub stream: u64,
    /// Made by the client: asking again with it finds the same entry.
    pub request: RequestId,
    /// The locks, each once. Never empty.
    pub locks: Vec<LockId>,
    /// How they are shared.
    pub mode: Mode,
    /// How long to wait.
    pub wait: Wait,
    /// How long the locks stay taken after a loss, in milliseconds.
    pub lock_delay_ms: u32,
    /// What is shown beside the entry.
    pub info: Info,
}

/// How long an entry waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wait {
    /// Not at all: a try.
    Not,
    /// At most so many milliseconds, never zero.
    Within(u64),
    /// For ever.
    Forever,
}

/// What an entry says of itself. Nothing is decided by it but whether a retry asks for the same.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Info {
    /// What the acquire says of itself, sorted by key.
    pub metadata: Vec<(Box<str>, Box<str>)>,
    /// The span that it was asked for in, as in the header `traceparent`, or where that is not known
    /// the trace's id alone. May be empty.
    pub trace: Box<str>,
    /// When it was made, in milliseconds of the Unix epoch: to show, never to decide.
    pub made_unix_ms: u64,
    /// Until when it waits, in milliseconds of the Unix epoch: to show. Zero where it waits for ever.
    pub wait_until_unix_ms: u64,
    /// Its value, which an update changes.
    pub value: Bytes,
    /// The logical task that it belongs to; may be empty.
    pub owner: Box<str>,
}

impl Info {
    /// The span that the entry was asked for in, where that is known.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.trace.parse().ok()
    }

    /// The trace that it was asked for in; empty where that is not known.
    #[must_use]
    pub fn trace_id(&self) -> String {
        let known = |parent: TraceParent| hex::encode(parent.trace_id());
        self.trace_parent().map_or_else(|| self.trace.to_string(), known)
    }

    /// Whether two acquires with one request id ask for the same thing.
    #[must_use]
    pub fn is_same_request(&self, other: &Self) -> bool {
        self.metadata == other.metadata
            && self.owner == other.owner
            && (self.trace == other.trace || self.trace_id() == other.trace_id())
    }
}

/// Releases what is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// The session that holds it.
    pub session: SessionId,
    /// The request that made the entry.
    pub request: RequestId,
    /// The lock and token that the caller names, where it names them: they are checked.
    pub named: Option<(LockId, Position)>,
}

/// A change to an entry that holds its lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// From exclusive to shared.
    Downgrade,
    /// Another value.
    Value(Bytes),
    /// The result of a once, which ends it for ever.
    Result(Bytes),
}

/// Why an asker ends a wait.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum WaitEnd {
    /// Its time is over.
    Expired,
    /// The call that asked is gone. A grant that its caller was never sent is given back as well.
    Abandoned,
    /// It is the youngest wait of a deadlock.
    Deadlock {
        /// The cycle: each of its waits must still stand.
        cycle: Vec<Blocked>,
        /// The other waits of its owners, which are stuck as well. One that is not named could go on.
        others: Vec<Position>,
    },
    /// A limit was reached that only its replica knows of: it is shutting down, say.
    Withdrawn,
}

/// A wait of a deadlock, and the entry that is in its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// The lock.
    pub lock: LockId,
    /// The entry that waits.
    pub token: Position,
    /// The entry ahead of it.
    pub by: Position,
    /// The owner of the entry that waits.
    pub owner: Box<str>,
    /// The owner of the entry ahead.
    pub blocked_by: Box<str>,
}
