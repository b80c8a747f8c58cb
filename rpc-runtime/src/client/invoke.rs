//! The way of a call through the client, from its arguments to its outcome.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::Client;
use crate::buffer;
use crate::call::{Context, Items};
use crate::connection::{CallError, Channel, Reply, ReplyBody, Request, clock, read_error};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::observe::{self, ClientCall};
use crate::protocol::payload::{self, Arguments, Form};
use crate::protocol::{self, DecodeLimits, Flags, Header, HelloService, Kind, Output, blob};
use crate::service::{Method, Oneway, Outcome, fingerprint};
use crate::status::Status;
use crate::streaming::{self, Collected};

/// Channels that are tried when one turns out to be closed before anything was sent.
const MAX_CHANNELS: usize = 4;

/// Calls the method and waits for its answer.
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
        let outcome = reply.and_then(|mut reply| {
            let status = Status::from_wire(reply.header.status);
            let stream = reply.stream.take().map(|stream| Box::new(stream) as Box<dyn Items>);
            let outcome = streaming::offer(stream, || decode::<M::Outcome>(&reply, client.decode));
            if let ReplyBody::Pooled(body) = reply.body {
                buffer::give(body);
            }
            outcome.inspect(|_| observed.ended(status))
        });
        outcome.unwrap_or_else(|error| {
            observed.ended(error.status());
            M::Outcome::from_result(Err(client.explain(M::DESCRIPTOR, error).into()))
        })
    }
}

/// Calls a method that has no answer. Done when the request is handed to the connection.
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
        M::Outcome::from_result(result.map_err(|error| client.explain(M::DESCRIPTOR, error).into()))
    }
}

/// What a call is for.
struct Target {
    method: &'static MethodDescriptor,
    kind: Kind,
    /// This end's, see [`fingerprint`].
    fingerprint: fn() -> u64,
}

impl Target {
    fn of<M: Method>(kind: Kind) -> Self {
        Self { method: M::DESCRIPTOR, kind, fingerprint: fingerprint::<M> }
    }
}

/// [`Arguments`] of any type, until they are sent. By `&mut`, since a future that holds `&` would
/// have to be `Sync`.
trait Unsent: Send {
    fn encode(&mut self, form: Form, out: &mut Output) -> Result<Form, RpcError>;

    /// They are not needed any more. Freed here and now, their memory serves the next call while it
    /// is still in the cache.
    fn sent(&mut self);
}

impl<A: Arguments> Unsent for Option<A> {
    #[inline]
    fn encode(&mut self, form: Form, out: &mut Output) -> Result<Form, RpcError> {
        match self {
            Some(arguments) => arguments.encode(form, out),
            None => Err(RpcError::internal("the arguments are sent already")),
        }
    }

    #[inline]
    fn sent(&mut self) {
        *self = None;
    }
}

/// The contract's value or error; an `RpcError` is the framework's own.
fn decode<O: Outcome>(reply: &Reply, limits: DecodeLimits) -> Result<O, RpcError> {
    let whole = match &reply.body {
        ReplyBody::Whole(bytes) => Some(bytes),
        ReplyBody::Pooled(_) => None,
    };
    let result = blob::decoding(whole, || match Status::from_wire(reply.header.status) {
        Status::Ok => protocol::decode(&reply.body, limits).map(Ok),
        _ => protocol::decode(&reply.body, limits).map(Err),
    });
    result.map(O::from_result).map_err(|error| {
        RpcError::new(Status::Decode, format!("the answer does not decode: {}", error.message()))
            .with_source(&error)
    })
}

/// A call whose arguments are not encoded yet.
struct Prepared {
    header: Header,
    /// The metadata, if there is some.
    body: Output,
    deadline: Instant,
    now: Instant,
}

impl Client {
    /// Settles deadline and metadata. What the current context says is inherited.
    fn begin(&self, method: &'static MethodDescriptor, kind: Kind) -> Result<Prepared, RpcError> {
        let timeout = self.timeout.or(method.timeout()).unwrap_or(self.default_timeout);
        let now = clock();
        let mut deadline = deadline_after(now, timeout);
        let mut header = Header { method: method.id(), ..Header::new(kind) };
        let mut body = Output::from(buffer::take());
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
            payload::encode_metadata(metadata, body.small_mut())
        })?;
        Ok(Prepared { header, body, deadline, now })
    }

    /// Sends a call over a channel that takes it.
    async fn invoke(
        &self,
        target: &Target,
        arguments: &mut dyn Unsent,
        observed: &mut ClientCall<'_>,
    ) -> Result<Reply, RpcError> {
        let method = target.method;
        let prepared = self.begin(method, target.kind);
        observed.begin(prepared.as_ref().map_or_else(|_| clock(), |prepared| prepared.now));
        let Prepared { mut header, mut body, deadline, mut now } = prepared?;
        let metadata = (header.flags, body.len());
        let mut written = None;
        let mut upload = Collected::default();
        let mut channels_left = MAX_CHANNELS;
        let result = loop {
            let channel = match self.invoker.ready() {
                Some(channel) => channel,
                None => match self.acquire(deadline).instrument(observed.span().clone()).await {
                    Ok(channel) => {
                        now = clock();
                        channel
                    }
                    Err(error) => break Err(error),
                },
            };
            let form = self.encoding.form(&channel, method.id(), target.fingerprint);
            // What was encoded for another channel does here too, unless it is compact and this one
            // must have it named.
            if written.is_none() || (written, form) == (Some(Form::Compact), Form::Named) {
                body.truncate(metadata.1);
                match encode(arguments, form, &mut body, &mut upload, target.kind) {
                    Ok(flags) => header.flags = metadata.0.with(flags),
                    Err(error) => break Err(error.unexecuted()),
                }
                written = Some(Form::of(header.flags));
            }
            let request = Request { header, body: &mut body, deadline, now };
            let mut call = channel.call(request, &mut upload.source);
            let mut waiting = true;
            let outcome = poll_fn(|cx| {
                let _inside = observed.span().enter();
                let outcome = Pin::new(&mut call).poll(cx);
                if waiting && !call.waits_to_be_sent() {
                    waiting = false;
                    observe::sent(observed.span(), call.id(), channel.peer());
                    if outcome.is_pending() {
                        arguments.sent();
                    }
                }
                outcome
            });
            match outcome.await {
                Ok(reply) => break answered(reply, &channel, method),
                Err(CallError::Failed(error)) => break Err(error.with_peer(channel.peer())),
                // Nothing was sent, so another channel may be tried.
                Err(CallError::NotOpen(error)) => {
                    self.invoker.discard(&channel);
                    channels_left = channels_left.saturating_sub(1);
                    // It may have waited in that one's queue.
                    now = clock();
                    if channels_left == 0 && !self.wait_for_ready {
                        break Err(error.with_peer(channel.peer()));
                    }
                }
            }
        };
        buffer::give_output(body);
        result
    }

    fn observed(&self, method: &'static MethodDescriptor) -> ClientCall<'_> {
        ClientCall::new(self.methods.as_deref(), method)
    }

    /// A channel, within the deadline.
    async fn acquire(&self, deadline: Instant) -> Result<Arc<Channel>, RpcError> {
        let mut last = None;
        match tokio::time::timeout_at(deadline.into(), self.connected(&mut last)).await {
            Ok(result) => result.map_err(RpcError::unexecuted),
            Err(_) => {
                let to = self.invoker.describe();
                let passed = format!("the deadline passed before there was a connection to {to}");
                Err(match last {
                    Some(error) => {
                        RpcError::timeout(format!("{passed}: {error}")).with_source(&error)
                    }
                    None => RpcError::timeout(passed),
                }
                .unexecuted())
            }
        }
    }

    /// A channel, after as many attempts as the client's settings allow. `last` is why the last one
    /// that failed did.
    async fn connected(&self, last: &mut Option<RpcError>) -> Result<Arc<Channel>, RpcError> {
        let all = &self.invoker.settings().all;
        loop {
            // Before the look: what changes during it is not missed.
            let mark = all.mark();
            if let Some(closed) = all.why_closed() {
                return Err(closed);
            }
            match self.invoker.acquire().await {
                Err(error) if self.wait_for_ready && !error.is_invalid() => *last = Some(error),
                settled => return settled,
            }
            all.change_after(mark).await;
        }
    }

    fn explain(&self, method: &'static MethodDescriptor, error: RpcError) -> RpcError {
        error.with_method(method).with_idempotent(method.is_idempotent())
    }
}

/// The answer of the contract, or the error that the framework answered with.
fn answered(
    reply: Reply,
    channel: &Channel,
    method: &'static MethodDescriptor,
) -> Result<Reply, RpcError> {
    let error = match Status::from_wire(reply.header.status) {
        Status::Ok | Status::Application => return Ok(reply),
        Status::NotFound => not_found(channel, method),
        _ => read_error(&reply.header, &reply.body),
    };
    Err(error.with_received(reply.metadata).with_peer(channel.peer()))
}

/// Encodes the arguments; a stream among them goes to `upload`. Returns the flags that say so.
fn encode(
    arguments: &mut dyn Unsent,
    form: Form,
    body: &mut Output,
    upload: &mut Collected,
    kind: Kind,
) -> Result<Flags, RpcError> {
    let written = streaming::collect(upload, || arguments.encode(form, body))?;
    match (&upload.source, kind) {
        (None, _) => Ok(written.flags()),
        (Some(_), Kind::Oneway) => Err(RpcError::invalid("a oneway method cannot take a stream")),
        (Some(_), _) => Ok(written.flags().with(Flags::STREAM)),
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
    let hello = channel.peer_hello().unwrap_or_default();
    let services = &hello.services;
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
