//! Ways to carry bytes between two ends.

mod memory;
#[cfg(test)]
pub(crate) mod raw;
mod socket;
mod tcp;
#[cfg(unix)]
mod unix;

use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::BytesMut;

pub(crate) use self::tcp::BoundSocket;
use crate::error::RpcError;
use crate::uri::Uri;

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
    /// Writes what fits, without waiting.
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
}

impl Transport {
    pub(crate) fn new(reader: impl Reader, writer: impl Writer, peer: String) -> Self {
        Self { reader: Box::new(reader), writer: Box::new(writer), peer }
    }
}

/// A bound address.
pub(crate) enum Listener {
    Tcp(tcp::TcpListener),
    #[cfg(unix)]
    Unix(unix::UnixListener),
    Memory(memory::MemoryListener),
}

const SCHEMES: &str = if cfg!(unix) {
    "tcp://host:port, unix:///path, memory:name"
} else {
    "tcp://host:port, memory:name"
};

fn unknown_scheme(uri: &Uri) -> RpcError {
    let registry = rpc_registry::supported_schemes().iter().any(|scheme| scheme == uri.scheme());
    let hint = if registry { "; that is a registry, whose providers `discover` finds" } else { "" };
    RpcError::invalid(format!(
        "there is no transport `{}` for {uri}; known are {SCHEMES}{hint}",
        uri.scheme()
    ))
}

/// Connects to `uri`. Dropping the future gives the attempt up.
pub(crate) async fn connect(uri: &Uri) -> Result<Transport, RpcError> {
    match uri.scheme() {
        "tcp" => tcp::connect(uri).await,
        #[cfg(unix)]
        "unix" => unix::connect(uri).await,
        "memory" => memory::connect(uri),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Binds `uri`.
pub(crate) async fn listen(uri: &Uri) -> Result<Listener, RpcError> {
    match uri.scheme() {
        "tcp" => tcp::TcpListener::bind(uri).await.map(Listener::Tcp),
        #[cfg(unix)]
        "unix" => unix::UnixListener::bind(uri).map(Listener::Unix),
        "memory" => memory::MemoryListener::bind(uri).map(Listener::Memory),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Binds so many sockets to `uri`, each to be listened on elsewhere.
pub(crate) async fn bind_several(uri: &Uri, count: usize) -> Result<Vec<BoundSocket>, RpcError> {
    match uri.scheme() {
        "tcp" if cfg!(target_os = "linux") => BoundSocket::several(uri, count).await,
        "tcp" => Err(RpcError::invalid(
            "event loops need a system that spreads the connections of one address over several \
             sockets, as Linux does: leave `event_loops` out here",
        )),
        "memory" | "unix" => Err(RpcError::invalid(format!(
            "event loops serve tcp only, and not {uri}: leave `event_loops` out"
        ))),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Whether `uri` can be connected to, as far as its text tells.
pub(crate) fn check(uri: &Uri) -> Result<(), RpcError> {
    match uri.scheme() {
        "tcp" => tcp::host_and_port(uri).map(drop),
        #[cfg(unix)]
        "unix" => unix::path(uri).map(drop),
        "memory" => Ok(()),
        _ => Err(unknown_scheme(uri)),
    }
}

impl BoundSocket {
    /// The listener of the runtime that this is called in.
    pub(crate) fn into_listener(self) -> Result<Listener, RpcError> {
        self.listen().map(Listener::Tcp)
    }
}

impl Listener {
    /// The next connection. Cancel safe.
    pub(crate) async fn accept(&mut self) -> io::Result<Transport> {
        match self {
            Self::Tcp(listener) => listener.accept().await,
            #[cfg(unix)]
            Self::Unix(listener) => listener.accept().await,
            Self::Memory(listener) => listener.accept().await,
        }
    }

    /// The bound address: a port 0 is the real port here.
    pub(crate) fn local_uri(&self) -> &Uri {
        match self {
            Self::Tcp(listener) => listener.local_uri(),
            #[cfg(unix)]
            Self::Unix(listener) => listener.local_uri(),
            Self::Memory(listener) => listener.local_uri(),
        }
    }
}
