//! [`Received`]: a request whose method is known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dispatcher::{Dispatcher, Route};
use super::owned_request::limits_in_place;
use crate::call::Context;
use crate::connection::Channel;
use crate::error::RpcError;
use crate::protocol::payload::{self, Form};
use crate::protocol::{Body, Frame};
use crate::service::Request;
use crate::status::Status;

/// A request that is known to be for a method that exists.
pub(super) struct Received<'r, 'b> {
    pub(super) route: &'r Route,
    pub(super) request: Request<'b>,
    pub(super) context: Context,
}

impl<'r, 'b> Received<'r, 'b> {
    /// Finds the method, the context and the arguments of a request that was read at `now`.
    ///
    /// # Errors
    /// It reaches no method.
    pub(super) fn new(
        dispatcher: &'r Dispatcher,
        channel: &Arc<Channel>,
        frame: &'b Frame<'_>,
        now: Instant,
    ) -> Result<Self, RpcError> {
        let header = &frame.header;
        // Taken first, so that it is dropped if this fails.
        let stream = channel.incoming_stream(header);
        let Some(route) = dispatcher.route(header.method) else {
            return Err(RpcError::new(Status::NotFound, "the peer provides no such method"));
        };
        if let Body::TooLarge { limit } = frame.body {
            return Err(RpcError::new(
                Status::TooLarge,
                format!(
                    "payload of {} bytes is over the provider's limit of {limit} bytes",
                    header.length
                ),
            ));
        }
        if !header.flags.are_understood() {
            return Err(RpcError::protocol(format!(
                "{:?} is not all understood here",
                header.flags
            )));
        }
        let (metadata, arguments) = payload::split_metadata(header.flags, frame.body.as_slice())?;
        let deadline = match header.deadline_ms {
            0 => None,
            // Cannot overflow in the lifetime of a machine, but it is the peer's number.
            left => now.checked_add(Duration::from_millis(u64::from(left))),
        };
        let payload = match &frame.body {
            Body::Owned(payload) => Some(payload),
            _ => None,
        };
        let form = Form::of(header.flags);
        let limits = limits_in_place(channel.settings().decode, arguments.len());
        Ok(Self {
            route,
            request: Request { method: route.method, arguments, payload, form, limits, stream },
            context: Context::received(
                deadline,
                metadata.map(Arc::new),
                Arc::clone(channel.peer()),
                channel.peer_certificate().cloned(),
            ),
        })
    }
}
