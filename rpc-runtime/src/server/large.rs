//! [`LargeRequest`]: a request that is decoded outside of its connection's task.

use std::sync::Arc;

use super::answers::AnswerSize;
use super::dispatcher::Route;
use super::owned_request::OwnedRequest;
use super::spawned_call::Running;
use super::user_code::{Code, caught};
use crate::call::Context;
use crate::connection::Channel;
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;

/// A request for a decoding thread.
pub(super) struct LargeRequest {
    method: &'static MethodDescriptor,
    request: OwnedRequest,
    answers: Arc<AnswerSize>,
    pub(super) context: Context,
}

impl LargeRequest {
    pub(super) fn new(route: &Route, request: OwnedRequest, context: Context) -> Self {
        Self { method: route.method, request, answers: Arc::clone(route.answers()), context }
    }

    /// Decodes the arguments and creates the call's future. Returns the request, to be freed on the
    /// thread that allocated it: memory returns to that thread's cache.
    pub(super) fn decode(self, channel: &Channel) -> (Result<Running, RpcError>, OwnedRequest) {
        let Self { method, mut request, answers, mut context } = self;
        let dispatch = || Ok(request.dispatch(channel.settings().decode)?);
        let call = caught(Code::Method, method, channel, || context.enter(dispatch));
        (call.map(|call| Running { method, answers, context, call }), request)
    }
}
