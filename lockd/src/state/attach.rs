//! Sessions: opened, attached to a replica, and ended.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use lockd_proto::SessionId;

use super::{Effect, Entry, Outcome, Session, SessionEnd, State, enqueue::slot, turn::Turn};
use crate::record::{Attach, Open, Position, ReplicaId};

impl Session {
    /// Whether a message by this stream may still change something: a later stream, or another replica,
    /// leaves those before it without effect. What is not numbered always may.
    #[must_use]
    pub fn is_reached_by(&self, author: ReplicaId, stream: u64) -> bool {
        stream == 0 || (stream == self.stream && author == self.author)
    }
}

impl State {
    /// A session, if it is there.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(*self.by_id.get(&id)? as usize)
    }

    /// The session that an entry belongs to, while it lives. One that was opened later under the same
    /// id is another session.
    pub(super) fn session_of(&self, entry: &Entry) -> Option<&Session> {
        self.session(entry.session).filter(|session| session.opened < entry.token)
    }

    pub(super) fn open(&mut self, open: Open, turn: &mut Turn<'_>) -> Outcome {
        let id = open.session;
        match self.session(id) {
            Some(there) if there.secret_hash != open.secret_hash => Outcome::SecretMismatch,
            Some(_) => self.attach(&Attach { session: id, stream: open.stream, open: None }, turn),
            None => {
                let epoch = turn.cx.at;
                self.insert_session(Session {
                    id,
                    opened: epoch,
                    epoch,
                    author: turn.cx.author,
                    stream: open.stream,
                    ttl_ms: open.ttl_ms,
                    secret_hash: open.secret_hash,
                    client: Arc::new(open.client),
                    ended: VecDeque::new(),
                    entries: HashMap::new(),
                });
                turn.effects.push(Effect::Attached { session: id, epoch, is_new: true });
                Outcome::Attached
            }
        }
    }

    /// Keeps a session whose entries are not known yet.
    pub(super) fn insert_session(&mut self, session: Session) {
        let id = session.id;
        let slot = slot(self.sessions.insert(session));
        self.by_id.insert(id, slot);
        self.seal_session_item(id);
    }

    pub(super) fn attach(&mut self, attach: &Attach, turn: &mut Turn<'_>) -> Outcome {
        let (session, epoch) = (attach.session, turn.cx.at);
        let Some(there) = self.session(session) else {
            return Outcome::NoSession;
        };
        if attach.stream != 0 && attach.stream <= there.stream {
            return Outcome::Superseded;
        }
        self.open_session_item(session);
        if let Some(there) = self.session_mut(session) {
            there.stream = there.stream.max(attach.stream);
            (there.epoch, there.author) = (epoch, turn.cx.author);
        }
        self.seal_session_item(session);
        if let Some(open) = &attach.open {
            let open: HashSet<_> = open.iter().copied().collect();
            self.drop_others(session, &open, turn);
        }
        turn.effects.push(Effect::Attached { session, epoch, is_new: false });
        Outcome::Attached
    }

    /// Takes out what streams of a session have asked for and its client does not know any more.
    fn drop_others(
        &mut self,
        session: SessionId,
        open: &HashSet<lockd_proto::RequestId>,
        turn: &mut Turn<'_>,
    ) {
        let Some(there) = self.session(session) else {
            return;
        };
        let unknown = there.entries.iter().filter(|(request, _)| !open.contains(*request));
        let mut slots: Vec<_> = unknown.map(|(_, slot)| *slot).collect();
        slots.retain(|slot| self.entry(*slot).is_some_and(|entry| entry.asker.stream != 0));
        slots.sort_unstable_by_key(|slot| self.entry(*slot).map(|entry| entry.token));
        for slot in slots {
            self.give_up(slot, turn);
        }
    }

    pub(super) fn end(
        &mut self,
        session: SessionId,
        epoch: Position,
        turn: &mut Turn<'_>,
    ) -> Outcome {
        match self.session(session) {
            None => Outcome::NoSession,
            Some(there) if there.epoch != epoch => Outcome::Superseded,
            Some(_) => {
                self.end_session(session, SessionEnd::Expired, turn);
                Outcome::Done
            }
        }
    }

    pub(super) fn close(&mut self, session: SessionId, turn: &mut Turn<'_>) -> Outcome {
        if self.session(session).is_none() {
            return Outcome::NoSession;
        }
        self.end_session(session, SessionEnd::Closed, turn);
        Outcome::Done
    }

    pub(super) fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        self.open_session_item(id);
        let slot = self.by_id.remove(&id)?;
        self.sessions.try_remove(slot as usize)
    }
}
