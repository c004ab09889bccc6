//! Traces: contexts as the header `traceparent`, and back.

use http::{HeaderMap, HeaderName, HeaderValue};

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
