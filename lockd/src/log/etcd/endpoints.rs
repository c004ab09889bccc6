//! The members of the cluster, and which of them is asked.
//!
//! `etcd-client` stays with a member that is dead or frozen, so this picks the member itself: one client
//! a member, one member at a time for everything, and on to the next as soon as an attempt fails or takes
//! too long. Members are probed all the time, and at once when one of them has failed, so that the next
//! one asked is one that answers.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, StatusResponse,
    TlsOptions, Txn, TxnResponse,
};
use futures::future::join_all;
use lockd_proto::retry::{Policy, Retry};
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::{sleep, timeout},
};

use super::{
    EtcdConfig,
    fault::{EtcdRefusal, Fault, classify},
    roster::{MemberId, Roster},
};

/// How long one member may take to answer before the next one is asked. Far above a healthy commit
/// (0.5 ms to some 10 ms), and short enough to ask three members within any deadline.
pub(super) const ATTEMPT: Duration = Duration::from_secs(1);

/// How often each member is probed, how long it may take to answer, which it does from memory, and the
/// least time between two rounds however many calls fail.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_REPLY: Duration = Duration::from_millis(500);
const PROBE_REST: Duration = Duration::from_millis(200);

/// HTTP/2 pings. etcd drops a connection that pings more often than every 5 s.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// The pauses after all members have failed.
const PAUSES: Policy = Policy {
    initial: Duration::from_millis(50),
    max: Duration::from_millis(500),
    jitter: 0.5,
    limit: None,
};

/// The members of one cluster.
pub(super) struct Endpoints {
    members: Vec<Member>,
    options: ConnectOptions,
    roster: watch::Sender<Roster>,
    /// A member has failed: time for a probe.
    alarm: Notify,
    /// The cluster has no space left, as of the last probe.
    full: AtomicBool,
}

struct Member {
    url: String,
    /// Made at the first use: with a password it begins with a call.
    client: OnceCell<Client>,
}

impl Endpoints {
    pub(super) fn new(config: &EtcdConfig) -> Self {
        let member = |url: &String| Member { url: url.clone(), client: OnceCell::new() };
        Self {
            members: config.endpoints.iter().map(member).collect(),
            options: options(config),
            roster: watch::Sender::new(Roster::new(config.endpoints.len())),
            alarm: Notify::new(),
            full: AtomicBool::new(false),
        }
    }

    /// Whether there is another member to go to.
    pub(super) fn has_others(&self) -> bool {
        self.members.len() > 1
    }

    /// The member `steps` after the one that is asked at present.
    pub(super) fn after(&self, steps: usize) -> MemberId {
        self.roster.borrow().after(steps)
    }

    /// A client of the member that is asked at present.
    pub(super) async fn client(&self) -> Result<(MemberId, Client), Fault> {
        let id = self.after(0);
        Ok((id, self.client_of(id).await?))
    }

    /// A client of one member. The member is left if there is none to be had.
    async fn client_of(&self, id: MemberId) -> Result<Client, Fault> {
        let client = self.connect(id).await;
        if matches!(client, Err(Fault::NotSent(_) | Fault::Unknown(_))) {
            self.leave(id);
        }
        client
    }

    async fn connect(&self, MemberId(index): MemberId) -> Result<Client, Fault> {
        let Some(member) = self.members.get(index) else {
            return Err(Fault::Refused(EtcdRefusal::Other(
                "no etcd endpoint is configured".to_owned(),
            )));
        };
        let connect = || Client::connect([&member.url], Some(self.options.clone()));
        match timeout(ATTEMPT, member.client.get_or_try_init(connect)).await {
            Ok(Ok(client)) => Ok(client.clone()),
            // Nothing but a log-in was sent.
            Ok(Err(error)) => Err(match classify(&error) {
                Fault::Refused(refusal) => Fault::Refused(refusal),
                Fault::NotSent(text) | Fault::Unknown(text) => Fault::NotSent(text),
            }),
            Err(_) => Err(Fault::NotSent(format!("{} does not answer", member.url))),
        }
    }

    /// A member did not answer: goes on to the next one, if it is the one that is asked.
    pub(super) fn leave(&self, id: MemberId) {
        if self.set_silent(id) {
            self.alarm.notify_one();
        }
    }

    /// A member has answered.
    pub(super) fn answered(&self, id: MemberId) {
        if self.roster.borrow().is_silent(id)
            && self.roster.send_if_modified(|roster| roster.answered(id))
        {
            tracing::info!(url = self.url(id), "an etcd member answers again");
        }
    }

    fn set_silent(&self, id: MemberId) -> bool {
        let left = self.roster.send_if_modified(|roster| roster.failed(id));
        if left {
            let url = self.url(id);
            let next = self.url(self.after(0));
            tracing::warn!(url, next, "an etcd member does not answer");
        }
        left
    }

    fn url(&self, MemberId(index): MemberId) -> &str {
        self.members.get(index).map_or("", |member| &member.url)
    }

    /// Waits until a member is one that does not answer.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn silent(&self, id: MemberId) {
        let mut roster = self.roster.subscribe();
        // An error means that the roster can't change any more.
        if roster.wait_for(|roster| roster.is_silent(id)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Probes the members for ever.
    pub(super) async fn probe(&self) {
        let mut rounds = Retry::steady(PROBE, 0.2);
        loop {
            let next = sleep(rounds.next_delay().unwrap_or(PROBE));
            tokio::select! {
                () = next => {}
                () = self.alarm.notified() => {}
            }
            self.statuses().await;
            sleep(PROBE_REST).await;
        }
    }

    /// Asks each member for its status, and notes which ones answer.
    pub(super) async fn statuses(&self) -> Vec<(&str, StatusResponse)> {
        let statuses = self.members.iter().enumerate().map(async |(index, member)| {
            let status = async { self.connect(MemberId(index)).await.ok()?.status().await.ok() };
            match timeout(PROBE_REPLY, status).await.ok().flatten() {
                Some(status) => {
                    self.answered(MemberId(index));
                    Some((member.url.as_str(), status))
                }
                None => {
                    self.set_silent(MemberId(index));
                    None
                }
            }
        });
        let statuses: Vec<_> = join_all(statuses).await.into_iter().flatten().collect();
        if !statuses.is_empty() {
            let no_space = |error: &String| error.contains("NOSPACE");
            let full = statuses.iter().any(|(_, status)| status.errors().iter().any(no_space));
            if full != self.full.swap(full, Ordering::Relaxed) {
                tracing::warn!(full, "etcd's alarm for want of space has changed");
            }
        }
        statuses
    }

    /// Whether etcd's alarm for want of space was raised when it was probed last.
    pub(super) fn are_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// One attempt at the present member. Goes on to the next one when it fails.
    pub(super) async fn attempt<T, F>(&self, call: impl FnOnce(Client) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        self.attempt_at(self.after(0), call).await
    }

    /// One attempt at a member.
    pub(super) async fn attempt_at<T, F>(
        &self,
        id: MemberId,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let client = self.client_of(id).await?;
        let fault = match timeout(ATTEMPT, call(client)).await {
            Ok(Ok(answer)) => {
                self.answered(id);
                return Ok(answer);
            }
            Ok(Err(error)) => classify(&error),
            Err(_) => Fault::Unknown(format!("no answer within {ATTEMPT:?}")),
        };
        if !matches!(fault, Fault::Refused(_)) {
            self.leave(id);
        }
        Err(fault)
    }

    /// Asks one member after another until one answers, for as long as it takes. For calls that may be
    /// applied twice.
    pub(super) async fn call<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, EtcdRefusal>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut pauses = Pauses::new(self);
        loop {
            match self.attempt(&call).await {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(refusal)) => return Err(refusal),
                Err(Fault::NotSent(why) | Fault::Unknown(why)) => pauses.after_failure(&why).await,
            }
        }
    }
}

/// What may be applied twice, at one member after another until one answers.
impl Endpoints {
    pub(super) async fn get(
        &self,
        key: Vec<u8>,
        options: Option<GetOptions>,
    ) -> Result<GetResponse, EtcdRefusal> {
        self.call(|mut client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, options).await }
        })
        .await
    }

    pub(super) async fn txn(&self, txn: Txn) -> Result<TxnResponse, EtcdRefusal> {
        self.call(|mut client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        })
        .await
    }
}

/// Pauses between rounds: none between one member and the next.
pub(super) struct Pauses {
    members: usize,
    failures: usize,
    retry: Retry,
}

/// Every so many failures of one call are logged.
const REPORTED: usize = 16;

impl Pauses {
    pub(super) fn new(endpoints: &Endpoints) -> Self {
        Self { members: endpoints.members.len(), failures: 0, retry: Retry::new(PAUSES) }
    }

    pub(super) async fn after_failure(&mut self, why: &str) {
        self.failures = self.failures.wrapping_add(1);
        // A whole round has failed, or many.
        if self.failures == self.members || self.failures.is_multiple_of(REPORTED) {
            tracing::warn!(why, failures = self.failures, "waiting for etcd");
        }
        if self.failures.is_multiple_of(self.members) {
            sleep(self.retry.next_delay().unwrap_or(PAUSES.max)).await;
        }
    }
}

fn options(config: &EtcdConfig) -> ConnectOptions {
    let mut options = ConnectOptions::new()
        .with_keep_alive(PING.0, PING.1)
        .with_keep_alive_while_idle(true)
        .with_connect_timeout(ATTEMPT)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some((user, password)) = &config.user {
        options = options.with_user(user, password);
    }
    if let Some(tls) = &config.tls {
        let mut wire = TlsOptions::new();
        if let Some(ca) = &tls.ca_pem {
            wire = wire.ca_certificate(Certificate::from_pem(ca));
        }
        if let Some((cert, key)) = &tls.identity_pem {
            wire = wire.identity(Identity::from_pem(cert, key));
        }
        options = options.with_tls(wire);
    }
    options
}
