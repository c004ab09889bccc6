//! The server's side: a request's deadline and its caller's presence become a context.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tonic::{Code, Status};
use tower_layer::Layer;

use super::timeout;
use crate::{
    context::{Cause, Context},
    layer::{BoxError, ContextService, Protocol},
    trace,
};

/// Gives each request a [`Context`], in its extensions and as the
/// [current](Context::current) one.
///
/// The context has the deadline of `grpc-timeout`, less a tenth and at most 10 ms for the answer,
/// and the trace of `traceparent`, and ends when the caller goes away. When the deadline passes, the
/// call is answered with `DEADLINE_EXCEEDED`, also in the middle of a stream of responses; tonic by
/// itself would say `CANCELLED`, and leave streams alone.
#[derive(Debug, Clone)]
pub struct ContextLayer {
    root: Context,
}

impl ContextLayer {
    /// A layer whose contexts have no parent.
    #[must_use]
    pub fn new() -> Self {
        Self { root: Context::background() }
    }

    /// Makes the contexts of requests children of this one, so that they end with it, such as when
    /// the server does.
    #[must_use]
    pub fn within(ctx: &Context) -> Self {
        Self { root: ctx.clone() }
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S, Grpc>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService::new(inner, Grpc, self.root.clone())
    }
}

/// gRPC, to [`ContextService`].
#[derive(Debug, Clone, Copy)]
pub struct Grpc;

impl Protocol for Grpc {
    const LAYER: &'static str = "grpc";

    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        timeout::read(headers)
    }

    fn describe(&self, headers: &HeaderMap, ctx: Context) -> Context {
        trace::read(headers, ctx)
    }

    fn answer(cause: &Cause) -> Response<Bytes> {
        ended(cause).into_http()
    }

    fn end(cause: &Cause) -> Result<HeaderMap, BoxError> {
        let status = ended(cause);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        if let Ok(message) = HeaderValue::from_str(status.message()) {
            trailers.insert("grpc-message", message);
        }
        Ok(trailers)
    }
}

fn ended(cause: &Cause) -> Status {
    match cause {
        Cause::DeadlineExceeded => {
            Status::new(Code::DeadlineExceeded, "the deadline passed before the server was done")
        }
        Cause::Cancelled | Cause::LockLost(_) => Status::new(Code::Cancelled, cause.to_string()),
    }
}
