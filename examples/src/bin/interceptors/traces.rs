//! Export of spans. This exporter prints them. A program in production uses another one, such as
//! that of `opentelemetry-otlp`, in a batch.

use opentelemetry::global;
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Exports the spans of calls and of this program. Also writes the debug events of this program to
/// standard output, and the log that `RUST_LOG` selects to standard error.
pub(crate) fn init() -> SdkTracerProvider {
    // The format of the trace context in the metadata of calls: `traceparent` of the W3C.
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder().with_simple_exporter(Lines).build();

    let spans = Targets::new()
        .with_target("rpc_runtime::call", Level::DEBUG)
        .with_target("interceptors", Level::INFO);
    let tracer = provider.tracer("interceptors");
    let exported = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(spans);

    let own = Targets::new().with_target("interceptors", Level::DEBUG);
    let printed = fmt::layer().without_time().with_target(false).with_ansi(false).with_filter(own);
    let log = fmt::layer().with_writer(std::io::stderr).with_filter(EnvFilter::from_default_env());
    tracing_subscriber::registry().with(exported).with(printed).with(log).init();
    provider
}

/// Prints each span as a line.
#[derive(Debug)]
struct Lines;

impl SpanExporter for Lines {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        for span in batch {
            let parent = match span.parent_span_id {
                SpanId::INVALID => "no span".to_owned(),
                parent => format!("span {parent}"),
            };
            println!(
                "span {} of trace {}, child of {parent}: {} ({:?})",
                span.span_context.span_id(),
                span.span_context.trace_id(),
                span.name,
                span.span_kind,
            );
        }
        Ok(())
    }
}
