//! [`LargeRequest`]: a request that is decoded outside of its connection's task.

use std::sync::Arc;

use bytes::Bytes;

use super::answers::AnswerSize;
use super::dispatcher::Route;
use super::late::{Running, caught};
use crate::call::Context;
use crate::channel::{Channel, IncomingStream};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::Form;
use crate::protocol::{Body, Frame};
use crate::service::{Request, Service};

/// Requests with a payload of this many bytes or more are decoded on the decoding threads. Decoding
/// 64 KiB takes a few milliseconds for most types, and longer where one byte becomes many bytes of
/// value, up to `max_decoded`. The hand-over takes a few microseconds.
pub(super) const LARGE: usize = 64 << 10;

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
    /// An owned copy of `request`, whose arguments are in `frame`. Large payloads are shared, not
    /// copied.
    pub(super) fn new(
        route: &Route,
        request: Request<'_>,
        frame: &Frame<'_>,
        context: Context,
    ) -> Self {
        let payload = match &frame.body {
            Body::Owned(payload) => payload.clone(),
            body => Bytes::copy_from_slice(body.as_slice()),
        };
        Self {
            service: Arc::clone(&route.service),
            method: request.method,
            // The metadata comes before the arguments.
            arguments: payload.len().saturating_sub(request.arguments.len()),
            payload,
            form: request.form,
            stream: request.stream,
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
        let call = caught(method, channel, || context.enter(|| service.dispatch(request)));
        (call.map(|call| Running { method, answers, context, call }), payload)
    }
}
