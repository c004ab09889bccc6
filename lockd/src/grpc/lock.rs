//! `LockService`.

use futures::stream::BoxStream;
use lockd_proto::{
    Namespace, RequestId,
    v1::{self, acquire_response::Outcome, lock_service_server::LockService},
};
use tonic::{Request, Response, Status};

use super::{Api, explain, to_status, translate, watch};
use crate::{
    engine::Engine,
    error::Error,
    keys,
    requests::Reply,
    view::{QueueView, Scope},
};

/// Locks on a page of a listing, if the caller does not say.
const DEFAULT_PAGE: usize = 100;

/// Holders whose leases are looked up in the store for one answer.
const MAX_LEASES: usize = 16;

/// Locks on a page of a listing, at most.
const MAX_PAGE: usize = 1000;

#[tonic::async_trait]
impl LockService for Api {
    type WatchStream = BoxStream<'static, Result<v1::WatchResponse, Status>>;

    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let header = translate::traceparent(request.metadata());
        let acquired = acquire(&self.engine, request.into_inner(), header).await;
        acquired.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::CancelResponse>, Status> {
        let cancelled = cancel(&self.engine, request.into_inner()).await;
        cancelled.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn release(
        &self,
        request: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseResponse>, Status> {
        let released = release(&self.engine, request.into_inner()).await;
        released.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn update(
        &self,
        request: Request<v1::UpdateRequest>,
    ) -> Result<Response<v1::UpdateResponse>, Status> {
        let updated = update(&self.engine, request.into_inner()).await;
        updated.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn request_yield(
        &self,
        request: Request<v1::RequestYieldRequest>,
    ) -> Result<Response<v1::RequestYieldResponse>, Status> {
        let asked = request_yield(&self.engine, request.into_inner()).await;
        asked.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let explained = explain::explain(&self.engine, request.into_inner()).await;
        explained.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let found = get(&self.engine, request.into_inner()).await;
        found.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn list(
        &self,
        request: Request<v1::ListRequest>,
    ) -> Result<Response<v1::ListResponse>, Status> {
        let page = list(&self.engine, request.into_inner());
        page.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let scope = scope(request.into_inner()).map_err(|error| to_status(&error))?;
        Ok(Response::new(watch::watch(&self.engine, scope)))
    }
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
    engine: &Engine,
    request: v1::AcquireRequest,
    traceparent: Option<String>,
) -> Result<v1::AcquireResponse, Error> {
    let credential = translate::credential(request.session)?;
    let mut asked = request.acquire.unwrap_or_default();
    if asked.traceparent.is_empty() {
        asked.traceparent = traceparent.unwrap_or_default();
    }
    let id = match asked.request_id.as_slice() {
        [] => RequestId::random(),
        bytes => translate::request_id(bytes)?,
    };
    let acquire = translate::acquire(id, asked)?;
    let outcome = match engine.acquire(&credential, acquire).await? {
        Reply::Granted { token } => Outcome::Grant(v1::Grant { token: token.0 }),
        Reply::Refused { refusal, ahead } => {
            Outcome::Refusal(translate::to_refusal(refusal, ahead.as_deref()))
        }
        Reply::Failed(error) => return Err(*error),
        Reply::Queued(_)
        | Reply::Released(_)
        | Reply::Updated
        | Reply::YieldRequested(_)
        | Reply::Lost { .. } => return Err(Error::Protocol("an answer to another question")),
    };
    let request_id = id.as_bytes().to_vec();
    Ok(v1::AcquireResponse { outcome: Some(outcome), request_id })
}

async fn cancel(engine: &Engine, request: v1::CancelRequest) -> Result<v1::CancelResponse, Error> {
    let credential = translate::credential(request.session)?;
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let id = translate::request_id(&request.request_id)?;
    engine.cancel(&credential, &lock, id).await?;
    Ok(v1::CancelResponse {})
}

async fn release(
    engine: &Engine,
    request: v1::ReleaseRequest,
) -> Result<v1::ReleaseResponse, Error> {
    let credential = translate::credential(request.session)?;
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let id = translate::request_id(&request.request_id)?;
    let token = translate::token(request.token)?;
    let released = engine.release(&credential, &lock, id, token).await?;
    Ok(v1::ReleaseResponse { outcome: translate::to_release_outcome(released).into() })
}

async fn update(engine: &Engine, request: v1::UpdateRequest) -> Result<v1::UpdateResponse, Error> {
    let credential = translate::credential(request.session)?;
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let id = translate::request_id(&request.request_id)?;
    let change = translate::change(request.change)?;
    engine.update(&credential, &lock, id, change).await?;
    Ok(v1::UpdateResponse {})
}

async fn request_yield(
    engine: &Engine,
    request: v1::RequestYieldRequest,
) -> Result<v1::RequestYieldResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let reason = translate::reason(&request.reason)?;
    let asked = engine.request_yield(&lock, reason).await?;
    Ok(v1::RequestYieldResponse { holders: asked.iter().map(translate::to_holder).collect() })
}

async fn get(engine: &Engine, request: v1::GetRequest) -> Result<v1::GetResponse, Error> {
    let lock = translate::lock_id(&request.namespace, request.name)?;
    let revision = engine.view.revision().0;
    let queue = engine.view.queue(&lock).ok_or(Error::LockNotFound(lock))?;
    let lock = with_leases(engine, &queue).await?;
    Ok(v1::GetResponse { lock: Some(lock), revision })
}

/// A lock with what is left of its holders' leases.
pub(super) async fn with_leases(engine: &Engine, queue: &QueueView) -> Result<v1::Lock, Error> {
    let mut lock = translate::to_lock(queue);
    for (holder, found) in lock.holders.iter_mut().zip(&queue.entries).take(MAX_LEASES) {
        if let Some(session) = &found.session {
            let left = engine.store.lease_remaining(session.lease).await.map_err(Error::Store)?;
            holder.lease_remaining = left.map(translate::to_wire_duration);
        }
    }
    Ok(lock)
}

fn list(engine: &Engine, request: v1::ListRequest) -> Result<v1::ListResponse, Error> {
    let prefix = path(&request.namespace, &request.prefix)?;
    let size = match usize::try_from(request.page_size).unwrap_or(MAX_PAGE) {
        0 => DEFAULT_PAGE,
        size => size.min(MAX_PAGE),
    };
    let after = match request.page_token.as_str() {
        "" => None,
        name => Some(path(&request.namespace, name)?),
    };
    let revision = engine.view.revision().0;
    // One more than asked for tells whether there is another page.
    let mut queues = engine.view.list(&prefix, after.as_deref(), size + 1);
    let more = queues.len() > size;
    queues.truncate(size);
    let last = queues.last().filter(|_| more);
    Ok(v1::ListResponse {
        next_page_token: last.map(|queue| queue.lock.name().to_owned()).unwrap_or_default(),
        locks: queues.iter().map(translate::to_lock).collect(),
        revision,
    })
}

fn path(namespace: &str, prefix: &str) -> Result<String, Error> {
    Ok(keys::prefix_path(&Namespace::parse_or_default(namespace)?, prefix))
}
