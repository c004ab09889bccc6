//! What the server layers of all protocols share: a request's deadline and its caller's presence
//! become a context, and what the handler does is bounded by it.

mod body;

use std::{
    fmt,
    task::{Context as Wake, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use tower_service::Service;

pub use self::body::ContextBody;
use crate::{
    context::{CancelHandle, Cause, Context},
    propagation::{Propagation, deadline_received},
};

/// How much earlier than its caller a context ends, at most: the answer is to be there before the
/// caller gives up, as tonic's client does by itself, with a `CANCELLED` of its own.
const RESERVE: Duration = Duration::from_millis(10);

/// What fails a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a protocol carries contexts.
pub(crate) trait Protocol: Clone + Send + 'static {
    /// Its name, to the propagation.
    const LAYER: &'static str;

    /// How long the caller will wait.
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration>;

    /// The context with what the caller says of its request.
    fn describe(&self, headers: &HeaderMap, ctx: Context) -> Context;

    /// The answer in place of a handler whose context has ended.
    fn answer(cause: &Cause) -> Response<Bytes>;

    /// How a body ends whose context has: by trailers, or by an error.
    fn end(cause: &Cause) -> Result<HeaderMap, BoxError>;
}

/// A service whose requests have a context.
#[derive(Clone)]
pub struct ContextService<S, P> {
    inner: S,
    protocol: P,
    root: Context,
}

impl<S: fmt::Debug, P> fmt::Debug for ContextService<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContextService").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, P> ContextService<S, P> {
    pub(crate) fn new(inner: S, protocol: P, root: Context) -> Self {
        Self { inner, protocol, root }
    }
}

/// The contexts of one request.
struct Opened {
    /// That of the handler.
    ctx: Context,
    /// That by which it is bounded: another one only where nothing is to be ended.
    bound: Context,
    gone: Gone,
}

impl Opened {
    fn new(protocol: &impl Protocol, root: &Context, headers: &HeaderMap) -> Self {
        let ctx = protocol.describe(headers, root.clone());
        let timeout = protocol.timeout(headers);
        let bounded = |ctx: &Context| match timeout {
            Some(timeout) => ctx.with_timeout(timeout - RESERVE.min(timeout / 10)),
            None => ctx.clone(),
        };
        if timeout.is_some() {
            deadline_received();
        }
        match ctx.propagation() {
            Propagation::On => {
                let (ctx, cancel) = bounded(&ctx).with_cancel();
                Self { bound: ctx.clone(), ctx, gone: Gone(Some(cancel)) }
            }
            // What is only observed is not to feel it.
            Propagation::Observe => Self { bound: bounded(&ctx), ctx, gone: Gone(None) },
            Propagation::Off => Self { bound: ctx.clone(), ctx, gone: Gone(None) },
        }
    }
}

impl<S, P, A, B> Service<Request<A>> for ContextService<S, P>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    P: Protocol,
    B: Body<Data = Bytes> + Send + 'static,
{
    type Response = Response<ContextBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, wake: &mut Wake<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(wake)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let Opened { ctx, bound, gone } =
            Opened::new(&self.protocol, &self.root, request.headers());
        request.extensions_mut().insert(ctx.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            // `gone` is dropped when the caller goes away before there is an answer.
            match bound.bound(P::LAYER, ctx.scope(answer)).await {
                Ok(answer) => Ok(answer?.map(|body| ContextBody::new::<P>(body, bound, gone))),
                Err(cause) => Ok(P::answer(&cause).map(ContextBody::text)),
            }
        })
    }
}

/// Ends a context when it is dropped.
#[derive(Debug)]
struct Gone(Option<CancelHandle>);

impl Drop for Gone {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}
