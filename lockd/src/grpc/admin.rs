//! `AdminService`.

use lockd_proto::v1::{
    ForceReleaseRequest, ForceReleaseResponse, ForgetOnceRequest, ForgetOnceResponse,
    StatusRequest, StatusResponse, admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::{Api, to_status, translate};
use crate::{engine::Engine, error::Error};

#[tonic::async_trait]
impl AdminService for Api {
    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let removed = force_release(&self.engine, request.into_inner()).await;
        removed.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn forget_once(
        &self,
        request: Request<ForgetOnceRequest>,
    ) -> Result<Response<ForgetOnceResponse>, Status> {
        let ForgetOnceRequest { namespace, name } = request.into_inner();
        let forgotten = async {
            let lock = translate::lock_id(&namespace, name)?;
            self.engine.forget_once(&lock).await
        };
        match forgotten.await {
            Ok(existed) => Ok(Response::new(ForgetOnceResponse { existed })),
            Err(error) => Err(to_status(&error)),
        }
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status(&self.engine)))
    }
}

async fn force_release(
    engine: &Engine,
    request: ForceReleaseRequest,
) -> Result<ForceReleaseResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let token = translate::token(request.token)?;
    let reason = translate::reason(&request.reason)?;
    let removed = engine.force_release(&lock, token, reason).await?;
    Ok(ForceReleaseResponse { removed: Some(translate::to_entry(&removed)) })
}

fn status(engine: &Engine) -> StatusResponse {
    let counts = engine.view.counts();
    let not_ready = engine.not_ready();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: engine.store.profile().name.to_owned(),
        replica: engine.sessions.replica().to_string(),
        ready: not_ready.is_none(),
        not_ready_reason: not_ready.map(|error| error.to_string()).unwrap_or_default(),
        revision: engine.view.revision().0,
        view_age: engine.view.age().map(translate::to_wire_duration),
        sessions: count(counts.sessions),
        attached_sessions: count(engine.attached.count()),
        locks: count(counts.locks),
        waiters: count(counts.waiters),
        uptime: Some(translate::to_wire_duration(engine.uptime())),
    }
}
