//! Changes to an entry that is held: its record is written again, its place stays.

use bytes::Bytes;
use prost::Message as _;

use crate::{
    engine::Engine,
    error::Error,
    keys::{self, LockId},
    mode::Mode,
    record::EntryRecord,
    store::{Guard, LeaseId, Op, Outcome, Put},
    view::Entry,
};

/// How often a change is made anew because another one came first.
const ATTEMPTS: usize = 16;

/// A change to an entry that holds its lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// From exclusive to shared.
    Downgrade,
    /// Another value.
    Value(Bytes),
    /// The result of a once, which releases it.
    Result(Bytes),
}

impl Engine {
    /// Makes a change that leaves the entry in its place.
    ///
    /// # Errors
    /// The change does not apply, the entry is gone, or the store fails.
    pub async fn change(&self, lock: &LockId, entry: &Entry, change: Change) -> Result<(), Error> {
        match change {
            Change::Downgrade => {
                if entry.mode.kind() != Mode::Shared.kind() || entry.locks.len() > 1 {
                    let problem = "only one lock that is held by itself can become shared";
                    return Err(Error::ChangeRefused(problem));
                }
                let shared = |record: &mut EntryRecord| {
                    record.downgraded = record.mode() == Mode::Exclusive || record.downgraded;
                };
                self.rewrite(lock, entry, shared).await
            }
            Change::Value(value) => {
                self.rewrite(lock, entry, |record| record.value = value.clone()).await
            }
            Change::Result(_) => Err(Error::ChangeRefused("a result ends the once")),
        }
    }

    /// Writes an entry's record again, on top of whatever others have written in the meantime.
    ///
    /// # Errors
    /// The entry is gone, or the store fails.
    pub(super) async fn rewrite(
        &self,
        lock: &LockId,
        entry: &Entry,
        change: impl Fn(&mut EntryRecord),
    ) -> Result<(), Error> {
        let gone = Error::ChangeRefused("the lock was lost before");
        let (mut record, mut modified) = (EntryRecord::clone(&entry.record), entry.modified);
        let lease = match self.view.session(entry.id.session) {
            _ if record.outlives_session() => LeaseId::NONE,
            Some(session) => session.lease,
            None => return Err(gone),
        };
        // The latest write of an entry in several queues counts, so one of its keys is enough.
        let lock = entry.locks.first().unwrap_or(lock);
        for _ in 0..ATTEMPTS {
            change(&mut record);
            let put = Put {
                key: keys::entry(lock, entry.id),
                value: record.encode_to_vec().into(),
                lease,
                guard: Guard::At(modified),
            };
            match self.write_in_time(Op::Put(put)).await? {
                Outcome::Done(_) => return Ok(()),
                Outcome::Refused(Some(there)) if there.created == entry.created => {
                    record = EntryRecord::decode(there.value)
                        .map_err(|_| Error::ChangeRefused("the entry's record can't be read"))?;
                    modified = there.modified;
                }
                _ => return Err(gone),
            }
        }
        Err(Error::ChangeRefused("others change this entry all the time: try again"))
    }
}
