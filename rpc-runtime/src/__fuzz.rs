//! Internals for the fuzz targets. Not part of the public interface: they change without notice and
//! exist only with the feature `__fuzz`.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::protocol::payload::{Arguments, Defaulted, Form};

use crate::error::RpcError;
use crate::protocol::{Agreement, DecodeLimits, Flags, Header, Hello, payload};
use crate::transport::{ConnectSettings, ListenSettings, Listener, Transport, connect, listen};
use crate::uri::Uri;
use crate::{connection, protocol};

/// Maximum bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Encodes a value and returns its form.
pub fn encode<T: Serialize>(value: &T, form: Form) -> Result<(Vec<u8>, Form), RpcError> {
    let mut out = Vec::new();
    payload::encode(value, form, &mut out).map(|form| (out, form))
}

/// Reads an array of arguments.
pub fn decode_arguments<A: Arguments>(bytes: &[u8]) -> Result<A, RpcError> {
    Ok(A::decode(bytes, &[], DecodeLimits::new())?.value)
}

/// Metadata.
pub type Metadata = BTreeMap<String, String>;

/// Whether values of the type may be written compact, by their shape. The result is not cached.
pub fn has_shape<T: Serialize + DeserializeOwned>() -> bool {
    crate::shape::of::<T>().is_some()
}

/// Writes a metadata section.
pub fn encode_metadata(metadata: &Metadata) -> Result<Vec<u8>, RpcError> {
    let mut out = Vec::new();
    payload::encode_metadata(metadata, &mut out).map(|()| out)
}

/// Splits a payload.
pub fn split_metadata(flags: Flags, bytes: &[u8]) -> Result<(Option<Metadata>, &[u8]), RpcError> {
    payload::split_metadata(flags, bytes)
}

/// Reads a hello.
pub fn decode_hello(bytes: &[u8]) -> Result<Hello, RpcError> {
    Hello::decode(bytes)
}

/// Writes a hello.
pub fn encode_hello(hello: &Hello) -> Result<Vec<u8>, RpcError> {
    hello.encode()
}

/// Shortens a hello to a limit.
pub fn shorten_hello(hello: &mut Hello, limit: usize) -> Result<(), RpcError> {
    hello.shorten(limit)
}

/// The form of a call of a method with this fingerprint after this hello.
pub fn agreed_form(hello: &Hello, method: u64, own: fn() -> u64) -> Form {
    Agreement::new(hello).form(method, own)
}

/// Reads the error of a response.
pub fn read_error(header: &Header, body: &[u8]) -> RpcError {
    connection::read_error(header, body)
}

/// A response with an error.
pub fn write_error(id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    protocol::error_answer(id, error)
}

/// The scheme of a provider's address, and the rest.
pub fn parse_uri(text: &str) -> Result<(String, String), RpcError> {
    Uri::parse(text).map(|uri| (uri.scheme().to_owned(), uri.rest().to_owned()))
}

/// The text of a name in a certificate, in DER without its outer tag.
#[cfg(feature = "tls")]
pub fn certificate_name(der: &[u8]) -> Option<String> {
    crate::transport::certificate_name(der)
}

/// The parsed certificate of a peer, from DER.
#[cfg(feature = "tls")]
pub fn peer_certificate(der: &[u8]) -> Option<crate::PeerCertificate> {
    crate::transport::peer_certificate(der)
}

/// An end of a `memory:` connection that reads and writes bytes.
pub struct RawEnd(Transport);

impl RawEnd {
    /// Connects to a server of this process.
    pub async fn connect(uri: &str) -> Result<Self, RpcError> {
        connect(&Uri::parse(uri)?, &ConnectSettings::default()).await.map(Self)
    }

    /// Writes as many bytes as there is room for. Returns their number.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.0.writer.try_write(bytes).unwrap_or(0)
    }

    /// The bytes received so far; `None` at the end.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            let mut cx = Context::from_waker(Waker::noop());
            match self.0.reader.poll_read(&mut cx, &mut buffer, READ_BYTES) {
                Poll::Ready(Ok(1..)) => all.extend_from_slice(&buffer),
                Poll::Ready(_) if all.is_empty() => return None,
                _ => return Some(all),
            }
        }
    }

    /// Closes the writing side.
    pub fn shutdown_write(&self) {
        self.0.writer.shutdown_write();
    }
}

/// Accepts `memory:` connections.
pub struct RawListener(Listener);

impl RawListener {
    /// Listens.
    pub async fn bind(uri: &str) -> Result<Self, RpcError> {
        listen(&Uri::parse(uri)?, &ListenSettings::default()).await.map(Self)
    }

    /// The next connection, if there is one.
    pub async fn try_accept(&mut self) -> Option<RawEnd> {
        let accepted = {
            let mut accept = std::pin::pin!(self.0.accept());
            poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await
        };
        match accepted {
            Poll::Ready(Ok(accepted)) => accepted.open().await.ok().map(RawEnd),
            _ => None,
        }
    }
}
