//! The client's side: what is left of a context goes with each call.

use std::{
    task::{Context as Wake, Poll},
    time::Duration,
};

use http::Request;
use tower_layer::Layer;
use tower_service::Service;

use super::timeout;
use crate::{context::Context, trace};

/// How much earlier than its caller a server is to give up, if nothing else is chosen: so that
/// its answer is there in time.
const RESERVE: Duration = Duration::from_millis(5);

/// Sends what is left of a context with each call: that in the request's extensions, else the
/// [current](Context::current) one. A timeout that the call has already stays if it is shorter.
///
/// ```no_run
/// use lockd_client::{Context, grpc::DeadlineLayer};
/// use tonic::{Request, transport::Channel};
///
/// # async fn example(channel: Channel, ctx: Context) {
/// let channel = tower::ServiceBuilder::new().layer(DeadlineLayer::new()).service(channel);
/// // Every call of a client over this channel now carries the context that it is made in.
/// ctx.scope(async { /* client.place(request).await */ }).await;
/// # let _ = channel;
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct DeadlineLayer {
    reserve: Duration,
}

impl DeadlineLayer {
    /// A layer with a reserve of 5 ms.
    #[must_use]
    pub fn new() -> Self {
        Self { reserve: RESERVE }
    }

    /// Has servers give up by this much earlier than the context ends.
    #[cfg(feature = "grpc")]
    #[must_use]
    pub fn reserve(self, reserve: Duration) -> Self {
        Self { reserve }
    }
}

impl Default for DeadlineLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        DeadlineService { inner, reserve: self.reserve }
    }
}

/// A service whose calls carry what is left of their context. Made by [`DeadlineLayer`].
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
    reserve: Duration,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for DeadlineService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, wake: &mut Wake<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(wake)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let ctx = request.extensions().get::<Context>().cloned();
        self.send_along(&ctx.unwrap_or_else(Context::current), &mut request);
        self.inner.call(request)
    }
}

impl<S> DeadlineService<S> {
    fn send_along<B>(&self, ctx: &Context, request: &mut Request<B>) {
        let headers = request.headers_mut();
        let left = ctx.budget().map(|left| left.saturating_sub(self.reserve));
        let timeout = left.into_iter().chain(timeout::read(headers)).min();
        let timeout = timeout.map(timeout::write).and_then(|text| text.parse().ok());
        if let Some(timeout) = timeout {
            headers.insert(timeout::TIMEOUT, timeout);
        }
        trace::write(ctx, headers);
    }
}
