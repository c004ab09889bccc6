//! W3C trace contexts: a trace id as the header `traceparent`, and back.
//!
//! Source: <https://www.w3.org/TR/trace-context/>.

use http::{HeaderMap, HeaderName, HeaderValue};
use lockd_proto::RequestId;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace id of a request.
#[cfg(any(feature = "grpc", feature = "http"))]
pub(crate) fn read(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let id = text.split('-').nth(1)?;
    let valid = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    (valid && id.bytes().any(|b| b != b'0')).then_some(id)
}

/// Sends a trace id along, unless the request has one of its own.
pub(crate) fn write(trace_id: Option<&str>, headers: &mut HeaderMap) {
    let parent = trace_id.and_then(traceparent);
    let parent = parent.and_then(|text| HeaderValue::from_str(&text).ok());
    if let Some(parent) = parent.filter(|_| !headers.contains_key(TRACEPARENT)) {
        headers.insert(TRACEPARENT, parent);
    }
}

/// A `traceparent` for a trace id, if it is one.
fn traceparent(trace_id: &str) -> Option<String> {
    let hex = trace_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let valid = hex && trace_id.len() == 32 && trace_id.bytes().any(|b| b != b'0');
    // The first half of a random id is never zero: it carries the version.
    let id = RequestId::random();
    let (span, _) = id.as_bytes().split_at(8);
    valid.then(|| format!("00-{trace_id}-{}-01", hex::encode(span)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_w3c_trace_id_becomes_a_traceparent() {
        let parent = traceparent("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        assert!(parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{parent}");
        assert_eq!(parent.len(), 55);
        for invalid in ["", "abc", "00000000000000000000000000000000", "zz"] {
            assert_eq!(traceparent(invalid), None);
        }
    }
}
