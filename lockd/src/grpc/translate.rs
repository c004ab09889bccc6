//! From messages to checked values and back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lockd_proto::{
    FencingToken, LockName, MAX_METADATA_BYTES, Namespace, RequestId, TraceParent, check_metadata,
    v1,
};
use tonic::metadata::MetadataMap;

use crate::{
    detector::describe,
    error::Error,
    keys::LockId,
    locks::Change,
    mode::Mode,
    record::{EntryRecord, Mark, SessionRecord},
    requests::{Acquire, Refusal, Released},
    sessions::{Credential, Secret},
    store::MAX_PLACES,
    view::{Ahead, Described, QueueView},
};

/// The longest value of an entry, in bytes. Everybody who looks at the lock is sent it.
const MAX_VALUE: usize = 4096;

/// The longest result of a once, in bytes.
const MAX_RESULT: usize = 64 * 1024;

/// The longest name of an owner, in bytes.
const MAX_OWNER: usize = 128;

/// The digits of a session's secret.
const SECRET_DIGITS: usize = 64;

/// The longest reason for a forced release or a wish to yield, in bytes.
const MAX_REASON: usize = 1024;

/// The longest lock-delay: for so long nobody can have a lock that nobody holds.
const MAX_LOCK_DELAY: Duration = Duration::from_secs(600);

pub(super) fn to_wire_duration(duration: Duration) -> prost_types::Duration {
    // Only a duration of more than 292 billion years does not fit.
    duration.try_into().unwrap_or_default()
}

pub(super) fn duration(
    field: &'static str,
    duration: prost_types::Duration,
) -> Result<Duration, Error> {
    duration.try_into().map_err(|_| Error::Invalid {
        field,
        problem: "is negative or malformed: give it as a positive duration".to_owned(),
    })
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

pub(super) fn credential(session: Option<v1::SessionCredential>) -> Result<Credential, Error> {
    let v1::SessionCredential { session_id, secret, .. } =
        session.ok_or_else(|| missing("session"))?;
    Ok(Credential { session: session_id.parse()?, secret: Secret::new(secret) })
}

/// The id and the secret that a client has made for the session that it opens.
pub(super) fn new_credential(
    session: Option<v1::SessionCredential>,
) -> Result<Option<Credential>, Error> {
    let Some(session) = session else { return Ok(None) };
    let secret = &session.secret;
    if secret.len() != SECRET_DIGITS || !secret.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let problem = "is malformed: give 32 random bytes as 64 hexadecimal digits, or leave \
                       session out, and the server makes id and secret";
        return Err(invalid("session.secret", problem));
    }
    credential(Some(session)).map(Some)
}

pub(super) fn client_info(client: Option<v1::ClientInfo>) -> Result<v1::ClientInfo, Error> {
    let client = client.unwrap_or_default();
    if client.name.len() + client.host.len() > MAX_METADATA_BYTES {
        let problem = "is over 4096 bytes: shorten its name and host".to_owned();
        return Err(Error::Invalid { field: "client", problem });
    }
    Ok(client)
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
    let mode =
        Mode::from_wire(acquire.mode.as_ref()).map_err(|problem| invalid("mode", problem))?;
    let locks = locks(&acquire, mode)?;
    let max_wait = acquire.max_wait.map(|wait| duration("max_wait", wait)).transpose()?;
    if matches!(mode, Mode::Party { .. }) && max_wait.is_some_and(|wait| wait.is_zero()) {
        return Err(invalid("max_wait", "is zero: a barrier can't be tried, only waited for"));
    }
    let trace = trace(acquire.trace_id, acquire.traceparent)?;
    let names = locks.iter().map(|lock| lock.name().to_owned());
    let record = EntryRecord {
        names: if locks.len() > 1 { names.collect() } else { vec![] },
        metadata: acquire.metadata,
        trace,
        made_unix_ms: unix_ms(),
        mode: (mode != Mode::default()).then(|| mode.to_wire()),
        value: acquire.value.into(),
        owner: acquire.owner,
        wait_until_unix_ms: max_wait.map_or(0, |wait| unix_ms().saturating_add(millis(wait))),
        lock_delay_ms: millis(lock_delay(acquire.lock_delay)?),
        ..EntryRecord::default()
    };
    Ok(Acquire { request, locks: locks.into(), record: Arc::new(record), max_wait })
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
    if more.len() >= MAX_PLACES {
        let problem = format!("has {} names: at most {} are allowed", more.len(), MAX_PLACES - 1);
        return Err(invalid("more_names", problem));
    }
    if !more.is_empty() && !matches!(mode, Mode::Exclusive | Mode::Shared) {
        return Err(invalid("more_names", "is for locks only, exclusive or shared"));
    }
    let mut locks = Vec::with_capacity(1 + more.len());
    for name in std::iter::once(&acquire.name).chain(more) {
        let lock = lock_id(&acquire.namespace, name.clone())?;
        if locks.contains(&lock) {
            return Err(invalid("more_names", format!("has {name:?} twice: name each lock once")));
        }
        locks.push(lock);
    }
    Ok(locks)
}

fn lock_delay(delay: Option<prost_types::Duration>) -> Result<Duration, Error> {
    let delay = delay.map(|delay| duration("lock_delay", delay)).transpose()?;
    let delay = delay.unwrap_or_default();
    if delay > MAX_LOCK_DELAY {
        return Err(invalid("lock_delay", "is over 10 minutes, the longest that is allowed"));
    }
    Ok(delay)
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
    let Described { entry, session } = described;
    let now = unix_ms();
    let age = Duration::from_millis(now.saturating_sub(entry.record.made_unix_ms));
    let until = Some(entry.record.wait_until_unix_ms).filter(|until| *until > 0);
    let wait_remaining = until.map(|until| Duration::from_millis(until.saturating_sub(now)));
    v1::Entry {
        token: entry.created.0,
        session_id: entry.id.session.to_string(),
        client: session.as_ref().map(|session| to_client_info(&session.record)),
        metadata: entry.record.metadata.clone(),
        trace_id: entry.record.trace_id().into_owned(),
        age: Some(to_wire_duration(age)),
        lease_remaining: None,
        request_id: entry.id.request.as_bytes().to_vec(),
        mode: Some(entry.mode.to_wire()),
        names: entry.record.names.clone(),
        value: entry.record.value.to_vec(),
        owner: entry.record.owner.clone(),
        wait_remaining: wait_remaining.map(to_wire_duration),
        yield_reason: entry.record.yield_reason.clone(),
        lost: described.is_lost(),
        left: entry.record.mark() == Mark::Left,
    }
}

/// An entry that holds, and so has stopped waiting.
pub(super) fn to_holder(described: &Described) -> v1::Entry {
    v1::Entry { wait_remaining: None, ..to_entry(described) }
}

fn to_client_info(session: &SessionRecord) -> v1::ClientInfo {
    v1::ClientInfo {
        name: session.client_name.clone(),
        host: session.host.clone(),
        pid: session.pid,
    }
}

pub(super) fn to_lock(queue: &QueueView) -> v1::Lock {
    let (holders, waiters) = queue.entries.split_at(queue.held.min(queue.entries.len()));
    v1::Lock {
        namespace: queue.lock.namespace().to_owned(),
        name: queue.lock.name().to_owned(),
        holders: holders.iter().map(to_holder).collect(),
        waiters: waiters.iter().map(to_entry).collect(),
    }
}

pub(super) fn to_refusal(refusal: Refusal, ahead: Option<&Ahead>) -> v1::Refusal {
    let (mut detail, mut result) = (String::new(), vec![]);
    let reason = match refusal {
        Refusal::Busy => v1::RefusalReason::Busy,
        Refusal::WaitExpired => v1::RefusalReason::WaitExpired,
        Refusal::Cancelled => v1::RefusalReason::Cancelled,
        Refusal::Forced => v1::RefusalReason::Forced,
        Refusal::Deadlock(deadlock) => {
            detail = describe(&deadlock);
            v1::RefusalReason::Deadlock
        }
        Refusal::Broken => v1::RefusalReason::Broken,
        Refusal::Done(stored) => {
            result = stored.to_vec();
            v1::RefusalReason::Done
        }
    };
    let count = ahead.map_or(0, |ahead| ahead.count);
    v1::Refusal {
        reason: reason.into(),
        holder: ahead.and_then(|ahead| ahead.holder.as_ref()).map(to_holder),
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
