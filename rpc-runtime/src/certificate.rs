//! [`PeerCertificate`]: the verified certificate of a peer.

use std::fmt;

/// The verified certificate of the other end of a connection.
///
/// The handshake has verified that it was issued by one of the configured roots, that it was valid,
/// and that the peer has its key. Permissions of the names in it are up to the application.
///
/// Only `tls:` connections have certificates. Servers always have one; clients have one if the
/// server requires it (`ServerTls::client_roots_pem`).
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub(crate) subject: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) der: Vec<u8>,
}

impl PeerCertificate {
    /// The subject as text in the order of the certificate, such as `C=DE,O=Example,CN=orders`.
    /// Special characters are escaped as in RFC 4514, so one attribute cannot look like two.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The DNS names. A leading `*.` stands for one label.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The URIs, such as SPIFFE IDs.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// The whole certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerCertificate")
            .field("subject", &self.subject)
            .field("dns_names", &self.dns_names)
            .field("uris", &self.uris)
            .finish_non_exhaustive()
    }
}
