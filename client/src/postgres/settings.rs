//! The SQL by which a transaction begins, and by which it is found when it is to be cancelled.
//! Pure.
//!
//! Each transaction takes an advisory lock under a random key, in the round trip that begins it. A
//! cancel request asks for the backend that holds this lock, so it can't hit a later transaction of
//! the same connection, nor a backend that has been given the same process id, and it works through
//! poolers. Cancelling by Postgres's own cancel key could: that names a connection.

use std::time::Duration;

/// How much earlier than the context the server ends a statement, at most: it is to be first, so
/// that the connection survives.
const RESERVE: Duration = Duration::from_millis(5);

/// How long after its context the server ends an abandoned transaction. A live client is faster;
/// this is for one that is paused, whose locks others wait for.
const ABANDONED: Duration = Duration::from_millis(50);

/// Names one transaction, among all of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(u64);

/// How a transaction is isolated from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see what was committed before the first.
    RepeatableRead,
    /// As if transactions ran one after the other.
    Serializable,
}

impl Key {
    pub(super) fn random() -> Self {
        Self(uuid::Uuid::new_v4().as_u64_pair().0)
    }

    /// Cancels what the transaction runs, if it still does. When it has returned, the signal has
    /// been sent: nothing that comes later can be hit.
    pub(super) fn cancel_sql(self) -> String {
        let (high, low) = (self.0 >> 32, self.0 & u64::from(u32::MAX));
        format!(
            "SELECT pg_cancel_backend(pid) FROM pg_locks WHERE locktype = 'advisory' \
             AND classid = {high}::oid AND objid = {low}::oid AND objsubid = 1"
        )
    }
}

/// Begins a transaction, in one round trip.
pub(super) fn begin_sql(isolation: Option<Isolation>, key: Key, left: Option<Duration>) -> String {
    let level = match isolation {
        None => "",
        Some(Isolation::ReadCommitted) => " ISOLATION LEVEL READ COMMITTED",
        Some(Isolation::RepeatableRead) => " ISOLATION LEVEL REPEATABLE READ",
        Some(Isolation::Serializable) => " ISOLATION LEVEL SERIALIZABLE",
    };
    let mut sql = format!("BEGIN{level}; SELECT pg_advisory_xact_lock({})", key.0.cast_signed());
    let Some(left) = left else { return sql };
    let statement = left - RESERVE.min(left / 10);
    let limits = [
        ("statement_timeout", statement),
        // Just before, so that the error says what was waited for.
        ("lock_timeout", statement.saturating_sub(Duration::from_millis(1))),
        ("idle_in_transaction_session_timeout", left + ABANDONED),
    ];
    for (name, limit) in limits {
        sql.push_str(", ");
        sql.push_str(&at_most(name, milliseconds(limit)));
    }
    sql
}

/// Lowers a timeout for this transaction, and leaves one that is lower.
fn at_most(name: &str, limit: i32) -> String {
    format!(
        "set_config('{name}', least({limit}, nullif(1000 * extract(epoch from \
         current_setting('{name}')::interval), 0))::int::text, true)"
    )
}

/// Never zero, which would mean no limit.
fn milliseconds(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).unwrap_or(i32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key(0xffff_ffff_0000_0001);

    #[test]
    fn a_key_is_the_same_lock_on_both_sides() {
        assert!(begin_sql(None, KEY, None).ends_with("pg_advisory_xact_lock(-4294967295)"));
        let cancel = KEY.cancel_sql();
        assert!(cancel.contains("classid = 4294967295::oid AND objid = 1::oid"), "{cancel}");
    }

    #[test]
    fn the_server_is_first_and_a_limit_is_never_none() {
        let sql = begin_sql(Some(Isolation::Serializable), KEY, Some(Duration::from_secs(1)));
        assert!(sql.starts_with("BEGIN ISOLATION LEVEL SERIALIZABLE; "), "{sql}");
        let limits = [("statement_timeout", 995), ("lock_timeout", 994)];
        for (name, limit) in limits {
            assert!(sql.contains(&format!("set_config('{name}', least({limit},")), "{sql}");
        }
        let none_left = begin_sql(None, KEY, Some(Duration::ZERO));
        assert!(none_left.contains("set_config('statement_timeout', least(1,"), "{none_left}");
        let ages = begin_sql(None, KEY, Some(Duration::MAX / 2));
        assert!(ages.contains("least(2147483647,"), "{ages}");
    }
}
