//! How a retry takes over the entry of the call before it, and how the call that has lost it
//! leaves it alone.
//!
//! A unary call that breaks off takes its entry out again; its retry, at another replica
//! perhaps, finds the entry and may be granted the lock. So each call writes its own mark into
//! the record, and takes out only what bears its mark still: it compares the revision of its
//! own last write.

use lockd_proto::RequestId;
use prost::Message as _;

use super::{Action, Open, Phase, Reply, Requests, made_by, reply::Leave};
use crate::{
    error::Error,
    keys::{self, EntryId},
    record::EntryRecord,
    store::{Guard, Op, Outcome, Put, Record, Revision, StoreError},
    view::View,
};

impl Open {
    /// Whether a call follows it, and not a stream.
    pub(super) fn is_followed(&self) -> bool {
        self.record.follower != 0
    }

    /// Whether an entry bears this call's mark.
    pub(super) fn is_claimed(&self, record: &Record) -> bool {
        EntryRecord::decode(record.value.clone())
            .is_ok_and(|stored| stored.follower == self.record.follower)
    }

    /// What must hold of the entry for this call to take it out.
    pub(super) fn guard(&self, token: Revision) -> Guard {
        self.claim.map_or(Guard::Made(token), Guard::At)
    }
}

impl Requests {
    /// The entry was there before. Made by an earlier call, it is taken over.
    pub(super) fn claim(
        &mut self,
        id: RequestId,
        record: Record,
        leave: Option<Leave>,
        view: &View,
    ) -> Vec<Action> {
        let Some(open) = self.open.get_mut(&id) else { return vec![] };
        let token = record.created;
        if !open.is_followed() {
            return self.joined(id, token, leave, view, false);
        }
        if open.is_claimed(&record) {
            open.claim = Some(record.modified);
            return self.joined(id, token, leave, view, false);
        }
        let stored = EntryRecord::decode(record.value).unwrap_or_default();
        let claimed = EntryRecord { follower: open.record.follower, ..stored };
        open.phase = Phase::Claiming { token, leave };
        let put = Put {
            key: record.key,
            value: claimed.encode_to_vec().into(),
            lease: record.lease,
            guard: Guard::At(record.modified),
        };
        vec![Action::Submit(id, Op::Put(put))]
    }

    /// The write that takes an entry over has come to its end.
    pub(super) fn claimed(
        &mut self,
        id: RequestId,
        (token, leave): (Revision, Option<Leave>),
        outcome: Result<Outcome, StoreError>,
        view: &View,
    ) -> Vec<Action> {
        let owner = self.owner;
        let Some(open) = self.open.get_mut(&id) else { return vec![] };
        match outcome {
            Ok(Outcome::Done(revision)) => {
                open.claim = Some(revision);
                self.joined(id, token, leave, view, false)
            }
            Ok(Outcome::Refused(Some(there))) if made_by(&there, open) => {
                self.claim(id, there, leave, view)
            }
            // The call before has taken it out: the retry is the first one now.
            Ok(_) => {
                open.phase = Phase::Enqueueing { leave };
                vec![Action::Submit(id, open.enqueue(id, &owner))]
            }
            Err(error) => self.close(id, Reply::failed(Error::Store(error))),
        }
    }

    /// Takes an entry out that bears this call's mark, though somebody has written it since: a
    /// wish to yield, say. `None` if it is another call's by now, or gone.
    pub(super) fn take_out_again(
        &mut self,
        id: RequestId,
        token: Revision,
        outcome: &Result<Outcome, StoreError>,
    ) -> Option<Vec<Action>> {
        let Ok(Outcome::Refused(Some(there))) = outcome else { return None };
        let entry = EntryId { session: self.owner.session, request: id };
        let open = self.open.get_mut(&id)?;
        open.claim?;
        if there.created != token || !open.is_claimed(there) {
            return None;
        }
        open.claim = Some(there.modified);
        let Phase::Leaving { mark, why, .. } = &open.phase else { return None };
        let note = why.note(entry, self.owner.lease);
        Some(vec![Action::Submit(id, open.exit(entry, token, *mark, note))])
    }
}

/// The keys of an entry, each with what must hold of it: the first one carries the mark.
pub(super) fn guarded(
    open: &Open,
    id: EntryId,
    token: Revision,
) -> Vec<(crate::store::Key, Guard)> {
    let guards = std::iter::once(open.guard(token)).chain(std::iter::repeat(Guard::Made(token)));
    keys::entries(&open.locks, id).zip(guards).collect()
}
