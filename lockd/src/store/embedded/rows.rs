//! The tables of the data file: how records, leases and the store's own numbers are laid out.

use std::time::Duration;

use lockd_proto::{MAX_TTL, Ttl};
use prost::Message as _;
use redb::{
    Database, ReadTransaction, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use sha2::{Digest as _, Sha256};

use super::state::State;
use crate::store::{Change, Key, LeaseId, Record, Revision};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");
const LEASES: TableDefinition<'_, i64, u64> = TableDefinition::new("leases");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The layout that this version writes. A later one is refused, not guessed at.
const FORMAT: u64 = 1;

/// A record as stored.
#[derive(Clone, PartialEq, prost::Message)]
struct Row {
    #[prost(bytes = "bytes", tag = "1")]
    value: bytes::Bytes,
    #[prost(uint64, tag = "2")]
    created: u64,
    #[prost(uint64, tag = "3")]
    modified: u64,
    #[prost(int64, tag = "4")]
    lease: i64,
    /// Over the key and the rest of the row. redb verifies its pages when the file is opened,
    /// not when it copies them later.
    #[prost(fixed64, tag = "5")]
    checksum: u64,
}

/// Why the data file can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is from a later lockd.
    #[error("it has format {0}, and this lockd reads up to {FORMAT}; use a newer lockd")]
    Newer(u64),
    /// Something in it is not what was written.
    #[error("it is damaged: {0}; restore it from a backup")]
    Damaged(String),
    /// redb or the system can't read it.
    #[error("{0}")]
    Redb(#[from] redb::Error),
}

macro_rules! from_redb {
    ($($error:ty),+) => {
        $(impl From<$error> for Unreadable {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        })+
    };
}

from_redb!(redb::TransactionError, redb::TableError, redb::StorageError);

fn damaged(what: impl std::fmt::Display) -> Unreadable {
    Unreadable::Damaged(what.to_string())
}

/// Reads everything: the number of the last commit, and the state that it left.
pub(super) fn read(database: &Database) -> Result<(u64, State), Unreadable> {
    let reading = database.begin_read()?;
    let meta = reading.open_table(META)?;
    let number = |name: &str| match meta.get(name)? {
        Some(value) => Ok(value.value()),
        None => Err(damaged(format!("it has no {name}"))),
    };
    match number("format")? {
        FORMAT => {}
        format if format > FORMAT => return Err(Unreadable::Newer(format)),
        format => return Err(damaged(format!("it says it has format {format}"))),
    }
    let revision = Revision(number("revision")?);
    let state = State::restore(revision, leases(&reading)?, records(&reading, revision)?);
    match state.unattached() {
        Some(key) => Err(damaged(format!("{key:?} has no lease"))),
        None => Ok((number("seq")?, state)),
    }
}

fn leases(reading: &ReadTransaction) -> Result<Vec<(LeaseId, Ttl)>, Unreadable> {
    let mut leases = Vec::new();
    for row in reading.open_table(LEASES)?.iter()? {
        let (id, ttl) = row?;
        let ttl = Duration::from_millis(ttl.value());
        if ttl.is_zero() || ttl > MAX_TTL {
            return Err(damaged(format!("lease {} has a TTL of {ttl:?}", id.value())));
        }
        leases.push((LeaseId(id.value()), Ttl::granted(ttl)));
    }
    Ok(leases)
}

fn records(reading: &ReadTransaction, revision: Revision) -> Result<Vec<Record>, Unreadable> {
    let mut records = Vec::new();
    for row in reading.open_table(RECORDS)?.iter()? {
        let (key, row) = row?;
        let key = Key::new(key.value().to_vec());
        let record = decode(&key, row.value())
            .filter(|record| record.created <= record.modified && record.modified <= revision)
            .ok_or_else(|| damaged(format!("the record of {key:?} is not what was written")))?;
        records.push(record);
    }
    Ok(records)
}

fn decode(key: &Key, row: &[u8]) -> Option<Record> {
    let mut row = Row::decode(row).ok()?;
    let checksum = std::mem::take(&mut row.checksum);
    (checksum == sum(key, &row)).then(|| Record {
        key: key.clone(),
        value: row.value,
        created: Revision(row.created),
        modified: Revision(row.modified),
        lease: LeaseId(row.lease),
    })
}

fn encode(record: &Record) -> Vec<u8> {
    let mut row = Row {
        value: record.value.clone(),
        created: record.created.0,
        modified: record.modified.0,
        lease: record.lease.0,
        checksum: 0,
    };
    row.checksum = sum(&record.key, &row);
    row.encode_to_vec()
}

/// The checksum of a row whose own is still zero.
fn sum(key: &Key, row: &Row) -> u64 {
    let hash = Sha256::new().chain_update(key.as_bytes()).chain_update(row.encode_to_vec());
    hash.finalize().first_chunk().map_or(0, |start| u64::from_be_bytes(*start))
}

fn ttl_ms(ttl: Ttl) -> u64 {
    u64::try_from(ttl.get().as_millis()).unwrap_or(u64::MAX)
}

/// Makes changes and leases durable, in their order, as commit number `seq`.
pub(super) fn write<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
    leases: &[(LeaseId, Option<Ttl>)],
    (revision, seq): (Revision, u64),
) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    {
        let mut records = writing.open_table(RECORDS)?;
        for change in changes {
            match change {
                Change::Put(record) => {
                    records.insert(record.key.as_bytes(), encode(record).as_slice())?;
                }
                Change::Deleted(key) => {
                    records.remove(key.as_bytes())?;
                }
            }
        }
        let mut table = writing.open_table(LEASES)?;
        for (id, ttl) in leases {
            match ttl {
                Some(ttl) => table.insert(id.0, ttl_ms(*ttl))?,
                None => table.remove(id.0)?,
            };
        }
    }
    finish(writing, revision, seq)
}

/// Makes the file hold exactly this state, as commit number `seq`.
pub(super) fn rewrite(database: &Database, state: &State, seq: u64) -> Result<(), redb::Error> {
    let writing = database.begin_write()?;
    writing.delete_table(RECORDS)?;
    writing.delete_table(LEASES)?;
    {
        let mut records = writing.open_table(RECORDS)?;
        for record in state.records() {
            records.insert(record.key.as_bytes(), encode(record).as_slice())?;
        }
        let mut leases = writing.open_table(LEASES)?;
        for (id, ttl) in state.leases() {
            leases.insert(id.0, ttl_ms(ttl))?;
        }
    }
    finish(writing, state.revision(), seq)
}

fn finish(writing: WriteTransaction, revision: Revision, seq: u64) -> Result<(), redb::Error> {
    {
        let mut meta = writing.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("revision", revision.0)?;
        meta.insert("seq", seq)?;
    }
    writing.commit()?;
    Ok(())
}

#[cfg(test)]
pub(super) fn pretend_format(database: &Database, format: u64) {
    let writing = database.begin_write().unwrap();
    writing.open_table(META).unwrap().insert("format", format).unwrap();
    writing.commit().unwrap();
}
