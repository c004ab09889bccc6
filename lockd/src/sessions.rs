//! Sessions: a lease in the store, a record attached to it, and a secret that proves who
//! owns it. Nothing about a session is kept here that a `kill -9` could lose.

use std::{fmt, sync::Arc, time::Duration};

use lockd_proto::{DEFAULT_TTL, SessionId, Ttl, v1::ClientInfo};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::{
    batcher::Batcher,
    error::Error,
    keys,
    mode::Mode,
    record::SessionRecord,
    store::{Delete, Guard, LeaseId, Op, Outcome, Put, Revision, Store, StoreError},
    view::View,
};

/// How long the end of a session waits for the view to show all of its entries.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Opens, proves, renews and ends sessions.
#[derive(Debug, Clone)]
pub struct Sessions {
    store: Arc<dyn Store>,
    batcher: Batcher,
    view: Arc<View>,
    replica: Arc<str>,
    /// How many there may be.
    limit: usize,
}

/// The secret of a session. Never shown, never logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret as a client sent it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// For the one message that carries it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// What a client shows to prove that a session is its own.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The session.
    pub session: SessionId,
    /// Its secret.
    pub secret: Secret,
}

impl Credential {
    fn random() -> Result<Self, Error> {
        Ok(Self { session: SessionId::random(), secret: random_secret()? })
    }
}

/// A session whose owner has proved to be it.
#[derive(Debug, Clone)]
pub struct Proven {
    /// Its id.
    pub id: SessionId,
    /// Its lease.
    pub lease: LeaseId,
    /// When its record was last written.
    pub modified: Revision,
    record: Arc<SessionRecord>,
}

impl Proven {
    /// The TTL of its lease.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        Ttl::granted(Duration::from_millis(self.record.ttl_ms))
    }

    /// Whether its stream ends at some replica.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        !self.record.replica.is_empty()
    }
}

/// A session that was just opened.
#[derive(Debug)]
pub struct Opened {
    /// The session.
    pub session: Proven,
    /// Its secret, which is stored nowhere.
    pub secret: Secret,
}

/// Where a session's stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// At this replica.
    Here,
    /// Nowhere: its client makes unary calls.
    None,
}

impl Sessions {
    /// Sessions in a store, at most `limit` of them, as served by the replica of this name.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        batcher: Batcher,
        view: Arc<View>,
        replica: Arc<str>,
        limit: usize,
    ) -> Self {
        Self { store, batcher, view, replica, limit }
    }

    /// The name of this replica.
    #[must_use]
    pub fn replica(&self) -> Arc<str> {
        self.replica.clone()
    }

    /// Opens a session: a new lease with the session's record attached to it. `None` if there is
    /// a session of the id that the client has made.
    ///
    /// # Errors
    /// A TTL out of range, or a store that fails. What was begun ends with its lease.
    pub async fn open(
        &self,
        ttl: Option<Duration>,
        client: ClientInfo,
        stream: Stream,
        own: Option<Credential>,
    ) -> Result<Option<Opened>, Error> {
        let Credential { session: id, secret } = own.map_or_else(Credential::random, Ok)?;
        if self.view.session(id).is_some() {
            return Ok(None);
        }
        let asked = self.store.profile().ttl.check(ttl.unwrap_or(DEFAULT_TTL))?;
        if self.view.sessions() >= self.limit {
            return Err(Error::TooManySessions { limit: self.limit });
        }
        let lease = random_lease()?;
        let ttl = self.store.grant_lease(lease, asked).await.map_err(Error::Store)?;
        let record = SessionRecord {
            secret_hash: secret.hash().to_vec().into(),
            ttl_ms: u64::try_from(ttl.get().as_millis()).unwrap_or(u64::MAX),
            client_name: client.name,
            host: client.host,
            pid: client.pid,
            replica: self.stream_at(stream),
            closing: false,
        };
        let record = Arc::new(record);
        match self.write(id, lease, &record, Guard::Absent).await? {
            Some(modified) => {
                let session = Proven { id, lease, modified, record };
                Ok(Some(Opened { session, secret }))
            }
            None => {
                self.revoke(lease).await?;
                Ok(None)
            }
        }
    }

    fn stream_at(&self, stream: Stream) -> String {
        match stream {
            Stream::Here => self.replica.to_string(),
            Stream::None => String::new(),
        }
    }

    /// Checks a credential. A session that the view does not know yet is looked up in the
    /// store.
    ///
    /// # Errors
    /// The session is gone, the secret is not its own, or the store fails.
    pub async fn prove(&self, credential: &Credential) -> Result<Proven, Error> {
        let id = credential.session;
        let found = match self.view.session(id) {
            Some(session) => Some((session.record, session.lease, session.modified)),
            None => self.read(id).await?,
        };
        let (record, lease, modified) = found.ok_or(Error::SessionNotFound(id))?;
        let hash = credential.secret.hash();
        if !bool::from(hash.ct_eq(record.secret_hash.as_ref())) {
            return Err(Error::SecretMismatch(id));
        }
        Ok(Proven { id, lease, modified, record })
    }

    async fn read(
        &self,
        id: SessionId,
    ) -> Result<Option<(Arc<SessionRecord>, LeaseId, Revision)>, Error> {
        let found = self.store.get(keys::session(id)).await.map_err(Error::Store)?;
        let Some(found) = found else { return Ok(None) };
        let record = SessionRecord::decode(found.value).map_err(|error| {
            Error::Store(StoreError::Broken(format!("session {id} can't be read: {error}")))
        })?;
        Ok(Some((Arc::new(record), found.lease, found.modified)))
    }

    /// Writes down where a session's stream ends, and gives the session as it is then.
    ///
    /// # Errors
    /// The session is gone, or the store fails.
    pub async fn attach(&self, session: &Proven, stream: Stream) -> Result<Proven, Error> {
        let mut record = SessionRecord::clone(&session.record);
        record.replica = self.stream_at(stream);
        let record = Arc::new(record);
        let written = self.write(session.id, session.lease, &record, Guard::Exists).await?;
        let modified = written.ok_or(Error::SessionNotFound(session.id))?;
        Ok(Proven { id: session.id, lease: session.lease, modified, record })
    }

    async fn write(
        &self,
        id: SessionId,
        lease: LeaseId,
        record: &SessionRecord,
        guard: Guard,
    ) -> Result<Option<Revision>, Error> {
        let value = record.encode_to_vec().into();
        let put = Put { key: keys::session(id), value, lease, guard };
        match self.batcher.submit(Op::Put(put)).await.map_err(Error::Store)? {
            Outcome::Done(revision) => Ok(Some(revision)),
            _ => Ok(None),
        }
    }

    /// Renews a session's lease for its TTL.
    ///
    /// # Errors
    /// The session is gone, or the store fails.
    pub async fn keep_alive(&self, id: SessionId, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await.map_err(|error| match error {
            StoreError::LeaseNotFound => Error::SessionNotFound(id),
            error => Error::Store(error),
        })
    }

    /// Ends a session and releases all that it holds.
    ///
    /// # Errors
    /// The store fails; the session then ends with its lease.
    pub async fn close(&self, session: &Proven) -> Result<(), Error> {
        let (id, lease) = (session.id, session.lease);
        // Whoever sees its end knows from this that it is no loss.
        let record = SessionRecord { closing: true, ..SessionRecord::clone(&session.record) };
        let Some(revision) = self.write(id, lease, &record, Guard::Exists).await? else {
            return Ok(());
        };
        // If the view does not come up, what has a lock-delay stays taken for that long.
        drop(tokio::time::timeout(CATCH_UP, self.view.reached(revision)).await);
        for (entry, _) in self.view.entries_of(id) {
            let delayed = entry.record.lock_delay_ms > 0;
            // A party or a share that is left behind is one that has left early.
            if delayed && !matches!(entry.mode, Mode::Party { .. } | Mode::Share(_)) {
                let keys = keys::entries(&entry.locks, entry.id);
                let keys = keys.map(|key| (key, Guard::Made(entry.created))).collect();
                let delete = Op::Delete(Delete::new(keys));
                self.batcher.submit(delete).await.map_err(Error::Store)?;
            }
        }
        self.revoke(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await.map_err(Error::Store)
    }

    /// Ends a session whose client has fallen silent, unless it was attached elsewhere since
    /// `attached`. Says whether the session was ended.
    ///
    /// # Errors
    /// The store fails; the session then ends with its lease.
    pub async fn end_silent(
        &self,
        id: SessionId,
        lease: LeaseId,
        attached: Revision,
    ) -> Result<bool, Error> {
        let keys = vec![(keys::session(id), Guard::At(attached))];
        let delete = Delete::new(keys);
        match self.batcher.submit(Op::Delete(delete)).await.map_err(Error::Store)? {
            Outcome::Done(_) => self.revoke(lease).await.map(|()| true),
            _ => Ok(false),
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        Error::Store(StoreError::Broken(format!("the system gives no random bytes: {error}")))
    })?;
    Ok(bytes)
}

fn random_secret() -> Result<Secret, Error> {
    Ok(Secret(hex::encode(random::<32>()?)))
}

fn random_lease() -> Result<LeaseId, Error> {
    // etcd takes positive ids only, and makes one itself of zero.
    Ok(LeaseId((i64::from_be_bytes(random()?) & i64::MAX).max(1)))
}
