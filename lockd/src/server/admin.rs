//! `AdminService`.

use lockd_proto::v1::{
    ForceReleaseRequest, ForceReleaseResponse, ForgetOnceRequest, ForgetOnceResponse,
    StatusRequest, StatusResponse, admin_service_server::AdminService,
};
use tonic::{Request, Response, Status};

use super::{Api, translate};
use crate::core::ask::Call;

#[tonic::async_trait]
impl AdminService for Api {
    async fn force_release(
        &self,
        request: Request<ForceReleaseRequest>,
    ) -> Result<Response<ForceReleaseResponse>, Status> {
        let request = request.into_inner();
        let lock = translate::lock_id(&request.namespace, request.name)?;
        let token = translate::token(request.token)?;
        let reason = translate::reason(&request.reason)?.into();
        let removed = self.core.call(|reply| Call::Force(lock, token, reason, reply)).await?;
        let removed = Some(translate::to_entry(&removed));
        Ok(Response::new(ForceReleaseResponse { removed }))
    }

    async fn forget_once(
        &self,
        request: Request<ForgetOnceRequest>,
    ) -> Result<Response<ForgetOnceResponse>, Status> {
        let ForgetOnceRequest { namespace, name } = request.into_inner();
        let lock = translate::lock_id(&namespace, name)?;
        let existed = self.core.call(|reply| Call::Forget(lock, reply)).await?;
        Ok(Response::new(ForgetOnceResponse { existed }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(status(self)))
    }
}

fn status(api: &Api) -> StatusResponse {
    let status = api.core.status();
    let snapshot = status.snapshot();
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: api.store.to_owned(),
        replica: api.core.name().to_string(),
        ready: snapshot.not_ready.is_none(),
        not_ready_reason: snapshot.not_ready.map(|error| error.to_string()).unwrap_or_default(),
        revision: snapshot.position.0,
        view_age: status.age().map(translate::to_wire_duration),
        sessions: count(snapshot.counts.sessions),
        attached_sessions: count(snapshot.streams),
        locks: count(snapshot.counts.locks),
        waiters: count(snapshot.counts.waiters),
        uptime: Some(translate::to_wire_duration(status.uptime())),
    }
}
