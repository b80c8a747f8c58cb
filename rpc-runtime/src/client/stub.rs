//! Functions that generated stubs call: they pass on the arguments and decode the outcome.

use std::future::Future;

use super::handle::Client;
use super::request::Target;
use crate::buffer;
use crate::call::{Reply, ReplyBody, ReplyStream};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::observe::ClientCall;
#[cfg(feature = "tower")]
use crate::protocol::payload::Arguments;
use crate::protocol::{self, DecodeLimits, Kind, blob};
use crate::service::{Method, Oneway, Outcome};
use crate::status::Status;
use crate::streaming;

/// Calls the method and waits for its reply.
#[inline]
pub fn call<M: Method>(
    client: &Client,
    arguments: M::Arguments,
) -> impl Future<Output = M::Outcome> + Send {
    let mut arguments = Some(arguments);
    async move {
        let mut observed = client.observed(M::DESCRIPTOR);
        let target = Target::of::<M>(Kind::Request);
        let reply = client.invoke(&target, &mut arguments, &mut observed).await;
        let outcome = reply.and_then(|reply| {
            let status = reply.status();
            decode(reply, client.decode).inspect(|_| observed.ended(status))
        });
        outcome.unwrap_or_else(|error| {
            observed.ended(error.status());
            M::Outcome::from_result(Err(explain(M::DESCRIPTOR, error).into()))
        })
    }
}

/// Calls a oneway method. Returns when the request was passed to the connection.
#[inline]
pub fn notify<M: Oneway>(
    client: &Client,
    arguments: M::Arguments,
) -> impl Future<Output = M::Outcome> + Send {
    let mut arguments = Some(arguments);
    async move {
        let mut observed = client.observed(M::DESCRIPTOR);
        let target = Target::of::<M>(Kind::Oneway);
        let result = client.invoke(&target, &mut arguments, &mut observed).await.map(drop);
        observed.ended(result.as_ref().map_or_else(RpcError::status, |()| Status::Ok));
        M::Outcome::from_result(result.map_err(|error| explain(M::DESCRIPTOR, error).into()))
    }
}

/// Calls a method by its descriptor, and returns the encoded reply.
#[cfg(feature = "tower")]
pub(crate) async fn request<A: Arguments>(
    client: &Client,
    method: &'static MethodDescriptor,
    arguments: A,
) -> Result<Reply, RpcError> {
    let mut observed = client.observed(method);
    let target = Target::untyped(method);
    let reply = client.invoke(&target, &mut Some(arguments), &mut observed).await;
    observed.ended(reply.as_ref().map_or_else(RpcError::status, Reply::status));
    reply.map_err(|error| explain(method, error))
}

/// The contract's value or error; an `RpcError` is the framework's own.
#[inline]
fn decode<O: Outcome>(reply: Reply, limits: DecodeLimits) -> Result<O, RpcError> {
    let Reply { body, stream, status, metadata, .. } = reply;
    if let Some(metadata) = metadata {
        drop_metadata(metadata);
    }
    let stream = match stream {
        Some(ReplyStream::Incoming(items)) => Some(items),
        Some(ReplyStream::Outgoing(_)) | None => None,
    };
    let copied;
    let (bytes, whole) = match &body {
        ReplyBody::Pooled(bytes) => (bytes.as_slice(), None),
        ReplyBody::Whole(bytes) => (bytes.as_ref(), Some(bytes)),
        ReplyBody::Encoded(output) => {
            copied = output.to_vec();
            (copied.as_slice(), None)
        }
    };
    let result = streaming::offer(stream, || {
        blob::decoding(whole, || match status {
            Status::Ok => protocol::decode(bytes, limits).map(Ok),
            _ => protocol::decode(bytes, limits).map(Err),
        })
    });
    if let ReplyBody::Pooled(body) = body {
        buffer::give(body);
    }
    result.map(O::from_result).map_err(|error| {
        RpcError::new(Status::Decode, format!("the answer does not decode: {}", error.message()))
            .with_source(&error)
    })
}

/// Few replies have some.
#[cold]
fn drop_metadata(metadata: Box<Metadata>) {
    drop(metadata);
}

impl Client {
    #[inline]
    fn observed(&self, method: &'static MethodDescriptor) -> ClientCall<'_> {
        ClientCall::new(self.methods.as_deref(), method)
    }
}

fn explain(method: &'static MethodDescriptor, error: RpcError) -> RpcError {
    error.with_method(method).with_idempotent(method.is_idempotent())
}
