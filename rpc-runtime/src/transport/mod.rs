//! Transports: byte connections between two ends.

mod memory;
#[cfg(test)]
pub(crate) mod raw;
mod socket;
mod stream;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod unix;

#[cfg(not(feature = "tls"))]
use std::convert::Infallible;
use std::io;

pub(crate) use self::stream::{Distrust, Reader, Transport, Writer};
pub(crate) use self::tcp::BoundSocket;
#[cfg(feature = "tls")]
pub(crate) use self::tls::{Acceptor, Connector};
#[cfg(feature = "tls")]
pub use self::tls::{ClientTls, ServerTls};
#[cfg(all(feature = "tls", feature = "__fuzz"))]
pub(crate) use self::tls::{certificate_name, peer_certificate};
use crate::error::RpcError;
use crate::uri::Uri;

/// Settings for connecting.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectSettings {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Connector>,
}

/// Settings for listening.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenSettings {
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Acceptor>,
}

/// An accepted connection before its handshake. [`open`](Self::open) completes it.
pub(crate) struct Accepted {
    transport: Transport,
    #[cfg(feature = "tls")]
    tls: Option<Acceptor>,
}

impl From<Transport> for Accepted {
    fn from(transport: Transport) -> Self {
        Self {
            transport,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }
}

impl Accepted {
    /// The URI of the peer.
    pub(crate) fn peer(&self) -> &str {
        &self.transport.peer
    }

    /// Performs the handshake, if the transport has one. The peer may take any time for it.
    /// Dropping the future closes the connection.
    pub(crate) async fn open(self) -> Result<Transport, RpcError> {
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls {
            return tls.accept(self.transport).await;
        }
        Ok(self.transport)
    }
}

/// A listener of any transport.
pub(crate) enum Listener {
    Tcp(tcp::TcpListener),
    #[cfg(feature = "tls")]
    Tls(tcp::TcpListener, Acceptor),
    #[cfg(unix)]
    Unix(unix::UnixListener),
    Memory(memory::MemoryListener),
}

/// The authentication of the other end by a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    /// The other end is authenticated, or is this process.
    Identity,
    /// The other end is not authenticated.
    Plaintext,
}

/// The transports. A unix socket counts as plaintext: any user who can create its file can listen.
pub(crate) const SCHEMES: [(&str, Protection); 4] = [
    ("tcp", Protection::Plaintext),
    ("tls", Protection::Identity),
    ("unix", Protection::Plaintext),
    ("memory", Protection::Identity),
];

const FORMS: &str = if cfg!(unix) {
    "tcp://host:port, tls://host:port, unix:///path, memory:name"
} else {
    "tcp://host:port, tls://host:port, memory:name"
};

fn unknown_scheme(uri: &Uri) -> RpcError {
    let registry = rpc_registry::supported_schemes().iter().any(|scheme| scheme == uri.scheme());
    let hint = if registry { "; that is a registry: use `discover`" } else { "" };
    RpcError::invalid(format!(
        "{uri} has the unknown transport `{}`; use {FORMS}{hint}",
        uri.scheme()
    ))
}

#[cfg(not(feature = "tls"))]
fn no_tls(uri: &Uri) -> RpcError {
    RpcError::invalid(format!("{uri} needs the feature `tls` of rpc-runtime"))
}

/// Connects to `uri`. Dropping the future ends the attempt.
pub(crate) async fn connect(uri: &Uri, settings: &ConnectSettings) -> Result<Transport, RpcError> {
    match uri.scheme() {
        "tcp" => tcp::connect(uri).await,
        #[cfg(feature = "tls")]
        "tls" => settings.connector(uri)?.connect(uri).await,
        #[cfg(not(feature = "tls"))]
        "tls" => match settings.connector(uri)? {},
        #[cfg(unix)]
        "unix" => unix::connect(uri).await,
        "memory" => memory::connect(uri),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Binds `uri`.
pub(crate) async fn listen(uri: &Uri, settings: &ListenSettings) -> Result<Listener, RpcError> {
    match uri.scheme() {
        "tcp" | "tls" => {
            settings.check(uri)?;
            settings.listener(tcp::TcpListener::bind(uri).await?)
        }
        #[cfg(unix)]
        "unix" => unix::UnixListener::bind(uri).map(Listener::Unix),
        "memory" => memory::MemoryListener::bind(uri).map(Listener::Memory),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Binds `count` sockets to `uri`, one for each event loop.
pub(crate) async fn bind_several(
    uri: &Uri,
    count: usize,
    settings: &ListenSettings,
) -> Result<Vec<BoundSocket>, RpcError> {
    match uri.scheme() {
        "tcp" | "tls" if cfg!(target_os = "linux") => {
            settings.check(uri)?;
            BoundSocket::bind_several(uri, count).await
        }
        "tcp" | "tls" => Err(RpcError::invalid(
            "event loops need a system that distributes the connections of one address over \
            several sockets, as Linux does: remove `event_loops`",
        )),
        "memory" | "unix" => Err(RpcError::invalid(format!(
            "event loops serve tcp and tls only, not {uri}: remove `event_loops`"
        ))),
        _ => Err(unknown_scheme(uri)),
    }
}

/// Checks that `uri` is valid and has the settings that it needs. Does no I/O.
pub(crate) fn check(uri: &Uri, settings: &ConnectSettings) -> Result<(), RpcError> {
    match uri.scheme() {
        "tcp" => tcp::host_and_port(uri).map(drop),
        "tls" => {
            tcp::host_and_port(uri)?;
            settings.connector(uri).map(drop)
        }
        #[cfg(unix)]
        "unix" => unix::path(uri).map(drop),
        "memory" => Ok(()),
        _ => Err(unknown_scheme(uri)),
    }
}

impl ConnectSettings {
    /// Whether TLS is configured.
    pub(crate) fn has_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    #[cfg(feature = "tls")]
    fn connector(&self, uri: &Uri) -> Result<&Connector, RpcError> {
        self.tls.as_ref().ok_or_else(|| tls::no_roots(uri))
    }

    #[cfg(not(feature = "tls"))]
    fn connector(&self, uri: &Uri) -> Result<Infallible, RpcError> {
        Err(no_tls(uri))
    }
}

impl ListenSettings {
    /// Checks that the settings have what the address needs.
    fn check(&self, uri: &Uri) -> Result<(), RpcError> {
        if uri.scheme() != "tls" {
            return Ok(());
        }
        #[cfg(feature = "tls")]
        return self.tls.as_ref().map(drop).ok_or_else(|| tls::no_certificate(uri));
        #[cfg(not(feature = "tls"))]
        Err(no_tls(uri))
    }

    /// Wraps `listener` according to the scheme of its address.
    fn listener(&self, listener: tcp::TcpListener) -> Result<Listener, RpcError> {
        self.check(listener.local_uri())?;
        #[cfg(feature = "tls")]
        if let ("tls", Some(tls)) = (listener.local_uri().scheme(), &self.tls) {
            return Ok(Listener::Tls(listener, tls.clone()));
        }
        Ok(Listener::Tcp(listener))
    }
}

impl BoundSocket {
    /// Makes a listener in the current runtime.
    pub(crate) fn into_listener(self, settings: &ListenSettings) -> Result<Listener, RpcError> {
        settings.listener(self.listen()?)
    }
}

impl Listener {
    /// The next connection. Cancel safe.
    pub(crate) async fn accept(&mut self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(Accepted::from),
            #[cfg(feature = "tls")]
            Self::Tls(listener, tls) => {
                Ok(Accepted { transport: listener.accept().await?, tls: Some(tls.clone()) })
            }
            #[cfg(unix)]
            Self::Unix(listener) => listener.accept().await.map(Accepted::from),
            Self::Memory(listener) => listener.accept().await.map(Accepted::from),
        }
    }

    /// The bound address, with the actual port in place of 0.
    pub(crate) fn local_uri(&self) -> &Uri {
        match self {
            Self::Tcp(listener) => listener.local_uri(),
            #[cfg(feature = "tls")]
            Self::Tls(listener, _) => listener.local_uri(),
            #[cfg(unix)]
            Self::Unix(listener) => listener.local_uri(),
            Self::Memory(listener) => listener.local_uri(),
        }
    }
}
