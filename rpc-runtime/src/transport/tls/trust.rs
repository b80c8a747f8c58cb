//! [`Trust`]: roots for the certificates of peers, and revocation lists.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::sync::RwLock;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::{CertRevocationListError, CertificateError, Error, OtherError, RootCertStore};
use tokio::sync::watch;
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::identity::{MAX_PEM, certificates, read};
use crate::error::RpcError;

/// A larger file of revocation lists is refused.
const MAX_CRLS: u64 = 32 << 20;

/// Roots and revocation lists. Handshakes after a [replacement](Self::replace) use the new ones.
/// Subscribers of [`changes`](Self::changes) check their open connections again.
pub(super) struct Trust {
    sources: Sources,
    current: RwLock<Arc<Anchors>>,
    changes: watch::Sender<()>,
}

/// The sources of roots and lists.
#[derive(Clone)]
pub(super) struct Sources {
    roots: Pem,
    crls: Vec<Pem>,
}

/// The parsed roots and lists.
pub(super) struct Anchors {
    roots: RootCertStore,
    crls: Vec<CertRevocationList<'static>>,
}

/// PEM from a file, which can be read again, or from memory.
#[derive(Clone)]
enum Pem {
    File(PathBuf),
    Memory { bytes: Arc<[u8]>, name: &'static str },
}

impl Pem {
    /// The bytes, and their name for messages.
    fn load(&self, max: u64) -> Result<(Arc<[u8]>, String), RpcError> {
        match self {
            Self::File(path) => Ok((read(path, max)?.into(), path.display().to_string())),
            Self::Memory { bytes, name } => Ok((Arc::clone(bytes), (*name).to_owned())),
        }
    }

    fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl Trust {
    pub(super) fn of_file(path: &Path) -> Result<Arc<Self>, RpcError> {
        Self::new(Sources { roots: Pem::File(path.to_owned()), crls: Vec::new() })
    }

    pub(super) fn of_pem(pem: &[u8], name: &'static str) -> Result<Arc<Self>, RpcError> {
        let roots = Pem::Memory { bytes: pem.into(), name };
        Self::new(Sources { roots, crls: Vec::new() })
    }

    /// The same with more revocation lists.
    pub(super) fn with_crls_file(&self, path: &Path) -> Result<Arc<Self>, RpcError> {
        self.with_crls(Pem::File(path.to_owned()))
    }

    /// The same with more revocation lists.
    pub(super) fn with_crls_pem(&self, pem: &[u8]) -> Result<Arc<Self>, RpcError> {
        self.with_crls(Pem::Memory { bytes: pem.into(), name: "the revocation lists" })
    }

    fn with_crls(&self, more: Pem) -> Result<Arc<Self>, RpcError> {
        let mut sources = self.sources.clone();
        sources.crls.push(more);
        Self::new(sources)
    }

    fn new(sources: Sources) -> Result<Arc<Self>, RpcError> {
        let current = RwLock::new(Arc::new(sources.load()?));
        Ok(Arc::new(Self { sources, current, changes: watch::Sender::new(()) }))
    }

    /// Whether any part comes from a file.
    pub(super) fn has_files(&self) -> bool {
        self.sources.roots.is_file() || self.sources.crls.iter().any(Pem::is_file)
    }

    /// Reads the files again.
    pub(super) fn load(&self) -> Result<Anchors, RpcError> {
        self.sources.load()
    }

    pub(super) fn replace(&self, new: Anchors) {
        *self.current.write() = Arc::new(new);
        self.changes.send_replace(());
    }

    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn current(&self) -> Arc<Anchors> {
        Arc::clone(&self.current.read())
    }

    /// Checks that a root has issued the certificate for this usage, that it is valid now, and that
    /// no certificate of the chain is revoked.
    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        self.check(certificate, intermediates, now, usage).map_err(refusal)
    }

    /// The end of a verified certificate's validity.
    pub(super) fn not_after(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        usage: KeyUsage,
    ) -> Option<UnixTime> {
        // webpki tells the end only by refusing a later time. It checks the peer's own certificate
        // before any other.
        let end_of_time = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
        match self.check(certificate, intermediates, end_of_time, usage) {
            Err(webpki::Error::CertExpired { not_after, .. }) => Some(not_after),
            _ => None,
        }
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), webpki::Error> {
        let anchors = self.current();
        let crls: Vec<_> = anchors.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let certificate = EndEntityCert::try_from(certificate)?;
        let path = certificate.verify_for_usage(
            algorithms().all,
            &anchors.roots.roots,
            intermediates,
            now,
            usage,
            revocation,
            None,
        );
        path.map(drop)
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current();
        f.debug_struct("Trust")
            .field("roots", &current.roots.len())
            .field("crls", &current.crls.len())
            .finish()
    }
}

impl Sources {
    fn load(&self) -> Result<Anchors, RpcError> {
        let (pem, name) = self.roots.load(MAX_PEM)?;
        let roots = roots(&pem, &name)?;
        let mut crls = Vec::new();
        for source in &self.crls {
            let (pem, name) = source.load(MAX_CRLS)?;
            add_crls(&mut crls, &pem, &name)?;
        }
        Ok(Anchors { roots, crls })
    }
}

/// The accepted signature algorithms of certificates and handshakes.
pub(super) fn algorithms() -> WebPkiSupportedAlgorithms {
    ring::default_provider().signature_verification_algorithms
}

/// Parses the trusted roots.
fn roots(pem: &[u8], name: &str) -> Result<RootCertStore, RpcError> {
    let mut roots = RootCertStore::empty();
    for (number, certificate) in certificates(pem, name)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let number = number + 1;
            RpcError::invalid(format!("{name}: certificate {number} cannot be a root: {error}"))
        })?;
    }
    Ok(roots)
}

fn add_crls(
    crls: &mut Vec<CertRevocationList<'static>>,
    pem: &[u8],
    name: &str,
) -> Result<(), RpcError> {
    let before = crls.len();
    for list in CertificateRevocationListDer::pem_slice_iter(pem) {
        let list = list.map_err(|_| RpcError::invalid(format!("{name}: the PEM is damaged")))?;
        let list = OwnedCertRevocationList::from_der(&list).map_err(|error| {
            let number = crls.len() - before + 1;
            RpcError::invalid(format!("{name}: revocation list {number} cannot be read: {error}"))
        })?;
        crls.push(list.into());
    }
    match crls.len() == before {
        true => Err(RpcError::invalid(format!("{name}: the PEM has no revocation list"))),
        false => Ok(()),
    }
}

/// The same error as rustls has, where there is one: it tells the peer the reason of the refusal.
fn refusal(error: webpki::Error) -> Error {
    use webpki::Error as Pki;
    let refusal = match error {
        Pki::BadDer | Pki::BadDerTime | Pki::TrailingData(_) => CertificateError::BadEncoding,
        Pki::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        Pki::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        Pki::InvalidCertValidity => CertificateError::Expired,
        Pki::UnknownIssuer => CertificateError::UnknownIssuer,
        Pki::CertRevoked => CertificateError::Revoked,
        Pki::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Pki::CrlExpired { time, next_update } => {
            CertificateError::ExpiredRevocationListContext { time, next_update }
        }
        Pki::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        Pki::RequiredEkuNotFoundContext(_) => CertificateError::InvalidPurpose,
        Pki::IssuerNotCrlSigner => return CertRevocationListError::IssuerInvalidForCrl.into(),
        Pki::InvalidCrlSignatureForPublicKey => {
            return CertRevocationListError::BadSignature.into();
        }
        error => CertificateError::Other(OtherError(Arc::new(error))),
    };
    refusal.into()
}
