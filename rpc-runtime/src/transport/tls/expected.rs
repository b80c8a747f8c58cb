//! [`Expected`]: the identity that the certificate of a server must have.

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, OtherError};
use webpki::EndEntityCert;

use crate::error::RpcError;

/// Placeholder for the name of the discovered service.
const SERVICE: &str = "{service}";
/// Maximum names of a certificate in an error.
const MAX_SHOWN: usize = 4;

/// An identity as configured, before the service is known.
#[derive(Clone, Debug)]
pub(super) enum ServerIdentity {
    Name(String),
    Uri(String),
}

/// The expected identity. The certificate must have one matching name.
#[derive(Clone, Debug)]
pub(super) enum Expected {
    /// The host of the connection's address.
    Host,
    Name(ServerName<'static>),
    /// A DNS name of one label and this suffix, which begins with a dot.
    Below(String),
    /// A URI, which may end in `/*` for one more segment.
    Uri(String),
}

impl ServerIdentity {
    pub(super) fn name(text: &str) -> Result<Self, RpcError> {
        let identity = Self::Name(text.to_owned());
        identity.resolve(Some("service")).map(|_| identity)
    }

    pub(super) fn uri(text: &str) -> Result<Self, RpcError> {
        let identity = Self::Uri(text.to_owned());
        identity.resolve(Some("service")).map(|_| identity)
    }

    /// The expected identity for the providers of this service.
    pub(super) fn resolve(&self, service: Option<&str>) -> Result<Expected, RpcError> {
        let (Self::Name(text) | Self::Uri(text)) = self;
        let text = match service {
            Some(service) => text.replace(SERVICE, service),
            None if text.contains(SERVICE) => {
                return Err(RpcError::invalid(format!(
                    "the expected identity {text:?} names the service, which only `discover` knows"
                )));
            }
            None => text.clone(),
        };
        match self {
            Self::Name(_) => name(text),
            Self::Uri(_) => uri(text),
        }
    }
}

fn name(text: String) -> Result<Expected, RpcError> {
    match text.strip_prefix('*') {
        Some(below) => {
            let parent = below.strip_prefix('.').unwrap_or_default();
            match parse_name(parent) {
                Ok(ServerName::DnsName(_)) => Ok(Expected::Below(below.to_owned())),
                _ => Err(RpcError::invalid(format!(
                    "{text:?} is not a valid name pattern: write *. and then a DNS name"
                ))),
            }
        }
        None => parse_name(&text).map(Expected::Name),
    }
}

fn uri(text: String) -> Result<Expected, RpcError> {
    let fixed = text.strip_suffix("/*").unwrap_or(&text);
    let authority = fixed
        .split_once("://")
        .filter(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/'));
    let is_plain = fixed.bytes().all(|b| b.is_ascii_graphic() && b != b'*');
    match authority {
        Some(_) if is_plain => Ok(Expected::Uri(text)),
        _ => Err(RpcError::invalid(format!(
            "{text:?} is not a valid certificate URI: write it like spiffe://domain/path, with `*` \
             only as its last segment"
        ))),
    }
}

pub(super) fn parse_name(name: &str) -> Result<ServerName<'static>, RpcError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        RpcError::invalid(format!(
            "a certificate cannot be for {name:?}: it is neither a DNS name nor an IP address"
        ))
    })
}

impl Expected {
    /// The server name for a connection to `host`. It is sent to the server (SNI).
    pub(super) fn server_name(&self, host: &str) -> Result<ServerName<'static>, RpcError> {
        match self {
            Self::Name(name) => Ok(name.clone()),
            _ => parse_name(host.trim_start_matches('[').trim_end_matches(']')),
        }
    }

    /// Checks the names of a certificate whose issuer was already checked. `name` is the result of
    /// [`server_name`](Self::server_name).
    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
    ) -> Result<(), Error> {
        let (expected, presented) = match self {
            Self::Host | Self::Name(_) => {
                return verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
            }
            Self::Below(parent) => {
                let certificate = parse(certificate)?;
                if certificate.valid_dns_names().any(|name| is_below(name, parent)) {
                    return Ok(());
                }
                (format!("*{parent}"), show(certificate.valid_dns_names()))
            }
            Self::Uri(expected) => {
                let certificate = parse(certificate)?;
                let mut uris = certificate.valid_uri_names();
                // A SPIFFE certificate has exactly one URI.
                let is_ambiguous = is_spiffe(expected) && certificate.valid_uri_names().count() > 1;
                if !is_ambiguous && uris.any(|uri| matches(uri, expected)) {
                    return Ok(());
                }
                (expected.clone(), show(certificate.valid_uri_names()))
            }
        };
        let other = OtherError(Arc::new(NotExpected { expected, presented }));
        Err(CertificateError::Other(other).into())
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Result<EndEntityCert<'c>, Error> {
    EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn is_spiffe(uri: &str) -> bool {
    uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://"))
}

/// Whether a certificate's DNS name is one label in front of `parent`. A wildcard in the
/// certificate does not match.
fn is_below(name: &str, parent: &str) -> bool {
    let Some(at) = name.len().checked_sub(parent.len()) else { return false };
    let (Some(label), Some(rest)) = (name.get(..at), name.get(at..)) else { return false };
    !label.is_empty() && !label.contains(['.', '*']) && rest.eq_ignore_ascii_case(parent)
}

fn matches(uri: &str, expected: &str) -> bool {
    match expected.strip_suffix('*') {
        None => uri == expected,
        Some(parent) => {
            let segment = uri.strip_prefix(parent);
            segment.is_some_and(|segment| !segment.is_empty() && !segment.contains(['/', '?', '#']))
        }
    }
}

/// The first names, as one line of text.
fn show<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let mut names = names.peekable();
    let shown: Vec<_> = names.by_ref().take(MAX_SHOWN).map(|name| format!("{name:?}")).collect();
    match (shown.is_empty(), names.peek()) {
        (true, _) => "no such name at all".to_owned(),
        (false, None) => shown.join(", "),
        (false, Some(_)) => format!("{}, …", shown.join(", ")),
    }
}

/// The certificate is valid, but for another identity.
#[derive(Debug)]
struct NotExpected {
    expected: String,
    presented: String,
}

impl fmt::Display for NotExpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "is not for {:?}, but for {}", self.expected, self.presented)
    }
}

impl std::error::Error for NotExpected {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_one_label_or_one_segment() {
        assert!(is_below("a.accounts.internal", ".accounts.internal"));
        assert!(is_below("A.Accounts.Internal", ".accounts.internal"));
        for other in [
            "accounts.internal",
            ".accounts.internal",
            "a.b.accounts.internal",
            "x",
            "*.accounts.internal",
            "aaccounts.internal",
            "a.accounts.internal.evil",
        ] {
            assert!(!is_below(other, ".accounts.internal"), "{other}");
        }
        let pattern = "spiffe://example/accounts/*";
        assert!(matches("spiffe://example/accounts/a", pattern));
        for other in [
            "spiffe://example/accounts/",
            "spiffe://example/accounts",
            "",
            "spiffe://example/accounts/a/b",
            "spiffe://evil/spiffe://example/accounts/a",
        ] {
            assert!(!matches(other, pattern), "{other}");
        }
        assert!(
            matches("spiffe://e/a", "spiffe://e/a") && !matches("spiffe://e/ab", "spiffe://e/a")
        );
    }

    #[test]
    fn the_name_of_the_service_is_put_in_where_it_is_known() {
        let name = ServerIdentity::name("{service}.rpc.internal").unwrap();
        let resolved = name.resolve(Some("Accounts")).unwrap();
        assert!(
            matches!(resolved, Expected::Name(name) if name.to_str() == "Accounts.rpc.internal")
        );
        let error = name.resolve(None).unwrap_err();
        assert!(error.is_invalid() && error.message().contains("only `discover` knows"), "{error}");
        assert!(name.resolve(Some("a b")).unwrap_err().message().contains("\"a b.rpc.internal\""));
        let uri = ServerIdentity::uri("spiffe://example/{service}/*").unwrap();
        let resolved = uri.resolve(Some("Accounts")).unwrap();
        assert!(matches!(resolved, Expected::Uri(uri) if uri == "spiffe://example/Accounts/*"));
    }

    #[test]
    fn what_no_certificate_can_be_for_is_refused_when_it_is_set() {
        for bad in ["", "*", "*.", "a.*.b", "*.127.0.0.1", "a b"] {
            assert!(ServerIdentity::name(bad).is_err(), "{bad}");
        }
        for bad in ["", "spiffe", "spiffe://", "://x", "spiffe:///a", "spiffe://*/a", "a://b/*/c"] {
            assert!(ServerIdentity::uri(bad).is_err(), "{bad}");
        }
    }
}
