//! [`OwnedRequest`]: a request with undecoded arguments that outlives its frame.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;

use super::dispatcher::Route;
use crate::buffer;
use crate::connection::IncomingStream;
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::Form;
use crate::protocol::{Body, DecodeLimits, Frame};
use crate::service::{BoxCall, Dispatched, NotDispatched, OverMemory, Request, Service};

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
pub(super) struct OwnedRequest {
    service: Arc<dyn Service>,
    method: &'static MethodDescriptor,
    payload: Payload,
    /// Where the arguments begin: behind the metadata.
    arguments: usize,
    form: Form,
    stream: Option<IncomingStream>,
}

enum Payload {
    /// In a buffer of the pool.
    Pooled(Vec<u8>),
    /// In the buffer into which it was read.
    Whole(Bytes),
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Pooled(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }
}

impl OwnedRequest {
    /// The request in `frame`, whose last bytes are its arguments. Large payloads are shared, not
    /// copied.
    pub(super) fn new(
        route: &Route,
        frame: &Frame<'_>,
        arguments: usize,
        stream: Option<IncomingStream>,
    ) -> Self {
        let (payload, skipped) = match &frame.body {
            Body::Owned(payload) => {
                (Payload::Whole(payload.clone()), payload.len().saturating_sub(arguments))
            }
            body => {
                let bytes = body.as_slice();
                let start = bytes.len().saturating_sub(arguments);
                let mut buffer = buffer::take();
                buffer.extend_from_slice(bytes.get(start..).unwrap_or_default());
                (Payload::Pooled(buffer), 0)
            }
        };
        Self {
            service: Arc::clone(&route.service),
            method: route.method,
            payload,
            arguments: skipped,
            form: Form::of(frame.header.flags),
            stream,
        }
    }

    /// The bytes that it keeps.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }

    /// Whether it is decoded on a decoding thread from the start.
    pub(super) fn is_large(&self) -> bool {
        self.payload.len() >= LARGE
    }

    /// Decodes the arguments and creates the call's future.
    pub(super) fn dispatch(&mut self, limits: DecodeLimits) -> Dispatched {
        self.service.dispatch(Request {
            method: self.method,
            arguments: self.payload.get(self.arguments..).unwrap_or_default(),
            payload: match &self.payload {
                Payload::Whole(payload) => Some(payload),
                Payload::Pooled(_) => None,
            },
            form: self.form,
            limits,
            stream: self.stream.take(),
        })
    }

    /// Decodes the arguments as far as that may be done in place. `None`: they take so much memory
    /// that the rest is for the decoding threads.
    ///
    /// # Errors
    /// They do not decode.
    pub(super) fn dispatch_in_place(
        &mut self,
        limits: DecodeLimits,
    ) -> Result<Option<BoxCall>, RpcError> {
        let encoded = self.payload.len().saturating_sub(self.arguments);
        match self.dispatch(limits_in_place(limits, encoded)) {
            Ok(call) => Ok(Some(call)),
            Err(why) => {
                let OverMemory { stream } = over_memory(why, limits, encoded)?;
                self.stream = stream;
                Ok(None)
            }
        }
    }

    /// The request was decoded: returns its buffer to the pool.
    pub(super) fn recycle(self) {
        if let Payload::Pooled(buffer) = self.payload {
            buffer::give(buffer);
        }
    }
}
