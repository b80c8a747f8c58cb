//! [`EncodedRequest`]: a request in the form that its connection needs.

use std::sync::Arc;
use std::time::Instant;

use crate::buffer;
use crate::connection::{Channel, Exchange, Request};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::protocol::payload::{self, Arguments, Form};
use crate::protocol::{Flags, Header, Kind, Output};
use crate::service::{Method, fingerprint};
use crate::streaming::{self, Collected};

/// The method of a call, and how its values are encoded.
pub(super) struct Target {
    pub(super) method: &'static MethodDescriptor,
    pub(super) kind: Kind,
    /// Fingerprint at this end, see [`fingerprint`].
    pub(super) fingerprint: fn() -> u64,
}

impl Target {
    pub(super) fn of<M: Method>(kind: Kind) -> Self {
        Self { method: M::DESCRIPTOR, kind, fingerprint: fingerprint::<M> }
    }
}

#[cfg(feature = "tower")]
impl Target {
    /// Without types there are no shapes to compare, so values are encoded in the named form.
    pub(super) fn untyped(method: &'static MethodDescriptor) -> Self {
        let kind = if method.is_oneway() { Kind::Oneway } else { Kind::Request };
        Self { method, kind, fingerprint: || 0 }
    }
}

/// [`Arguments`] of any type, until they are sent. By `&mut`, since a future that holds `&` would
/// have to be `Sync`.
pub(super) trait Unsent: Send {
    fn encode(&mut self, form: Form, out: &mut Output) -> Result<Form, RpcError>;

    /// They are no longer needed. Freed now, their memory is reused by the next call while it is
    /// still in the cache.
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

/// The request of a call: a header without id and length, and its payload, in a buffer of the pool.
pub(super) struct EncodedRequest {
    header: Header,
    /// The flags that the metadata needs.
    metadata_flags: Flags,
    /// The metadata section, then the arguments.
    body: Output,
    metadata_len: usize,
    /// How the arguments are written, once they are.
    written: Option<Form>,
    upload: Collected,
}

impl EncodedRequest {
    /// A request without metadata and arguments.
    #[inline]
    pub(super) fn new(target: &Target) -> Self {
        Self {
            header: Header { method: target.method.id(), ..Header::new(target.kind) },
            metadata_flags: Flags::default(),
            body: Output::from(buffer::take()),
            metadata_len: 0,
            written: None,
            upload: Collected::default(),
        }
    }

    /// Encodes the metadata, before the arguments.
    ///
    /// # Errors
    /// It is over its limit.
    pub(super) fn set_metadata(&mut self, metadata: &Metadata) -> Result<(), RpcError> {
        payload::encode_metadata(metadata, self.body.small_mut())?;
        self.metadata_flags = self.metadata_flags.with(Flags::METADATA);
        self.metadata_len = self.body.len();
        Ok(())
    }

    /// Encodes the arguments in this form. Arguments that were encoded for another connection are
    /// reused, unless they are compact and this connection needs the named form. The first encoding
    /// takes a stream out of the arguments; it is kept.
    #[inline]
    pub(super) fn encode<A: Unsent + ?Sized>(
        &mut self,
        form: Form,
        arguments: &mut A,
    ) -> Result<(), RpcError> {
        let does = match self.written {
            Some(written) => written == form || written == Form::Named,
            None => false,
        };
        if does {
            return Ok(());
        }
        self.body.truncate(self.metadata_len);
        let Self { body, upload, .. } = self;
        let written = streaming::collect(upload, || arguments.encode(form, body))
            .map_err(RpcError::unexecuted)?;
        self.written = Some(written);
        self.header.flags = self.metadata_flags.with(written.flags());
        if self.upload.source.is_some() {
            if self.header.kind == Kind::Oneway {
                let error = RpcError::invalid("a oneway method cannot take a stream");
                return Err(error.unexecuted());
            }
            self.header.flags = self.header.flags.with(Flags::STREAM);
        }
        Ok(())
    }

    /// Whether there is a stream among the arguments, which is not sent yet.
    #[inline]
    pub(super) fn has_upload(&self) -> bool {
        self.upload.source.is_some()
    }

    /// The exchange of this request for its response over `channel`.
    #[inline]
    pub(super) fn send<'c>(
        &'c mut self,
        channel: &'c Arc<Channel>,
        deadline: Instant,
        now: Instant,
    ) -> Exchange<'c> {
        let request = Request { header: self.header, body: &mut self.body, deadline, now };
        channel.call(request, &mut self.upload.source)
    }

    /// Returns the buffer to the pool. Otherwise it is freed when dropped.
    #[inline]
    pub(super) fn finish(self) {
        buffer::give_output(self.body);
    }
}
