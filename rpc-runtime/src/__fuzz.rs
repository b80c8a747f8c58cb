//! What the fuzz targets reach of the inside. No part of the public interface: it changes without
//! notice, and is there only with the feature `__fuzz`.

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
use crate::{channel, protocol};

/// Most bytes that are read at once.
const READ_BYTES: usize = 64 << 10;

/// Writes a value, and says in which form.
pub fn encode<T: Serialize>(value: &T, form: Form) -> Result<(Vec<u8>, Form), RpcError> {
    let mut out = Vec::new();
    payload::encode(value, form, &mut out).map(|form| (out, form))
}

/// Reads an array of arguments.
pub fn decode_arguments<A: Arguments>(bytes: &[u8]) -> Result<A, RpcError> {
    A::decode(bytes, &[], DecodeLimits::new()).map(|counted| counted.value)
}

/// Metadata.
pub type Metadata = BTreeMap<String, String>;

/// Whether values of the type may be written compact, as far as their shape tells. What is found
/// out is not kept.
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

/// Leaves out of a hello what does not fit.
pub fn shorten_hello(hello: &mut Hello, limit: usize) -> Result<(), RpcError> {
    hello.shorten(limit)
}

/// How a call of a method with this fingerprint is written after such a hello.
pub fn agreed_form(hello: &Hello, method: u64, own: fn() -> u64) -> Form {
    Agreement::new(hello).form(method, own)
}

/// The error that a response with a status holds.
pub fn read_error(header: &Header, body: &[u8]) -> RpcError {
    channel::read_error(header, body)
}

/// A response with an error.
pub fn write_error(id: u64, error: &RpcError) -> (Header, Vec<u8>) {
    protocol::error_answer(id, error)
}

/// The scheme of a provider's address, and what follows it.
pub fn parse_uri(text: &str) -> Result<(String, String), RpcError> {
    Uri::parse(text).map(|uri| (uri.scheme().to_owned(), uri.rest().to_owned()))
}

/// The text of a name in a certificate, in DER without its outer tag.
#[cfg(feature = "tls")]
pub fn certificate_name(der: &[u8]) -> Option<String> {
    crate::transport::certificate_name(der)
}

/// What is known of a peer by its certificate, in DER.
#[cfg(feature = "tls")]
pub fn peer_certificate(der: &[u8]) -> Option<crate::PeerCertificate> {
    crate::transport::peer_certificate(der)
}

/// An end of a `memory:` connection that speaks in bytes.
pub struct RawEnd(Transport);

impl RawEnd {
    /// Connects to a server of this process.
    pub async fn connect(uri: &str) -> Result<Self, RpcError> {
        connect(&Uri::parse(uri)?, &ConnectSettings::default()).await.map(Self)
    }

    /// As many of the bytes as there is room for now.
    pub fn write(&self, bytes: &[u8]) -> usize {
        self.0.writer.try_write(bytes).unwrap_or(0)
    }

    /// What has come so far; `None` if nothing comes any more.
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

    /// Nothing more is written.
    pub fn shutdown_write(&self) {
        self.0.writer.shutdown_write();
    }
}

/// Takes in `memory:` connections.
pub struct RawListener(Listener);

impl RawListener {
    /// Listens.
    pub async fn bind(uri: &str) -> Result<Self, RpcError> {
        listen(&Uri::parse(uri)?, &ListenSettings::default()).await.map(Self)
    }

    /// The next one, if there is one now.
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
