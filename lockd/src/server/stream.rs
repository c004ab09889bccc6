//! The session stream, `SessionService.Attach`: frames to the core, and frames back.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use lockd_proto::v1::{
    self, AttachRequest, AttachResponse, ServerMessage, client_message::Message as FromClient,
    server_message::Message as ToClient,
};
use tonic::{Status, Streaming};

use super::{
    Api,
    secret::SessionSecret,
    status::{to_failure, to_status},
    translate,
};
use crate::{
    core::{
        Answers,
        answer::{Answer, Attached},
        ask::{Ask, Hello},
        error::Error,
        outbox::AnswerFrame,
    },
    record::Position,
    state::{LossCause, SessionEnd},
};

/// Time limit for the first frame of a stream.
const FIRST_FRAME: Duration = Duration::from_secs(10);

/// The most messages of one frame.
const MAX_MESSAGES: usize = 1024;

/// The answers of a stream, as frames.
pub(crate) struct Frames {
    answers: Answers,
    /// The secret of a session that is opened: it goes with the first answer.
    secret: Option<SessionSecret>,
}

impl Stream for Frames {
    type Item = Result<AttachResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let frame = std::task::ready!(this.answers.poll_frame(cx));
        Poll::Ready(frame.map(|frame| Ok(to_frame(frame, &mut this.secret))))
    }
}

pub(super) async fn attach(
    api: &Api,
    mut inbound: Streaming<AttachRequest>,
) -> Result<Frames, Status> {
    let first = tokio::time::timeout(FIRST_FRAME, inbound.message()).await;
    let first =
        first.map_err(|_| to_status(&Error::Protocol("no first message within 10 s")))??;
    let messages = first.map(|first| first.messages).unwrap_or_default();
    let mut messages = messages.into_iter();
    let (hello, secret) = hello(messages.next().and_then(|it| it.message))?;
    let asks = messages.take(MAX_MESSAGES).map(|it| to_ask(it.message)).collect();
    let stream = api.core.attach(hello, asks).await?;
    let frames = Frames { answers: stream.answers(), secret };
    let read = async move {
        // A transport error is the end of the stream, as is its ordinary end.
        while let Ok(Some(frame)) = inbound.message().await {
            let asks = to_asks(frame);
            if stream.frame(asks).await.is_err() {
                break;
            }
        }
    };
    api.tasks.spawn("stream", read);
    Ok(frames)
}

fn hello(first: Option<FromClient>) -> Result<(Hello, Option<SessionSecret>), Error> {
    match first {
        Some(FromClient::Open(open)) => {
            let (open, secret) = translate::open(open)?;
            Ok((Hello::Open(Box::new(open)), Some(secret)))
        }
        Some(FromClient::Resume(resume)) => {
            let by = translate::credential(resume.session)?;
            let open = resume.open.iter().map(|id| translate::request_id(id));
            let open = open.collect::<Result<_, _>>()?;
            Ok((Hello::Resume { by, open, durable: Position(resume.durable) }, None))
        }
        _ => Err(Error::Protocol("the first message must open or resume a session")),
    }
}

fn to_asks(frame: AttachRequest) -> Vec<Ask> {
    if frame.messages.len() > MAX_MESSAGES {
        return vec![Ask::Violation(Error::Protocol("a frame has at most 1,024 messages"))];
    }
    frame.messages.into_iter().map(|message| to_ask(message.message)).collect()
}

fn to_ask(message: Option<FromClient>) -> Ask {
    checked(message).unwrap_or_else(Ask::Violation)
}

fn checked(message: Option<FromClient>) -> Result<Ask, Error> {
    match message {
        Some(FromClient::KeepAlive(keep_alive)) => {
            Ok(Ask::KeepAlive { sequence: keep_alive.sequence })
        }
        Some(FromClient::Acquire(acquire)) => {
            let request = translate::request_id(&acquire.request_id)?;
            let acquire = translate::acquire(request, acquire);
            Ok(acquire.map_or_else(
                |error| Ask::Malformed(request, error),
                |acquire| Ask::Acquire(Box::new(acquire)),
            ))
        }
        Some(FromClient::Cancel(cancel)) => {
            translate::request_id(&cancel.request_id).map(Ask::Cancel)
        }
        Some(FromClient::Release(release)) => {
            translate::request_id(&release.request_id).map(Ask::Release)
        }
        Some(FromClient::Update(update)) => {
            let request = translate::request_id(&update.request_id)?;
            let change = translate::change(update.change);
            Ok(change.map_or_else(
                |error| Ask::Malformed(request, error),
                |change| Ask::Update(request, change),
            ))
        }
        Some(FromClient::Close(v1::Close {})) => Ok(Ask::Close),
        Some(FromClient::Open(_) | FromClient::Resume(_)) => {
            Err(Error::Protocol("open or resume may only be the first message"))
        }
        None => Err(Error::Protocol("a message of a kind that this version does not know")),
    }
}

fn to_frame(frame: AnswerFrame, secret: &mut Option<SessionSecret>) -> AttachResponse {
    let to_message = |answer| {
        let mut message = to_message(answer);
        if let ToClient::Attached(v1::Attached { session: Some(session), .. }) = &mut message {
            session.secret = secret.take().map(SessionSecret::reveal).unwrap_or_default();
        }
        ServerMessage { message: Some(message) }
    };
    let messages = frame.answers.into_iter().map(to_message).collect();
    AttachResponse { messages, durable: frame.durable.0 }
}

fn to_message(answer: Answer) -> ToClient {
    match answer {
        Answer::Attached(attached) => ToClient::Attached(to_attached(*attached)),
        Answer::KeepAliveAck { sequence, ttl } => {
            let ttl = Some(translate::to_wire_duration(ttl));
            ToClient::KeepAliveAck(v1::KeepAliveAck { sequence, ttl })
        }
        Answer::Queued(id, ahead) => {
            let count = ahead.as_ref().map_or(0, |ahead| ahead.count);
            ToClient::Queued(v1::Queued {
                request_id: translate::bytes(id),
                ahead: u32::try_from(count).unwrap_or(u32::MAX),
                holder: ahead.and_then(|it| it.holder).as_ref().map(translate::to_holder),
            })
        }
        Answer::Granted(id, token) => {
            let grant = Some(v1::Grant { token: token.0 });
            ToClient::Granted(v1::Granted { request_id: translate::bytes(id), grant })
        }
        Answer::Refused(id, refusal) => {
            let refusal = Some(translate::to_refusal(*refusal));
            ToClient::Refused(v1::Refused { request_id: translate::bytes(id), refusal })
        }
        Answer::Failed(id, error) => {
            let failure = Some(to_failure(&error));
            ToClient::Failed(v1::Failed { request_id: translate::bytes(id), failure })
        }
        Answer::Released { request, found, undurable } => ToClient::Released(v1::Released {
            request_id: translate::bytes(request),
            outcome: translate::to_release_outcome(found).into(),
            position: undurable.map_or(0, |position| position.0),
        }),
        Answer::Updated(id) => ToClient::Updated(v1::Updated { request_id: translate::bytes(id) }),
        Answer::YieldRequested(id, reason) => ToClient::YieldRequested(v1::YieldRequested {
            request_id: translate::bytes(id),
            reason: reason.into(),
        }),
        Answer::Lost(id, token, cause) => {
            let (reason, detail) = match *cause {
                LossCause::BySession => (v1::LossReason::Released, String::new()),
                LossCause::Forced(reason) => (v1::LossReason::Forced, reason.into()),
                LossCause::Broken => (v1::LossReason::Broken, String::new()),
            };
            let (request_id, token) = (translate::bytes(id), token.0);
            ToClient::Lost(v1::Lost { request_id, token, reason: reason.into(), detail })
        }
        Answer::Ended(how) => {
            let reason = match how {
                SessionEnd::Expired => v1::LossReason::Expired,
                SessionEnd::Closed => v1::LossReason::Closed,
            };
            ToClient::Ended(v1::Ended { reason: reason.into() })
        }
        Answer::GoAway(error) => ToClient::GoAway(v1::GoAway { failure: Some(to_failure(&error)) }),
    }
}

fn to_attached(attached: Attached) -> v1::Attached {
    let entries = attached.entries.into_iter().map(|(request, token, granted)| {
        let request_id = translate::bytes(request);
        v1::AttachedEntry { request_id, token: token.0, granted }
    });
    v1::Attached {
        session: Some(v1::SessionCredential {
            session_id: attached.session.to_string(),
            secret: String::new(),
            stream: 0,
        }),
        ttl: Some(translate::to_wire_duration(attached.ttl)),
        entries: entries.collect(),
        replica: attached.replica.to_string(),
    }
}
