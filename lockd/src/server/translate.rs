//! From messages to checked values and back.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lockd_proto::{
    DEFAULT_TTL, FencingToken, LockName, MAX_METADATA_BYTES, MAX_TTL, Namespace, RequestId,
    SessionId, TraceParent, TtlRange, check_metadata, v1,
};
use tonic::metadata::MetadataMap;

use super::secret::SessionSecret;
use crate::{
    core::{
        answer::{Released, describe_cycle},
        ask::{Acquire, Credential},
        error::Error,
    },
    record::{Change, Client, Info, LockId, Mode, OnLoss, Open, Position, Wait},
    state::{Described, Page, QueuePage, Refusal, Stage},
};

/// The longest value of an entry, in bytes. Everybody who looks at the lock is sent it.
const MAX_VALUE: usize = 4096;

/// The longest result of a once, in bytes.
const MAX_RESULT: usize = 64 * 1024;

/// The longest name of an owner, in bytes.
const MAX_OWNER: usize = 128;

/// The longest reason for a forced release or a wish to yield, in bytes.
const MAX_REASON: usize = 1024;

/// The most parties of a barrier.
const MAX_PARTIES: u32 = 10_000;

/// The most locks of one entry.
const MAX_LOCKS: usize = 1000;

/// The most entries of a page, and about how many bytes it may have.
const MAX_ENTRIES: usize = 1000;
const MAX_PAGE_BYTES: usize = 256 * 1024;

/// The TTLs of sessions.
const TTLS: TtlRange = TtlRange { min: Duration::from_secs(1), max: MAX_TTL };

/// A longer wait is one for ever.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest lock-delay, during which no session can acquire a lock that has no holder.
const MAX_LOCK_DELAY: Duration = Duration::from_secs(600);

pub(super) fn to_wire_duration(duration: Duration) -> prost_types::Duration {
    // Only a duration of more than 292 billion years does not fit.
    duration.try_into().unwrap_or_default()
}

pub(super) fn duration(
    field: &'static str,
    duration: prost_types::Duration,
) -> Result<Duration, Error> {
    let malformed = || invalid(field, "is negative or malformed: give it as a positive duration");
    // The conversion would negate what is negative, which the least number does not survive.
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err(malformed());
    }
    duration.try_into().map_err(|_| malformed())
}

fn missing(field: &'static str) -> Error {
    Error::Invalid { field, problem: "is missing".to_owned() }
}

pub(super) fn lock_id(namespace: &str, name: String) -> Result<LockId, Error> {
    let namespace = Namespace::parse_or_default(namespace)?;
    Ok(LockId::new(&namespace, &LockName::parse(name)?))
}

pub(super) fn request_id(bytes: &[u8]) -> Result<RequestId, Error> {
    Ok(RequestId::try_from(bytes)?)
}

pub(super) fn token(value: u64) -> Result<FencingToken, Error> {
    FencingToken::new(value).ok_or_else(|| Error::Invalid {
        field: "token",
        problem: "is zero, which no grant carries: give the holder's token".to_owned(),
    })
}

pub(super) fn bytes(id: RequestId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

pub(super) fn credential(session: Option<v1::SessionCredential>) -> Result<Credential, Error> {
    let v1::SessionCredential { session_id, secret, stream } =
        session.ok_or_else(|| missing("session"))?;
    let secret_hash = SessionSecret::new(secret).hash();
    Ok(Credential { session: session_id.parse()?, secret_hash, stream })
}

/// A session to be opened, and its secret, which is made here for a client that has made none.
pub(super) fn open(request: v1::OpenSessionRequest) -> Result<(Open, SessionSecret), Error> {
    let ttl = request.ttl.map(|ttl| duration("ttl", ttl)).transpose()?;
    let ttl = TTLS.check(ttl.unwrap_or(DEFAULT_TTL))?;
    let client = client(request.client)?;
    let (session, stream, secret) = match request.session {
        Some(session) => {
            let secret = SessionSecret::new(session.secret);
            if !secret.is_well_formed() {
                let problem = "is no 64 hexadecimal digits: make it of 32 random bytes";
                return Err(invalid("session.secret", problem));
            }
            (session.session_id.parse()?, session.stream, secret)
        }
        None => (SessionId::random(), 0, SessionSecret::random()?),
    };
    let ttl_ms = u32::try_from(ttl.get().as_millis()).unwrap_or(u32::MAX);
    Ok((Open { session, stream, secret_hash: secret.hash(), ttl_ms, client }, secret))
}

fn client(client: Option<v1::ClientInfo>) -> Result<Client, Error> {
    let v1::ClientInfo { name, host, pid } = client.unwrap_or_default();
    if name.len() + host.len() > MAX_METADATA_BYTES {
        let problem = "is over 4096 bytes: shorten its name and host";
        return Err(invalid("client", problem));
    }
    Ok(Client { name: name.into(), host: host.into(), pid })
}

/// Which part of a queue is asked for.
pub(super) fn page(size: u32, after: Position) -> Page {
    let entries = match usize::try_from(size).unwrap_or(MAX_ENTRIES) {
        0 => MAX_ENTRIES,
        size => size.min(MAX_ENTRIES),
    };
    Page { after, entries, bytes: MAX_PAGE_BYTES }
}

fn invalid(field: &'static str, problem: impl Into<String>) -> Error {
    Error::Invalid { field, problem: problem.into() }
}

fn check_len(field: &'static str, len: usize, max: usize) -> Result<(), Error> {
    if len > max {
        return Err(invalid(field, format!("has {len} bytes: at most {max} are allowed")));
    }
    Ok(())
}

pub(super) fn acquire(request: RequestId, acquire: v1::Acquire) -> Result<Acquire, Error> {
    check_metadata(&acquire.metadata)?;
    check_len("trace_id", acquire.trace_id.len(), 128)?;
    check_len("value", acquire.value.len(), MAX_VALUE)?;
    check_len("owner", acquire.owner.len(), MAX_OWNER)?;
    let mode = to_mode(acquire.mode.as_ref())?;
    let locks = locks(&acquire, mode)?;
    let wait = wait(acquire.max_wait)?;
    if matches!(mode, Mode::Party { .. }) && wait == Wait::Not {
        return Err(invalid("max_wait", "is zero: a barrier can't be tried, only waited for"));
    }
    let trace = trace(acquire.trace_id, acquire.traceparent)?.into();
    let lock_delay_ms = lock_delay(acquire.lock_delay)?;
    let mut metadata: Vec<(Box<str>, Box<str>)> =
        acquire.metadata.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
    metadata.sort_unstable();
    let made_unix_ms = unix_ms();
    let wait_until_unix_ms = match wait {
        Wait::Within(wait) => made_unix_ms.saturating_add(wait),
        Wait::Not | Wait::Forever => 0,
    };
    let (value, owner) = (acquire.value.into(), acquire.owner.into());
    let info = Info { metadata, trace, made_unix_ms, wait_until_unix_ms, value, owner };
    Ok(Acquire { request, locks, mode, wait, lock_delay_ms, info })
}

/// How long an acquire waits. One that would outlast every clock is for ever.
fn wait(max_wait: Option<prost_types::Duration>) -> Result<Wait, Error> {
    let Some(max_wait) = max_wait.map(|wait| duration("max_wait", wait)).transpose()? else {
        return Ok(Wait::Forever);
    };
    Ok(match max_wait {
        Duration::ZERO => Wait::Not,
        wait if wait > LONGEST_WAIT => Wait::Forever,
        wait => Wait::Within(millis(wait).max(1)),
    })
}

fn to_mode(mode: Option<&v1::Mode>) -> Result<Mode, Error> {
    use v1::mode::Mode as Wire;
    let Some(mode) = mode.and_then(|mode| mode.mode.as_ref()) else {
        return Ok(Mode::default());
    };
    Ok(match mode {
        Wire::Exclusive(v1::Exclusive {}) => Mode::Exclusive,
        Wire::Shared(v1::Shared {}) => Mode::Shared,
        Wire::Permits(v1::Permits { count, capacity }) => {
            if *count == 0 || count > capacity {
                let problem =
                    format!("asks for {count} of {capacity} permits: ask for 1 to {capacity}");
                return Err(invalid("mode", problem));
            }
            Mode::Permits { count: *count, capacity: *capacity }
        }
        Wire::Party(v1::Party { parties }) => {
            if !(1..=MAX_PARTIES).contains(parties) {
                let problem = format!("is for {parties} parties: 1 to {MAX_PARTIES} can meet");
                return Err(invalid("mode", problem));
            }
            Mode::Party { parties: *parties }
        }
        Wire::Share(share) => Mode::Share(match share.on_loss() {
            v1::ShareLoss::Unspecified | v1::ShareLoss::Release => OnLoss::Release,
            v1::ShareLoss::Fail => OnLoss::Fail,
        }),
        Wire::Once(v1::Once {}) => Mode::Once,
    })
}

fn from_mode(mode: Mode) -> v1::Mode {
    use v1::mode::Mode as Wire;
    let mode = match mode {
        Mode::Exclusive => Wire::Exclusive(v1::Exclusive {}),
        Mode::Shared => Wire::Shared(v1::Shared {}),
        Mode::Permits { count, capacity } => Wire::Permits(v1::Permits { count, capacity }),
        Mode::Party { parties } => Wire::Party(v1::Party { parties }),
        Mode::Share(on_loss) => {
            let on_loss = match on_loss {
                OnLoss::Release => v1::ShareLoss::Release,
                OnLoss::Fail => v1::ShareLoss::Fail,
            };
            Wire::Share(v1::Share { on_loss: on_loss.into() })
        }
        Mode::Once => Wire::Once(v1::Once {}),
    };
    v1::Mode { mode: Some(mode) }
}

/// What a call says in its header; one that is malformed says nothing, as W3C asks for.
pub(super) fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let header = metadata.get("traceparent")?.to_str().ok()?;
    header.parse::<TraceParent>().ok().map(|parent| parent.to_string())
}

/// The caller's span where that is said, else the trace alone.
fn trace(trace_id: String, traceparent: String) -> Result<String, Error> {
    if traceparent.is_empty() {
        return Ok(trace_id);
    }
    let parsed = traceparent.parse::<TraceParent>();
    parsed.map_err(|error| invalid("traceparent", format!("is {error}")))?;
    Ok(traceparent)
}

/// The locks that an acquire asks for.
fn locks(acquire: &v1::Acquire, mode: Mode) -> Result<Vec<LockId>, Error> {
    let more = &acquire.more_names;
    if more.len() >= MAX_LOCKS {
        let problem = format!("has {} names: at most {} are allowed", more.len(), MAX_LOCKS - 1);
        return Err(invalid("more_names", problem));
    }
    if !more.is_empty() && !matches!(mode, Mode::Exclusive | Mode::Shared) {
        return Err(invalid("more_names", "is for locks only, exclusive or shared"));
    }
    let mut locks = Vec::with_capacity(1 + more.len());
    let mut known = HashSet::new();
    for name in std::iter::once(&acquire.name).chain(more) {
        let lock = lock_id(&acquire.namespace, name.clone())?;
        if !more.is_empty() && !known.insert(lock.clone()) {
            return Err(invalid("more_names", format!("has {name:?} twice: name each lock once")));
        }
        locks.push(lock);
    }
    Ok(locks)
}

fn lock_delay(delay: Option<prost_types::Duration>) -> Result<u32, Error> {
    let delay = delay.map(|delay| duration("lock_delay", delay)).transpose()?;
    let delay = delay.unwrap_or_default();
    if delay > MAX_LOCK_DELAY {
        return Err(invalid("lock_delay", "is over 10 minutes, the longest that is allowed"));
    }
    Ok(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX))
}

/// What an operator says; shown to the holder.
pub(super) fn reason(reason: &str) -> Result<&str, Error> {
    if reason.trim().is_empty() || reason.len() > MAX_REASON {
        let problem =
            format!("must be given, in at most {MAX_REASON} bytes: the holder will see it");
        return Err(invalid("reason", problem));
    }
    Ok(reason)
}

pub(super) fn change(change: Option<v1::Change>) -> Result<Change, Error> {
    use v1::change::Change as Wire;
    match change.and_then(|change| change.change).ok_or_else(|| missing("change"))? {
        Wire::Downgrade(v1::Shared {}) => Ok(Change::Downgrade),
        Wire::Value(value) => {
            check_len("value", value.len(), MAX_VALUE)?;
            Ok(Change::Value(value.into()))
        }
        Wire::Result(result) => {
            check_len("result", result.len(), MAX_RESULT)?;
            Ok(Change::Result(Bytes::from(result)))
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Wall time, to show ages only.
#[allow(clippy::disallowed_methods, reason = "ages are shown, never decided upon")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

pub(super) fn to_entry(described: &Described) -> v1::Entry {
    let Described { entry, client } = described;
    let now = unix_ms();
    let age = Duration::from_millis(now.saturating_sub(entry.made_unix_ms));
    let details = entry.details.as_deref().cloned().unwrap_or_default();
    let until = Some(details.wait_until_unix_ms).filter(|until| *until > 0);
    let wait_remaining = until.map(|until| Duration::from_millis(until.saturating_sub(now)));
    let names = entry.locks.as_slice();
    let names = if names.len() > 1 { names } else { &[] };
    v1::Entry {
        token: entry.token.0,
        session_id: entry.session.to_string(),
        client: client.as_deref().map(to_client_info),
        trace_id: details.trace_id(),
        metadata: details.metadata.into_iter().map(|(key, it)| (key.into(), it.into())).collect(),
        age: Some(to_wire_duration(age)),
        lease_remaining: None,
        request_id: bytes(entry.request),
        mode: Some(from_mode(entry.mode)),
        names: names.iter().map(|lock| lock.name().to_owned()).collect(),
        value: details.value.to_vec(),
        owner: details.owner.into(),
        wait_remaining: wait_remaining.map(to_wire_duration),
        yield_reason: details.yield_reason.into(),
        lost: client.is_none() || entry.stage == Stage::Lost,
        left: entry.stage == Stage::Left,
    }
}

/// An entry that holds, and so has stopped waiting.
pub(super) fn to_holder(described: &Described) -> v1::Entry {
    v1::Entry { wait_remaining: None, ..to_entry(described) }
}

fn to_client_info(client: &Client) -> v1::ClientInfo {
    let (name, host) = (client.name.to_string(), client.host.to_string());
    v1::ClientInfo { name, host, pid: client.pid }
}

pub(super) fn to_ref(lock: &LockId) -> v1::LockRef {
    v1::LockRef { namespace: lock.namespace().to_owned(), name: lock.name().to_owned() }
}

pub(super) fn to_lock(queue: &QueuePage) -> v1::Lock {
    let (holders, waiters) = queue.entries.split_at(queue.held.min(queue.entries.len()));
    v1::Lock {
        namespace: queue.lock.namespace().to_owned(),
        name: queue.lock.name().to_owned(),
        holders: holders.iter().map(to_holder).collect(),
        waiters: waiters.iter().map(to_entry).collect(),
        entries: u32::try_from(queue.total).unwrap_or(u32::MAX),
    }
}

pub(super) fn to_refusal(refusal: Refusal) -> v1::Refusal {
    let (mut detail, mut result, mut behind) = (String::new(), vec![], None);
    let reason = match refusal {
        Refusal::Busy(ahead) => {
            behind = ahead;
            v1::RefusalReason::Busy
        }
        Refusal::WaitExpired(ahead) => {
            behind = ahead;
            v1::RefusalReason::WaitExpired
        }
        Refusal::Cancelled => v1::RefusalReason::Cancelled,
        Refusal::Forced => v1::RefusalReason::Forced,
        Refusal::Deadlock(cycle) => {
            detail = describe_cycle(&cycle);
            v1::RefusalReason::Deadlock
        }
        Refusal::Broken => v1::RefusalReason::Broken,
        Refusal::Done(stored) => {
            result = stored.to_vec();
            v1::RefusalReason::Done
        }
    };
    let (count, holder) = behind.map(|it| (it.count, it.holder)).unwrap_or_default();
    v1::Refusal {
        reason: reason.into(),
        holder: holder.as_ref().map(to_holder),
        ahead: u32::try_from(count).unwrap_or(u32::MAX),
        detail,
        result,
    }
}

pub(super) fn to_release_outcome(released: Released) -> v1::ReleaseOutcome {
    match released {
        Released::Released => v1::ReleaseOutcome::Released,
        Released::AlreadyLost => v1::ReleaseOutcome::AlreadyLost,
    }
}
