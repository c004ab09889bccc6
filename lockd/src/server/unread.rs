//! Bounds the bytes of answers that lie unread, for each connection and for the process.
//!
//! HTTP/2 lets a client ask without reading. An answer is counted from when it is made until its last
//! piece has been taken by the connection, which takes one only while the client has room for it. What
//! is over a bound is refused with a reason instead.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use prost::Message;
use tonic::{Status, transport::server::TcpConnectInfo};
use tower_layer::Layer;
use tower_service::Service;

use crate::core::error::Error;

/// Unread bytes of one connection.
const MAX_OF_CONNECTION: usize = 8 * 1024 * 1024;

/// Unread bytes of all connections.
const MAX_OF_PROCESS: usize = 256 * 1024 * 1024;

/// The size of a piece: what lies in the connection's own buffer is one for each call at most.
const PIECE: usize = 16 * 1024;

/// How many bytes an answer has.
#[derive(Debug, Clone, Copy)]
struct AnswerSize(usize);

/// An answer whose bytes are counted.
pub(super) fn counted<T: Message>(message: T) -> tonic::Response<T> {
    let size = AnswerSize(message.encoded_len());
    let mut response = tonic::Response::new(message);
    response.extensions_mut().insert(size);
    response
}

/// The unread bytes of all connections.
#[derive(Debug, Clone, Default)]
pub(super) struct UnreadBytes(Arc<Mutex<UnreadCounts>>);

#[derive(Debug, Default)]
struct UnreadCounts {
    all: usize,
    of: HashMap<SocketAddr, usize>,
}

impl UnreadBytes {
    /// Counts an answer, if that stays within the bounds.
    fn count(&self, connection: SocketAddr, bytes: usize) -> Option<Counted> {
        let mut counts = self.0.lock();
        let of = counts.of.get(&connection).copied().unwrap_or_default();
        if of + bytes > MAX_OF_CONNECTION || counts.all + bytes > MAX_OF_PROCESS {
            return None;
        }
        counts.all += bytes;
        counts.of.insert(connection, of + bytes);
        Some(Counted { unread: self.clone(), connection, bytes })
    }
}

/// An answer that is counted, until this is dropped.
#[derive(Debug)]
struct Counted {
    unread: UnreadBytes,
    connection: SocketAddr,
    bytes: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.unread.0.lock();
        counts.all -= self.bytes;
        if let Some(of) = counts.of.get_mut(&self.connection) {
            *of -= self.bytes;
            if *of == 0 {
                counts.of.remove(&self.connection);
            }
        }
    }
}

impl<S> Layer<S> for UnreadBytes {
    type Service = CountingService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CountingService { inner, unread: self.clone() }
    }
}

/// A service whose answers are counted.
#[derive(Debug, Clone)]
pub(super) struct CountingService<S> {
    inner: S,
    unread: UnreadBytes,
}

impl<S, B> Service<Request<B>> for CountingService<S>
where
    S: Service<Request<B>, Response = Response<tonic::body::Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let connection =
            request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr);
        let (unread, answered) = (self.unread.clone(), self.inner.call(request));
        Box::pin(async move {
            let response = answered.await?;
            Ok(bounded(&unread, connection, response))
        })
    }
}

fn bounded(
    unread: &UnreadBytes,
    connection: Option<SocketAddr>,
    response: Response<tonic::body::Body>,
) -> Response<tonic::body::Body> {
    let size = response.extensions().get::<AnswerSize>().copied();
    let (Some(AnswerSize(bytes)), Some(connection)) = (size, connection) else { return response };
    match unread.count(connection, bytes) {
        Some(counted) => response.map(|body| {
            tonic::body::Body::new(PiecewiseBody { body, rest: Bytes::new(), counted })
        }),
        None => Status::from(Error::SlowConsumer).into_http(),
    }
}

/// A body in pieces, counted while there are more of them.
#[derive(Debug)]
struct PiecewiseBody {
    body: tonic::body::Body,
    rest: Bytes,
    #[allow(dead_code, reason = "it is counted until it is dropped")]
    counted: Counted,
}

impl Body for PiecewiseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if !self.rest.has_remaining() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(piece);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        !self.rest.has_remaining() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_its_bound_and_gives_back_what_was_read() {
        let unread = UnreadBytes::default();
        let [one, other] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let half = MAX_OF_CONNECTION / 2;
        let counted = [unread.count(one, half), unread.count(one, half)];
        assert!(counted.iter().all(Option::is_some));
        assert!(unread.count(one, 1).is_none());
        assert!(unread.count(other, 1).is_some(), "others are not held up");
        drop(counted);
        assert!(unread.count(one, MAX_OF_CONNECTION).is_some());
        assert_eq!(unread.0.lock().all, 0);
        assert!(unread.0.lock().of.is_empty());
    }
}
