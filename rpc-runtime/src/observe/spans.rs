//! The names of spans and of their fields.
//!
//! Fields have OpenTelemetry's names where it has one (semantic conventions 1.45). No field holds a
//! payload, an argument or an error's message.

use tracing::Span;
use tracing::field::Empty;

use super::Side;
use super::names::status_code;
use crate::descriptor::MethodDescriptor;
use crate::status::Status;

/// `rpc.system.name`.
const SYSTEM: &str = "rpc-runtime";

/// A call at its caller, a child of whatever span it is made in. What is not known yet is recorded
/// by [`sent`].
#[inline]
pub(crate) fn client_call(method: &MethodDescriptor) -> Span {
    tracing::debug_span!(
        target: "rpc_runtime::call",
        "rpc.client.call",
        otel.kind = "client",
        rpc.system.name = SYSTEM,
        rpc.service = method.service().name(),
        rpc.method = %method,
        rpc.request.id = Empty,
        peer = Empty,
        rpc.response.status_code = Empty,
    )
}

/// A call has been given to a connection.
#[inline]
pub(crate) fn sent(span: &Span, id: u64, peer: &str) {
    if !span.is_disabled() {
        span.record("rpc.request.id", id).record("peer", peer);
    }
}

/// A call has ended.
#[inline]
pub(crate) fn ended(span: &Span, status: Status) {
    if !span.is_disabled() {
        span.record("rpc.response.status_code", status_code(status).1);
    }
}

/// A call at its provider; the method runs inside. It has no parent: a connection's span lives as
/// long as the connection, and a trace of all its calls would be of no use.
#[inline]
pub(crate) fn server_call(method: &MethodDescriptor, id: u64, peer: &str) -> Span {
    tracing::debug_span!(
        target: "rpc_runtime::call",
        parent: None,
        "rpc.server.call",
        otel.kind = "server",
        rpc.system.name = SYSTEM,
        rpc.service = method.service().name(),
        rpc.method = %method,
        rpc.request.id = id,
        peer,
        rpc.response.status_code = Empty,
    )
}

/// A connection, from when it is open to its end. What its driver and its handlers do is inside.
///
/// `None` if nobody wants it. Boxed, since the task of each connection has room for it.
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
