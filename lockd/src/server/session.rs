//! `SessionService`.

use std::time::Duration;

use lockd_proto::v1::{
    AttachRequest, CloseSessionRequest, CloseSessionResponse, KeepAliveRequest, KeepAliveResponse,
    OpenSessionRequest, OpenSessionResponse, SessionCredential,
    session_service_server::SessionService,
};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, stream, translate};
use crate::core::{ask::Call, error::Error};

#[tonic::async_trait]
impl SessionService for Api {
    type AttachStream = stream::Frames;

    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        stream::attach(self, request.into_inner()).await.map(Response::new)
    }

    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        Ok(Response::new(open(self, request.into_inner()).await?))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let by = translate::credential(request.into_inner().session)?;
        let ttl = self.core.call(|reply| Call::KeepAlive(by, reply)).await?;
        let ttl = Some(translate::to_wire_duration(Duration::from_millis(ttl)));
        Ok(Response::new(KeepAliveResponse { ttl }))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let by = translate::credential(request.into_inner().session)?;
        self.core.call(|reply| Call::Close(by, reply)).await?;
        Ok(Response::new(CloseSessionResponse {}))
    }
}

async fn open(api: &Api, request: OpenSessionRequest) -> Result<OpenSessionResponse, Error> {
    let (open, secret) = translate::open(request)?;
    let opened = api.core.call(|reply| Call::Open(Box::new(open), reply)).await?;
    Ok(OpenSessionResponse {
        ttl: Some(translate::to_wire_duration(opened.ttl)),
        session: Some(SessionCredential {
            session_id: opened.session.to_string(),
            secret: secret.reveal(),
            stream: 0,
        }),
    })
}
