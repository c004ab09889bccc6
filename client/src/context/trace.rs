//! The trace that a context belongs to.

use std::sync::Arc;

use lockd_proto::{RequestId, TraceParent};

use super::Context;

impl Context {
    /// A child that belongs to a trace. A W3C trace id (32 hexadecimal digits) also goes out
    /// as `traceparent`; where the caller's span is known, say so by
    /// [`with_trace_parent`](Self::with_trace_parent).
    #[must_use]
    pub fn with_trace_id(&self, trace_id: impl AsRef<str>) -> Self {
        let mut node = self.child();
        node.trace_id = Some(trace_id.as_ref().into());
        node.trace_parent = None;
        Self { node: Arc::new(node) }
    }

    /// A child whose calls are children of this span: it goes out as `traceparent`, and lockd
    /// hangs its own spans below it.
    ///
    /// ```
    /// use lockd_client::Context;
    ///
    /// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let ctx = Context::background().with_trace_parent(header.parse()?);
    /// assert_eq!(ctx.trace_id(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    /// # Ok::<(), lockd_client::TraceParentError>(())
    /// ```
    #[must_use]
    pub fn with_trace_parent(&self, parent: TraceParent) -> Self {
        let mut node = self.child();
        node.trace_id = Some(hex::encode(parent.trace_id()).into());
        node.trace_parent = Some(parent);
        Self { node: Arc::new(node) }
    }

    /// The trace id, if one was given to it or to a context above it.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.node.trace_id.as_deref()
    }

    /// The span that calls made in this context are children of: the given one or, if only a
    /// W3C trace id was given, a span of that trace that is never reported.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        let unreported = || self.trace_id().and_then(some_span);
        self.node.trace_parent.or_else(unreported)
    }
}

/// A span of a trace of which only the id is known, where that is a W3C one.
fn some_span(trace_id: &str) -> Option<TraceParent> {
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
