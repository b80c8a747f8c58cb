//! [`ClientTls`].

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;

use super::expected::{Expected, ServerIdentity};
use super::identity::Identity;
use super::trust::Trust;
use super::verifier::ServerVerifier;
use super::{PROTOCOL, cannot_set_up, nothing_to_reload};
use crate::error::RpcError;

/// The TLS settings of a client: the roots of trust for servers, the identity that is expected of
/// them, and optionally the client's own certificate. Required for `tls:`.
///
/// The server's certificate must be issued by one of the roots, and be for an expected identity. That
/// cannot be turned off. The identity never comes from a registry:
///
/// | the client is made by | the certificate must be for |
/// | --- | --- |
/// | [`connect`](crate::ClientBuilder::connect) | the host of the URI, or what [`server_name`](Self::server_name) or [`server_uri`](Self::server_uri) says |
/// | [`discover`](crate::ClientBuilder::discover) | what one of these says; without, it is an error, unless [`trust_registry_names`](Self::trust_registry_names) is set |
///
/// The rest is as for [`ServerTls`](crate::ServerTls).
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

    /// Refuses servers whose certificate, or that of one of its issuers, is on one of these
    /// revocation lists (CRLs in PEM), in addition to those that were given before.
    ///
    /// Once there is any list, each certificate of a chain needs one of its issuer: a server is
    /// refused if there is none, or if that is past its `nextUpdate`. Renew the lists in time, and
    /// [`reload`](Self::reload).
    ///
    /// # Errors
    /// There is no revocation list in it, or one that cannot be read.
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

    /// The name that a server's certificate must be for, in place of the host of the URI: a DNS name
    /// or an IP address. Replaces what was expected before.
    ///
    /// - `{service}` in it stands for the name of the service that is
    ///   [discovered](crate::ClientBuilder::discover), as in `{service}.rpc.internal`.
    /// - `*.` in front stands for one label: `*.accounts.internal` is met by a certificate for
    ///   `a.accounts.internal`.
    ///
    /// # Errors
    /// It is no name.
    pub fn server_name(mut self, name: &str) -> Result<Self, RpcError> {
        self.server = Some(ServerIdentity::name(name)?);
        Ok(self)
    }

    /// The URI that a server's certificate must be for, such as a SPIFFE id, in place of a name.
    /// Replaces what was expected before.
    ///
    /// `{service}` is as for [`server_name`](Self::server_name). `/*` at its end stands for one
    /// segment: `spiffe://example/accounts/*`. The rest is compared byte by byte. A certificate with
    /// several URIs has no SPIFFE id, as the standard has it.
    ///
    /// # Errors
    /// It is no URI of this form.
    pub fn server_uri(mut self, uri: &str) -> Result<Self, RpcError> {
        self.server = Some(ServerIdentity::uri(uri)?);
        Ok(self)
    }

    /// Expects of a discovered provider no more than a certificate for the host of its address,
    /// unless another identity is set.
    ///
    /// Whoever can write to the registry chooses that host, and whoever has any certificate of the
    /// roots can then serve any service. Set it only if both are trusted as much as the service.
    pub fn trust_registry_names(mut self) -> Self {
        self.trust_registry_names = true;
        self
    }

    /// Reads all files again, for this and all clones of it: those of the roots, of the revocation
    /// lists, and of the client's own certificate and key. Connections that are made from now on use
    /// what they have.
    ///
    /// Of those that are open, the ones whose server would now be refused get no more calls; what
    /// is under way gets the client's
    /// [`drain_timeout`](crate::ClientBuilder::drain_timeout). The others go on.
    ///
    /// Blocks while it reads.
    ///
    /// # Errors
    /// As for the methods that the files were given to; or all came from memory. What was in use
    /// stays in use, all of it.
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
                     {service}, and a registry is not to choose it: set \
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
