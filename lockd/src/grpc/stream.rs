//! The session stream: `SessionService.Attach`.

use std::time::Duration;

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use lockd_proto::v1::{
    self, AttachRequest, AttachResponse, ClientMessage, ServerMessage,
    client_message::Message as Asked, server_message::Message as Told,
};
use prost::Message as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    status::{to_failure, to_status},
    translate,
};
use crate::{
    attachment::{Attached, Attachment, End, Input, Output},
    engine::Engine,
    error::Error,
    requests::{LossCause, Reply},
    view::Removal,
};

/// How long a client that has opened a stream may take to say what for.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// The most messages of a frame.
const MAX_FRAME_MESSAGES: usize = 1024;

/// The most bytes of a frame, unless its first message alone is longer.
const MAX_FRAME_BYTES: usize = 64 * 1024;

pub(super) async fn attach(
    engine: Engine,
    mut inbound: Streaming<AttachRequest>,
) -> Result<BoxStream<'static, Result<AttachResponse, Status>>, Status> {
    let first = tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await;
    let first =
        first.map_err(|_| to_status(&Error::Protocol("no first message within 10 s")))??;
    let mut first = first.unwrap_or_default().messages.into_iter();
    let begun = begin(engine.clone(), first.next().and_then(|first| first.message)).await;
    let (attachment, outputs) = begun.map_err(|error| to_status(&error))?;
    let inputs = stream::iter(first.map(to_input)).chain(inputs(inbound)).boxed();
    engine.tasks.spawn("attachment", Box::new(attachment).run(inputs));
    let ready = ReceiverStream::new(outputs).ready_chunks(MAX_FRAME_MESSAGES);
    Ok(ready.flat_map(|outputs| stream::iter(to_frames(outputs).into_iter().map(Ok))).boxed())
}

async fn begin(
    engine: Engine,
    first: Option<Asked>,
) -> Result<(Attachment, tokio::sync::mpsc::Receiver<Output>), Error> {
    if engine.drain.is_cancelled() {
        return Err(Error::Draining);
    }
    match first {
        Some(Asked::Open(open)) => {
            let ttl = open.ttl.map(|ttl| translate::duration("ttl", ttl)).transpose()?;
            let client = translate::client_info(open.client)?;
            let own = translate::new_credential(open.session)?;
            Attachment::open(engine, ttl, client, own).await
        }
        Some(Asked::Resume(resume)) => {
            Attachment::resume(engine, &translate::credential(resume.session)?).await
        }
        _ => Err(Error::Protocol("the first message must open or resume a session")),
    }
}

fn inputs(inbound: Streaming<AttachRequest>) -> impl Stream<Item = Result<Input, Error>> {
    // A transport error is the end of the stream, as is its ordinary end.
    inbound
        .take_while(|frame| std::future::ready(frame.is_ok()))
        .flat_map(|frame| stream::iter(frame.unwrap_or_default().messages).map(to_input))
}

fn to_input(message: ClientMessage) -> Result<Input, Error> {
    match message.message {
        Some(Asked::KeepAlive(keep_alive)) => {
            Ok(Input::KeepAlive { sequence: keep_alive.sequence })
        }
        Some(Asked::Acquire(acquire)) => {
            let request = translate::request_id(&acquire.request_id)?;
            let acquire = translate::acquire(request, acquire);
            Ok(acquire.map_or_else(|error| Input::Malformed(request, error), Input::Acquire))
        }
        Some(Asked::Cancel(cancel)) => translate::request_id(&cancel.request_id).map(Input::Cancel),
        Some(Asked::Release(release)) => {
            translate::request_id(&release.request_id).map(Input::Release)
        }
        Some(Asked::Update(update)) => {
            let request = translate::request_id(&update.request_id)?;
            let change = translate::change(update.change);
            Ok(change.map_or_else(
                |error| Input::Malformed(request, error),
                |change| Input::Update(request, change),
            ))
        }
        Some(Asked::Close(v1::Close {})) => Ok(Input::Close),
        Some(Asked::Open(_) | Asked::Resume(_)) => {
            Err(Error::Protocol("open or resume may only be the first message"))
        }
        None => Err(Error::Protocol("a message of a kind that this version does not know")),
    }
}

fn to_frames(outputs: Vec<Output>) -> Vec<AttachResponse> {
    let (mut frames, mut bytes) = (vec![AttachResponse::default()], 0);
    for message in outputs.into_iter().map(to_message) {
        bytes += message.encoded_len();
        match frames.last_mut() {
            Some(frame) if bytes <= MAX_FRAME_BYTES || frame.messages.is_empty() => {
                frame.messages.push(message);
            }
            Some(_) | None => {
                bytes = message.encoded_len();
                frames.push(AttachResponse { messages: vec![message], durable: 0 });
            }
        }
    }
    frames
}

fn to_message(output: Output) -> ServerMessage {
    let message = match output {
        Output::Attached(attached) => Told::Attached(to_attached(*attached)),
        Output::KeepAliveAck { sequence, ttl } => Told::KeepAliveAck(v1::KeepAliveAck {
            sequence,
            ttl: Some(translate::to_wire_duration(ttl.get())),
        }),
        Output::Request(id, reply) => to_reply(id.as_bytes().to_vec(), reply),
        Output::Ended(end) => {
            let reason = match end {
                End::Expired => v1::LossReason::Expired,
                End::Closed => v1::LossReason::Closed,
            };
            Told::Ended(v1::Ended { reason: reason.into() })
        }
        Output::GoAway(error) => Told::GoAway(v1::GoAway { failure: Some(to_failure(&error)) }),
    };
    ServerMessage { message: Some(message) }
}

fn to_attached(attached: Attached) -> v1::Attached {
    let entries = attached.entries.into_iter().map(|(entry, granted)| v1::AttachedEntry {
        request_id: entry.id.request.as_bytes().to_vec(),
        token: entry.created.0,
        granted,
    });
    v1::Attached {
        session: Some(v1::SessionCredential {
            session_id: attached.session.id.to_string(),
            secret: attached.secret.map(|secret| secret.reveal().to_owned()).unwrap_or_default(),
            stream: 0,
        }),
        ttl: Some(translate::to_wire_duration(attached.session.ttl().get())),
        entries: entries.collect(),
        replica: attached.replica.to_string(),
    }
}

fn to_reply(request_id: Vec<u8>, reply: Reply) -> Told {
    match reply {
        Reply::Queued(ahead) => Told::Queued(v1::Queued {
            request_id,
            ahead: u32::try_from(ahead.count).unwrap_or(u32::MAX),
            holder: ahead.holder.as_ref().map(translate::to_holder),
        }),
        Reply::Granted { token } => {
            let grant = Some(v1::Grant { token: token.0 });
            Told::Granted(v1::Granted { request_id, grant })
        }
        Reply::Refused { refusal, ahead } => {
            let refusal = Some(translate::to_refusal(refusal, ahead.as_deref()));
            Told::Refused(v1::Refused { request_id, refusal })
        }
        Reply::Failed(error) => {
            Told::Failed(v1::Failed { request_id, failure: Some(to_failure(&error)) })
        }
        Reply::Released(released) => Told::Released(v1::Released {
            request_id,
            outcome: translate::to_release_outcome(released).into(),
            position: 0,
        }),
        Reply::Updated => Told::Updated(v1::Updated { request_id }),
        Reply::YieldRequested(reason) => {
            Told::YieldRequested(v1::YieldRequested { request_id, reason })
        }
        Reply::Lost { token, cause } => {
            let (reason, detail) = match cause {
                LossCause::Removed(Removal::BySession) => (v1::LossReason::Released, String::new()),
                LossCause::Removed(Removal::Forced { reason }) => (v1::LossReason::Forced, reason),
                LossCause::Broken => (v1::LossReason::Broken, String::new()),
            };
            Told::Lost(v1::Lost { request_id, token: token.0, reason: reason.into(), detail })
        }
    }
}
