//! Error messages for TLS that say what to do.

use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error};

use crate::error::RpcError;

pub(super) fn error(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, TlsError(explain(&error), error))
}

#[derive(Debug)]
struct TlsError(String, Error);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.1)
    }
}

/// The error of a connection that ended without a TLS close.
pub(super) fn truncated() -> io::Error {
    let why = "the connection ended without a TLS close, so it may have been cut off";
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
        Error::AlertReceived(alert) => alert_reason(*alert),
        Error::InvalidCertificate(error) => {
            format!("the peer's certificate {}", certificate_reason(error))
        }
        Error::InvalidMessage(_) => {
            format!("the peer did not send TLS: does it use plain tcp://? ({error})")
        }
        Error::NoCertificatesPresented => {
            "the peer sent no certificate, but one is required".into()
        }
        Error::NoApplicationProtocol => "the peer uses TLS, but for another protocol".into(),
        Error::PeerIncompatible(_) => {
            format!("the peer does not support TLS 1.3 with the options of this end: {error}")
        }
        Error::DecryptError => "TLS: received data was altered in transit".into(),
        _ => format!("TLS: {error}"),
    }
}

/// The reason of an alert from the peer.
fn alert_reason(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CertificateRequired => "the peer requires a certificate, but none was sent".into(),
        Alert::UnknownCA => "the peer refused this end's certificate: its issuer is unknown".into(),
        Alert::CertificateExpired => {
            "the peer refused this end's certificate: it has expired or is not yet valid".into()
        }
        Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::CertificateRevoked
        | Alert::UnsupportedCertificate
        | Alert::DecryptError
        | Alert::AccessDenied => {
            format!("the peer refused this end's certificate: {alert:?}")
        }
        Alert::NoApplicationProtocol => "the peer uses TLS, but for another protocol".into(),
        Alert::ProtocolVersion | Alert::HandshakeFailure => {
            "the peer does not support TLS 1.3 with the options of this end".into()
        }
        _ => format!("the peer ended TLS: {alert:?}"),
    }
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "is not trusted: it was not issued by any of the configured roots".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not yet valid: is the clock of this machine right?".into()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "is not for {:?}, but for {}",
            expected.to_str(),
            if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") }
        ),
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::UnknownRevocationStatus => {
            "was refused: revocation lists are set, but that of an issuer is missing".into()
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "was refused: the revocation list of its issuer has expired and must be renewed".into()
        }
        CertificateError::Other(error) => error.to_string(),
        _ => format!("was refused: {error}"),
    }
}
