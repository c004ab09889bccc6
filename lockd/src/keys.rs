//! The key layout: which bytes name a session, an entry or a note.
//!
//! ```text
//! s/<session>                                     a session, attached to its lease
//! q/<namespace> NUL <lock> NUL <session><request> an entry of a lock's queue
//! n/<session><request>                            why an entry was removed by force
//! r/<namespace> NUL <lock>                        the result of a once
//! ```
//!
//! Session and request ids are 32 hexadecimal digits. Names hold no control characters, so
//! NUL ends them without doubt: the prefix of one queue is never the prefix of another.

use std::{borrow::Borrow, fmt, sync::Arc};

use lockd_proto::{LockName, Namespace, RequestId, SessionId};

use crate::store::Key;

const SESSION: &[u8] = b"s/";
const ENTRY: &[u8] = b"q/";
const NOTE: &[u8] = b"n/";
const RESULT: &[u8] = b"r/";
const HEX_ID: usize = 32;

/// A lock: its namespace and name, as one path `<namespace> NUL <name>`, which sorts locks
/// by namespace and then by name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockId {
    path: Arc<str>,
}

impl LockId {
    /// The lock of this name.
    #[must_use]
    pub fn new(namespace: &Namespace, name: &LockName) -> Self {
        let path = prefix_path(namespace, name.as_str()).into();
        Self { path }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.parts().0
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.parts().1
    }

    /// The lock of another name in the same namespace.
    #[must_use]
    pub fn sibling(&self, name: &LockName) -> Self {
        let path = format!("{}\0{name}", self.namespace()).into();
        Self { path }
    }

    /// Whether its path starts with `prefix`, as made by [`prefix_path`].
    #[must_use]
    pub fn is_under(&self, prefix: &str) -> bool {
        self.path.starts_with(prefix)
    }

    fn parts(&self) -> (&str, &str) {
        self.path.split_once('\0').unwrap_or_default()
    }
}

impl Borrow<str> for LockId {
    fn borrow(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace(), self.name())
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockId({self})")
    }
}

/// What the paths of all locks of a namespace start with whose names start with `prefix`.
#[must_use]
pub fn prefix_path(namespace: &Namespace, prefix: &str) -> String {
    format!("{namespace}\0{prefix}")
}

/// An entry's owner: the request that made it, and whose request that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId {
    /// The session.
    pub session: SessionId,
    /// The request.
    pub request: RequestId,
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A session.
    Session(SessionId),
    /// An entry in a lock's queue.
    Entry(LockId, EntryId),
    /// A note about an entry.
    Note(EntryId),
    /// The result of a once.
    Result(LockId),
}

/// The key of a session.
#[must_use]
pub fn session(id: SessionId) -> Key {
    Key::new([SESSION, &hex(id.as_bytes())].concat())
}

/// The prefix of every entry of a lock, and of nothing else.
#[must_use]
pub fn queue(lock: &LockId) -> Key {
    Key::new([ENTRY, lock.path.as_bytes(), b"\0"].concat())
}

/// The key of an entry.
#[must_use]
pub fn entry(lock: &LockId, id: EntryId) -> Key {
    let EntryId { session, request } = id;
    let [session, request] = [hex(session.as_bytes()), hex(request.as_bytes())];
    Key::new([ENTRY, lock.path.as_bytes(), b"\0", &session, &request].concat())
}

/// The queue that an entry's key is in. Shares the key's bytes.
#[must_use]
pub fn queue_of(entry: &Key) -> Key {
    entry.without_last(2 * HEX_ID)
}

/// The keys of an entry that is in the queues of several locks.
pub fn entries(locks: &[LockId], id: EntryId) -> impl Iterator<Item = Key> {
    locks.iter().map(move |lock| entry(lock, id))
}

/// The key of the note about an entry.
#[must_use]
pub fn note(id: EntryId) -> Key {
    let EntryId { session, request } = id;
    Key::new([NOTE, &hex(session.as_bytes()), &hex(request.as_bytes())].concat())
}

/// The key of the result of a once.
#[must_use]
pub fn result(lock: &LockId) -> Key {
    Key::new([RESULT, lock.path.as_bytes()].concat())
}

/// Reads a key back; `None` for one that lockd did not write.
#[must_use]
pub fn parse(key: &Key) -> Option<Named> {
    let bytes = key.as_bytes();
    if let Some(id) = bytes.strip_prefix(SESSION) {
        return session_id(id).map(Named::Session);
    }
    if let Some(owner) = bytes.strip_prefix(NOTE) {
        return entry_id(owner).map(Named::Note);
    }
    if let Some(path) = bytes.strip_prefix(RESULT) {
        let mut parts = path.splitn(2, |byte| *byte == 0);
        return lock_id(parts.next()?, parts.next()?).map(Named::Result);
    }
    let mut parts = bytes.strip_prefix(ENTRY)?.splitn(3, |byte| *byte == 0);
    let (namespace, name, owner) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Named::Entry(lock_id(namespace, name)?, entry_id(owner)?))
}

/// The digits of an id, as it is also written for people.
fn hex(id: &[u8; 16]) -> [u8; HEX_ID] {
    let mut digits = [0; HEX_ID];
    // The sizes match.
    let _ok = hex::encode_to_slice(id, &mut digits);
    digits
}

fn lock_id(namespace: &[u8], name: &[u8]) -> Option<LockId> {
    let namespace = Namespace::parse(std::str::from_utf8(namespace).ok()?).ok()?;
    let name = LockName::parse(std::str::from_utf8(name).ok()?).ok()?;
    Some(LockId::new(&namespace, &name))
}

fn session_id(hex: &[u8]) -> Option<SessionId> {
    std::str::from_utf8(hex).ok()?.parse().ok()
}

fn entry_id(owner: &[u8]) -> Option<EntryId> {
    let (session, request) = owner.split_at_checked(HEX_ID)?;
    // Both ids have the same form on disk.
    let request = session_id(request)?;
    Some(EntryId {
        session: session_id(session)?,
        request: RequestId::from_bytes(*request.as_bytes()),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = String> {
        // Everything that a user may type, weighted towards what could confuse a key.
        proptest::string::string_regex("[a-c/.\\x20-\\x7eäß日\\x00\\x1f]{1,12}")
            .expect("valid regex")
    }

    fn lock() -> impl Strategy<Value = LockId> {
        (name(), name()).prop_filter_map("valid names", |(namespace, name)| {
            Some(LockId::new(&Namespace::parse(namespace).ok()?, &LockName::parse(name).ok()?))
        })
    }

    fn id() -> impl Strategy<Value = EntryId> {
        any::<([u8; 16], [u8; 16])>().prop_map(|(session, request)| EntryId {
            session: SessionId::from_bytes(session),
            request: RequestId::from_bytes(request),
        })
    }

    proptest! {
        #[test]
        fn keys_round_trip(lock in lock(), id in id()) {
            prop_assert_eq!(parse(&session(id.session)), Some(Named::Session(id.session)));
            prop_assert_eq!(parse(&note(id)), Some(Named::Note(id)));
            prop_assert_eq!(parse(&result(&lock)), Some(Named::Result(lock.clone())));
            prop_assert_eq!(queue_of(&entry(&lock, id)), queue(&lock));
            prop_assert_eq!(parse(&entry(&lock, id)), Some(Named::Entry(lock, id)));
        }

        #[test]
        fn no_lock_reaches_the_keys_of_another(a in lock(), b in lock(), id in id()) {
            let reaches = entry(&b, id).as_bytes().starts_with(queue(&a).as_bytes());
            prop_assert_eq!(reaches, a == b);
        }

        #[test]
        fn foreign_keys_are_not_misread(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(Named::Entry(lock, id)) = parse(&Key::new(bytes.clone())) {
                prop_assert_eq!(entry(&lock, id), Key::new(bytes));
            }
        }
    }
}
