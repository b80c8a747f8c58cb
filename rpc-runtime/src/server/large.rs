//! [`LargeRequest`]: a request that is decoded outside of its connection's task.

use std::sync::Arc;

use bytes::Bytes;

use super::answers::AnswerSize;
use super::dispatcher::Route;
use super::spawned_call::Running;
use super::user_code::caught;
use crate::call::Context;
use crate::connection::{Channel, IncomingStream};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::Form;
use crate::protocol::{Body, DecodeLimits, Frame};
use crate::service::{NotDispatched, OverMemory, Request, Service};

/// Requests with a payload of this many bytes or more are decoded on the decoding threads. The
/// hand-over takes a few microseconds.
pub(super) const LARGE: usize = 64 << 10;

/// Smaller requests are decoded in place as long as their arguments take at most this much memory
/// for each byte, as charged by the decoder, and then begun again on the decoding threads. The
/// memory is not known before.
const MEMORY_PER_BYTE: usize = 4;
/// Memory of arguments that are decoded in place, whatever their length.
const SMALL: usize = 64 << 10;

/// The limits for decoding arguments of so many bytes in place.
#[inline]
pub(super) fn limits_in_place(limits: DecodeLimits, encoded: usize) -> DecodeLimits {
    limits.within(encoded.saturating_mul(MEMORY_PER_BYTE).max(SMALL))
}

/// Whether a request is to be decoded again, with these limits.
///
/// # Errors
/// It is not: it failed for another reason, or the limits are no larger than those in place.
#[cold]
pub(super) fn over_memory(
    why: NotDispatched,
    limits: DecodeLimits,
    encoded: usize,
) -> Result<OverMemory, RpcError> {
    match why.over_memory {
        Some(request) if limits != limits_in_place(limits, encoded) => Ok(request),
        _ => Err(why.error),
    }
}

/// A request that owns its payload.
pub(super) struct LargeRequest {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    payload: Bytes,
    /// Where the arguments begin.
    arguments: usize,
    form: Form,
    stream: Option<IncomingStream>,
    answers: Arc<AnswerSize>,
    pub(super) context: Context,
}

impl LargeRequest {
    /// An owned copy of the request in `frame`, whose last bytes are its arguments. Large payloads
    /// are shared, not copied.
    pub(super) fn new(
        route: &Route,
        frame: &Frame<'_>,
        arguments: usize,
        stream: Option<IncomingStream>,
        context: Context,
    ) -> Self {
        let payload = match &frame.body {
            Body::Owned(payload) => payload.clone(),
            body => Bytes::copy_from_slice(body.as_slice()),
        };
        Self {
            service: Arc::clone(&route.service),
            method: route.method,
            // The metadata comes before the arguments.
            arguments: payload.len().saturating_sub(arguments),
            payload,
            form: Form::of(frame.header.flags),
            stream,
            answers: Arc::clone(route.answers()),
            context,
        }
    }

    /// Decodes the arguments and creates the call's future. Returns the payload, to be freed on the
    /// thread that allocated it: memory returns to that thread's cache.
    pub(super) fn decode(self, channel: &Channel) -> (Result<Running, RpcError>, Bytes) {
        let Self { service, method, payload, arguments, form, stream, answers, mut context } = self;
        let request = Request {
            method,
            arguments: payload.get(arguments..).unwrap_or_default(),
            payload: Some(&payload),
            form,
            limits: channel.settings().decode,
            stream,
        };
        let dispatch = || Ok(service.dispatch(request)?);
        let call = caught(method, channel, || context.enter(dispatch));
        (call.map(|call| Running { method, answers, context, call }), payload)
    }
}
