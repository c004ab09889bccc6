//! `LockService`.

use std::time::Duration;

use lockd_proto::{
    Namespace, RequestId,
    v1::{self, acquire_response::Outcome, lock_service_server::LockService},
};
use tonic::{Request, Response, Status};

use super::{Api, explain, translate, unread::counted, watch};
use crate::{
    core::{
        answer::{AcquireReply, Found},
        ask::{Call, Look},
        error::Error,
        observe::{SHOWN, Scope},
    },
    record::{Position, prefix_path},
};

/// Locks on a page of a listing, if the caller does not say.
const DEFAULT_PAGE: usize = 100;

/// Locks on a page of a listing, at most.
const MAX_PAGE: usize = 1000;

/// How long a call that changes something waits for the log. An acquire may wait longer, for its turn.
const WRITE_TIMEOUT: Duration = Duration::from_secs(15);

#[tonic::async_trait]
impl LockService for Api {
    type WatchStream = watch::WatchStream;

    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let header = translate::traceparent(request.metadata());
        Ok(Response::new(acquire(self, request.into_inner(), header).await?))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let request = request.into_inner();
        let by = translate::credential(request.session)?;
        // The request id names the entry; the lock is checked for its form.
        translate::lock_id(&request.namespace, request.name)?;
        let id = translate::request_id(&request.request_id)?;
        in_time(self.core.call(|reply| Call::Cancel(by, id, reply))).await?;
        Ok(Response::new(v1::CancelResponse {}))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let request = request.into_inner();
        let by = translate::credential(request.session)?;
        let lock = translate::lock_id(&request.namespace, request.name)?;
        let id = translate::request_id(&request.request_id)?;
        let token = translate::token(request.token)?;
        // The release of a party waits for the others.
        let call = self.core.call(|reply| Call::Release(by, id, (lock, token), reply));
        let outcome = translate::to_release_outcome(call.await?).into();
        Ok(Response::new(v1::ReleaseResponse { outcome }))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let request = request.into_inner();
        let by = translate::credential(request.session)?;
        translate::lock_id(&request.namespace, request.name)?;
        let id = translate::request_id(&request.request_id)?;
        let change = translate::change(request.change)?;
        in_time(self.core.call(|reply| Call::Update(by, id, change, reply))).await?;
        Ok(Response::new(v1::UpdateResponse {}))
    }

    async fn request_yield(
        &self,
        request: Request<v1::RequestYieldRequest>,
    ) -> Result<Response<v1::RequestYieldResponse>, Status> {
        let request = request.into_inner();
        let lock = translate::lock_id(&request.namespace, request.name)?;
        let reason = translate::reason(&request.reason)?.into();
        let asked = in_time(self.core.call(|reply| Call::Yield(lock, reason, reply))).await?;
        let holders = asked.iter().map(translate::to_holder).collect();
        Ok(Response::new(v1::RequestYieldResponse { holders }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        Ok(counted(in_time(explain::explain(self, request.into_inner())).await?))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        Ok(counted(in_time(get(self, request.into_inner())).await?))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        Ok(counted(in_time(list(self, request.into_inner())).await?))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let scope = scope(request.into_inner())?;
        Ok(Response::new(watch::WatchStream::new(self.core.watch(scope).await?)))
    }
}

/// A call that the log does not answer in time may have been applied.
async fn in_time<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let answered = tokio::time::timeout(WRITE_TIMEOUT, call).await;
    answered.unwrap_or(Err(Error::OutcomeUnknown(WRITE_TIMEOUT)))
}

fn scope(request: v1::WatchRequest) -> Result<Scope, Error> {
    let v1::WatchRequest { namespace, prefix, name } = request;
    match (prefix.as_str(), name.as_str()) {
        (prefix, "") => path(&namespace, prefix).map(Scope::Prefix),
        ("", _) => translate::lock_id(&namespace, name).map(Scope::One),
        _ => Err(Error::Invalid {
            field: "name",
            problem: "is given beside a prefix: give one of them".to_owned(),
        }),
    }
}

async fn acquire(
    api: &Api,
    request: v1::AcquireRequest,
    traceparent: Option<String>,
) -> Result<v1::AcquireResponse, Error> {
    let by = translate::credential(request.session)?;
    let mut asked = request.acquire.unwrap_or_default();
    if asked.traceparent.is_empty() {
        asked.traceparent = traceparent.unwrap_or_default();
    }
    let id = match asked.request_id.as_slice() {
        [] => RequestId::random(),
        bytes => translate::request_id(bytes)?,
    };
    let acquire = Box::new(translate::acquire(id, asked)?);
    let lock = acquire.locks.first().cloned();
    let reply = api.core.acquire((by, lock), acquire).await?;
    let outcome = match reply {
        AcquireReply::Granted { token, .. } => Outcome::Grant(v1::Grant { token: token.0 }),
        AcquireReply::Refused(refusal) => Outcome::Refusal(translate::to_refusal(*refusal)),
    };
    let request_id = id.as_bytes().to_vec();
    Ok(v1::AcquireResponse { outcome: Some(outcome), request_id })
}

async fn get(api: &Api, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let page = translate::page(request.page_size, Position(request.after));
    let found = api.core.ask(|reply| Look::Get(lock, page, reply)).await?;
    let next_after = found.queue.more_after.map_or(0, |after| after.0);
    Ok(v1::GetResponse { lock: Some(to_found(&found)), revision: found.at.0, next_after })
}

/// A lock with what is left of its holders' leases.
pub(super) fn to_found(found: &Found) -> v1::Lock {
    let mut lock = translate::to_lock(&found.queue);
    for (holder, left) in lock.holders.iter_mut().zip(&found.leases) {
        holder.lease_remaining = left.map(translate::to_wire_duration);
    }
    lock
}

async fn list(api: &Api, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
    let prefix = path(&request.namespace, &request.prefix)?;
    let limit = match usize::try_from(request.page_size).unwrap_or(MAX_PAGE) {
        0 => DEFAULT_PAGE,
        size => size.min(MAX_PAGE),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        name => Some(path(&request.namespace, name)?),
    };
    let page = SHOWN;
    let listed = api.core.ask(|reply| Look::List { prefix, after, limit, page, reply }).await?;
    let last = listed.queues.last().filter(|_| listed.more);
    Ok(v1::ListResponse {
        next_page_token: last.map(|queue| queue.lock.name().to_owned()).unwrap_or_default(),
        locks: listed.queues.iter().map(translate::to_lock).collect(),
        revision: listed.at.0,
    })
}

fn path(namespace: &str, prefix: &str) -> Result<String, Error> {
    Ok(prefix_path(&Namespace::parse_or_default(namespace)?, prefix))
}
