//! lockd's own gRPC API on the sidecar's port, for apps that speak it: each call goes on to a daemon as
//! it is, and what comes back comes back.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::Body,
    extract::Request,
    http::{
        HeaderValue, Uri, Version,
        header::CONTENT_TYPE,
        uri::{Authority, PathAndQuery, Scheme},
    },
    response::Response,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>
const GRPC: &str = "application/grpc";

/// `UNAVAILABLE`: another try may reach another daemon.
const UNAVAILABLE: &str = "14";

/// Carries calls to the daemons. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Forward {
    http: Client<HttpConnector, Body>,
    daemons: Arc<[Authority]>,
    /// Which of them is asked.
    chosen: Arc<AtomicUsize>,
}

/// Whether a request is a gRPC call.
pub(super) fn is_call(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(GRPC.as_bytes()))
}

impl Forward {
    /// To the daemons at these addresses, separated by commas.
    pub(super) fn new(addrs: &str) -> Self {
        let daemon = |addr: &str| addr.trim().trim_start_matches("http://").parse().ok();
        Self {
            http: Client::builder(TokioExecutor::new()).http2_only(true).build_http(),
            daemons: addrs.split(',').filter_map(daemon).collect(),
            chosen: Arc::default(),
        }
    }

    /// One call. What a daemon can't be asked is answered as unavailable, and the next call goes to the
    /// next daemon: this one's messages are gone by then.
    pub(super) async fn call(&self, mut request: Request) -> Response {
        let chosen = self.chosen.load(Ordering::Relaxed);
        let count = self.daemons.len().max(1);
        let path = request.uri().path_and_query().cloned();
        let Some(uri) = self.daemons.get(chosen % count).zip(path).and_then(uri) else {
            return unavailable("the sidecar knows no daemon that it can carry calls to");
        };
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        match self.http.request(request).await {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                // A call that failed at the same time has chosen the next one already.
                self.chosen.fetch_max(chosen.wrapping_add(1), Ordering::Relaxed);
                tracing::warn!(%error, "a call could not be carried to its daemon");
                unavailable("the daemon does not answer the sidecar")
            }
        }
    }
}

fn uri((daemon, path): (&Authority, PathAndQuery)) -> Option<Uri> {
    Uri::builder().scheme(Scheme::HTTP).authority(daemon.clone()).path_and_query(path).build().ok()
}

fn unavailable(why: &'static str) -> Response {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert("grpc-status", HeaderValue::from_static(UNAVAILABLE));
    headers.insert("grpc-message", HeaderValue::from_static(why));
    response
}
