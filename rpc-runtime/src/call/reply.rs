//! [`Reply`]: what came back.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::items::{self, ReplyStream, StreamEnd};
use crate::certificate::PeerCertificate;
use crate::error::RpcError;
use crate::metadata::Metadata;
use crate::protocol::payload::{self, Form};
use crate::protocol::{self, DecodeLimits, Flags, Output};
use crate::status::Status;

/// The reply to a call: the value or the error of the contract, still encoded, and what came with
/// it. An error of the framework is an [`RpcError`] in its place.
///
/// # Answering without the provider
///
/// An interceptor can make a reply itself. A cache keeps [copies](Self::try_clone):
///
/// ```
/// use std::sync::Mutex;
///
/// use rpc_runtime::{Call, Interceptor, Next, Reply, Result};
///
/// /// Asks once.
/// struct Cached(Mutex<Option<Reply>>);
///
/// impl Interceptor for Cached {
///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
///         if let Some(reply) = self.0.lock().unwrap().as_ref().and_then(Reply::try_clone) {
///             return Ok(reply);
///         }
///         let reply = next.run(call).await?;
///         *self.0.lock().unwrap() = reply.try_clone();
///         Ok(reply)
///     }
/// }
/// ```
pub struct Reply {
    pub(crate) body: ReplyBody,
    pub(crate) metadata: Option<Box<Metadata>>,
    /// The connection that it came by.
    pub(crate) origin: Option<Arc<dyn Origin>>,
    pub(crate) stream: Option<ReplyStream>,
    /// What a server has reserved for it: freed when the reply is dropped.
    pub(crate) room: Option<Box<dyn Any + Send + Sync>>,
    pub(crate) status: Status,
    /// In which the body is written.
    pub(crate) form: Form,
}

/// The encoded value or error of the contract.
#[derive(Clone)]
pub(crate) enum ReplyBody {
    /// In a buffer of the pool.
    Pooled(Vec<u8>),
    /// Where it was read.
    Whole(Bytes),
    /// With parts that are kept as they are. Boxed, since replies are moved often and such are rare.
    Encoded(Box<Output>),
}

/// A connection, as far as replies tell of it.
pub(crate) trait Origin: Send + Sync {
    /// The URI of the other end.
    fn peer(&self) -> &str;

    /// What the other end has proved to be.
    fn peer_certificate(&self) -> Option<&PeerCertificate>;
}

impl From<Output> for ReplyBody {
    fn from(output: Output) -> Self {
        output.into_small().map_or_else(|output| Self::Encoded(Box::new(output)), Self::Pooled)
    }
}

impl ReplyBody {
    /// All bytes, in one piece.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Pooled(bytes) => Cow::Borrowed(bytes),
            Self::Whole(bytes) => Cow::Borrowed(bytes),
            Self::Encoded(output) => Cow::Owned(output.to_vec()),
        }
    }

    /// Takes the metadata section from the front, if the flags say that there is one.
    #[cold]
    pub(crate) fn take_metadata(
        &mut self,
        flags: Flags,
    ) -> Result<Option<Box<Metadata>>, RpcError> {
        let bytes = self.bytes();
        let (metadata, value) = payload::split_metadata(flags, &bytes)?;
        let section = bytes.len().saturating_sub(value.len());
        drop(bytes);
        match self {
            Self::Pooled(bytes) => drop(bytes.drain(..section)),
            Self::Whole(bytes) => drop(bytes.split_to(section)),
            Self::Encoded(output) => {
                let rest = output.to_vec().split_off(section);
                *self = Self::Pooled(rest);
            }
        }
        Ok(metadata.map(Box::new))
    }

    fn len(&self) -> usize {
        match self {
            Self::Pooled(bytes) => bytes.len(),
            Self::Whole(bytes) => bytes.len(),
            Self::Encoded(output) => output.len(),
        }
    }
}

impl Reply {
    /// A reply of this value, in place of one of the provider. `value` must have the type that the
    /// method returns with `Ok`. The reply of a oneway method is `()`.
    ///
    /// # Errors
    /// The value's `Serialize` fails, or there is a stream in it.
    pub fn value<T: Serialize + ?Sized>(value: &T) -> Result<Self, RpcError> {
        Self::encoded(Status::Ok, value)
    }

    /// The same with an error of the contract, of the type that the method returns with `Err`.
    ///
    /// # Errors
    /// As for [`value`](Self::value).
    pub fn contract_error<E: Serialize + ?Sized>(error: &E) -> Result<Self, RpcError> {
        Self::encoded(Status::Application, error)
    }

    fn encoded<T: Serialize + ?Sized>(status: Status, value: &T) -> Result<Self, RpcError> {
        let mut body = Output::default();
        let form = payload::encode(value, Form::Named, &mut body)?;
        Ok(Self::new(status, form, body.into()))
    }

    pub(crate) fn new(status: Status, form: Form, body: ReplyBody) -> Self {
        Self { body, metadata: None, origin: None, stream: None, room: None, status, form }
    }

    /// [`Status::Ok`] with the value, [`Status::Application`] with an error of the contract.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Reads the value, or the error of the contract, as the type that the [status](Self::status)
    /// says. For interceptors that know the methods that they are for; a stub does it by itself.
    ///
    /// # Errors
    /// It does not decode as a `T` within the default limits, or there is a stream in it.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        protocol::decode(&self.body.bytes(), DecodeLimits::new())
    }

    /// The length of the encoded value or error, in bytes.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Whether the result has a stream, whose items are to follow.
    pub fn has_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Calls `told` once the stream of the result has ended, at the end that the interceptor is at.
    /// Without a stream it is called at once. Before that, the call has ended for its caller or its
    /// method, and is counted as such.
    ///
    /// It runs where the stream ends: in the receiver's task, in a `drop`, or in the task that sends
    /// the items. So it must not block. A panic in it ends nothing else.
    ///
    /// ```
    /// use std::time::Instant;
    ///
    /// use rpc_runtime::{Call, Interceptor, Next, Reply, Result};
    ///
    /// struct Timed;
    ///
    /// impl Interceptor for Timed {
    ///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    ///         let (method, begun) = (call.method(), Instant::now());
    ///         let reply = next.run(call).await?;
    ///         Ok(reply.on_end(move |end| println!("{method}: {end:?} after {:?}", begun.elapsed())))
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn on_end(mut self, told: impl FnOnce(StreamEnd) + Send + 'static) -> Self {
        match self.stream.take() {
            Some(stream) => self.stream = Some(stream.on_end(told)),
            None => items::tell(told, StreamEnd::Finished),
        }
        self
    }

    /// A copy, unless there is a stream: its items cannot be received twice.
    pub fn try_clone(&self) -> Option<Self> {
        self.stream.is_none().then(|| Self {
            body: self.body.clone(),
            metadata: self.metadata.clone(),
            origin: self.origin.clone(),
            stream: None,
            room: None,
            status: self.status,
            form: self.form,
        })
    }

    /// The URI of the provider, at a client. `None` at a server, and for a reply that an interceptor
    /// has made.
    pub fn peer(&self) -> Option<&str> {
        self.origin.as_deref().map(Origin::peer)
    }

    /// The certificate with which the provider has proved who it is, at a client.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.origin.as_deref()?.peer_certificate()
    }

    /// The text that came with the reply under `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// All that came with the reply.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.metadata.iter().flat_map(|all| all.iter());
        all.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets the text under `key`. At a server it travels to the caller's interceptors; all of it
    /// together may have 16 KiB.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.get_or_insert_default().insert(key.into(), value.into());
    }

    /// The same reply with this text under `key`: see [`set_metadata`](Self::set_metadata).
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set_metadata(key, value);
        self
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("body_len", &self.body_len())
            .field("has_stream", &self.has_stream())
            .field("peer", &self.peer())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_an_interceptor_makes_can_be_copied_and_read() {
        let reply = Reply::value(&("seven", 7_u32)).unwrap().with_metadata("from", "cache");
        let copy = reply.try_clone().unwrap();
        assert_eq!(copy.decode::<(String, u32)>(), Ok(("seven".to_owned(), 7)));
        assert_eq!((copy.status(), copy.metadata("from")), (Status::Ok, Some("cache")));
        assert!(copy.decode::<u32>().unwrap_err().is_decode());
        let error = Reply::contract_error("no").unwrap();
        assert_eq!((error.status(), error.metadata("from")), (Status::Application, None));
    }

    #[test]
    fn without_a_stream_a_reply_has_ended_at_once() {
        let (told, ends) = std::sync::mpsc::channel();
        let reply = Reply::value(&()).unwrap().on_end(move |end| told.send(end).unwrap());
        assert_eq!(ends.try_recv(), Ok(StreamEnd::Finished));
        drop(reply.on_end(|_| panic!("in what was told")));
    }
}
