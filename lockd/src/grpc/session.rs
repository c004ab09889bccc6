//! `SessionService`.

use futures::stream::BoxStream;
use lockd_proto::v1::{
    AttachRequest, AttachResponse, CloseSessionRequest, CloseSessionResponse, KeepAliveRequest,
    KeepAliveResponse, OpenSessionRequest, OpenSessionResponse, SessionCredential,
    session_service_server::SessionService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, stream, to_status, translate};
use crate::{engine::Engine, error::Error, sessions::Stream};

#[tonic::async_trait]
impl SessionService for Api {
    type AttachStream = BoxStream<'static, Result<AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let outputs = stream::attach(self.engine.clone(), request.into_inner()).await?;
        Ok(Response::new(outputs))
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let opened = open(&self.engine, request.into_inner()).await;
        opened.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let renewed = keep_alive(&self.engine, request.into_inner()).await;
        renewed.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let closed = close(&self.engine, request.into_inner()).await;
        closed.map(Response::new).map_err(|error| to_status(&error))
    }
}

async fn open(engine: &Engine, request: OpenSessionRequest) -> Result<OpenSessionResponse, Error> {
    if engine.drain.is_cancelled() {
        return Err(Error::Draining);
    }
    let ttl = request.ttl.map(|ttl| translate::duration("ttl", ttl)).transpose()?;
    let client = translate::client_info(request.client)?;
    let own = translate::new_credential(request.session)?;
    let opened = engine.sessions.open(ttl, client, Stream::None, own.clone()).await?;
    let (session, secret) = match (opened, own) {
        (Some(opened), _) => (opened.session, opened.secret),
        // An open that was sent again.
        (None, Some(own)) => {
            let session = engine.sessions.prove(&own).await?;
            engine.sessions.keep_alive(session.id, session.lease).await?;
            (session, own.secret)
        }
        (None, None) => return Err(Error::Protocol("a session of this id exists")),
    };
    Ok(OpenSessionResponse {
        ttl: Some(translate::to_wire_duration(session.ttl().get())),
        session: Some(SessionCredential {
            session_id: session.id.to_string(),
            secret: secret.reveal().to_owned(),
            stream: 0,
        }),
    })
}

async fn keep_alive(
    engine: &Engine,
    request: KeepAliveRequest,
) -> Result<KeepAliveResponse, Error> {
    let session = engine.sessions.prove(&translate::credential(request.session)?).await?;
    engine.sessions.keep_alive(session.id, session.lease).await?;
    if session.is_attached() {
        // The client has left its stream for unary calls. Its replica must not take it for
        // silent any more.
        engine.sessions.attach(&session, Stream::None).await?;
    }
    Ok(KeepAliveResponse { ttl: Some(translate::to_wire_duration(session.ttl().get())) })
}

async fn close(
    engine: &Engine,
    request: CloseSessionRequest,
) -> Result<CloseSessionResponse, Error> {
    let session = engine.sessions.prove(&translate::credential(request.session)?).await?;
    engine.sessions.close(&session).await?;
    Ok(CloseSessionResponse {})
}
