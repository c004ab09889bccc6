//! The server's side: a request's deadline and its caller's presence become a context.

use std::{
    pin::Pin,
    task::{Context as Wake, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use lockd_proto::clock::Clock;
use pin_project_lite::pin_project;
use tonic::{Code, Status};
use tower_layer::Layer;
use tower_service::Service;

use super::headers;
use crate::context::{CancelHandle, Cause, Context};

/// How much earlier than its caller a context ends: the answer is to be there in time, and
/// tonic's own limit, which says `CANCELLED`, is not to be first.
const RESERVE: Duration = Duration::from_millis(2);

/// Gives each request a [`Context`], in its extensions and as the
/// [current](Context::current) one.
///
/// The context has the deadline of `grpc-timeout`, less 2 ms for the answer, and the trace of `traceparent`, and ends when
/// the caller goes away. When the deadline passes, the call is answered with
/// `DEADLINE_EXCEEDED`, also in the middle of a stream of responses; tonic by itself would
/// say `CANCELLED`, and leave streams alone.
#[derive(Debug, Clone)]
pub struct ContextLayer {
    clock: Clock,
}

impl ContextLayer {
    /// A layer whose deadlines are counted on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self { clock: Clock::system() }
    }

    /// Counts deadlines on another clock.
    #[must_use]
    pub fn clock(clock: Clock) -> Self {
        Self { clock }
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = ContextService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ContextService { inner, clock: self.clock.clone() }
    }
}

/// A service whose requests have a context. Made by [`ContextLayer`].
#[derive(Debug, Clone)]
pub struct ContextService<S> {
    inner: S,
    clock: Clock,
}

impl<S, A, B> Service<Request<A>> for ContextService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Default + Send + 'static,
{
    type Response = Response<ContextBody<B>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, wake: &mut Wake<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(wake)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let (ctx, gone) = context(request.headers(), &self.clock);
        request.extensions_mut().insert(ctx.clone());
        // Dropped when the caller goes away before there is an answer.
        let gone = Gone(gone);
        let answer = self.inner.call(request);
        Box::pin(async move {
            match ctx.run(ctx.scope(answer)).await {
                Ok(answer) => Ok(answer?.map(|body| ContextBody::new(body, ctx, gone))),
                Err(cause) => Ok(ended(&cause).into_http::<B>().map(ContextBody::of_nothing)),
            }
        })
    }
}

fn context(headers: &HeaderMap, clock: &Clock) -> (Context, CancelHandle) {
    let ctx = Context::background_on(clock.clone());
    let ctx = match headers::trace_id(headers) {
        Some(trace_id) => ctx.with_trace_id(trace_id),
        None => ctx,
    };
    match headers::timeout(headers) {
        Some(timeout) => ctx.with_timeout(timeout.saturating_sub(RESERVE)),
        None => ctx,
    }
    .with_cancel()
}

fn ended(cause: &Cause) -> Status {
    match cause {
        Cause::DeadlineExceeded => {
            Status::new(Code::DeadlineExceeded, "the deadline passed before the server was done")
        }
        Cause::Cancelled | Cause::LockLost(_) => Status::new(Code::Cancelled, cause.to_string()),
    }
}

/// Ends a context when it is dropped.
#[derive(Debug)]
struct Gone(CancelHandle);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

pin_project! {
    /// The body of an answer, which ends with its context, and whose end is the context's.
    pub struct ContextBody<B> {
        #[pin]
        inner: B,
        ended: Option<BoxFuture<'static, Cause>>,
        gone: Option<Gone>,
        over: bool,
    }
}

impl<B> std::fmt::Debug for ContextBody<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextBody").finish_non_exhaustive()
    }
}

impl<B: Default> Default for ContextBody<B> {
    fn default() -> Self {
        Self::of_nothing(B::default())
    }
}

impl<B> ContextBody<B> {
    fn new(inner: B, ctx: Context, gone: Gone) -> Self {
        let ended = Box::pin(async move { ctx.cancelled().await });
        Self { inner, ended: Some(ended), gone: Some(gone), over: false }
    }

    /// A body without a context.
    fn of_nothing(inner: B) -> Self {
        Self { inner, ended: None, gone: None, over: false }
    }
}

impl<B: Body> Body for ContextBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        wake: &mut Wake<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if *this.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(frame) = this.inner.poll_frame(wake) {
            return Poll::Ready(frame);
        }
        // What is ready is sent first.
        let Some(ending) = this.ended else { return Poll::Pending };
        let cause = ready!(ending.as_mut().poll(wake));
        (*this.ended, *this.gone, *this.over) = (None, None, true);
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&ended(&cause))))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    if let Ok(message) = HeaderValue::from_str(status.message()) {
        trailers.insert("grpc-message", message);
    }
    trailers
}
