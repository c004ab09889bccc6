//! What the server says on the stream, and what follows from it.

use std::time::Duration;

use lockd_proto::{
    RequestId,
    clock::Instant,
    v1::{self, AttachResponse, server_message::Message as Told},
};

use super::Actor;
use crate::{
    error::Fault,
    held::LossReason,
    session::{
        link::LinkState,
        requests::{Grantor, Requests},
    },
};

impl Actor {
    /// Applies a frame as a whole before anything is sent in answer.
    pub(super) fn frame(&mut self, frame: AttachResponse, now: Instant) {
        for message in frame.messages {
            // An earlier message may have been the stream's last.
            if !matches!(self.link, LinkState::Up(_)) {
                return;
            }
            self.told(message.message, now);
        }
        self.requests.durable(frame.durable);
    }

    fn told(&mut self, told: Option<Told>, now: Instant) {
        let Some(told) = told else {
            return self.link_broken(Fault::protocol("the server sent an unknown message"));
        };
        match told {
            Told::KeepAliveAck(ack) => self.acknowledged(&ack),
            Told::Ended(ended) => {
                self.give_up_session(&loss_reason(ended.reason(), String::new()));
                self.link = LinkState::Down { not_before: now };
            }
            Told::GoAway(go_away) => self.link_broken(Fault::from_wire(go_away.failure)),
            Told::Attached(_) => {
                self.link_broken(Fault::protocol("the server attached a stream twice"));
            }
            Told::Queued(v1::Queued { request_id, ahead, holder }) => {
                self.about(&request_id, |requests, id| requests.queued(id, holder, ahead));
            }
            Told::Granted(v1::Granted { request_id, grant }) => {
                let token = grant.unwrap_or_default().token;
                self.granted(&request_id, token);
            }
            Told::Refused(v1::Refused { request_id, refusal }) => {
                let refusal = refusal.unwrap_or_default();
                self.about(&request_id, |requests, id| requests.refused(id, refusal));
            }
            Told::Failed(v1::Failed { request_id, failure }) => {
                let fault = Fault::from_wire(failure);
                if fault.is_session_gone() {
                    self.give_up_session(&LossReason::Expired);
                    self.link = LinkState::Down { not_before: now };
                    return;
                }
                self.about(&request_id, |requests, id| requests.failed(id, fault, now));
            }
            Told::Released(released) => {
                let (outcome, position) = (released.outcome(), released.position);
                self.about(&released.request_id, |requests, id| {
                    requests.released(id, outcome, position);
                });
            }
            Told::Updated(v1::Updated { request_id }) => {
                self.about(&request_id, |requests, id| requests.updated(id, Ok(())));
            }
            Told::YieldRequested(v1::YieldRequested { request_id, reason }) => {
                self.about(&request_id, |requests, id| requests.yield_requested(id, reason));
            }
            Told::Lost(lost) => {
                let reason = loss_reason(lost.reason(), lost.detail);
                self.about(&lost.request_id, |requests, id| requests.lost(id, reason));
            }
        }
    }

    fn acknowledged(&mut self, ack: &v1::KeepAliveAck) {
        let ttl = ack.ttl.and_then(|ttl| Duration::try_from(ttl).ok());
        let (Some(ttl), Some(session)) = (ttl, &mut self.session) else { return };
        if let Some(sent) = self.keepalive.acknowledge(ack.sequence) {
            session.renew(sent, ttl);
            self.retry.reset();
        }
    }

    fn granted(&mut self, request_id: &[u8], token: u64) {
        let Some(session) = &self.session else { return };
        let grantor = Grantor {
            session: session.id,
            standing: session.standing,
            safe_until: &session.safe_until,
            clock: &self.shared.clock,
        };
        if let Ok(id) = RequestId::try_from(request_id) {
            self.requests.granted(id, token, &grantor);
        }
    }

    fn about(&mut self, request_id: &[u8], tell: impl FnOnce(&mut Requests, RequestId)) {
        match RequestId::try_from(request_id) {
            Ok(id) => tell(&mut self.requests, id),
            Err(error) => self.link_broken(Fault::protocol(error.to_string())),
        }
    }
}

fn loss_reason(reason: v1::LossReason, detail: String) -> LossReason {
    match reason {
        v1::LossReason::Expired | v1::LossReason::Unspecified => LossReason::Expired,
        v1::LossReason::Forced => LossReason::Forced { detail },
        v1::LossReason::Closed => LossReason::SessionClosed,
        v1::LossReason::Released => LossReason::Released,
        v1::LossReason::Broken => LossReason::Broken,
    }
}
