//! Fencing in SQL.
//!
//! One conditional upsert advances the resource's row, and only if the stored token is not later
//! than ours. It locks the row until the end of the transaction, so that a later holder's first
//! statement waits for ours to commit or to end, and ours fails once a later holder has been there.
//! Reading the row first and writing then would not do: between the two, a later holder can commit.

/// Makes the fence table, unless it is there. Also `lockd fence init --postgres URL`.
pub const FENCE_TABLE: &str = include_str!("../../migrations/lockd_fence.sql");

/// Advances the rows of `$1` (text[]) to `$2` (bigint); returns those that it could. In order, so
/// that two transactions can't wait for one another.
pub(super) const ADVANCE: &str = "\
INSERT INTO lockd_fence AS fence (resource, token)
SELECT resource, $2 FROM unnest($1::text[]) AS resource ORDER BY resource
ON CONFLICT (resource) DO UPDATE SET token = excluded.token, changed_at = now()
WHERE fence.token <= excluded.token
RETURNING resource";

/// The latest token stored for `$1` (text[]).
pub(super) const STORED: &str = "SELECT max(token) FROM lockd_fence WHERE resource = ANY($1)";
