//! Locks and entries, for people and for programs.

use std::time::Duration;

use lockd_client::{EntryInfo, LockInfo};
use serde_json::{Value, json};

pub(super) const COLUMNS: [&str; 5] = ["NAME", "HOLDER", "TOKEN", "HELD", "WAITING"];
pub(super) const WIDE_COLUMNS: [&str; 7] =
    ["NAME", "HOLDER", "TOKEN", "HELD", "WAITING", "SESSION", "METADATA"];

/// A lock as a row of a table.
pub(super) fn row(lock: &LockInfo, wide: bool) -> Vec<String> {
    let holder = lock.holder();
    let of = |show: &dyn Fn(&EntryInfo) -> String| holder.map_or_else(|| "-".to_owned(), show);
    let mut row = vec![
        lock.name.clone(),
        of(&|holder| match lock.holders.len() {
            0 | 1 => who(holder),
            several => format!("{} +{}", who(holder), several - 1),
        }),
        of(&|holder| holder.token.to_string()),
        of(&|holder| age(holder.age)),
        lock.waiters.len().to_string(),
    ];
    if wide {
        row.push(of(&|holder| holder.session_id.clone()));
        row.push(of(&metadata));
    }
    row
}

/// Whom an entry belongs to, as people name it.
pub(super) fn who(entry: &EntryInfo) -> String {
    match (entry.host.as_str(), entry.pid) {
        ("", _) => entry.client_name.clone(),
        (host, 0) => format!("{}@{host}", entry.client_name),
        (host, pid) => format!("{}@{host}:{pid}", entry.client_name),
    }
}

pub(super) fn metadata(entry: &EntryInfo) -> String {
    let pairs = entry.metadata.iter().map(|(key, value)| format!("{key}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// A duration as people read it: two units at most.
pub(super) fn age(age: Duration) -> String {
    let rounded = match age.as_secs() {
        0 => Duration::from_millis(u64::from(age.subsec_millis())),
        1..60 => Duration::from_secs(age.as_secs()),
        60..3600 => Duration::from_secs(age.as_secs()),
        3600..86400 => Duration::from_secs(age.as_secs() / 60 * 60),
        _ => Duration::from_secs(age.as_secs() / 3600 * 3600),
    };
    humantime::format_duration(rounded).to_string().replace(' ', "")
}

/// A lock as JSON. 64-bit numbers are texts.
pub(super) fn to_json(lock: &LockInfo) -> Value {
    json!({
        "namespace": lock.namespace,
        "name": lock.name,
        "holder": lock.holder().map(entry_to_json),
        "holders": lock.holders.iter().map(entry_to_json).collect::<Vec<_>>(),
        "waiters": lock.waiters.iter().map(entry_to_json).collect::<Vec<_>>(),
        "revision": lock.revision.to_string(),
    })
}

pub(super) fn entry_to_json(entry: &EntryInfo) -> Value {
    json!({
        "token": entry.token.to_string(),
        "sessionId": entry.session_id,
        "client": { "name": entry.client_name, "host": entry.host, "pid": entry.pid },
        "metadata": entry.metadata,
        "traceId": entry.trace_id,
        "ageMs": entry.age.as_millis().to_string(),
        "leaseRemainingMs": entry.lease_remaining.map(|left| left.as_millis().to_string()),
        "mode": entry.mode.to_string(),
        "names": entry.names,
        "value": String::from_utf8_lossy(&entry.value),
        "owner": entry.owner,
        "waitRemainingMs": entry.wait_remaining.map(|left| left.as_millis().to_string()),
        "yieldReason": entry.yield_reason,
        "lost": entry.lost,
    })
}
