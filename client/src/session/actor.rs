//! The task of one session: it alone owns the stream, the lease and the open requests.
//!
//! It never waits for the network alone: each turn of its loop also listens to commands and
//! to its own clock, so a lease ends on time even if nothing arrives any more.

mod told;

use std::{pin::pin, sync::Arc, time::Duration};

use lockd_proto::{
    SessionId,
    clock::Instant,
    retry::{Policy, Retry},
    v1::{self, attach_request::Message as Ask},
};
use tokio::sync::{mpsc, watch};

use super::{
    Census, Command, Shared,
    keepalive::Keepalive,
    link::{self, LinkEvent, LinkState, Opened},
    requests::Requests,
};
use crate::{
    error::{ErrorKind, Fault},
    held::LossReason,
    lease::{self, Lease, Standing},
};

/// A moment that is looked at again when nothing else is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The session's task.
pub(super) struct Actor {
    shared: Arc<Shared>,
    ttl: Duration,
    commands: mpsc::Receiver<Command>,
    requests: Requests,
    session: Option<Session>,
    link: LinkState,
    /// Whose turn it is among the addresses.
    turn: usize,
    retry: Retry,
    keepalive: Keepalive,
    life: Life,
}

/// A session that the server knows.
struct Session {
    id: SessionId,
    credential: v1::SessionCredential,
    lease: Lease,
    standing: Standing,
    safe_until: watch::Sender<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Serving,
    /// No new acquires; the session ends when its releases are answered.
    Closing,
    /// The server was asked to end the session.
    CloseSent,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        ttl: Duration,
        commands: mpsc::Receiver<Command>,
    ) -> Self {
        let now = shared.clock.now();
        Self {
            ttl,
            commands,
            requests: Requests::default(),
            session: None,
            link: LinkState::Down { not_before: now },
            turn: shared.endpoints.preferred(),
            retry: Retry::new(Policy::default()),
            keepalive: Keepalive::new(now, ttl),
            life: Life::Serving,
            shared,
        }
    }

    pub(super) async fn run(mut self) {
        let clock = self.shared.clock.clone();
        let stop = self.shared.tasks.stop().clone();
        // Made once, and set anew only where the time is another one: what a turn of the loop
        // costs is paid for each message.
        let mut stopped = pin!(stop.cancelled());
        let mut armed = None;
        let mut timer = pin!(clock.sleep_until(clock.now()));
        loop {
            let now = clock.now();
            self.keep_time(now);
            self.settle(now);
            if self.is_over() {
                break;
            }
            let wake = self.next_wake(now);
            if armed != Some(wake) {
                armed = Some(wake);
                timer.set(clock.sleep_until(wake));
            }
            // Every arm is cancel safe: a channel's recv, the link's events, a timer, a token.
            tokio::select! {
                command = self.commands.recv(), if self.life == Life::Serving => {
                    self.command(command);
                }
                event = self.link.event(&self.requests.outbox) => self.link_event(event),
                () = &mut timer => armed = None,
                () = &mut stopped => break,
            }
        }
        self.requests.closing();
        self.requests.session_gone(&LossReason::SessionClosed);
    }

    fn command(&mut self, command: Option<Command>) {
        match command {
            Some(Command::Acquire(acquire)) => {
                self.requests.acquire(*acquire, self.shared.clock.now());
            }
            Some(Command::Abandon(id)) => self.requests.abandon(id),
            Some(Command::Desert(id)) => self.requests.desert(id),
            Some(Command::Release(id, reply)) => self.requests.release(id, reply),
            Some(Command::Update(id, change, reply)) => self.requests.update(id, change, reply),
            Some(Command::Count(reply)) => drop(reply.send(self.census())),
            // Without handles there is nobody to serve.
            Some(Command::Close) | None => {
                self.life = Life::Closing;
                self.drain_commands();
                self.requests.closing();
            }
        }
    }

    /// What was asked before the end: releases count, acquires are denied with the rest.
    fn drain_commands(&mut self) {
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Acquire(acquire) => {
                    self.requests.acquire(*acquire, self.shared.clock.now());
                }
                Command::Abandon(id) => self.requests.abandon(id),
                Command::Desert(id) => self.requests.desert(id),
                Command::Release(id, reply) => self.requests.release(id, reply),
                Command::Update(id, change, reply) => self.requests.update(id, change, reply),
                Command::Count(reply) => drop(reply.send(self.census())),
                Command::Close => {}
            }
        }
    }

    fn census(&self) -> Census {
        let credential = self.session.as_ref().map(|session| session.credential.clone());
        Census { credential, open: self.requests.census() }
    }

    fn is_over(&self) -> bool {
        let opening = matches!(self.link, LinkState::Opening(_));
        self.life != Life::Serving && self.session.is_none() && !opening
    }

    /// Opens a stream where one is needed, and asks for the end where it is time.
    fn settle(&mut self, now: Instant) {
        let done = self.life == Life::Closing && !self.requests.is_leaving();
        if done && self.requests.outbox.push(Ask::Close(v1::Close {})) {
            self.life = Life::CloseSent;
        }
        let LinkState::Down { not_before } = self.link else { return };
        let over = self.session.as_ref().is_none_or(|session| now >= session.lease.over_at());
        if over && (self.requests.is_empty() || self.life != Life::Serving) {
            self.give_up_session(&LossReason::Expired);
            return;
        }
        if now < not_before {
            return;
        }
        let (hello, timeout) = match &self.session {
            Some(session) => {
                let session_credential = Some(session.credential.clone());
                let timeout = (session.lease.ttl() / 5).max(Duration::from_secs(1));
                let timeout = timeout.min(self.shared.connect_timeout);
                (Ask::Resume(v1::Resume { session: session_credential }), timeout)
            }
            None => (self.open_request(), self.shared.connect_timeout),
        };
        let opening = link::open(Arc::clone(&self.shared), self.turn, hello, timeout);
        self.link = LinkState::Opening(Box::pin(opening));
    }

    fn open_request(&self) -> Ask {
        let ttl = self.ttl.try_into().ok();
        Ask::Open(v1::OpenSessionRequest { ttl, client: Some(self.shared.info.clone()) })
    }

    /// What is due by the clock alone.
    fn keep_time(&mut self, now: Instant) {
        if let Some(session) = &mut self.session {
            let standing = session.lease.standing(now);
            if standing != session.standing {
                session.standing = standing;
                tracing::debug!(session = %session.id, ?standing, "the lease stands differently");
                self.requests.follow(standing);
            }
        }
        if matches!(self.link, LinkState::Up(_)) {
            self.keep_alive(now);
        }
        self.requests.ask_again(now);
    }

    fn keep_alive(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let timeout = lease::reply_timeout(session.lease.ttl());
        match self.keepalive.open {
            Some((_, sent)) if now >= sent + timeout => {
                let message = format!("a keepalive was not answered within {timeout:?}");
                self.link_broken(Fault::unavailable(message));
            }
            Some(_) => {}
            None if now >= self.keepalive.due => {
                let sequence = self.keepalive.begin(now);
                self.requests.outbox.keep_alive(sequence);
            }
            None => {}
        }
    }

    fn next_wake(&self, now: Instant) -> Instant {
        let session = self.session.as_ref();
        let lease = session.and_then(|session| session.lease.next_change(now));
        let timeout = session.map(|session| lease::reply_timeout(session.lease.ttl()));
        let link = match (&self.link, self.keepalive.open) {
            (LinkState::Down { not_before }, _) => Some(*not_before),
            (LinkState::Opening(_), _) => None,
            (LinkState::Up(_), Some((_, sent))) => timeout.map(|timeout| sent + timeout),
            (LinkState::Up(_), None) => session.map(|_| self.keepalive.due),
        };
        // A down link that nobody needs is looked at when a command arrives.
        let link = link.filter(|at| *at > now);
        [lease, link, self.requests.next_ask()].into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    fn link_event(&mut self, event: LinkEvent) {
        // What the clock decides comes first: a renewal must not revive what has expired.
        let now = self.shared.clock.now();
        self.keep_time(now);
        match event {
            LinkEvent::Writable => {
                if let LinkState::Up(link) = &self.link {
                    link.write(&mut self.requests.outbox);
                }
            }
            LinkEvent::Opened(Ok(opened)) => self.attached(opened, now),
            LinkEvent::Opened(Err(fault)) => self.not_opened(fault, now),
            // The clock may just have ended the stream that this came from.
            LinkEvent::Broken(_) | LinkEvent::Told(_) if !matches!(self.link, LinkState::Up(_)) => {
            }
            LinkEvent::Broken(fault) => self.link_broken(fault),
            LinkEvent::Told(told) => self.told(told, now),
        }
    }

    fn attached(&mut self, opened: Opened, now: Instant) {
        let Opened { link, sent, attached } = opened;
        let ttl = attached.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) else {
            return self.not_opened(Fault::protocol("the server granted no ttl"), now);
        };
        match &mut self.session {
            Some(session) => {
                session.renew(sent, ttl);
                self.requests.resumed(&attached.entries, now);
            }
            None => match Session::new(attached.session, Lease::granted(sent, ttl)) {
                Ok(session) => {
                    self.session = Some(session);
                    self.requests.opened(now);
                }
                Err(fault) => return self.not_opened(fault, now),
            },
        }
        self.shared.endpoints.prefer(link.turn);
        self.keepalive.start(sent, ttl);
        self.link = LinkState::Up(Box::new(link));
        let address = self.shared.endpoints.name(self.turn);
        let id = self.session.as_ref().map(|session| session.id);
        tracing::debug!(session = ?id, address, replica = attached.replica, "attached");
        self.keep_time(now);
    }

    fn not_opened(&mut self, fault: Fault, now: Instant) {
        if self.session.is_some() && fault.is_session_gone() {
            self.link = LinkState::Down { not_before: now };
            return self.give_up_session(&LossReason::Expired);
        }
        if self.session.is_none() && !fault.is_transient() {
            // Trying again would not help: a ttl out of range, or a server of another kind.
            self.requests.fail_waiting(&fault);
        }
        self.link_broken(fault);
    }

    fn link_broken(&mut self, fault: Fault) {
        let address = self.shared.endpoints.name(self.turn);
        tracing::debug!(address, error = fault.message, "the session stream is down");
        self.requests.link_lost(&fault.message);
        self.shared.endpoints.avoid(self.turn);
        self.turn = self.turn.wrapping_add(1);
        if self.life == Life::CloseSent {
            self.life = Life::Closing;
        }
        // The first attempt after a stream that worked comes at once.
        let worked = matches!(self.link, LinkState::Up(_)) && self.keepalive.acknowledged();
        let pause = if worked { None } else { self.retry.next_delay() }.unwrap_or_default();
        self.link = LinkState::Down { not_before: self.shared.clock.now() + pause };
    }

    fn give_up_session(&mut self, reason: &LossReason) {
        if let Some(session) = self.session.take() {
            tracing::debug!(session = %session.id, %reason, "the session is over");
        }
        // A release on its way may have arrived.
        self.requests.link_lost("the session is over");
        self.requests.session_gone(reason);
    }
}

impl Session {
    fn new(credential: Option<v1::SessionCredential>, lease: Lease) -> Result<Self, Fault> {
        let credential =
            credential.ok_or_else(|| Fault::protocol("the server named no session"))?;
        let id = credential.session_id.parse();
        let id = id.map_err(|error| Fault::new(ErrorKind::Protocol, format!("{error}")))?;
        let safe_until = watch::Sender::new(lease.safe_until());
        Ok(Self { id, credential, lease, standing: Standing::Current, safe_until })
    }

    /// Publishes the renewal. The standing follows at the next look at the clock.
    fn renew(&mut self, sent: Instant, ttl: Duration) {
        self.lease.renew(sent, ttl);
        self.safe_until.send_replace(self.lease.safe_until());
    }
}
