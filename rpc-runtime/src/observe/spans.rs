//! The names of spans and of their fields.
//!
//! Fields have the names of OpenTelemetry where there is one (semantic conventions 1.45). No field
//! contains a payload, an argument or an error message.

use tracing::Span;
use tracing::field::Empty;

use super::Side;
use super::names::{is_failure, status_code};
use crate::descriptor::MethodDescriptor;
use crate::status::Status;

/// `rpc.system.name`.
const SYSTEM: &str = "rpc-runtime";

/// The span of a call at the client, a child of the current span. [`sent`] records the empty
/// fields.
#[inline]
pub(crate) fn client_call(method: &MethodDescriptor) -> Span {
    tracing::debug_span!(
        target: "rpc_runtime::call",
        "rpc.client.call",
        otel.kind = "client",
        otel.name = %method,
        rpc.system.name = SYSTEM,
        rpc.service = method.service().name(),
        rpc.method = %method,
        rpc.request.id = Empty,
        peer = Empty,
        rpc.status_code = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// Records that a request was given to a connection.
#[inline]
pub(crate) fn sent(span: &Span, id: u64, peer: &str) {
    if !span.is_disabled() {
        span.record("rpc.request.id", id).record("peer", peer);
    }
}

/// Records the status of a call that has ended.
#[inline]
pub(crate) fn ended(span: &Span, status: Status) {
    if !span.is_disabled() {
        let (_, code) = status_code(status);
        span.record("rpc.status_code", code);
        if is_failure(status) {
            span.record("error.type", code).record("otel.status_code", "ERROR");
        }
    }
}

/// The span of a call at the server, in which the method runs. It has no parent: as a child of the
/// connection's span, it would be part of a trace as long as the connection.
#[inline]
pub(crate) fn server_call(method: &MethodDescriptor, id: u64, peer: &str) -> Span {
    tracing::debug_span!(
        target: "rpc_runtime::call",
        parent: None,
        "rpc.server.call",
        otel.kind = "server",
        otel.name = %method,
        rpc.system.name = SYSTEM,
        rpc.service = method.service().name(),
        rpc.method = %method,
        rpc.request.id = id,
        peer,
        rpc.status_code = Empty,
        error.type = Empty,
        otel.status_code = Empty,
    )
}

/// The span of an open connection, for events of its driver and handlers.
///
/// `None` if no subscriber is interested. Boxed to keep the tasks of connections small.
pub(crate) fn connection(side: Side, peer: &str) -> Option<Box<Span>> {
    let side = match side {
        Side::Client => "client",
        Side::Server => "server",
    };
    let span = tracing::debug_span!(
        target: "rpc_runtime::connection",
        parent: None,
        "rpc.connection",
        side,
        peer,
    );
    (!span.is_disabled()).then(|| Box::new(span))
}
