//! [`ServerTls`] and [`ClientTls`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::identity::{Identity, read, roots};
use crate::error::RpcError;

/// The name of this protocol within TLS (ALPN). A peer that names only others is refused.
const PROTOCOL: &[u8] = b"rpc/1";

/// How a server proves who it is on `tls:`, and whether it asks its clients to do so.
///
/// TLS 1.3 only. Sessions are not resumed: each connection checks the certificates that are in force
/// when it is made.
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
#[derive(Clone)]
pub struct ServerTls {
    identity: Arc<Identity>,
    client_roots: Option<Arc<RootCertStore>>,
}

impl ServerTls {
    /// The server's certificate, followed by those of its issuers as far as clients do not know them,
    /// and its private key, both in PEM files.
    ///
    /// Reads them at once, and blocks for that.
    ///
    /// # Errors
    /// A file cannot be read or has not what it should have, or the two do not belong together. The
    /// error names the file.
    pub fn from_pem_files(
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, RpcError> {
        let identity = Identity::from_files(certificates.as_ref(), key.as_ref())?;
        Ok(Self { identity, client_roots: None })
    }

    /// The same from memory. There is nothing to [`reload`](Self::reload) then.
    ///
    /// # Errors
    /// As for [`from_pem_files`](Self::from_pem_files).
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, RpcError> {
        Ok(Self { identity: Identity::from_pem(certificates, key)?, client_roots: None })
    }

    /// Requires a certificate of each client, issued by one of these (mutual TLS). Methods find it
    /// in [`Context::peer_certificate`](crate::Context::peer_certificate). By default clients are
    /// not asked for one.
    ///
    /// # Errors
    /// There is no certificate in it, or one that cannot be a root.
    pub fn client_roots_pem(mut self, pem: &[u8]) -> Result<Self, RpcError> {
        self.client_roots = Some(Arc::new(roots(pem, "the roots for clients")?));
        Ok(self)
    }

    /// The same from a file.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`client_roots_pem`](Self::client_roots_pem).
    pub fn client_roots_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, RpcError> {
        self.client_roots = Some(Arc::new(roots_of_file(path.as_ref())?));
        Ok(self)
    }

    /// Reads the files of certificate and key again, for this and all clones of it: connections that
    /// are made from now on get the new certificate, those that are open go on. Replace both files
    /// before; a mismatch of the two is an error. Roots are not read again.
    ///
    /// Blocks while it reads.
    ///
    /// # Errors
    /// As for [`from_pem_files`](Self::from_pem_files), or they came from memory. What was in use
    /// stays in use.
    pub fn reload(&self) -> Result<(), RpcError> {
        self.identity.reload()
    }

    pub(super) fn config(&self) -> Result<ServerConfig, RpcError> {
        let provider = Arc::new(ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| unusable(&error))?;
        let config = match &self.client_roots {
            None => config.with_no_client_auth(),
            Some(roots) => {
                let roots = Arc::clone(roots);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                config.with_client_cert_verifier(verifier.map_err(|error| unusable(&error))?)
            }
        };
        let mut config = config.with_cert_resolver(Arc::clone(&self.identity) as _);
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("identity", &self.identity)
            .field("client_roots", &self.client_roots.as_ref().map(|roots| roots.len()))
            .finish()
    }
}

/// Whom a client believes on `tls:`, and how it proves who it is if it is asked to.
///
/// The server's certificate must be issued by one of the roots, and be for the host that the URI
/// names or for [`server_name`](Self::server_name). That cannot be turned off. The rest is as for
/// [`ServerTls`].
///
/// ```no_run
/// # async fn example() -> rpc_runtime::Result<()> {
/// use rpc_runtime::{Client, ClientTls};
///
/// let tls = ClientTls::roots_pem_file("our-ca.pem")?.identity_pem_files("me.pem", "me.key")?;
/// let client = Client::builder().tls(tls).connect("tls://orders.example:9443").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    identity: Option<Arc<Identity>>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Believes servers whose certificate was issued by one of these, in PEM.
    ///
    /// The roots of the system are not used: services mostly have an authority of their own, and a
    /// few hundred others should not be able to speak for them. To use them all the same, give the
    /// file that the system has them in, such as `/etc/ssl/certs/ca-certificates.crt`, to
    /// [`roots_pem_file`](Self::roots_pem_file).
    ///
    /// # Errors
    /// There is no certificate in it, or one that cannot be a root.
    pub fn roots_pem(pem: &[u8]) -> Result<Self, RpcError> {
        let roots = Arc::new(roots(pem, "the roots for servers")?);
        Ok(Self { roots, identity: None, server_name: None })
    }

    /// The same from a file.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`roots_pem`](Self::roots_pem).
    pub fn roots_pem_file(path: impl AsRef<Path>) -> Result<Self, RpcError> {
        let roots = Arc::new(roots_of_file(path.as_ref())?);
        Ok(Self { roots, identity: None, server_name: None })
    }

    /// The certificate and the key of this client, for servers that require them (mutual TLS).
    ///
    /// # Errors
    /// As for [`ServerTls::from_pem`].
    pub fn identity_pem(mut self, certificates: &[u8], key: &[u8]) -> Result<Self, RpcError> {
        self.identity = Some(Identity::from_pem(certificates, key)?);
        Ok(self)
    }

    /// The same from files, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// As for [`ServerTls::from_pem_files`].
    pub fn identity_pem_files(
        mut self,
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, RpcError> {
        self.identity = Some(Identity::from_files(certificates.as_ref(), key.as_ref())?);
        Ok(self)
    }

    /// The name that a server's certificate must be for, in place of the host of the URI: a DNS name
    /// or an IP address. For providers that are found under addresses that change.
    ///
    /// # Errors
    /// It is neither.
    pub fn server_name(mut self, name: &str) -> Result<Self, RpcError> {
        self.server_name = Some(parse_name(name)?);
        Ok(self)
    }

    /// Reads the files of the client's own certificate and key again; see [`ServerTls::reload`].
    ///
    /// # Errors
    /// As there, or the client has none.
    pub fn reload(&self) -> Result<(), RpcError> {
        match &self.identity {
            Some(identity) => identity.reload(),
            None => {
                Err(RpcError::invalid("there is nothing to reload: the client has no certificate"))
            }
        }
    }

    pub(super) fn config(&self) -> Result<ClientConfig, RpcError> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable(&error))?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => config.with_client_cert_resolver(Arc::clone(identity) as _),
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    /// The name that the certificate of the server at `host` must be for.
    pub(super) fn name_of(&self, host: &str) -> Result<ServerName<'static>, RpcError> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => parse_name(host.trim_start_matches('[').trim_end_matches(']')),
        }
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("roots", &self.roots.len())
            .field("identity", &self.identity)
            .field("server_name", &self.server_name)
            .finish()
    }
}

fn parse_name(name: &str) -> Result<ServerName<'static>, RpcError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        RpcError::invalid(format!(
            "a certificate cannot be for {name:?}: it is neither a DNS name nor an IP address"
        ))
    })
}

fn roots_of_file(path: &Path) -> Result<RootCertStore, RpcError> {
    roots(&read(path)?, &path.display().to_string())
}

fn unusable(error: &dyn fmt::Display) -> RpcError {
    RpcError::invalid(format!("TLS cannot be set up like this: {error}"))
}
