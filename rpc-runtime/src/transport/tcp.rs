//! `tcp://host:port`.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use super::{Reader, Transport, Writer};
use crate::error::RpcError;
use crate::uri::Uri;

/// Connections that wait to be accepted; the kernel caps it at its own limit.
const BACKLOG: u32 = 1024;

/// `host:port`, with the port checked to be there.
pub(super) fn host_and_port(uri: &Uri) -> Result<&str, RpcError> {
    let address = uri.rest();
    let wrong = |why: &str| {
        RpcError::invalid(format!("`{uri}` is no TCP address: {why}; it must be tcp://host:port"))
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
    if host.is_empty() {
        return Err(wrong("it has no host"));
    }
    if port.contains('/') {
        return Err(wrong("nothing may follow the port"));
    }
    if port.parse::<u16>().is_err() {
        return Err(wrong("its port is no number up to 65535"));
    }
    Ok(address)
}

pub(super) async fn connect(uri: &Uri) -> Result<Transport, RpcError> {
    let stream = TcpStream::connect(host_and_port(uri)?).await.map_err(|error| {
        RpcError::unavailable(format!("cannot connect: {error}")).with_source(&error)
    })?;
    open(stream, uri.to_string()).map_err(|error| {
        RpcError::unavailable(format!("cannot connect: {error}")).with_source(&error)
    })
}

fn open(stream: TcpStream, peer: String) -> io::Result<Transport> {
    // Frames are gathered here; the kernel waiting for more would only delay them.
    stream.set_nodelay(true)?;
    let (reader, writer) = stream.into_split();
    let writer = TcpWriter(Mutex::new(Some(writer)));
    Ok(Transport { reader: Box::new(reader), writer: Box::new(writer), peer })
}

impl Reader for OwnedReadHalf {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        // The capacity is said as well: without it the buffer would grow.
        let room = limit.min(buffer.capacity() - buffer.len());
        pin!(self.read_buf(&mut buffer.limit(room))).poll(cx)
    }

    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        match pin!(self.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

/// Gives its socket up when it is shut down: what still runs for the connection keeps the channel,
/// and must not keep a file descriptor with it.
struct TcpWriter(Mutex<Option<OwnedWriteHalf>>);

impl TcpWriter {
    fn locked(&self) -> MutexGuard<'_, Option<OwnedWriteHalf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer for TcpWriter {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.locked() {
            Some(socket) => socket.try_write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match &*self.locked() {
            Some(socket) => socket.try_write_vectored(pieces),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &*self.locked() {
            Some(socket) => AsRef::<TcpStream>::as_ref(socket).poll_write_ready(cx),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn shutdown_write(&self) {
        if let Some(socket) = &*self.locked() {
            // Fails only when the connection is gone, and then it is shut down as well.
            let _ = SockRef::from(AsRef::<TcpStream>::as_ref(socket)).shutdown(Shutdown::Write);
        }
    }

    fn shutdown(&self) {
        if let Some(socket) = self.locked().take() {
            let _ = SockRef::from(AsRef::<TcpStream>::as_ref(&socket)).shutdown(Shutdown::Both);
        }
    }
}

pub(crate) struct TcpListener {
    listener: tokio::net::TcpListener,
    uri: Uri,
}

impl TcpListener {
    pub(super) async fn bind(uri: &Uri) -> Result<Self, RpcError> {
        BoundSocket::new(uri, resolve(uri).await?, Share::No)?.listen()
    }

    pub(super) async fn accept(&mut self) -> io::Result<Transport> {
        let (stream, peer) = self.listener.accept().await?;
        open(stream, format!("tcp://{peer}"))
    }

    pub(super) fn local_uri(&self) -> &Uri {
        &self.uri
    }
}

fn cannot_listen(uri: &Uri, error: &io::Error) -> RpcError {
    RpcError::unavailable(format!("cannot listen on {uri}: {error}")).with_source(error)
}

async fn resolve(uri: &Uri) -> Result<SocketAddr, RpcError> {
    let mut addresses = tokio::net::lookup_host(host_and_port(uri)?)
        .await
        .map_err(|error| cannot_listen(uri, &error))?;
    addresses
        .next()
        .ok_or_else(|| RpcError::invalid(format!("{uri} names no address of this machine")))
}

/// Whether several sockets of this process may have the address (`SO_REUSEPORT`).
#[derive(Clone, Copy)]
enum Share {
    No,
    /// With those that come after it: an address that anybody has already is in use.
    First,
    Next,
}

/// A socket with an address, on which nobody listens yet.
pub(crate) struct BoundSocket {
    socket: TcpSocket,
    uri: Uri,
}

impl BoundSocket {
    /// So many sockets on one address; the system spreads connections over them. Port 0 is the same
    /// free one for all.
    pub(super) async fn several(uri: &Uri, count: usize) -> Result<Vec<Self>, RpcError> {
        let first = Self::new(uri, resolve(uri).await?, Share::First)?;
        let address = first.socket.local_addr().map_err(|error| cannot_listen(uri, &error))?;
        let mut sockets = vec![first];
        for _ in 1..count {
            sockets.push(Self::new(uri, address, Share::Next)?);
        }
        Ok(sockets)
    }

    fn new(uri: &Uri, address: SocketAddr, share: Share) -> Result<Self, RpcError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A restarted provider gets its port back while old connections linger.
            socket.set_reuseaddr(true)?;
            if matches!(share, Share::Next) {
                set_reuseport(&socket)?;
            }
            socket.bind(address)?;
            if matches!(share, Share::First) {
                set_reuseport(&socket)?;
            }
            let local = socket.local_addr()?;
            Ok((socket, local))
        };
        let (socket, local) = bind().map_err(|error| cannot_listen(uri, &error))?;
        Ok(Self { socket, uri: Uri::parse(&format!("tcp://{local}"))? })
    }

    pub(crate) fn local_uri(&self) -> &Uri {
        &self.uri
    }

    /// Listens, in the runtime that is to accept.
    pub(super) fn listen(self) -> Result<TcpListener, RpcError> {
        let Self { socket, uri } = self;
        match socket.listen(BACKLOG) {
            Ok(listener) => Ok(TcpListener { listener, uri }),
            Err(error) => Err(cannot_listen(&uri, &error)),
        }
    }
}

#[cfg(target_os = "linux")]
fn set_reuseport(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

/// Elsewhere the option is missing, or does not spread the connections.
#[cfg(not(target_os = "linux"))]
fn set_reuseport(_: &TcpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
