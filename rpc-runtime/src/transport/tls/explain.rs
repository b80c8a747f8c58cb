//! What went wrong with TLS, in words that say what to do.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error};

use crate::error::RpcError;

pub(super) fn error(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Explained(explain(&error), error))
}

#[derive(Debug)]
struct Explained(String, Error);

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Explained {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

/// The peer ended the connection without saying so within TLS.
pub(super) fn truncated() -> io::Error {
    let why = "the connection ended without a TLS close, so it may have been cut off on the way";
    io::Error::new(io::ErrorKind::UnexpectedEof, why)
}

pub(super) fn cannot_set_up(error: &dyn fmt::Display) -> RpcError {
    RpcError::invalid(format!("invalid TLS settings: {error}"))
}

pub(super) fn nothing_to_reload() -> RpcError {
    RpcError::invalid("there is nothing to reload: no TLS settings come from files")
}

pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::AlertReceived(alert) => refused(*alert),
        Error::InvalidCertificate(error) => format!("the peer's certificate {}", untrusted(error)),
        Error::InvalidMessage(_) => {
            format!("what the peer sent is not TLS: does it speak plain tcp://? ({error})")
        }
        Error::NoCertificatesPresented => {
            "the peer has sent no certificate, and one is required here".into()
        }
        Error::NoApplicationProtocol => "the peer speaks TLS, but another protocol in it".into(),
        Error::PeerIncompatible(_) => format!("the two ends have no TLS 1.3 in common: {error}"),
        Error::DecryptError => "TLS: what arrived was changed on the way".into(),
        _ => format!("TLS: {error}"),
    }
}

/// What the peer says of this end.
fn refused(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => {
            "the peer requires a certificate of this end, and none was sent".into()
        }
        Alert::UnknownCA => "the peer refused this end's certificate: \
            it does not know who issued it"
            .into(),
        Alert::CertificateExpired => {
            "the peer refused this end's certificate: it has expired, or is not in force yet".into()
        }
        Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateRevoked
        | Alert::UnsupportedCertificate
        | Alert::DecryptError
        | Alert::AccessDenied => {
            format!("the peer refused this end's certificate: {alert:?}")
        }
        Alert::NoApplicationProtocol => "the peer speaks TLS, but another protocol in it".into(),
        Alert::ProtocolVersion | Alert::HandshakeFailure => {
            "the peer cannot agree on TLS 1.3 with this end".into()
        }
        _ => format!("the peer ended TLS: {alert:?}"),
    }
}

fn untrusted(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "is not trusted: none of the roots given here has issued it".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not in force yet: is the clock of this machine right?".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "is not for {:?}, but for {}",
            expected.to_str(),
            if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::UnknownRevocationStatus => {
            "was refused: revocation lists are set, but none of its issuer or of one above".into()
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "was refused: the revocation list of its issuer has expired and must be renewed".into()
        }
        CertificateError::Other(error) => error.to_string(),
        _ => format!("was refused: {error}"),
    }
}
