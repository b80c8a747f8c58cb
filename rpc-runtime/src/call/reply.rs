//! [`Reply`]: the result of a call.

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

/// The reply to a call: the encoded value or error of the contract, its metadata, and the peer. An
/// error of the framework is not a reply, but an [`RpcError`].
///
/// # Answering without the provider
///
/// An interceptor can return its own reply. A cache keeps [copies](Self::try_clone):
///
/// ```
/// use std::sync::Mutex;
///
/// use rpc_runtime::{Call, Interceptor, Next, Reply, Result};
///
/// /// Calls the provider once.
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
    /// The connection on which it was received.
    pub(crate) origin: Option<Arc<dyn Origin>>,
    pub(crate) stream: Option<ReplyStream>,
    /// What a server has reserved for it: freed when the reply is dropped.
    pub(crate) room: Option<Box<dyn Any + Send + Sync>>,
    pub(crate) status: Status,
    /// The form of the body.
    pub(crate) form: Form,
}

/// The encoded value or error of the contract.
#[derive(Clone)]
pub(crate) enum ReplyBody {
    /// In a buffer of the pool.
    Pooled(Vec<u8>),
    /// In the buffer into which it was read.
    Whole(Bytes),
    /// With parts that are not copied. Boxed, since replies are moved often and such parts are
    /// rare.
    Encoded(Box<Output>),
}

/// The connection that a reply was received on.
pub(crate) trait Origin: Send + Sync {
    /// The URI of the other end.
    fn peer(&self) -> &Arc<str>;

    /// What the other end has proved to be.
    fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>>;
}

/// What is kept of a connection, without the connection.
struct Kept {
    peer: Arc<str>,
    certificate: Option<Arc<PeerCertificate>>,
}

impl Kept {
    fn of(origin: &dyn Origin) -> Arc<dyn Origin> {
        let certificate = origin.peer_certificate().cloned();
        Arc::new(Self { peer: Arc::clone(origin.peer()), certificate })
    }
}

impl Origin for Kept {
    fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.certificate.as_ref()
    }
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
    /// A reply with this value, made without the provider. `value` must have the `Ok` type of the
    /// method, which is `()` for a oneway.
    ///
    /// # Errors
    /// The value's `Serialize` fails, or it contains a stream.
    pub fn value<T: Serialize + ?Sized>(value: &T) -> Result<Self, RpcError> {
        Self::encoded(Status::Ok, value)
    }

    /// A reply with an error of the contract, of the method's `Err` type.
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

    /// Decodes the value, or the error of the contract; [`status`](Self::status) says which of the
    /// two it is. For interceptors of specific methods; stubs decode replies themselves.
    ///
    /// # Errors
    /// It does not decode as a `T` within the default limits, or it contains a stream.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, RpcError> {
        protocol::decode(&self.body.bytes(), DecodeLimits::new())
    }

    /// The length of the encoded value or error, in bytes.
    pub fn body_len(&self) -> usize {
        self.body.len()
    }

    /// Whether the result has a stream, whose items follow the reply.
    pub fn has_stream(&self) -> bool {
        self.stream.is_some()
    }

    /// Calls `listener` once when the stream of the result has ended at this side; at once without
    /// a stream. Metrics count the call as ended with the reply, before the items.
    ///
    /// `listener` runs where the stream ends: in the receiver's task, in a `drop`, or in the task
    /// that sends the items. It must not block. A panic in it has no other effect.
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
    pub fn on_end(mut self, listener: impl FnOnce(StreamEnd) + Send + 'static) -> Self {
        match self.stream.take() {
            Some(stream) => self.stream = Some(stream.on_end(listener)),
            None => items::notify(listener, StreamEnd::Finished),
        }
        self
    }

    /// A copy to keep, unless there is a stream: its items cannot be received twice. A copy keeps no
    /// connection open, which a reply itself does.
    ///
    /// A provider writes a reply for its caller, in the [`Encoding`](crate::Encoding) of the request.
    /// So a server must not send a copy to every caller: where it is an array and the caller asked
    /// for maps, the call fails as [internal](RpcError::is_internal). A reply that
    /// [`value`](Self::value) makes is for all callers.
    pub fn try_clone(&self) -> Option<Self> {
        self.stream.is_none().then(|| Self {
            body: self.body.clone(),
            metadata: self.metadata.clone(),
            origin: self.origin.as_deref().map(Kept::of),
            stream: None,
            room: None,
            status: self.status,
            form: self.form,
        })
    }

    /// URI of the provider, at a client. `None` at a server, and for a reply that an interceptor
    /// made.
    pub fn peer(&self) -> Option<&str> {
        self.origin.as_deref().map(|origin| &**origin.peer())
    }

    /// The verified certificate of the provider, at a client.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.origin.as_deref()?.peer_certificate().map(|certificate| &**certificate)
    }

    /// The metadata value for `key`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// All metadata of the reply, as keys and values.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.metadata.iter().flat_map(|all| all.iter());
        all.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets a metadata value. A server sends it to the caller's interceptors. Limit of all metadata
    /// of a reply: 16 KiB.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.metadata.get_or_insert_default().insert(key.into(), value.into());
    }

    /// The same reply with a metadata value; see [`set_metadata`](Self::set_metadata).
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
    fn a_copy_of_a_reply_keeps_no_connection() {
        struct Connection(Arc<str>);
        impl Origin for Connection {
            fn peer(&self) -> &Arc<str> {
                &self.0
            }

            fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>> {
                None
            }
        }
        let connection = Arc::new(Connection("tcp://127.0.0.1:1".into()));
        let mut reply = Reply::value(&7_u32).unwrap();
        reply.origin = Some(Arc::clone(&connection) as Arc<dyn Origin>);
        let copy = reply.try_clone().unwrap();
        drop(reply);
        assert_eq!(Arc::strong_count(&connection), 1);
        assert_eq!(copy.peer(), Some("tcp://127.0.0.1:1"));
    }

    #[test]
    fn without_a_stream_a_reply_has_ended_at_once() {
        let (told, ends) = std::sync::mpsc::channel();
        let reply = Reply::value(&()).unwrap().on_end(move |end| told.send(end).unwrap());
        assert_eq!(ends.try_recv(), Ok(StreamEnd::Finished));
        drop(reply.on_end(|_| panic!("in what was told")));
    }
}
