//! `tcp://host:port`, which is also what `tls://host:port` is made of.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::Transport;
use super::socket::SocketWriter;
use crate::error::RpcError;
use crate::uri::Uri;

/// Connections that wait to be accepted; the kernel caps it at its own limit.
const BACKLOG: u32 = 1024;

/// After so much silence the kernel asks the peer's kernel whether it is still there.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Between one unanswered question and the next.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// As many unanswered questions end the connection.
const KEEPALIVE_RETRIES: u32 = 6;

/// `host:port`, with the port checked to be there.
pub(super) fn host_and_port(uri: &Uri) -> Result<&str, RpcError> {
    let address = uri.rest();
    let wrong = |why: &str| {
        let scheme = uri.scheme();
        RpcError::invalid(format!(
            "`{uri}` is no TCP address: {why}; it must be {scheme}://host:port"
        ))
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
    tune(&stream)?;
    let (reader, writer) = stream.into_split();
    Ok(Transport::new(reader, SocketWriter::new(writer), peer))
}

/// At both ends.
fn tune(stream: &TcpStream) -> io::Result<()> {
    // Frames are gathered here; the kernel waiting for more would only delay them.
    stream.set_nodelay(true)?;
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive()) {
        // The connection is as good without it, only noticed later when its peer's machine is gone.
        tracing::debug!(%error, "the system has no keepalive for this connection");
    }
    Ok(())
}

/// With these a machine that is gone is noticed after two minutes, where the defaults of Linux take
/// more than two hours.
fn keepalive() -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_TIME);
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
        target_os = "windows",
    ))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL).with_retries(KEEPALIVE_RETRIES);
    keepalive
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
        open(stream, format!("{}://{peer}", self.uri.scheme()))
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
        Ok(Self { socket, uri: Uri::parse(&format!("{}://{local}", uri.scheme()))? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_does_not_wait_for_more_and_asks_for_its_peer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }
}
