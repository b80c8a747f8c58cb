//! The trace context of a call: from the span of the caller to the span of the method.
//!
//! The formats are those of the global propagator of OpenTelemetry: with `TraceContextPropagator`,
//! `traceparent` and `tracestate` of the W3C.

use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::metadata::Metadata;

/// Passes the entries of metadata that identify the span of a call to `set`; those of the current
/// span, if no subscriber is interested in the call's.
pub(crate) fn inject_trace(span: &Span, set: &mut dyn FnMut(&str, String)) {
    let context = match span.is_disabled() {
        true => Span::current().context(),
        false => span.context(),
    };
    // Without its own trace, an inherited context is passed on; it skips this process.
    if context.span().span_context().is_valid() {
        global::get_text_map_propagator(|format| {
            format.inject_context(&context, &mut Entries(set))
        });
    }
}

/// Makes `span`, which must not have been entered yet, continue the trace of the caller.
pub(crate) fn continue_trace(span: &Span, metadata: Option<&Metadata>) {
    let Some(metadata) = metadata.filter(|_| !span.is_disabled()) else { return };
    let caller = global::get_text_map_propagator(|format| {
        format.extract_with_context(&Context::new(), &Received(metadata))
    });
    if caller.span().span_context().is_valid() {
        // There may be no layer for OpenTelemetry.
        let _ = span.set_parent(caller);
    }
}

struct Entries<'s>(&'s mut dyn FnMut(&str, String));

impl Injector for Entries<'_> {
    fn set(&mut self, key: &str, value: String) {
        (self.0)(key, value);
    }
}

struct Received<'m>(&'m Metadata);

impl Extractor for Received<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let value = self.0.get(key)?;
        // The SDK takes ids of any length, and sends on a state of up to 16 KiB.
        let usable = match key {
            "traceparent" => is_traceparent(value.as_bytes()),
            "tracestate" => value.len() <= MAX_TRACE_STATE,
            _ => true,
        };
        usable.then_some(value.as_str())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

/// Longest `tracestate` in bytes that is taken over, and sent on with nested calls: what the W3C
/// wants to be passed on at least.
const MAX_TRACE_STATE: usize = 512;

/// Whether this is `version-trace-parent-flags` by the rules of the W3C. Later versions may have
/// more. Ids of zeros are refused by the propagator.
fn is_traceparent(text: &[u8]) -> bool {
    let mut parts = text.split(|byte| *byte == b'-');
    let mut hex = |digits| {
        let part = parts.next()?;
        let is_hex = part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (is_hex && part.len() == digits).then_some(part)
    };
    let fields = (hex(2), hex(32), hex(16), hex(2));
    let (Some(version), Some(_), Some(_), Some(_)) = fields else { return false };
    match version {
        b"ff" => false,
        b"00" => parts.next().is_none(),
        _ => true,
    }
}
