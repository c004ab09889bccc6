//! Traces: contexts as the header `traceparent`, and back.

use http::{HeaderMap, HeaderName, HeaderValue};
use lockd_proto::{RequestId, TraceParent};

use crate::context::Context;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The context of a request that may belong to a trace. A header that is malformed is none, as W3C
/// asks for.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn read(headers: &HeaderMap, ctx: Context) -> Context {
    let header = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
    match header.and_then(|text| text.parse().ok()) {
        Some(parent) => ctx.with_trace_parent(parent),
        None => ctx,
    }
}

/// Sends a trace along, unless the request has one of its own.
pub(crate) fn write(ctx: &Context, headers: &mut HeaderMap) {
    let parent = ctx.trace_parent().map(|parent| parent.to_string());
    let parent = parent.and_then(|text| HeaderValue::from_str(&text).ok());
    if let Some(parent) = parent.filter(|_| !headers.contains_key(TRACEPARENT)) {
        headers.insert(TRACEPARENT, parent);
    }
}

/// A span of a trace of which only the id is known, where that is a W3C one.
pub(crate) fn some_span(trace_id: &str) -> Option<TraceParent> {
    let mut trace = [0; 16];
    hex::decode_to_slice(trace_id, &mut trace).ok()?;
    let random = RequestId::random();
    TraceParent::new(trace, *random.as_bytes().first_chunk()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_w3c_trace_id_becomes_a_traceparent() {
        let parent = some_span("4bf92f3577b34da6a3ce929d0e0e4736").unwrap().to_string();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
        for invalid in ["", "abc", "00000000000000000000000000000000", "zz"] {
            assert_eq!(some_span(invalid), None);
        }
    }
}
