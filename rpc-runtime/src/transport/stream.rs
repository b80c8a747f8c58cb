//! [`Transport`]: an open connection, as a reading and a writing half.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::certificate::PeerCertificate;
use crate::error::RpcError;

/// The reading half of a connection. The driver has it.
pub(crate) trait Reader: Send + 'static {
    /// Appends what there is to `buffer`, at most its spare capacity and at most `limit` bytes:
    /// `Ok(0)` is the end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>>;

    /// Whether the peer has ended the connection, as far as is known without reading.
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool;
}

/// The writing half of a connection. Callers and driver share it.
pub(crate) trait Writer: Send + Sync + 'static {
    /// Writes what fits, without waiting. What it says is written has left this process.
    ///
    /// After `WouldBlock`, what is written next must begin with the same bytes: those that are not
    /// said to be written may have been encrypted already, in their order.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// The same for bytes in several pieces.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now.
    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(pieces.first().map_or(&[], |piece| piece))
    }

    /// Ready when something may fit again. Only the driver waits here.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Nothing more will be written; the peer reads an end.
    fn shutdown_write(&self);

    /// Nothing more will be written or read, at either end.
    fn shutdown(&self);
}

/// An open connection.
pub(crate) struct Transport {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) writer: Box<dyn Writer>,
    /// The other end, as a URI.
    pub(crate) peer: String,
    /// What it has proved to be, where the transport asks for that.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// Set if the peer's proof of identity can end.
    pub(crate) distrust: Option<Distrust>,
}

/// Completes with the reason when the peer's proof of identity no longer holds. To be polled by a
/// separate task while the connection is open.
pub(crate) type Distrust = Pin<Box<dyn Future<Output = RpcError> + Send>>;

impl Transport {
    pub(crate) fn new(reader: impl Reader, writer: impl Writer, peer: String) -> Self {
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Self { reader, writer, peer, certificate: None, distrust: None }
    }
}
