//! From the outcome of an operation to the answer of the caller that asked for it.

use lockd_proto::{RequestId, SessionId};

use super::{
    Core,
    answer::{Answer, Released},
    ask::StreamKey,
    error::Error,
    notify::refused,
    tickets::Ticket,
};
use crate::{
    log::Log,
    record::Position,
    state::{Context, Failure, Outcome, Refusal},
    telemetry::traces::Reported,
};

/// The request whose own operation is being answered: effects are no news to its asker.
pub(super) type Own = Option<(SessionId, RequestId)>;

impl<L: Log> Core<L> {
    /// Answers the caller that asked for an operation.
    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome, cx: Context) -> Own {
        match ticket {
            Ticket::None => None,
            Ticket::Begin(stream, opens) => {
                self.begun(stream, opens, &outcome);
                None
            }
            Ticket::Stream(stream, request) => self.answer_stream(stream, request, outcome, cx),
            Ticket::Close(stream) => {
                self.streams.end_request(stream);
                None
            }
            Ticket::Call(call) => self.answer_call(*call, outcome, cx),
            Ticket::Unheard(session, request) => {
                self.give_back((session, request), &outcome, cx);
                None
            }
        }
    }

    fn answer_stream(
        &mut self,
        stream: StreamKey,
        request: RequestId,
        outcome: Outcome,
        cx: Context,
    ) -> Own {
        self.streams.end_request(stream);
        let session = self.streams.session(stream)?;
        let by = (session, request);
        if matches!(outcome, Outcome::Granted { .. } | Outcome::Queued { .. } | Outcome::Refused(_))
        {
            self.take_over(by);
        }
        let answer = match outcome {
            Outcome::Granted { token } => {
                self.granted(by, token, cx);
                Answer::Granted(request, token)
            }
            Outcome::Queued { token } => {
                self.count_wait(by, token, cx.at);
                Answer::Queued(request, self.state.ahead_of_request(session, request))
            }
            Outcome::Refused(refusal) => {
                self.told(by, refused(&refusal));
                Answer::Refused(request, Box::new(refusal))
            }
            Outcome::Failed(failure) => return self.failed(stream, by, failure),
            Outcome::NoSession => {
                let gone = Error::SessionNotFound(session);
                self.told(by, Reported::Failed);
                Answer::Failed(request, Box::new(gone))
            }
            Outcome::Released { is_plain } => {
                return self.released_on(stream, by, is_plain.then_some(cx.at));
            }
            Outcome::AlreadyLost => {
                let found = Released::AlreadyLost;
                Answer::Released { request, found, undurable: None }
            }
            Outcome::Cancelled => {
                self.told(by, refused(&Refusal::Cancelled));
                Answer::Refused(request, Box::new(Refusal::Cancelled))
            }
            Outcome::Updated => Answer::Updated(request),
            // Its client resumes by another stream.
            Outcome::Superseded => return Some(by),
            // Its client hears when all have left, which may be now.
            Outcome::Leaving => return None,
            Outcome::Done
            | Outcome::Attached
            | Outcome::SecretMismatch
            | Outcome::Forgotten(_)
            | Outcome::Forced(_)
            | Outcome::Asked(_) => return None,
        };
        self.stage(stream, answer);
        Some(by)
    }

    /// Adds an answer to a stream that leaves when what was applied is durable.
    pub(super) fn stage(&mut self, stream: StreamKey, answer: Answer) {
        self.must_sync |= self.streams.stage(stream, answer);
    }

    /// A release of which nothing but the entry itself would come back is answered before it is durable;
    /// its client keeps it until it is (RULES J1–J3).
    fn released_on(
        &mut self,
        stream: StreamKey,
        (session, request): (SessionId, RequestId),
        plain: Option<Position>,
    ) -> Own {
        let shared = self.log.profile().is_shared;
        let undurable = plain.filter(|_| !shared);
        let answer = Answer::Released { request, found: Released::Released, undurable };
        if undurable.is_some() {
            self.streams.push(stream, answer);
        } else {
            self.stage(stream, answer);
        }
        Some((session, request))
    }

    fn failed(&mut self, stream: StreamKey, by: (SessionId, RequestId), failure: Failure) -> Own {
        self.told(by, Reported::Failed);
        let error = Error::of(failure, None);
        self.stage(stream, Answer::Failed(by.1, Box::new(error)));
        Some(by)
    }

    pub(super) fn answer_refused(
        &mut self,
        (stream, session): (StreamKey, SessionId),
        request: RequestId,
        refusal: Refusal,
    ) {
        self.told((session, request), refused(&refusal));
        self.stage(stream, Answer::Refused(request, Box::new(refusal)));
    }

    /// Answers the caller that asked for an operation that was not applied.
    pub(super) fn fail(&mut self, ticket: Ticket, error: Error) {
        match ticket {
            Ticket::None | Ticket::Unheard(..) => {}
            Ticket::Begin(stream, opens) => {
                self.calls.opened(opens);
                self.refuse_stream(stream, error);
            }
            Ticket::Stream(stream, request) => {
                self.streams.end_request(stream);
                if let Some(session) = self.streams.session(stream) {
                    self.told((session, request), Reported::Failed);
                }
                self.streams.push(stream, Answer::Failed(request, Box::new(error)));
            }
            Ticket::Close(stream) => {
                // The session ends with its lease.
                self.streams.end_request(stream);
                self.streams.end(stream, Answer::GoAway(Box::new(error)));
            }
            Ticket::Call(call) => self.fail_call(*call, error),
        }
    }
}
