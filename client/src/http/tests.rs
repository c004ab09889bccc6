//! The layer around handlers that answer, hang or go on for ever, on paused time.

use std::{convert::Infallible, pin::Pin, task::Poll};

use ::http::Request;
use http_body::{Body as _, Frame};
use lockd_proto::clock::Clock;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::propagation::Propagation;

const SECOND: Duration = Duration::from_secs(1);

/// A body that says nothing and never ends.
struct Endless;

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

fn paused() -> Context {
    Context::background_on(Clock::tokio())
}

fn request(headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = Request::new(());
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// What becomes of a request with this layer.
async fn served<F>(
    layer: ContextLayer,
    request: Request<()>,
    handler: impl Fn(Context) -> F,
) -> Response<ContextBody<Endless>>
where
    F: Future<Output = Response<Endless>> + Send + 'static,
{
    let inner = service_fn(|request: Request<()>| {
        let answer = handler(request.extensions().get::<Context>().unwrap().clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    layer.layer(inner).oneshot(request).await.unwrap()
}

/// What a handler has left, with this layer and this header.
async fn left(layer: ContextLayer, header: Option<&str>) -> Option<Duration> {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let headers: Vec<_> = header.map(|value| ("x-request-timeout-ms", value)).into_iter().collect();
    let handler = |ctx: Context| {
        tell.try_send(ctx.remaining()).unwrap();
        async { Response::new(Endless) }
    };
    served(layer, request(&headers), handler).await;
    told.recv().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_timeout_is_the_callers_within_limits() {
    let reserve = Duration::from_millis(10);
    let new = || ContextLayer::new().within(&paused());
    assert_eq!(left(new(), Some("300")).await, Some(Duration::from_millis(290)));
    assert_eq!(left(new(), None).await, None);
    for wrong in ["", "-1", "1.5", "soon", "99999999999999999999"] {
        assert_eq!(left(new(), Some(wrong)).await, None, "{wrong:?}");
    }
    let limits = || new().default_timeout(SECOND).max_timeout(2 * SECOND);
    assert_eq!(left(limits(), None).await, Some(SECOND - reserve));
    assert_eq!(left(limits(), Some("9000")).await, Some(2 * SECOND - reserve));
    let other = new().timeout_header(HeaderName::from_static("x-patience"));
    assert_eq!(left(other, Some("300")).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_request_comes_with_its_trace_and_its_id() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let request = request(&[("x-request-id", "7f3a"), ("traceparent", &parent)]);
    let handler = |ctx: Context| async move {
        assert_eq!(ctx.request_id(), Some("7f3a"));
        assert_eq!(ctx.trace_id(), Some(trace));
        assert_eq!(Context::current().request_id(), Some("7f3a"));
        Response::new(Endless)
    };
    served(ContextLayer::new().within(&paused()), request, handler).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_too_long_is_answered_for() {
    let start = tokio::time::Instant::now();
    let hangs = |_| std::future::pending();
    let request = request(&[("x-request-timeout-ms", "300")]);
    let answer = served(ContextLayer::new().within(&paused()), request, hangs).await;
    assert!(start.elapsed() < SECOND / 3, "{:?}", start.elapsed());
    assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
    let mut body = Box::pin(answer.into_body());
    let text = std::future::poll_fn(|wake| body.as_mut().poll_frame(wake)).await;
    let text = text.unwrap().unwrap().into_data().unwrap();
    assert!(text.starts_with(b"deadline exceeded: "), "{text:?}");
    assert!(std::future::poll_fn(|wake| body.as_mut().poll_frame(wake)).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_under_way_is_broken_off() {
    let streams = |_| async { Response::new(Endless) };
    let request = request(&[("x-request-timeout-ms", "300")]);
    let answer = served(ContextLayer::new().within(&paused()), request, streams).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let mut body = Box::pin(answer.into_body());
    let end = std::future::poll_fn(|wake| body.as_mut().poll_frame(wake)).await;
    let error = end.unwrap().unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Cause::DeadlineExceeded));
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn what_is_only_observed_goes_on() {
    let before = crate::propagation::counts();
    for quiet in [Propagation::Off, Propagation::Observe] {
        let root = paused().with_propagation(quiet);
        let handler = |ctx: Context| async move {
            tokio::time::sleep(SECOND).await;
            assert_eq!((ctx.cause(), ctx.remaining()), (None, None));
            Response::new(Endless)
        };
        let request = request(&[("x-request-timeout-ms", "300")]);
        let answer = served(ContextLayer::new().within(&root), request, handler).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let after = crate::propagation::counts();
    assert!(after.would_have_ended > before.would_have_ended);
    assert!(after.received >= before.received + 2);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_server_is_that_of_its_requests() {
    let (root, cancel) = paused().with_cancel();
    let hangs = |_| {
        cancel.cancel();
        std::future::pending()
    };
    let answer = served(ContextLayer::new().within(&root), request(&[]), hangs).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}
