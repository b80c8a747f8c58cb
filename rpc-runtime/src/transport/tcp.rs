//! `tcp://host:port`, also the base of `tls://host:port`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use super::Transport;
use super::socket::SocketWriter;
use crate::error::RpcError;
use crate::uri::Uri;

/// Maximum connections that wait to be accepted. The kernel's own limit may be lower.
const BACKLOG: u32 = 1024;

/// Silence after which the kernel sends keepalive probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
/// Time between unanswered probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered probes after which the connection is closed.
const KEEPALIVE_RETRIES: u32 = 6;

/// The `host:port` of `uri`, checked to be complete.
pub(super) fn host_and_port(uri: &Uri) -> Result<&str, RpcError> {
    let address = uri.rest();
    let wrong = |why: &str| {
        let scheme = uri.scheme();
        RpcError::invalid(format!(
            "`{uri}` is not a valid TCP address: {why}; write {scheme}://host:port"
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
        return Err(wrong("its port is not a number up to 65535"));
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
    set_options(&stream)?;
    let (reader, writer) = stream.into_split();
    Ok(Transport::new(reader, SocketWriter::new(writer), peer))
}

/// Sets the options that both ends need.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    // The channel already gathers frames. Waiting for more in the kernel would only delay them.
    stream.set_nodelay(true)?;
    if let Err(error) = SockRef::from(stream).set_tcp_keepalive(&keepalive()) {
        // Without keepalive, the death of the peer's machine is only noticed later.
        tracing::debug!(%error, "keepalive cannot be set for this connection");
    }
    Ok(())
}

/// The settings with which a dead machine is noticed after two minutes. The defaults of Linux take
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
        BoundSocket::new(uri, resolve(uri).await?, ReusePort::No)?.listen()
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
        .ok_or_else(|| RpcError::invalid(format!("{uri} is not an address of this machine")))
}

/// Whether several sockets of this process can have the same address (`SO_REUSEPORT`).
#[derive(Clone, Copy)]
enum ReusePort {
    No,
    /// Set after binding, so that an address in use by another socket is an error.
    First,
    Next,
}

/// A bound socket that does not listen yet.
pub(crate) struct BoundSocket {
    socket: TcpSocket,
    uri: Uri,
}

impl BoundSocket {
    /// Binds `count` sockets to one address; the system distributes the connections. With port 0,
    /// all have the same free port.
    pub(super) async fn bind_several(uri: &Uri, count: usize) -> Result<Vec<Self>, RpcError> {
        let first = Self::new(uri, resolve(uri).await?, ReusePort::First)?;
        let address = first.socket.local_addr().map_err(|error| cannot_listen(uri, &error))?;
        let mut sockets = vec![first];
        for _ in 1..count {
            sockets.push(Self::new(uri, address, ReusePort::Next)?);
        }
        Ok(sockets)
    }

    fn new(uri: &Uri, address: SocketAddr, reuse_port: ReusePort) -> Result<Self, RpcError> {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A restarted provider can bind its port while old connections are still closing.
            socket.set_reuseaddr(true)?;
            if matches!(reuse_port, ReusePort::Next) {
                set_reuse_port(&socket)?;
            }
            socket.bind(address)?;
            if matches!(reuse_port, ReusePort::First) {
                set_reuse_port(&socket)?;
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

    /// Listens. Must be called in the runtime that accepts.
    pub(super) fn listen(self) -> Result<TcpListener, RpcError> {
        let Self { socket, uri } = self;
        match socket.listen(BACKLOG) {
            Ok(listener) => Ok(TcpListener { listener, uri }),
            Err(error) => Err(cannot_listen(&uri, &error)),
        }
    }
}

#[cfg(target_os = "linux")]
fn set_reuse_port(socket: &TcpSocket) -> io::Result<()> {
    socket.set_reuseport(true)
}

/// Other systems have no such option, or do not distribute the connections.
#[cfg(not(target_os = "linux"))]
fn set_reuse_port(_: &TcpSocket) -> io::Result<()> {
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
        set_options(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_TIME);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_RETRIES);
    }
}
