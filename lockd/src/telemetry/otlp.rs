//! Spans on their way to a collector: OTLP over gRPC, in batches, by a thread of their own.
//!
//! A collector that does not answer costs spans, never a request. `OTEL_EXPORTER_OTLP_*` and
//! `OTEL_BSP_*` are honoured as OpenTelemetry defines them.

use std::{sync::Arc, time::Duration};

use lockd_proto::TraceParent;
use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _},
};

use super::traces::{Span, Traces, Verdict};

/// How long the last spans may take to leave when the daemon stops.
const FLUSH: Duration = Duration::from_secs(3);

/// The way to a collector.
#[derive(Debug)]
pub(crate) struct Otlp(Arc<BatchSpanProcessor>);

impl Otlp {
    /// A way that is taken when there are spans: a collector may come later. Needs a Tokio runtime.
    ///
    /// # Errors
    /// The endpoint, or what the environment says of it, is malformed.
    pub(crate) fn to(endpoint: &str, replica: &str) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let resource = Resource::builder()
            .with_service_name("lockd")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", replica.to_owned()))
            .build();
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        processor.set_resource(&resource);
        Ok(Self(Arc::new(processor)))
    }

    /// Traces that go this way.
    #[must_use]
    pub(crate) fn traces(&self) -> Traces {
        let processor = self.0.clone();
        // It is put into a bounded queue, or dropped where that is full.
        Traces::to(Box::new(move |span| processor.on_end(to_data(span))))
    }

    /// Sends what is left, for at most 3 s.
    pub(crate) async fn flush(self) {
        let flush = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(FLUSH));
        if let Ok(Err(error)) = flush.await {
            tracing::warn!(%error, "the last spans have not reached the collector");
        }
    }
}

fn to_data(span: Span) -> SpanData {
    let mut attributes = vec![
        KeyValue::new("lockd.namespace", span.lock.namespace.to_string()),
        KeyValue::new("lockd.lock", span.lock.name.to_string()),
        KeyValue::new("lockd.session", span.session.to_string()),
        KeyValue::new("lockd.outcome", span.outcome),
    ];
    // A text, as in every other answer of lockd's: it may not fit into a signed integer.
    attributes.extend(span.token.map(|token| KeyValue::new("lockd.token", token.to_string())));
    let mut links = SpanLinks::default();
    links.links.extend(span.link.map(|hold| Link::with_context(to_context(hold))));
    SpanData {
        span_context: to_context(span.place),
        parent_span_id: SpanId::from_bytes(span.parent.span_id()),
        parent_span_is_remote: true,
        span_kind: SpanKind::Server,
        name: span.name.into(),
        start_time: span.began,
        end_time: span.ended,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links,
        status: match span.verdict {
            Verdict::Fine => Status::Unset,
            Verdict::Failed => Status::error(span.outcome),
        },
        instrumentation_scope: InstrumentationScope::builder("lockd").build(),
    }
}

fn to_context(place: TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(place.trace_id()),
        SpanId::from_bytes(place.span_id()),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    )
}
