//! The server's chain: the interceptors of a call, then its method.
//!
//! A chain runs like a method alone: it is polled in place first, continues in a task if it waits,
//! and is dropped with it. The arguments are kept as bytes until the method is reached, so a
//! refused call runs no `Deserialize` of a user.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};

use pin_project_lite::pin_project;

use super::argument_memory;
use super::dispatcher::Route;
use super::method_end::MethodEnd;
use super::owned_request::OwnedRequest;
use super::threads::Threads;
use super::user_code::{Code, caught};
use crate::budget::Claim;
use crate::buffer;
use crate::call::{Call, Context, Reply, ReplyBody, ReplyStream};
use crate::connection::Channel;
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::Form;
use crate::protocol::{Header, Output};
use crate::service::{BoxCall, Finished, RunningCall};

/// The call of a request that passes interceptors before its method.
pub(super) fn call(
    route: &Route,
    request: OwnedRequest,
    header: &Header,
    context: &Context,
    channel: &Arc<Channel>,
    threads: &Threads,
) -> BoxCall {
    let interceptors = route.interceptors.clone();
    let mut end = MethodEnd::new(route, request, header, context, channel, threads);
    let (method, context) = (route.method, context.clone());
    let future = async move {
        let mut call = Call::incoming(method, &context);
        let outcome = interceptors.before(&mut end).run(&mut call).await;
        // An interceptor may have replaced the error, so the mark of the error is not used.
        outcome.map_err(|error| match end.has_run() {
            true => error.maybe_executed(),
            false => error.unexecuted(),
        })
    };
    let channel = Arc::clone(channel);
    let form = Form::of(header.flags);
    BoxCall::new(Chained { future, method, channel, form, arguments: 0, outcome: None })
}

pin_project! {
    struct Chained<F> {
        #[pin]
        future: F,
        method: &'static MethodDescriptor,
        channel: Arc<Channel>,
        // Of the request.
        form: Form,
        arguments: usize,
        outcome: Option<Result<Reply, RpcError>>,
    }
}

impl<F> Chained<F>
where
    F: Future<Output = Result<Reply, RpcError>>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Result<Reply, RpcError>> {
        let this = self.project();
        if let Some(outcome) = this.outcome.take() {
            return Poll::Ready(outcome);
        }
        let outer = argument_memory::replace(*this.arguments);
        // Panics of the method are caught behind the interceptors, which see its error.
        let polled =
            caught(Code::Interceptor, this.method, this.channel, || Ok(this.future.poll(cx)));
        *this.arguments = argument_memory::replace(outer);
        polled.unwrap_or_else(|error| Poll::Ready(Err(error)))
    }
}

impl<F> RunningCall for Chained<F>
where
    F: Future<Output = Result<Reply, RpcError>> + Send,
{
    fn poll_into(
        self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        out: &mut Output,
    ) -> Poll<Result<Finished, RpcError>> {
        let form = self.form;
        let reply = ready!(self.poll(cx));
        Poll::Ready(reply.and_then(|reply| finish(reply, form, out)))
    }

    fn poll_ready(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<()> {
        let outcome = ready!(self.as_mut().poll(cx));
        *self.project().outcome = Some(outcome);
        Poll::Ready(())
    }

    fn arguments(&self) -> usize {
        self.arguments
    }

    fn take_room(self: Pin<&mut Self>) -> Option<Claim> {
        let reply = self.project().outcome.as_mut()?.as_mut().ok()?;
        reply.room.take()?.downcast().ok().map(|room| *room)
    }
}

/// Appends what an interceptor has given back for a request of this form.
fn finish(reply: Reply, asked: Form, out: &mut Output) -> Result<Finished, RpcError> {
    let Reply { body, metadata, stream, status, form, .. } = reply;
    if form == Form::Compact && asked == Form::Named {
        // The fields of the caller's types may stand elsewhere.
        return Err(RpcError::internal(
            "the reply to another call is encoded as arrays, which this caller may read wrongly",
        ));
    }
    let stream = match stream {
        None => None,
        Some(ReplyStream::Outgoing(source)) => Some(source),
        Some(ReplyStream::Incoming(_)) => {
            return Err(RpcError::internal(
                "the reply of another provider's stream is not sent on",
            ));
        }
    };
    match body {
        ReplyBody::Pooled(bytes) => {
            out.extend_from_slice(&bytes);
            buffer::give(bytes);
        }
        ReplyBody::Whole(bytes) => out.append(bytes),
        ReplyBody::Encoded(encoded) => {
            out.append_all(&encoded);
            buffer::give_output(*encoded);
        }
    }
    Ok(Finished { status, form, stream, metadata })
}
