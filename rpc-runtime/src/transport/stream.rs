//! [`Transport`]: an open connection, as a reading and a writing half.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::certificate::PeerCertificate;
use crate::error::RpcError;

/// The reading half of a connection, owned by the driver.
pub(crate) trait Reader: Send + 'static {
    /// Appends received bytes to `buffer`, at most its spare capacity and at most `limit` bytes.
    /// `Ok(0)` is the end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>>;

    /// Whether the peer has closed the connection, as far as is known without reading.
    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool;
}

/// The writing half of a connection, shared by callers and the driver.
pub(crate) trait Writer: Send + Sync + 'static {
    /// Writes as many bytes as fit, without blocking, and returns their number. These bytes have
    /// left the process.
    ///
    /// After `WouldBlock`, the next write must begin with the same bytes, since some of them may
    /// already be encrypted.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now.
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// The same for several slices.
    ///
    /// # Errors
    /// `WouldBlock` if nothing fits now.
    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write(pieces.first().map_or(&[], |piece| piece))
    }

    /// Ready when bytes may fit again. Called by the driver only.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Closes the writing direction. The peer reads the end.
    fn shutdown_write(&self);

    /// Closes both directions.
    fn shutdown(&self);
}

/// An open connection.
pub(crate) struct Transport {
    pub(crate) reader: Box<dyn Reader>,
    pub(crate) writer: Box<dyn Writer>,
    /// The URI of the peer.
    pub(crate) peer: String,
    /// The verified certificate of the peer, if it has one.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
    /// Set if the peer's authentication can end.
    pub(crate) distrust: Option<Distrust>,
}

/// Completes with the reason when the peer is no longer trusted. A separate task must poll it while
/// the connection is open.
pub(crate) type Distrust = Pin<Box<dyn Future<Output = RpcError> + Send>>;

impl Transport {
    pub(crate) fn new(reader: impl Reader, writer: impl Writer, peer: String) -> Self {
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Self { reader, writer, peer, certificate: None, distrust: None }
    }
}
