//! From messages to checked values and back.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lockd_proto::{
    FencingToken, LockName, MAX_METADATA_BYTES, Namespace, RequestId, check_metadata, v1,
};

use crate::{
    error::Error,
    keys::LockId,
    record::{EntryRecord, SessionRecord},
    requests::{Acquire, Refusal, Released},
    sessions::{Credential, Secret},
    view::{Described, QueueView},
};

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
    let v1::SessionCredential { session_id, secret } = session.ok_or_else(|| missing("session"))?;
    Ok(Credential { session: session_id.parse()?, secret: Secret::new(secret) })
}

pub(super) fn client_info(client: Option<v1::ClientInfo>) -> Result<v1::ClientInfo, Error> {
    let client = client.unwrap_or_default();
    if client.name.len() + client.host.len() > MAX_METADATA_BYTES {
        let problem = "is over 4096 bytes: shorten its name and host".to_owned();
        return Err(Error::Invalid { field: "client", problem });
    }
    Ok(client)
}

pub(super) fn acquire(request: RequestId, acquire: v1::Acquire) -> Result<Acquire, Error> {
    let lock = lock_id(&acquire.namespace, acquire.name)?;
    check_metadata(&acquire.metadata)?;
    if acquire.trace_id.len() > 128 {
        let problem = "is over 128 bytes: a W3C trace id has 32".to_owned();
        return Err(Error::Invalid { field: "trace_id", problem });
    }
    let record = EntryRecord {
        metadata: acquire.metadata,
        trace_id: acquire.trace_id,
        made_unix_ms: unix_ms(),
    };
    let max_wait = acquire.max_wait.map(|wait| duration("max_wait", wait)).transpose()?;
    Ok(Acquire { request, lock, record: Arc::new(record), max_wait })
}

/// Wall time, to show ages only.
#[allow(clippy::disallowed_methods, reason = "ages are shown, never decided upon")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn to_entry(described: &Described) -> v1::Entry {
    let Described { entry, session } = described;
    let age = Duration::from_millis(unix_ms().saturating_sub(entry.record.made_unix_ms));
    v1::Entry {
        token: entry.created.0,
        session_id: entry.id.session.to_string(),
        client: session.as_ref().map(|session| to_client_info(&session.record)),
        metadata: entry.record.metadata.clone(),
        trace_id: entry.record.trace_id.clone(),
        age: Some(to_wire_duration(age)),
        lease_remaining: None,
        request_id: entry.id.request.as_bytes().to_vec(),
    }
}

fn to_client_info(session: &SessionRecord) -> v1::ClientInfo {
    v1::ClientInfo {
        name: session.client_name.clone(),
        host: session.host.clone(),
        pid: session.pid,
    }
}

pub(super) fn to_lock(queue: &QueueView) -> v1::Lock {
    let mut entries = queue.entries.iter().map(to_entry);
    v1::Lock {
        namespace: queue.lock.namespace().to_owned(),
        name: queue.lock.name().to_owned(),
        holder: entries.next(),
        waiters: entries.collect(),
    }
}

pub(super) fn to_refusal(refusal: &Refusal, ahead: Option<&(usize, Described)>) -> v1::Refusal {
    let reason = match refusal {
        Refusal::Busy => v1::RefusalReason::Busy,
        Refusal::WaitExpired => v1::RefusalReason::WaitExpired,
        Refusal::Cancelled => v1::RefusalReason::Cancelled,
        Refusal::Forced => v1::RefusalReason::Forced,
    };
    v1::Refusal {
        reason: reason.into(),
        holder: ahead.map(|(_, holder)| to_entry(holder)),
        ahead: ahead.map_or(0, |(ahead, _)| u32::try_from(*ahead).unwrap_or(u32::MAX)),
    }
}

pub(super) fn to_release_outcome(released: Released) -> v1::ReleaseOutcome {
    match released {
        Released::Released => v1::ReleaseOutcome::Released,
        Released::AlreadyLost => v1::ReleaseOutcome::AlreadyLost,
    }
}
