//! Locks that outlive the process that acquired them: for scripts that acquire in one command
//! and release in another.

use std::time::Duration;

use lockd_proto::{
    FencingToken, LockName, RequestId,
    v1::{
        self, lock_service_client::LockServiceClient, session_service_client::SessionServiceClient,
    },
};

use crate::{
    client::{Client, Metadata, Repeat},
    error::{Call, Error, ErrorKind, Fault},
    held::Released,
    place::Place,
    session::Identity,
};

/// A lock with a session of its own that belongs to no process. It is lost when it is not
/// renewed within its TTL, and no client is notified: check the clock, and use the token.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DetachedLock {
    /// The lock's name.
    pub name: String,
    /// The fencing token.
    pub token: FencingToken,
    /// The TTL that was granted, to be counted from before the acquire.
    pub ttl: Duration,
    /// The session's id.
    pub session_id: String,
    /// The session's secret, which permits its bearer to renew and release.
    pub secret: String,
    /// The request id of the acquire, as hexadecimal digits.
    pub request_id: String,
}

impl std::fmt::Debug for DetachedLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, token, ttl, session_id, request_id, .. } = self;
        f.debug_struct("DetachedLock")
            .field("name", name)
            .field("token", token)
            .field("ttl", ttl)
            .field("session_id", session_id)
            .field("request_id", request_id)
            .finish_non_exhaustive()
    }
}

impl DetachedLock {
    /// A lock that another process has acquired.
    ///
    /// # Errors
    /// A request id that is none.
    pub fn new(
        name: impl Into<String>,
        token: FencingToken,
        (session_id, secret): (String, String),
        request_id: impl Into<String>,
    ) -> Result<Self, Error> {
        let (name, request_id) = (name.into(), request_id.into());
        let call = Call::new("detached").on(name.as_str());
        bytes_of(&request_id).map_err(|fault| call.failed(fault))?;
        Ok(Self { name, token, ttl: Duration::ZERO, session_id, secret, request_id })
    }

    fn credential(&self) -> Option<v1::SessionCredential> {
        let (session_id, secret) = (self.session_id.clone(), self.secret.clone());
        Some(v1::SessionCredential { session_id, secret, stream: 0 })
    }
}

fn bytes_of(request_id: &str) -> Result<Vec<u8>, Fault> {
    hex::decode(request_id).map_err(|error| Fault::invalid(&format!("request id: {error}")))
}

impl Client {
    /// Acquires a lock that stays when this process ends, for `ttl` or until it is renewed.
    /// `wait` is how long to wait for it: zero not at all. The client's request timeout does
    /// not bound it.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] and [`ErrorKind::WaitExpired`] if it was not granted;
    /// [`ErrorKind::Unavailable`] if no server answers.
    ///
    /// # Cancel safety
    /// The lock may be held all the same, until its TTL ends.
    pub async fn acquire_detached(
        &self,
        name: impl Into<String>,
        ttl: Duration,
        wait: Duration,
    ) -> Result<DetachedLock, Error> {
        let name = name.into();
        let call = Call::new("acquire").on(name.as_str());
        LockName::parse(name.as_str()).map_err(|error| call.failed(Fault::invalid(&error)))?;
        let identity = Identity::random(self.clock().now());
        let session = identity.map_err(|fault| call.failed(fault))?.unnumbered();
        self.open_detached(&session, ttl).await?;
        // Renewed while it waits: a wait may be longer than the TTL.
        let granted = {
            let mut acquire = std::pin::pin!(self.wait_detached(&call, &name, &session, wait));
            loop {
                let pause = self.clock().sleep_until(self.clock().now() + ttl / 3);
                tokio::select! {
                    granted = &mut acquire => break granted,
                    () = pause => drop(self.keep_alive_detached(&session).await),
                }
            }
        };
        let granted = match granted {
            Ok(granted) => granted,
            Err(error) => {
                self.close_detached(&session).await;
                return Err(error);
            }
        };
        let ttl = self.keep_alive_detached(&session).await?;
        let v1::SessionCredential { session_id, secret, .. } = session;
        let (token, request_id) = granted;
        Ok(DetachedLock { name, token, ttl, session_id, secret, request_id })
    }

    async fn wait_detached(
        &self,
        call: &Call,
        name: &str,
        session: &v1::SessionCredential,
        wait: Duration,
    ) -> Result<(FencingToken, String), Error> {
        let request_id = RequestId::random().as_bytes().to_vec();
        let acquire = v1::Acquire {
            request_id: request_id.clone(),
            namespace: self.namespace(),
            name: name.to_owned(),
            max_wait: wait.try_into().ok(),
            ..v1::Acquire::default()
        };
        let message = v1::AcquireRequest { session: Some(session.clone()), acquire: Some(acquire) };
        let limit = wait + self.shared().request_timeout;
        let make = |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).acquire(request).await }
        };
        let answer = self.unary_within(limit, call.clone(), Repeat::Harmless, make);
        match answer.await?.outcome {
            Some(v1::acquire_response::Outcome::Grant(grant)) => {
                let zero = || call.failed(Fault::protocol("the server granted token zero"));
                let token = FencingToken::new(grant.token).ok_or_else(zero)?;
                Ok((token, hex::encode(request_id)))
            }
            Some(v1::acquire_response::Outcome::Refusal(refusal)) => {
                let kind = match refusal.reason() {
                    v1::RefusalReason::Busy => ErrorKind::Busy,
                    v1::RefusalReason::WaitExpired => ErrorKind::WaitExpired,
                    _ => ErrorKind::Conflict,
                };
                let fault = Fault::new(kind, refusal.detail);
                Err(call.failed(fault).in_queue(Place::from_wire(refusal.holder, refusal.ahead)))
            }
            None => Err(call.failed(Fault::protocol("neither granted nor refused"))),
        }
    }

    /// Renews a detached lock for its TTL, which counts from before this call.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it was lost before; [`ErrorKind::Unavailable`] if no server
    /// answers.
    ///
    /// # Cancel safety
    /// Whether it was renewed is then not known.
    pub async fn renew_detached(&self, lock: &DetachedLock) -> Result<Duration, Error> {
        self.keep_alive_detached(&lock.credential().unwrap_or_default()).await
    }

    /// Releases a detached lock and ends its session.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it was lost before; [`ErrorKind::Unavailable`] if no server
    /// answers, and then it is lost when its TTL ends.
    ///
    /// # Cancel safety
    /// Whether it was released is then not known.
    pub async fn release_detached(&self, lock: &DetachedLock) -> Result<Released, Error> {
        let call = Call::new("release").on(lock.name.as_str());
        let request_id = bytes_of(&lock.request_id).map_err(|fault| call.failed(fault))?;
        let message = v1::ReleaseRequest {
            session: lock.credential(),
            namespace: self.namespace(),
            name: lock.name.clone(),
            request_id,
            token: lock.token.get(),
        };
        let answer = self.unary(call, Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { LockServiceClient::new(channel).release(request).await }
        });
        let released = match answer.await?.outcome() {
            v1::ReleaseOutcome::Released => Released::Released,
            v1::ReleaseOutcome::AlreadyLost => Released::AlreadyLost,
            v1::ReleaseOutcome::Unspecified => Released::Unknown,
        };
        self.close_detached(&lock.credential().unwrap_or_default()).await;
        Ok(released)
    }

    async fn open_detached(
        &self,
        session: &v1::SessionCredential,
        ttl: Duration,
    ) -> Result<(), Error> {
        let (ttl, client) = (ttl.try_into().ok(), Some(self.shared().info.clone()));
        let message = v1::OpenSessionRequest { ttl, client, session: Some(session.clone()) };
        let call = Call::new("open session");
        // Made again it finds the session that the first one opened.
        let opened = self.unary(call, Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { SessionServiceClient::new(channel).open_session(request).await }
        });
        opened.await.map(drop)
    }

    async fn keep_alive_detached(
        &self,
        session: &v1::SessionCredential,
    ) -> Result<Duration, Error> {
        let message = v1::KeepAliveRequest { session: Some(session.clone()) };
        let call = Call::new("renew").on(session.session_id.as_str());
        let answer = self.unary(call, Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { SessionServiceClient::new(channel).keep_alive(request).await }
        });
        let ttl = answer.await?.ttl;
        Ok(ttl.and_then(|ttl| ttl.try_into().ok()).unwrap_or_default())
    }

    async fn close_detached(&self, session: &v1::SessionCredential) {
        let message = v1::CloseSessionRequest { session: Some(session.clone()) };
        let call = Call::new("close session");
        let closed = self.unary(call, Repeat::Harmless, |channel, metadata: Metadata| {
            let request = metadata.request(message.clone());
            async move { SessionServiceClient::new(channel).close_session(request).await }
        });
        if let Err(error) = closed.await {
            tracing::debug!(%error, "the session will end with its TTL");
        }
    }
}
