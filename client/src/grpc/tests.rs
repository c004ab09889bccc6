//! Both layers, around services that answer, hang or go on for ever, on paused time.

use std::{convert::Infallible, future::Future, pin::Pin, time::Duration};

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use lockd_proto::clock::Clock;
use tonic::Code;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use super::*;
use crate::Cause;

const SECOND: Duration = Duration::from_secs(1);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A body that says nothing and never ends.
#[derive(Default)]
struct Endless;

impl http_body::Body for Endless {
    type Data = bytes::Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        std::task::Poll::Pending
    }
}

fn request(headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// What the handler makes of its context.
async fn served<F: Future<Output = Response<Endless>> + Send + 'static>(
    request: Request<()>,
    handler: impl Fn(Context) -> F,
) -> Response<ContextBody<Endless>> {
    let inner = service_fn(|request: Request<()>| {
        let answer = handler(request.extensions().get::<Context>().unwrap().clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    ContextLayer::within(&Context::background_on(Clock::tokio()))
        .layer(inner)
        .oneshot(request)
        .await
        .unwrap()
}

fn status(headers: &HeaderMap) -> Option<Code> {
    let status = headers.get("grpc-status")?.to_str().ok()?;
    Some(Code::from_bytes(status.as_bytes()))
}

#[tokio::test(start_paused = true)]
async fn a_request_comes_with_its_deadline_and_its_trace() {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let request = request(&[("grpc-timeout", "2S"), ("traceparent", &parent)]);
    let handler = |ctx: Context| async move {
        assert_eq!(ctx.remaining(), Some(Duration::from_millis(1990)));
        assert_eq!(ctx.trace_id(), Some(TRACE));
        assert_eq!(Context::current().trace_id(), Some(TRACE));
        Response::new(Endless)
    };
    assert_eq!(status(served(request, handler).await.headers()), None);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_answered_for() {
    let start = tokio::time::Instant::now();
    let hangs = |_| std::future::pending();
    let answer = served(request(&[("grpc-timeout", "300m")]), hangs).await;
    assert_eq!(status(answer.headers()), Some(Code::DeadlineExceeded));
    assert!(start.elapsed() < SECOND / 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_responses_ends_with_the_deadline() {
    let start = tokio::time::Instant::now();
    let streams = |_| async { Response::new(Endless) };
    let answer = served(request(&[("grpc-timeout", "300m")]), streams).await;
    assert_eq!(status(answer.headers()), None);
    let mut body = Box::pin(answer.into_body());
    let frame = std::future::poll_fn(|wake| body.as_mut().poll_frame(wake)).await;
    let trailers = frame.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(status(&trailers), Some(Code::DeadlineExceeded));
    assert!(start.elapsed() < SECOND / 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_ends_the_context() {
    let (seen, mut contexts) = tokio::sync::mpsc::channel(4);
    let hangs = |ctx: Context| {
        seen.try_send(ctx).unwrap();
        std::future::pending()
    };
    let call = served(request(&[]), hangs);
    assert!(tokio::time::timeout(SECOND, call).await.is_err());
    let ctx = contexts.recv().await.unwrap();
    assert_eq!(ctx.cause(), Some(Cause::Cancelled));
    // The same in the middle of a stream.
    let streams = |ctx: Context| {
        seen.try_send(ctx).unwrap();
        async { Response::new(Endless) }
    };
    let answer = served(request(&[]), streams).await;
    let ctx = contexts.recv().await.unwrap();
    assert_eq!(ctx.cause(), None);
    drop(answer);
    assert_eq!(ctx.cause(), Some(Cause::Cancelled));
}

/// The headers that a call in this context goes out with.
async fn sent(ctx: &Context, request: Request<()>) -> HeaderMap {
    let inner =
        service_fn(
            |request: Request<()>| async move { Ok::<_, Infallible>(request.headers().clone()) },
        );
    let mut service = DeadlineLayer::new().layer(inner);
    let call = async { service.ready().await.unwrap().call(request).await.unwrap() };
    ctx.scope(call).await
}

fn trace(headers: &HeaderMap) -> Context {
    crate::trace::read(headers, Context::background())
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_with_the_span_that_it_came_with() {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let came = trace(request(&[("traceparent", &parent)]).headers());
    let headers = sent(&came, request(&[])).await;
    assert_eq!(headers.get("traceparent").unwrap(), parent.as_str());
}

#[tokio::test(start_paused = true)]
async fn a_call_carries_what_is_left_less_the_reserve() {
    let ctx = Context::background_on(Clock::tokio()).with_trace_id(TRACE).with_timeout(SECOND);
    let headers = sent(&ctx, request(&[])).await;
    assert_eq!(timeout::read(&headers), Some(SECOND - Duration::from_millis(5)));
    assert_eq!(trace(&headers).trace_id(), Some(TRACE));
    // A shorter timeout of the call's own stays, and so does its trace.
    let other = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{other}-00f067aa0ba902b7-01");
    let own = request(&[("grpc-timeout", "10m"), ("traceparent", &parent)]);
    let headers = sent(&ctx, own).await;
    assert_eq!(timeout::read(&headers), Some(SECOND / 100));
    assert_eq!(trace(&headers).trace_id(), Some(other));
    let headers = sent(&Context::background(), request(&[])).await;
    assert_eq!(headers.len(), 0, "nothing is said where nothing is known");
    // That of the request is nearer than that of the task.
    let mut explicit = request(&[]);
    explicit.extensions_mut().insert(ctx.with_timeout(SECOND / 2));
    let headers = sent(&ctx, explicit).await;
    assert_eq!(timeout::read(&headers), Some(SECOND / 2 - Duration::from_millis(5)));
}
