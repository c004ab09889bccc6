//! The read that barriers and proofs rest on: a linearizable get of the key that every record puts.
//!
//! Its revision is the newest record's. Once that is delivered, so is everything that was in the log when
//! the read was sent (RULES J30, T8).

use super::{fault::Fault, replica::Replica, roster::MemberId};
use crate::log::LogError;

/// Why a read has no answer.
#[derive(Debug)]
pub(super) enum Unread {
    Fault(Fault),
    Broken(LogError),
}

/// Reads the revision of the newest record at a member.
pub(super) async fn newest(replica: &Replica, member: MemberId) -> Result<i64, Unread> {
    let before = replica.watermark.now();
    let must_be_there = replica.has_written();
    let read = replica.endpoints.attempt_at(member, |mut client| {
        let key = replica.keys.newest();
        async move { client.get(key, None).await }
    });
    let read = read.await.map_err(Unread::Fault)?;
    replica.observe(before, read.header()).map_err(Unread::Broken)?;
    match read.kvs().first() {
        Some(kv) => Ok(kv.mod_revision()),
        None if must_be_there => Err(Unread::Broken(LogError::Broken(
            "lockd's keys in etcd were deleted while it ran".to_owned(),
        ))),
        None => Ok(0),
    }
}
