//! `tls://host:port`: TLS 1.3 over `tcp`.

//!
//! | file | what |
//! | --- | --- |
//! | `server_settings`, `client_settings` | [`ServerTls`], [`ClientTls`] |
//! | `identity` | the certificate of this end and its key |
//! | `trust` | roots and revocation lists for peers |
//! | `expected` | the identity that a server must have |
//! | `verifier` | the checks of a handshake, from the two above |
//! | `peer_trust` | when the peer of an open connection is no longer trusted |
//! | `layer` | handshake, encryption, decryption |
//! | `certificate`, `explain` | names of a peer's certificate; error messages |

mod certificate;
mod client_settings;
mod expected;
mod explain;
mod identity;
mod layer;
mod peer_trust;
mod server_settings;
mod trust;
mod verifier;

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::sync::{Semaphore, watch};

#[cfg(feature = "__fuzz")]
pub(crate) use self::certificate::{certificate_name, peer_certificate};
pub use self::client_settings::ClientTls;
use self::layer::Handshake;
use self::peer_trust::{Check, PeerTrust};
pub use self::server_settings::ServerTls;
use self::verifier::{ClientVerifier, ServerVerifier};
use super::{Distrust, Transport, tcp};
use crate::error::RpcError;
use crate::uri::Uri;

/// Time that a refused client has to read the reason.
const LINGER: Duration = Duration::from_millis(500);

/// Connects to servers.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    verifier: Arc<ServerVerifier>,
    config: Arc<ClientConfig>,
}

impl Connector {
    /// `service` is the discovered service; `None` for addresses given by the user.
    ///
    /// # Errors
    /// The settings do not name the expected identity of the service's providers.
    pub(crate) fn new(settings: &ClientTls, service: Option<&str>) -> Result<Self, RpcError> {
        let verifier = settings.verifier(service)?;
        let config = Arc::new(settings.config(Arc::clone(&verifier))?);
        Ok(Self { verifier, config })
    }

    pub(super) async fn connect(&self, uri: &Uri) -> Result<Transport, RpcError> {
        let address = tcp::host_and_port(uri)?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let name = self.verifier.expected.server_name(host)?;
        let check = Check::Server(Arc::clone(&self.verifier), name.clone());
        let changes = check.changes();
        let session = ClientConnection::new(Arc::clone(&self.config), name)
            .map_err(|error| cannot_begin(&error))?;
        let transport = tcp::connect(uri).await?;
        let (peer, mut handshake) = begin(session.into(), transport);
        match handshake.run(None).await {
            Ok(()) => Ok(secured(handshake, peer, Some((check, changes)))),
            Err(error) => {
                Err(RpcError::unavailable(format!("cannot connect: {error}")).with_source(&error))
            }
        }
    }
}

/// The error for a client without TLS settings.
pub(super) fn no_roots(uri: &Uri) -> RpcError {
    RpcError::invalid(format!(
        "{uri} needs roots to verify the server's certificate: set them with \
         `Client::builder().tls(ClientTls::roots_pem_file(…)?)`"
    ))
}

/// The error for a server without TLS settings.
pub(super) fn no_certificate(uri: &Uri) -> RpcError {
    RpcError::invalid(format!(
        "{uri} needs a certificate and its key: set them with \
         `Server::builder().tls(ServerTls::from_pem_files(…)?)`"
    ))
}

/// Accepts connections of a server.
#[derive(Clone, Debug)]
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    /// Limits the computations of handshakes to one per processor. Otherwise hundreds of handshakes
    /// would delay all later calls.
    permits: Arc<Semaphore>,
    /// The check of clients, if they must have a certificate.
    clients: Option<Arc<ClientVerifier>>,
}

impl Acceptor {
    pub(crate) fn new(settings: &ServerTls) -> Result<Self, RpcError> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let permits = Arc::new(Semaphore::new(processors));
        let clients = settings.verifier();
        let config = Arc::new(settings.config(clients.clone())?);
        Ok(Self { config, permits, clients })
    }

    /// Performs the handshake. Dropping the future closes the connection.
    pub(super) async fn accept(&self, transport: Transport) -> Result<Transport, RpcError> {
        let check = self.clients.clone().map(|clients| {
            let check = Check::Client(clients);
            let changes = check.changes();
            (check, changes)
        });
        let session = ServerConnection::new(Arc::clone(&self.config))
            .map_err(|error| cannot_begin(&error))?;
        let (peer, mut handshake) = begin(session.into(), transport);
        match handshake.run(Some(&self.permits)).await {
            Ok(()) => Ok(secured(handshake, peer, check)),
            Err(error) => {
                let _ = tokio::time::timeout(LINGER, handshake.linger()).await;
                Err(RpcError::unavailable(error.to_string()).with_source(&error))
            }
        }
    }
}

fn cannot_begin(error: &rustls::Error) -> RpcError {
    RpcError::internal(format!("TLS cannot start: {error}"))
}

fn begin(session: Connection, transport: Transport) -> (String, Handshake) {
    let Transport { reader, writer, peer, .. } = transport;
    (peer, Handshake::new(session, reader, writer))
}

fn secured(
    handshake: Handshake,
    peer: String,
    check: Option<(Check, watch::Receiver<()>)>,
) -> Transport {
    let chain = handshake.session().peer_certificates().unwrap_or_default();
    let certificate = chain.first().and_then(certificate::read);
    let peer_trust = check.map(|(check, changes)| {
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        PeerTrust::new(check, chain, changes)
    });
    let (reader, writer) = handshake.into_halves();
    let mut transport = Transport::new(reader, writer, peer);
    transport.certificate = certificate.map(Arc::new);
    transport.distrust = peer_trust.map(|peer_trust| Box::pin(peer_trust.lost()) as Distrust);
    transport
}
