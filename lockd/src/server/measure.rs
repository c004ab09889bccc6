//! Counts calls that come with a deadline, and those that it has ended.

use std::task::{Context, Poll};

use futures::{FutureExt as _, future::Inspect};
use http::{Request, Response};
use tonic::Code;
use tower_layer::Layer;
use tower_service::Service;

use crate::telemetry::metrics;

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
const DEADLINE: &str = "grpc-timeout";
const STATUS: &str = "grpc-status";

/// Counts what passes through. Goes around the layer that keeps deadlines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure;

/// A service that is counted.
#[derive(Debug, Clone)]
pub(super) struct Measured<S>(S);

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, service: S) -> Measured<S> {
        Measured(service)
    }
}

/// Looks at what was answered.
type InspectAnswer<T, E> = fn(&Result<Response<T>, E>);

impl<S, B, T> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<T>>,
{
    type Response = Response<T>;
    type Error = S::Error;
    type Future = Inspect<S::Future, InspectAnswer<T, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.headers().contains_key(DEADLINE) {
            metrics::deadline_received();
        }
        self.0.call(request).inspect(look)
    }
}

fn look<T, E>(answered: &Result<Response<T>, E>) {
    let status = answered.as_ref().ok().and_then(|response| response.headers().get(STATUS));
    if status.is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::DeadlineExceeded) {
        metrics::deadline_cut();
    }
}
