//! The way of a call through the client, from its arguments to its outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Client;
use crate::buffer;
use crate::channel::{CallError, Channel, Reply, Request, Source, clock, read_error};
use crate::context::{Context, Metadata};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::{self, Arguments};
use crate::protocol::{Flags, Header, HelloService, Kind};
use crate::service::{Method, Oneway, Outcome};
use crate::status::Status;
use crate::streaming;

/// Channels that are tried when one turns out to be closed before anything was sent.
const MAX_CHANNELS: usize = 4;

/// Calls the method and waits for its answer.
#[inline]
pub async fn call<M: Method>(client: &Client, arguments: M::Arguments) -> M::Outcome {
    let method = M::DESCRIPTOR;
    let prepared = client.prepare(method, Kind::Request, &arguments);
    drop(arguments);
    let reply = match prepared {
        Ok(call) => client.invoke(method, call).await,
        Err(error) => Err(error),
    };
    let outcome = reply.and_then(|mut reply| {
        let stream = reply.stream.take();
        let outcome = streaming::offer(stream, || decode::<M::Outcome>(&reply));
        buffer::give(reply.body);
        outcome
    });
    outcome
        .unwrap_or_else(|error| M::Outcome::from_result(Err(client.explain(method, error).into())))
}

/// Calls a method that has no answer. Done when the request is handed to the connection.
#[inline]
pub async fn notify<M: Oneway>(client: &Client, arguments: M::Arguments) -> M::Outcome {
    let method = M::DESCRIPTOR;
    let prepared = client.prepare(method, Kind::Oneway, &arguments);
    drop(arguments);
    let result = match prepared {
        Ok(call) => client.invoke(method, call).await.map(drop),
        Err(error) => Err(error),
    };
    M::Outcome::from_result(result.map_err(|error| client.explain(method, error).into()))
}

/// The contract's value or error; an `RpcError` is the framework's own.
fn decode<O: Outcome>(reply: &Reply) -> Result<O, RpcError> {
    let result = match Status::from_wire(reply.header.status) {
        Status::Ok => payload::decode(&reply.body).map(Ok),
        _ => payload::decode(&reply.body).map(Err),
    };
    result.map(O::from_result).map_err(|error| {
        RpcError::new(Status::Decode, format!("the answer does not decode: {}", error.message()))
            .with_source(&error)
    })
}

/// A call that is ready to be sent.
struct Prepared {
    header: Header,
    body: Vec<u8>,
    /// For an argument that is a stream.
    upload: Option<Box<dyn Source>>,
    deadline: Instant,
    now: Instant,
}

impl Client {
    /// Encodes the arguments and settles the deadline. What the current context says is inherited.
    #[inline]
    fn prepare(
        &self,
        method: &'static MethodDescriptor,
        kind: Kind,
        arguments: &impl Arguments,
    ) -> Result<Prepared, RpcError> {
        let mut call = self.begin(method, kind)?;
        let (encoded, upload) =
            streaming::collect(|| arguments.encode(self.encoding, &mut call.body));
        encoded.map_err(RpcError::unexecuted)?;
        if upload.is_some() {
            if kind == Kind::Oneway {
                let error = RpcError::invalid("a oneway method cannot take a stream");
                return Err(error);
            }
            call.header.flags = call.header.flags.with(Flags::STREAM);
        }
        call.upload = upload;
        Ok(call)
    }

    /// All of [`prepare`](Self::prepare) that does not depend on the arguments' types.
    fn begin(&self, method: &'static MethodDescriptor, kind: Kind) -> Result<Prepared, RpcError> {
        let timeout = self.timeout.or(method.timeout()).unwrap_or(self.default_timeout);
        let now = clock();
        let mut deadline = deadline_after(now, timeout);
        let mut header =
            Header { method: method.id(), flags: self.encoding.flags(), ..Header::new(kind) };
        let mut body = buffer::take();
        Context::with_current(|context| {
            if let Some(outer) = context.and_then(|context| context.deadline) {
                deadline = deadline.min(outer);
            }
            let inherited = context.and_then(|context| context.metadata.as_deref());
            let merged;
            let metadata = match (inherited, self.metadata.as_deref()) {
                (None, None) => return Ok(()),
                (Some(one), None) | (None, Some(one)) => one,
                (Some(inherited), Some(own)) => {
                    merged = merge(inherited, own);
                    &merged
                }
            };
            header.flags = header.flags.with(Flags::METADATA);
            payload::encode_metadata(metadata, &mut body)
        })?;
        Ok(Prepared { header, body, upload: None, deadline, now })
    }

    /// Sends a call over a channel that takes it.
    async fn invoke(
        &self,
        method: &'static MethodDescriptor,
        call: Prepared,
    ) -> Result<Reply, RpcError> {
        let Prepared { header, mut body, mut upload, deadline, mut now } = call;
        let mut result = Err(RpcError::unavailable("there is no connection").unexecuted());
        for _ in 0..MAX_CHANNELS {
            let channel = match self.invoker.ready() {
                Some(channel) => channel,
                None => match self.acquire(deadline).await {
                    Ok(channel) => {
                        now = clock();
                        channel
                    }
                    Err(error) => {
                        result = Err(error);
                        break;
                    }
                },
            };
            let request = Request { header, body: &mut body, deadline, now };
            match channel.call(request, &mut upload).await {
                Ok(reply) => {
                    result = match Status::from_wire(reply.header.status) {
                        Status::Ok | Status::Application => Ok(reply),
                        Status::NotFound => {
                            Err(not_found(&channel, method).with_peer(channel.peer()))
                        }
                        _ => Err(read_error(&reply.header, &reply.body).with_peer(channel.peer())),
                    };
                    break;
                }
                Err(CallError::Failed(error)) => {
                    result = Err(error.with_peer(channel.peer()));
                    break;
                }
                // Nothing was sent, so another channel may be tried.
                Err(CallError::NotOpen(error)) => {
                    self.invoker.discard(&channel);
                    result = Err(error.with_peer(channel.peer()));
                }
            }
        }
        buffer::give(body);
        result
    }

    async fn acquire(&self, deadline: Instant) -> Result<Arc<Channel>, RpcError> {
        match tokio::time::timeout_at(deadline.into(), self.invoker.acquire()).await {
            Ok(result) => result.map_err(RpcError::unexecuted),
            Err(_) => Err(RpcError::timeout(format!(
                "the deadline passed before there was a connection to {}",
                self.invoker.describe()
            ))
            .unexecuted()),
        }
    }

    fn explain(&self, method: &'static MethodDescriptor, error: RpcError) -> RpcError {
        error.with_method(method).with_idempotent(method.is_idempotent())
    }
}

/// What is set here goes before what is inherited.
fn merge(inherited: &Metadata, own: &Metadata) -> Metadata {
    let mut merged = inherited.clone();
    merged.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    merged
}

/// Longest timeout: what 32 bits of milliseconds hold, 49 days.
const MAX_TIMEOUT: Duration = Duration::from_millis(u32::MAX as u64);

fn deadline_after(now: Instant, timeout: Duration) -> Instant {
    now.checked_add(timeout.min(MAX_TIMEOUT)).unwrap_or(now)
}

/// Why a provider that says "not found" does not have the method, as far as its hello tells.
fn not_found(channel: &Channel, method: &MethodDescriptor) -> RpcError {
    let wanted = method.service();
    let services = channel.peer_hello().map(|hello| hello.services).unwrap_or_default();
    let same_name: Vec<&HelloService> =
        services.iter().filter(|service| service.name == wanted.name()).collect();
    let fitting = same_name.iter().find(|service| wanted.accepts(&service.version, &service.group));
    let message = if let Some(service) = fitting {
        format!(
            "the provider has {} {}, which has no method `{}`; this end has version {}",
            service.name,
            service.version,
            method.name(),
            wanted.version()
        )
    } else if same_name.is_empty() {
        let mut names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        format!("the provider has no service {}; it has [{}]", wanted.name(), names.join(", "))
    } else {
        let versions: Vec<String> = same_name
            .iter()
            .map(|service| match service.group.as_str() {
                "" => service.version.clone(),
                group => format!("{} in group {group}", service.version),
            })
            .collect();
        format!(
            "version mismatch: this end wants {wanted}, the provider has version {}",
            versions.join(", ")
        )
    };
    RpcError::new(Status::NotFound, message).unexecuted()
}
