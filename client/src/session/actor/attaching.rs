//! How the session comes to a stream: connects, opens or resumes, and begins again elsewhere.

use std::{sync::Arc, time::Duration};

use lockd_proto::{
    clock::Instant,
    v1::{self, client_message::Message as Ask},
};
use tonic::transport::Channel;

use super::{Actor, Life, Session};
use crate::{
    error::Fault,
    held::LossReason,
    lease::Lease,
    session::{
        identity::Identity,
        link::{self, Attach, LinkState, Opened},
    },
};

impl Actor {
    /// Opens a stream where one is needed, and asks for the end where it is time.
    pub(super) fn settle(&mut self, now: Instant) {
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
    pub(super) fn connected(&mut self, channel: Channel, now: Instant) {
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

    pub(super) fn attached(&mut self, opened: Opened, now: Instant) {
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

    pub(super) fn not_opened(&mut self, fault: Fault, now: Instant) {
        if self.session.is_some() && fault.is_session_gone() {
            self.requests.not_attached();
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

    pub(super) fn link_broken(&mut self, fault: Fault) {
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

    pub(super) fn give_up_session(&mut self, reason: &LossReason) {
        self.identity = None;
        if let Some(session) = self.session.take() {
            tracing::debug!(session = %session.id, %reason, "the session is over");
        }
        // A release on its way may have arrived.
        self.requests.link_lost("the session is over");
        self.requests.session_gone(reason);
    }
}
