//! `tls://host:port`: TLS 1.3 over `tcp`.

mod certificate;
mod explain;
mod identity;
mod layer;
mod settings;

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::sync::Semaphore;

#[cfg(feature = "__fuzz")]
pub(crate) use self::certificate::{certificate_name, peer_certificate};
use self::layer::Handshake;
pub use self::settings::{ClientTls, ServerTls};
use super::{Transport, tcp};
use crate::error::RpcError;
use crate::uri::Uri;

/// How long a client that was refused may take to read why.
const LINGER: Duration = Duration::from_millis(500);

/// Connects to servers.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    settings: ClientTls,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(crate) fn new(settings: &ClientTls) -> Result<Self, RpcError> {
        Ok(Self { settings: settings.clone(), config: Arc::new(settings.config()?) })
    }

    pub(super) async fn connect(&self, uri: &Uri) -> Result<Transport, RpcError> {
        let address = tcp::host_and_port(uri)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = self.settings.name_of(host)?;
        let session = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| cannot_begin(&error))?;
        let transport = tcp::connect(uri).await?;
        let (peer, mut handshake) = begin(session.into(), transport);
        match handshake.run(None).await {
            Ok(()) => Ok(secured(handshake, peer)),
            Err(error) => {
                Err(RpcError::unavailable(format!("cannot connect: {error}")).with_source(&error))
            }
        }
    }
}

/// No client's settings were given.
pub(super) fn no_roots(uri: &Uri) -> RpcError {
    RpcError::invalid(format!(
        "{uri} needs roots to check the server's certificate with: set them with \
         `Client::builder().tls(ClientTls::roots_pem_file(…)?)`"
    ))
}

/// No server's settings were given.
pub(super) fn no_certificate(uri: &Uri) -> RpcError {
    RpcError::invalid(format!(
        "{uri} needs a certificate and its key: set them with \
         `Server::builder().tls(ServerTls::from_pem_files(…)?)`"
    ))
}

/// Secures the connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    /// Handshakes compute in turn, as many at a time as there are processors. Hundreds that may run
    /// at once would all run before a call that comes after them.
    turns: Arc<Semaphore>,
}

impl Acceptor {
    pub(crate) fn new(settings: &ServerTls) -> Result<Self, RpcError> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let turns = Arc::new(Semaphore::new(processors));
        settings.config().map(|config| Self { config: Arc::new(config), turns })
    }

    /// Dropping the future ends the connection.
    pub(super) async fn accept(&self, transport: Transport) -> Result<Transport, RpcError> {
        let session = ServerConnection::new(Arc::clone(&self.config))
            .map_err(|error| cannot_begin(&error))?;
        let (peer, mut handshake) = begin(session.into(), transport);
        match handshake.run(Some(&self.turns)).await {
            Ok(()) => Ok(secured(handshake, peer)),
            Err(error) => {
                let _ = tokio::time::timeout(LINGER, handshake.linger()).await;
                Err(RpcError::unavailable(error.to_string()).with_source(&error))
            }
        }
    }
}

fn cannot_begin(error: &rustls::Error) -> RpcError {
    RpcError::internal(format!("TLS cannot begin: {error}"))
}

fn begin(session: Connection, transport: Transport) -> (String, Handshake) {
    let Transport { reader, writer, peer, certificate: _ } = transport;
    (peer, Handshake::new(session, reader, writer))
}

fn secured(handshake: Handshake, peer: String) -> Transport {
    let certificates = handshake.session().peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first()).and_then(certificate::read);
    let (reader, writer) = handshake.done();
    let mut transport = Transport::new(reader, writer, peer);
    transport.certificate = certificate.map(Arc::new);
    transport
}
