//! [`Identity`]: the certificate and key of this end, replaceable while in use.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpc_registry::sync::RwLock;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, SignatureScheme};

use crate::error::RpcError;

/// A larger file of certificates or keys is refused.
pub(super) const MAX_PEM: u64 = 4 << 20;

/// A certificate with its chain, and its key. Handshakes that begin after a
/// [replacement](Self::replace) use the new ones.
pub(super) struct Identity {
    files: Option<Files>,
    current: RwLock<Arc<CertifiedKey>>,
}

struct Files {
    certificates: PathBuf,
    key: PathBuf,
}

impl Identity {
    pub(super) fn from_files(certificates: &Path, key: &Path) -> Result<Arc<Self>, RpcError> {
        let files = Files { certificates: certificates.to_owned(), key: key.to_owned() };
        let current = RwLock::new(files.load()?);
        Ok(Arc::new(Self { files: Some(files), current }))
    }

    pub(super) fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Arc<Self>, RpcError> {
        let current = certified_key(
            (certificates, "the certificates in memory"),
            (key, "the private key in memory"),
        )?;
        Ok(Arc::new(Self { files: None, current: RwLock::new(current) }))
    }

    pub(super) fn has_files(&self) -> bool {
        self.files.is_some()
    }

    /// Reads the files again. Returns the current certificate if it came from memory.
    pub(super) fn load(&self) -> Result<Arc<CertifiedKey>, RpcError> {
        self.files.as_ref().map_or_else(|| Ok(self.current()), Files::load)
    }

    pub(super) fn replace(&self, new: Arc<CertifiedKey>) {
        *self.current.write() = new;
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read())
    }
}

impl Files {
    fn load(&self) -> Result<Arc<CertifiedKey>, RpcError> {
        let (certificates, key) = (read(&self.certificates, MAX_PEM)?, read(&self.key, MAX_PEM)?);
        certified_key(
            (&certificates, &self.certificates.display().to_string()),
            (&key, &self.key.display().to_string()),
        )
    }
}

/// Shows the file names, never the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Identity");
        if let Some(files) = &self.files {
            shown.field("certificates", &files.certificates).field("key", &files.key);
        }
        shown.finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Identity {
    /// Sends the certificate whatever issuers the server names: its refusal is clearer than the
    /// error for a missing certificate.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

pub(super) fn read(path: &Path, max: u64) -> Result<Vec<u8>, RpcError> {
    let failed = |error: std::io::Error| {
        RpcError::invalid(format!("cannot read {}: {error}", path.display())).with_source(&error)
    };
    let mut bytes = Vec::new();
    // The file length of the system is not reliable for all kinds of files.
    let mut file = File::open(path).map_err(failed)?.take(max.saturating_add(1));
    file.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(RpcError::invalid(format!(
            "{} is larger than the limit of {max} bytes for such a file",
            path.display()
        )));
    }
    Ok(bytes)
}

/// Parses certificates and key, both in PEM with a name for messages.
fn certified_key(
    (certificates, certificates_name): (&[u8], &str),
    (key, key_name): (&[u8], &str),
) -> Result<Arc<CertifiedKey>, RpcError> {
    let chain = self::certificates(certificates, certificates_name)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            RpcError::invalid(format!("{key_name}: the PEM has no private key"))
        }
        // The text of the error could contain a part of the key.
        _ => RpcError::invalid(format!("{key_name}: the PEM of the private key is damaged")),
    })?;
    let certified_key = CertifiedKey::from_der(chain, key, &ring::default_provider());
    certified_key.map(Arc::new).map_err(|error| match error {
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => RpcError::invalid(format!(
            "{key_name} is not the key of the first certificate of {certificates_name}"
        )),
        Error::InvalidCertificate(error) => RpcError::invalid(format!(
            "{certificates_name}: the first certificate cannot be used: {error}"
        )),
        error => RpcError::invalid(format!("{key_name}: the private key cannot be used: {error}")),
    })
}

pub(super) fn certificates(
    pem: &[u8],
    name: &str,
) -> Result<Vec<CertificateDer<'static>>, RpcError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|_| RpcError::invalid(format!("{name}: the PEM is damaged")))?;
    if all.is_empty() {
        return Err(RpcError::invalid(format!("{name}: the PEM has no certificate")));
    }
    Ok(all)
}
