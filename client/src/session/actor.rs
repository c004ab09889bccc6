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
    v1::{self, client_message::Message as Ask},
};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use super::{
    Census, Command, Shared,
    identity::Identity,
    keepalive::Keepalive,
    link::{self, Attach, LinkEvent, LinkState, Opened},
    requests::Requests,
};
use crate::{
    error::Fault,
    held::LossReason,
    lease::{self, Lease, Standing},
};

/// A moment that is looked at again when nothing else is due.
const IDLE: Duration = Duration::from_secs(3600);

/// The most commands that are taken before what follows from them is sent.
const BATCH: usize = 1024;

/// The session's task.
pub(super) struct Actor {
    shared: Arc<Shared>,
    ttl: Duration,
    commands: mpsc::Receiver<Command>,
    requests: Requests,
    /// From the first open to the end of the session.
    identity: Option<Identity>,
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
            identity: None,
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
        let mut batch = vec![];
        loop {
            let now = clock.now();
            self.keep_time(now);
            self.settle(now);
            self.link.flush(&mut self.requests.outbox);
            if self.is_over() {
                break;
            }
            let wake = self.next_wake(now);
            if armed != Some(wake) {
                armed = Some(wake);
                timer.set(clock.sleep_until(wake));
            }
            // Every arm is cancel safe: a channel's recv_many, the link's events, a timer, a token.
            tokio::select! {
                _ = self.commands.recv_many(&mut batch, BATCH), if self.life == Life::Serving => {
                    self.commands(&mut batch).await;
                }
                event = self.link.event(&self.requests.outbox) => self.link_event(event),
                () = &mut timer => armed = None,
                () = &mut stopped => break,
            }
        }
        self.requests.closing();
        self.requests.session_gone(&LossReason::SessionClosed);
    }

    /// Applies commands, all that are ready; none if there are no handles any more.
    async fn commands(&mut self, batch: &mut Vec<Command>) {
        let mut over = batch.is_empty();
        if !over {
            // Callers that one frame has woken go on together: what they ask next leaves together
            // too if they have their turn first.
            tokio::task::yield_now().await;
            let more = std::iter::from_fn(|| self.commands.try_recv().ok());
            batch.extend(more.take(BATCH));
        }
        let now = self.shared.clock.now();
        for command in batch.drain(..) {
            over |= matches!(command, Command::Close);
            self.command(command, now);
        }
        if over {
            self.wind_up(now);
        }
    }

    fn command(&mut self, command: Command, now: Instant) {
        match command {
            Command::Acquire(acquire) => self.requests.acquire(*acquire, now),
            Command::Abandon(id) => self.requests.abandon(id),
            Command::Desert(id) => self.requests.desert(id),
            Command::Release(id, reply) => self.requests.release(id, reply),
            Command::Update(id, change, reply) => self.requests.update(id, change, reply),
            Command::Count(reply) => drop(reply.send(self.census())),
            Command::Close => {}
        }
    }

    /// Begins the end. What was asked before it: releases count, acquires are denied with the
    /// rest.
    fn wind_up(&mut self, now: Instant) {
        self.life = Life::Closing;
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.command(command, now);
        }
        self.requests.closing();
    }

    fn census(&self) -> Census {
        let identity = self.identity.as_ref().filter(|_| self.session.is_some());
        let credential = identity.map(Identity::unnumbered);
        Census { credential, open: self.requests.census() }
    }

    fn is_over(&self) -> bool {
        let opening = matches!(self.link, LinkState::Connecting { .. } | LinkState::Attaching(_));
        self.life != Life::Serving && self.session.is_none() && !opening
    }

    /// Opens a stream where one is needed, and asks for the end where it is time.
    fn settle(&mut self, now: Instant) {
        self.ask_for_the_end();
        let LinkState::Down { not_before } = self.link else { return };
        if self.is_unneeded(now) {
            self.give_up_session(&LossReason::Expired);
            return;
        }
        if now < not_before {
            return;
        }
        let longest = self.shared.connect_timeout;
        let lease = self.session.as_ref().map(|session| session.lease.attempt_timeout(now));
        let timeout = lease.map_or(longest, |timeout| timeout.min(longest));
        let connecting = link::connect(Arc::clone(&self.shared), self.turn, timeout);
        self.link = LinkState::Connecting { by: now + timeout, connecting: Box::pin(connecting) };
    }

    /// Has the session end. What was released without a caller that waits for the outcome ends
    /// before it, in the same frame.
    fn ask_for_the_end(&mut self) {
        let done = self.life == Life::Closing && !self.requests.is_awaited();
        if done && self.requests.outbox.push(Ask::Close(v1::Close {})) {
            self.life = Life::CloseSent;
        }
    }

    /// Whether there is nothing at any server that this session still needs a stream for.
    fn is_unneeded(&self, now: Instant) -> bool {
        let idle = self.requests.is_empty() || self.life != Life::Serving;
        match (&self.session, &self.identity) {
            (Some(session), _) => idle && now >= session.lease.over_at(),
            // What an open without an answer may have left behind ends with its TTL.
            (None, Some(identity)) => {
                idle || (!self.requests.is_waiting() && now >= identity.over_at)
            }
            (None, None) => idle,
        }
    }

    /// There is a connection: the first frame opens or resumes the session, and asks for all that
    /// is ready by now.
    fn connected(&mut self, channel: Channel, now: Instant) {
        let LinkState::Connecting { by, .. } = self.link else { return };
        let hello = match self.hello(now) {
            Ok(hello) => hello,
            Err(fault) => return self.link_broken(fault),
        };
        self.requests.begin(hello, now);
        self.ask_for_the_end();
        let first = self.requests.outbox.frame();
        let timeout = by.saturating_duration_since(now);
        let attach = Attach { channel, turn: self.turn, first, sent: now, timeout };
        let attaching = link::attach(Arc::clone(&self.shared), attach);
        self.link = LinkState::Attaching(Box::pin(attaching));
    }

    fn hello(&mut self, now: Instant) -> Result<Ask, Fault> {
        let identity = match &mut self.identity {
            Some(identity) => identity,
            none => none.insert(Identity::random(now)?),
        };
        let session = Some(identity.next_stream());
        if self.session.is_some() {
            let (open, durable) = (self.requests.reopen(), self.requests.durable);
            return Ok(Ask::Resume(v1::Resume { session, open, durable }));
        }
        if self.requests.is_waiting() {
            identity.over_at = now + self.ttl + lockd_proto::safety_margin(self.ttl) * 2;
        }
        let (ttl, client) = (self.ttl.try_into().ok(), Some(self.shared.info.clone()));
        Ok(Ask::Open(v1::OpenSessionRequest { ttl, client, session }))
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
            (LinkState::Connecting { .. } | LinkState::Attaching(_), _) => None,
            (LinkState::Up(_), Some((_, sent))) => timeout.map(|timeout| sent + timeout),
            (LinkState::Up(_), None) => session.map(|_| self.keepalive.due),
        };
        // A down link that is not needed is looked at when a command arrives.
        let link = link.filter(|at| *at > now);
        [lease, link, self.requests.next_ask()].into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    fn link_event(&mut self, event: LinkEvent) {
        // What the clock decides comes first: a renewal must not revive what has expired.
        let now = self.shared.clock.now();
        self.keep_time(now);
        match event {
            // What is ready is sent in every turn.
            LinkEvent::Writable => {}
            LinkEvent::Connected(Ok(channel)) => self.connected(channel, now),
            LinkEvent::Opened(Ok(opened)) => self.attached(*opened, now),
            LinkEvent::Connected(Err(fault)) | LinkEvent::Opened(Err(fault)) => {
                self.not_opened(fault, now);
            }
            // The clock may just have ended the stream that this came from.
            LinkEvent::Broken(_) | LinkEvent::Frame(_)
                if !matches!(self.link, LinkState::Up(_)) => {}
            LinkEvent::Broken(fault) => self.link_broken(fault),
            LinkEvent::Frame(frame) => self.frame(frame, now),
        }
    }

    fn attached(&mut self, opened: Opened, now: Instant) {
        let Opened { link, sent, attached, rest } = opened;
        let ttl = attached.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let Some(ttl) = ttl.filter(|ttl| !ttl.is_zero()) else {
            return self.not_opened(Fault::protocol("the server granted no ttl"), now);
        };
        let Some(id) = self.identity.as_ref().map(Identity::id) else { return };
        if attached.session.is_some_and(|session| session.session_id != id.to_string()) {
            return self.not_opened(Fault::protocol("the server attached another session"), now);
        }
        match &mut self.session {
            Some(session) => session.renew(sent, ttl),
            None => self.session = Some(Session::new(id, Lease::granted(sent, ttl))),
        }
        self.requests.attached(&attached.entries);
        self.shared.endpoints.prefer(link.turn);
        self.keepalive.start(sent, ttl);
        self.link = LinkState::Up(Box::new(link));
        let address = self.shared.endpoints.name(self.turn);
        tracing::debug!(session = %id, address, replica = attached.replica, "attached");
        self.keep_time(now);
        self.frame(rest, now);
    }

    fn not_opened(&mut self, fault: Fault, now: Instant) {
        if self.session.is_some() && fault.is_session_gone() {
            self.link = LinkState::Down { not_before: now };
            return self.give_up_session(&LossReason::Expired);
        }
        if self.session.is_none() && !fault.is_transient() {
            // Trying again would not help: a ttl out of range, or a server of another kind.
            self.requests.fail_waiting(&fault);
            self.give_up_session(&LossReason::Expired);
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
        let now = self.shared.clock.now();
        let lease = self.session.as_ref().map(|session| session.lease);
        let pause = lease.map_or(pause, |lease| lease.retry_pause(now, pause));
        self.link = LinkState::Down { not_before: now + pause };
    }

    fn give_up_session(&mut self, reason: &LossReason) {
        self.identity = None;
        if let Some(session) = self.session.take() {
            tracing::debug!(session = %session.id, %reason, "the session is over");
        }
        // A release on its way may have arrived.
        self.requests.link_lost("the session is over");
        self.requests.session_gone(reason);
    }
}

impl Session {
    fn new(id: SessionId, lease: Lease) -> Self {
        let safe_until = watch::Sender::new(lease.safe_until());
        Self { id, lease, standing: Standing::Current, safe_until }
    }

    /// Publishes the renewal. The standing follows at the next look at the clock.
    fn renew(&mut self, sent: Instant, ttl: Duration) {
        self.lease.renew(sent, ttl);
        self.safe_until.send_replace(self.lease.safe_until());
    }
}
