//! [`PeerCertificate`].

use std::fmt;

/// The certificate with which the other end of a connection has proved who it is.
///
/// It was checked when the connection was made: signed by one of the roots, in force, and of a key
/// that the peer has. What the names in it may do is the application's to say. There are certificates
/// on `tls:` connections only: a client's is there if the server asks for it
/// (`ServerTls::client_roots_pem`), a server's always.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub(crate) subject: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) uris: Vec<String>,
    pub(crate) der: Vec<u8>,
}

impl PeerCertificate {
    /// The subject as text, in the order of the certificate: `C=DE,O=Example,CN=orders`. Characters
    /// that have a meaning there are escaped as in RFC 4514, so a name cannot pass for two.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The DNS names that it is for; `*.` in front stands for one more label.
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The URIs that it is for, such as SPIFFE ids.
    pub fn uris(&self) -> &[String] {
        &self.uris
    }

    /// All of it, in DER.
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
