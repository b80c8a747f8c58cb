//! `tcp://host:port`.

use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

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
    Ok(Transport { reader: Box::new(reader), writer: Box::new(writer), peer })
}

impl Reader for OwnedReadHalf {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        pin!(self.read_buf(buffer)).poll(cx)
    }

    fn is_closed(&mut self, cx: &mut Context<'_>) -> bool {
        match pin!(self.ready(Interest::READABLE)).poll(cx) {
            Poll::Ready(Ok(ready)) => ready.is_read_closed(),
            Poll::Ready(Err(_)) => true,
            Poll::Pending => false,
        }
    }
}

impl Writer for OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        OwnedWriteHalf::try_write(self, bytes)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsRef::<TcpStream>::as_ref(self).poll_write_ready(cx)
    }

    fn shutdown_write(&self) {
        // Fails only when the connection is gone, and then it is shut down as well.
        let _ = SockRef::from(AsRef::<TcpStream>::as_ref(self)).shutdown(Shutdown::Write);
    }

    fn shutdown(&self) {
        let _ = SockRef::from(AsRef::<TcpStream>::as_ref(self)).shutdown(Shutdown::Both);
    }
}

pub(crate) struct TcpListener {
    listener: tokio::net::TcpListener,
    uri: Uri,
}

impl TcpListener {
    pub(super) async fn bind(uri: &Uri) -> Result<Self, RpcError> {
        let failed = |error: io::Error| {
            RpcError::unavailable(format!("cannot listen on {uri}: {error}")).with_source(&error)
        };
        let address =
            tokio::net::lookup_host(host_and_port(uri)?).await.map_err(failed)?.next().ok_or_else(
                || RpcError::invalid(format!("{uri} names no address of this machine")),
            )?;
        let socket = if address.is_ipv4() {
            tokio::net::TcpSocket::new_v4()
        } else {
            tokio::net::TcpSocket::new_v6()
        }
        .map_err(failed)?;
        // A restarted provider gets its port back while old connections linger.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, uri: Uri::parse(&format!("tcp://{local}"))? })
    }

    pub(super) async fn accept(&mut self) -> io::Result<Transport> {
        let (stream, peer) = self.listener.accept().await?;
        open(stream, format!("tcp://{peer}"))
    }

    pub(super) fn local_uri(&self) -> &Uri {
        &self.uri
    }
}
