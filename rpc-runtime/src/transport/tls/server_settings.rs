//! [`ServerTls`].

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;

use super::explain::{cannot_set_up, nothing_to_reload};
use super::identity::Identity;
use super::layer::PROTOCOL;
use super::trust::Trust;
use super::verifier::ClientVerifier;
use crate::error::RpcError;

/// TLS settings of a server: its certificate and key, and optional authentication of clients.
/// Required for `tls:`.
///
/// TLS 1.3 only. Sessions are not resumed: each connection checks the certificates that are current
/// when it is opened.
///
/// ```no_run
/// # async fn example() -> rpc_runtime::Result<()> {
/// use rpc_runtime::{Server, ServerTls};
///
/// let tls = ServerTls::from_pem_files("server.pem", "server.key")?;
/// let server = Server::builder().tls(tls.clone()).bind("tls://0.0.0.0:9443").await?;
///
/// // After the files were renewed.
/// tls.reload()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ServerTls {
    identity: Arc<Identity>,
    /// The issuers of client certificates, if clients must have one.
    clients: Option<Arc<Trust>>,
}

impl ServerTls {
    /// Settings with the server's certificate and private key, both from PEM files. The intermediate
    /// certificates that clients do not have follow the server's own in the first file.
    ///
    /// Reads the files now, and blocks the thread meanwhile.
    ///
    /// # Errors
    /// A file cannot be read or lacks its content, or certificate and key do not match. The error
    /// names the file.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, RpcError> {
        let identity = Identity::from_files(certificates.as_ref(), key.as_ref())?;
        Ok(Self { identity, clients: None })
    }

    /// The same from memory. There is nothing to [`reload`](Self::reload) then.
    ///
    /// # Errors
    /// As for [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, RpcError> {
        Ok(Self { identity: Identity::from_pem(certificates, key)?, clients: None })
    }

    /// Requires a certificate of each client, issued by one of these roots (mutual TLS). Default:
    /// clients need no certificate. Methods find it in
    /// [`Context::peer_certificate`](crate::Context::peer_certificate).
    ///
    /// # Errors
    /// The PEM contains no certificate, or one that cannot be a root.
    pub fn client_roots_pem(mut self, pem: &[u8]) -> Result<Self, RpcError> {
        self.clients = Some(Trust::of_pem(pem, "the roots for clients")?);
        Ok(self)
    }

    /// The same from a file, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`client_roots_pem`](Self::client_roots_pem).
    pub fn client_roots_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, RpcError> {
        self.clients = Some(Trust::of_file(path.as_ref())?);
        Ok(self)
    }

    /// Adds revocation lists (CRLs in PEM). A client is refused if its certificate, or that of one of
    /// its issuers, is revoked. Set the roots for clients first.
    ///
    /// With any list, each certificate of a chain needs a list of its issuer. A client is refused if
    /// that list is missing or past its `nextUpdate`. Renew the lists in time, then call
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    /// The PEM contains no revocation list, or one that cannot be read; or no roots for clients are
    /// set.
    pub fn client_crls_pem(mut self, pem: &[u8]) -> Result<Self, RpcError> {
        self.clients = Some(self.roots_first()?.with_crls_pem(pem)?);
        Ok(self)
    }

    /// The same from a file of at most 32 MiB, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`client_crls_pem`](Self::client_crls_pem).
    pub fn client_crls_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, RpcError> {
        self.clients = Some(self.roots_first()?.with_crls_file(path.as_ref())?);
        Ok(self)
    }

    /// Whether clients need a certificate.
    pub fn requires_client_certificates(&self) -> bool {
        self.clients.is_some()
    }

    fn roots_first(&self) -> Result<&Arc<Trust>, RpcError> {
        self.clients.as_ref().ok_or_else(|| {
            RpcError::invalid(
                "revocation lists for clients need roots for clients: set these first",
            )
        })
    }

    /// Reads all files again, for these settings and all clones: certificate, key, roots for clients
    /// and revocation lists. New connections use the new content. Replace both certificate and key
    /// before the call; a mismatch is an error.
    ///
    /// An open connection whose client would now be refused is drained: it gets a goaway, and calls
    /// in progress may finish within the server's
    /// [`drain_timeout`](crate::ServerBuilder::drain_timeout). Other connections are not affected.
    ///
    /// Blocks the thread while it reads. Call it from a task that watches the files, or once an hour;
    /// nothing is reloaded automatically.
    ///
    /// # Errors
    /// As for the methods that took the files. Also if no settings came from files. On an error, all
    /// previous settings stay in use.
    pub fn reload(&self) -> Result<(), RpcError> {
        let clients = self.clients.as_ref().filter(|clients| clients.has_files());
        if !self.identity.has_files() && clients.is_none() {
            return Err(nothing_to_reload());
        }
        let identity = self.identity.load()?;
        let anchors =
            clients.map(|clients| Ok::<_, RpcError>((clients, clients.load()?))).transpose()?;
        self.identity.replace(identity);
        if let Some((clients, anchors)) = anchors {
            clients.replace(anchors);
        }
        Ok(())
    }

    /// The check of clients, if they must have a certificate.
    pub(super) fn verifier(&self) -> Option<Arc<ClientVerifier>> {
        self.clients.as_ref().map(|trust| Arc::new(ClientVerifier(Arc::clone(trust))))
    }

    pub(super) fn config(
        &self,
        verifier: Option<Arc<ClientVerifier>>,
    ) -> Result<ServerConfig, RpcError> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| cannot_set_up(&error))?;
        let config = match verifier {
            None => config.with_no_client_auth(),
            Some(verifier) => config.with_client_cert_verifier(verifier),
        };
        let mut config = config.with_cert_resolver(Arc::clone(&self.identity) as _);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}
