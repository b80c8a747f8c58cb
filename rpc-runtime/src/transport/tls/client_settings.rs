//! [`ClientTls`].

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;

use super::expected::{Expected, ServerIdentity};
use super::explain::{cannot_set_up, nothing_to_reload};
use super::identity::Identity;
use super::layer::PROTOCOL;
use super::trust::Trust;
use super::verifier::ServerVerifier;
use crate::error::RpcError;

/// TLS settings of a client: trusted roots, expected server identity and optional client certificate.
/// Required for `tls:`.
///
/// The server's certificate must be issued by one of the roots and match the expected identity. This
/// check cannot be turned off. By default, a registry does not choose the identity:
///
/// | client created by | the certificate must match |
/// | --- | --- |
/// | [`connect`](crate::ClientBuilder::connect) | [`server_name`](Self::server_name) or [`server_uri`](Self::server_uri) if set, otherwise the host of the URI |
/// | [`discover`](crate::ClientBuilder::discover) | [`server_name`](Self::server_name) or [`server_uri`](Self::server_uri); without either, `discover` fails unless [`trust_registry_names`](Self::trust_registry_names) is set |
///
/// TLS 1.3 only, without session resumption, as for [`ServerTls`](crate::ServerTls).
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
#[derive(Clone, Debug)]
pub struct ClientTls {
    servers: Arc<Trust>,
    identity: Option<Arc<Identity>>,
    server: Option<ServerIdentity>,
    trust_registry_names: bool,
}

impl ClientTls {
    /// Trusts servers whose certificate is issued by one of these roots, in PEM.
    ///
    /// The roots of the system are not used: services usually have a certificate authority of their
    /// own, and public authorities should not be able to issue certificates for them. To use the
    /// system's roots, pass their file, such as `/etc/ssl/certs/ca-certificates.crt`, to
    /// [`roots_pem_file`](Self::roots_pem_file).
    ///
    /// # Errors
    /// The PEM contains no certificate, or one that cannot be a root.
    pub fn roots_pem(pem: &[u8]) -> Result<Self, RpcError> {
        Trust::of_pem(pem, "the roots for servers").map(Self::new)
    }

    /// The same from a file, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`roots_pem`](Self::roots_pem).
    pub fn roots_pem_file(path: impl AsRef<Path>) -> Result<Self, RpcError> {
        Trust::of_file(path.as_ref()).map(Self::new)
    }

    fn new(servers: Arc<Trust>) -> Self {
        Self { servers, identity: None, server: None, trust_registry_names: false }
    }

    /// Adds revocation lists (CRLs in PEM). A server is refused if its certificate, or that of one of
    /// its issuers, is revoked.
    ///
    /// With any list, each certificate of a chain needs a list of its issuer. A server is refused if
    /// that list is missing or past its `nextUpdate`. Renew the lists in time, then call
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    /// The PEM contains no revocation list, or one that cannot be read.
    pub fn crls_pem(mut self, pem: &[u8]) -> Result<Self, RpcError> {
        self.servers = self.servers.with_crls_pem(pem)?;
        Ok(self)
    }

    /// The same from a file of at most 32 MiB, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// The file cannot be read, or as for [`crls_pem`](Self::crls_pem).
    pub fn crls_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, RpcError> {
        self.servers = self.servers.with_crls_file(path.as_ref())?;
        Ok(self)
    }

    /// The certificate and the key of this client, for servers that require them (mutual TLS).
    ///
    /// # Errors
    /// As for [`ServerTls::from_pem`](crate::ServerTls::from_pem).
    pub fn identity_pem(mut self, certificates: &[u8], key: &[u8]) -> Result<Self, RpcError> {
        self.identity = Some(Identity::from_pem(certificates, key)?);
        Ok(self)
    }

    /// The same from files, which [`reload`](Self::reload) reads again.
    ///
    /// # Errors
    /// As for [`ServerTls::from_pem_files`](crate::ServerTls::from_pem_files).
    pub fn identity_pem_files(
        mut self,
        certificates: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, RpcError> {
        self.identity = Some(Identity::from_files(certificates.as_ref(), key.as_ref())?);
        Ok(self)
    }

    /// Sets the name in the server's certificate: a DNS name or an IP address. Default: the host of
    /// the URI. Replaces an earlier `server_name` or `server_uri`.
    ///
    /// - `{service}` is replaced by the name of the
    ///   [discovered](crate::ClientBuilder::discover) service, as in `{service}.rpc.internal`.
    /// - A leading `*.` stands for one label: `*.accounts.internal` matches a certificate for
    ///   `a.accounts.internal`.
    ///
    /// # Errors
    /// The text is not a name.
    pub fn server_name(mut self, name: &str) -> Result<Self, RpcError> {
        self.server = Some(ServerIdentity::name(name)?);
        Ok(self)
    }

    /// Sets the URI in the server's certificate, such as a SPIFFE ID, in place of a name. Replaces an
    /// earlier `server_name` or `server_uri`.
    ///
    /// `{service}` is as for [`server_name`](Self::server_name). A trailing `/*` stands for one
    /// segment: `spiffe://example/accounts/*`. Everything else is compared byte by byte. A
    /// certificate with several URIs has no SPIFFE ID, by the SPIFFE standard.
    ///
    /// # Errors
    /// The text is not a URI of this form.
    pub fn server_uri(mut self, uri: &str) -> Result<Self, RpcError> {
        self.server = Some(ServerIdentity::uri(uri)?);
        Ok(self)
    }

    /// Accepts a discovered provider whose certificate is for the host of its registered address,
    /// unless `server_name` or `server_uri` is set.
    ///
    /// A writer of the registry chooses that host. So the holder of any certificate of the roots can
    /// serve any service together with such a writer. Set this only if all of them are trusted.
    pub fn trust_registry_names(mut self) -> Self {
        self.trust_registry_names = true;
        self
    }

    /// Reads all files again, for these settings and all clones: roots, revocation lists, certificate
    /// and key of the client. New connections use the new content.
    ///
    /// An open connection whose server would now be refused gets no more calls. Calls in progress on
    /// it may finish within the client's [`drain_timeout`](crate::ClientBuilder::drain_timeout).
    /// Other connections are not affected.
    ///
    /// Blocks the thread while it reads.
    ///
    /// # Errors
    /// As for the methods that took the files. Also if no settings came from files. On an error, all
    /// previous settings stay in use.
    pub fn reload(&self) -> Result<(), RpcError> {
        let own = self.identity.as_ref().filter(|identity| identity.has_files());
        if !self.servers.has_files() && own.is_none() {
            return Err(nothing_to_reload());
        }
        let key = own.map(|own| Ok::<_, RpcError>((own, own.load()?))).transpose()?;
        let anchors = self.servers.load()?;
        if let Some((own, key)) = key {
            own.replace(key);
        }
        self.servers.replace(anchors);
        Ok(())
    }

    /// The check of servers; `service` is the one that is discovered, if one is.
    pub(super) fn verifier(&self, service: Option<&str>) -> Result<Arc<ServerVerifier>, RpcError> {
        let expected = match (&self.server, service) {
            (Some(identity), service) => identity.resolve(service)?,
            (None, None) => Expected::Host,
            (None, Some(_)) if self.trust_registry_names => Expected::Host,
            (None, Some(service)) => {
                return Err(RpcError::invalid(format!(
                    "the TLS settings do not say which identity is expected of the providers of \
                     {service}, and the registry must not choose it: set \
                     `server_name(\"{{service}}.example\")` or \
                     `server_uri(\"spiffe://example/{{service}}\")`, or `trust_registry_names()`"
                )));
            }
        };
        Ok(Arc::new(ServerVerifier { trust: Arc::clone(&self.servers), expected }))
    }

    pub(super) fn config(&self, verifier: Arc<ServerVerifier>) -> Result<ClientConfig, RpcError> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| cannot_set_up(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => config.with_client_cert_resolver(Arc::clone(identity) as _),
        };
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}
