//! [`Sending`]: attempts to send a call until it was sent.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use super::handle::{Client, deadline_after};
use super::not_found::not_found;
use super::pick::Pick;
use super::readiness;
use super::request::{EncodedRequest, Target, Unsent};
use crate::call::{Call, Origin, Reply, ReplyStream};
use crate::certificate::PeerCertificate;
use crate::connection::{self, CallError, Channel, clock, read_error};
use crate::error::RpcError;
use crate::observe;
use crate::protocol::payload::Form;
use crate::status::Status;

/// Maximum connections that a call tries, while nothing of it was sent.
const MAX_CHANNELS: usize = 4;

/// Sends a call, after the last interceptor.
#[derive(Clone, Copy)]
pub(super) struct Sending<'e> {
    pub(super) client: &'e Client,
    pub(super) target: &'e Target,
    /// The span of the call.
    pub(super) span: &'e Span,
}

impl Sending<'_> {
    /// Sends the call over an open connection and waits for its reply. Another connection is tried
    /// only while nothing was sent.
    ///
    /// Generic, so that calls with and without interceptors have separate copies, each of which is
    /// inlined into its only caller.
    pub(super) async fn send<A: Unsent + ?Sized>(
        self,
        call: &Call<'_>,
        mut now: Instant,
        arguments: &mut A,
    ) -> Result<Reply, RpcError> {
        let Self { client, target, span } = self;
        let in_any_case = || deadline_after(now, client.default_timeout);
        let deadline = call.deadline().unwrap_or_else(in_any_case);
        let mut request = EncodedRequest::new(target);
        if let Some(metadata) = call.entries() {
            request.set_metadata(metadata)?;
        }
        let mut channels_left = MAX_CHANNELS;
        let outcome = loop {
            let pick = match client.picker.pick(call) {
                Some(pick) => pick,
                None => {
                    // Boxed, so that futures of calls that need not wait are smaller.
                    let connecting = readiness::connect(client, call, deadline);
                    let pick = Box::pin(connecting.instrument(span.clone())).await?;
                    now = clock();
                    pick
                }
            };
            let form = client.encoding.form(pick.channel(), target.method.id(), target.fingerprint);
            request.encode(form, arguments)?;
            let outcome = {
                // A stream is sent by a task. The caller need not be in a runtime.
                let runtime = request.has_upload().then(|| &client.picker.settings().runtime);
                let mut exchange = request.send(pick.channel(), deadline, now);
                let mut waiting = true;
                poll_fn(|cx| {
                    let _inside = (span.enter(), runtime.map(Handle::enter));
                    let outcome = Pin::new(&mut exchange).poll(cx);
                    if waiting && !exchange.waits_to_be_sent() {
                        waiting = false;
                        observe::sent(span, exchange.id(), pick.channel().peer());
                        if outcome.is_pending() {
                            arguments.sent();
                        }
                    }
                    outcome
                })
                .await
            };
            match outcome {
                Ok(reply) => break answered(reply, pick, target),
                Err(CallError::Failed(error)) => break Err(error.with_peer(pick.failed().peer())),
                Err(CallError::NotOpen(error)) => {
                    let channel = pick.not_open();
                    channels_left = channels_left.saturating_sub(1);
                    if channels_left == 0 && !client.wait_for_ready {
                        break Err(error.with_peer(channel.peer()));
                    }
                    // The call may have waited in the queue of that connection.
                    now = clock();
                }
            }
        };
        request.finish();
        outcome
    }
}

/// The reply, or the framework's error that the provider sent.
#[inline]
fn answered(reply: connection::Reply, pick: Pick, target: &Target) -> Result<Reply, RpcError> {
    let connection::Reply { header, body, metadata, stream } = reply;
    let status = Status::from_wire(header.status);
    let channel = pick.answered();
    let error = match status {
        Status::Ok | Status::Application => {
            return Ok(Reply {
                body,
                metadata,
                origin: Some(channel),
                stream: stream.map(|stream| ReplyStream::Incoming(Box::new(stream))),
                room: None,
                status,
                form: Form::of(header.flags),
            });
        }
        Status::NotFound => not_found(&channel, target.method),
        _ => read_error(&header, &body.bytes()),
    };
    Err(error.with_received(metadata).with_peer(channel.peer()))
}

impl Origin for Channel {
    fn peer(&self) -> &Arc<str> {
        self.peer()
    }

    fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.peer_certificate()
    }
}
