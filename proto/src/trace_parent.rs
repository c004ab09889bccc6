//! W3C trace contexts, as the header `traceparent` carries them.

use std::{fmt, str::FromStr};

/// A span of a caller, whose children are the spans of the service that is called.
///
/// Source: <https://www.w3.org/TR/trace-context/#traceparent-header>.
///
/// ```
/// use lockd_proto::TraceParent;
///
/// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let parent: TraceParent = header.parse()?;
/// assert!(parent.is_sampled());
/// assert_eq!(parent.to_string(), header);
/// # Ok::<(), lockd_proto::TraceParentError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    sampled: bool,
}

/// A text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a W3C traceparent such as 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01: \
     version, trace id, span id and flags in lower-case hexadecimal digits, no id all zeros"
)]
pub struct TraceParentError;

/// The flag of a trace that its caller records.
const SAMPLED: u8 = 1;

impl TraceParent {
    /// A span of a trace that is recorded; `None` where an id is all zeros, which names nothing.
    #[must_use]
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8]) -> Option<Self> {
        let named = trace_id != [0; 16] && span_id != [0; 8];
        named.then_some(Self { trace_id, span_id, sampled: true })
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span in it.
    #[must_use]
    pub fn span_id(&self) -> [u8; 8] {
        self.span_id
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (hex::encode(self.trace_id), hex::encode(self.span_id));
        write!(f, "00-{trace}-{span}-{:02x}", u8::from(self.sampled))
    }
}

impl FromStr for TraceParent {
    type Err = TraceParentError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('-');
        let version = bytes::<1>(parts.next())?;
        let (trace_id, span_id) = (bytes(parts.next())?, bytes(parts.next())?);
        let [flags] = bytes(parts.next())?;
        // Later versions may have more parts; the version ff is none.
        if version == [0xff] || (version == [0] && parts.next().is_some()) {
            return Err(TraceParentError);
        }
        let parent = Self::new(trace_id, span_id).ok_or(TraceParentError)?;
        Ok(Self { sampled: flags & SAMPLED != 0, ..parent })
    }
}

fn bytes<const N: usize>(part: Option<&str>) -> Result<[u8; N], TraceParentError> {
    let part = part.filter(|part| !part.bytes().any(|b| b.is_ascii_uppercase()));
    let mut bytes = [0; N];
    hex::decode_to_slice(part.ok_or(TraceParentError)?, &mut bytes)
        .map_err(|_| TraceParentError)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_recorded_is_told_apart_and_later_versions_are_read() {
        let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
        let sampled = |text: String| text.parse::<TraceParent>().map(|it| it.is_sampled());
        assert_eq!(sampled(format!("00-{ids}-00")), Ok(false));
        assert_eq!(sampled(format!("00-{ids}-03")), Ok(true));
        assert_eq!(sampled(format!("01-{ids}-01-more")), Ok(true));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceParentError), "{text}");
        }
    }
}
