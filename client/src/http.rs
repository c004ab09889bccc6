//! Contexts over HTTP: how long a caller waits comes in as `x-request-timeout-ms`, its trace as
//! `traceparent` and its id as `x-request-id`, and become a [`Context`] of the request.
//!
//! ```no_run
//! # async fn example(router: axum::Router) -> Result<(), lockd_client::Error> {
//! use std::time::Duration;
//! use axum::{Extension, routing::post};
//! use lockd_client::{Context, http::ContextLayer};
//!
//! // Its context ends with the caller's patience, and when the caller goes away.
//! async fn place_order(Extension(ctx): Extension<Context>) -> String {
//!     format!("{:?} are left", ctx.remaining())
//! }
//!
//! let layer = ContextLayer::new().default_timeout(Duration::from_secs(10));
//! let router = router.route("/orders", post(place_order)).layer(layer);
//! # drop(router);
//! # Ok(()) }
//! ```

#[cfg(test)]
mod tests;

use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use bytes::Bytes;
use tower_layer::Layer;

pub use crate::layer::{ContextBody, ContextService};
use crate::{
    context::{Cause, Context},
    layer::{BoxError, Protocol},
    trace,
};

/// How long a caller waits, in milliseconds.
pub(crate) const TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The id of a request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken over, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Gives each request a [`Context`], as axum's `Extension<Context>` and as the
/// [current](Context::current) one.
///
/// The context has the deadline that the caller has named, less a tenth and at most 10 ms for the
/// answer, and ends when the caller goes away. When the deadline passes, the request is answered
/// with `504 Gateway Timeout`, or its body is broken off if that was under way. A header that can't
/// be read is as good as none.
#[derive(Debug, Clone)]
pub struct ContextLayer {
    protocol: Http,
    root: Context,
}

/// HTTP, to [`ContextService`].
#[derive(Debug, Clone)]
pub struct Http {
    header: HeaderName,
    default: Option<Duration>,
    max: Option<Duration>,
}

impl ContextLayer {
    /// A layer that reads `x-request-timeout-ms`.
    #[must_use]
    pub fn new() -> Self {
        let protocol = Http { header: TIMEOUT, default: None, max: None };
        Self { protocol, root: Context::background() }
    }

    /// Reads the timeout, in milliseconds, from another header.
    #[must_use]
    pub fn timeout_header(mut self, name: HeaderName) -> Self {
        self.protocol.header = name;
        self
    }

    /// The timeout of requests that name none. Default: none.
    #[must_use]
    pub fn default_timeout(mut self, timeout: Duration) -> Self {
        self.protocol.default = Some(timeout);
        self
    }

    /// The longest timeout that a request can have, whatever it names. Default: none.
    #[must_use]
    pub fn max_timeout(mut self, timeout: Duration) -> Self {
        self.protocol.max = Some(timeout);
        self
    }

    /// Makes the contexts of requests children of this one, so that they end with it, such as when
    /// the server does.
    #[must_use]
    pub fn within(mut self, ctx: &Context) -> Self {
        self.root = ctx.clone();
        self
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S, Http>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService::new(inner, self.protocol.clone(), self.root.clone())
    }
}

impl Protocol for Http {
    const LAYER: &'static str = "http";

    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        let named = headers.get(&self.header).and_then(|value| value.to_str().ok()?.parse().ok());
        let timeout = named.map(Duration::from_millis).or(self.default);
        timeout.into_iter().chain(self.max).min()
    }

    fn describe(&self, headers: &HeaderMap, ctx: Context) -> Context {
        let ctx = trace::read(headers, ctx);
        // Only what is visible ASCII, so that it can be logged and sent along as it is.
        let id = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
        match id.filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len())) {
            Some(request_id) => ctx.with_request_id(request_id),
            None => ctx,
        }
    }

    fn answer(cause: &Cause) -> Response<Bytes> {
        let status = match cause {
            Cause::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Cause::Cancelled | Cause::LockLost(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let text =
            format!("{cause}: there was no answer before the context of the request ended\n");
        let mut answer = Response::new(Bytes::from(text));
        *answer.status_mut() = status;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, plain);
        answer
    }

    fn end(cause: &Cause) -> Result<HeaderMap, BoxError> {
        Err(Box::new(cause.clone()))
    }
}
