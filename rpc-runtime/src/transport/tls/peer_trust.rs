//! [`PeerTrust`]: whether the peer of an open connection is still trusted.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use rustls::Error;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use webpki::KeyUsage;

use super::explain::explain;
use super::trust::Trust;
use super::verifier::{ClientVerifier, ServerVerifier};
use crate::error::RpcError;

/// The certificate of a peer, and the roots and lists that it is checked with.
pub(super) struct PeerTrust {
    check: Check,
    /// The peer's own certificate first.
    chain: Vec<CertificateDer<'static>>,
    /// Subscribed before the handshake, so that no change since its check is missed.
    changes: watch::Receiver<()>,
}

/// The check of a handshake.
pub(super) enum Check {
    Server(Arc<ServerVerifier>, ServerName<'static>),
    Client(Arc<ClientVerifier>),
}

impl Check {
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.trust().changes()
    }

    fn trust(&self) -> &Trust {
        match self {
            Self::Server(verifier, _) => &verifier.trust,
            Self::Client(verifier) => &verifier.0,
        }
    }

    fn usage(&self) -> KeyUsage {
        match self {
            Self::Server(..) => KeyUsage::server_auth(),
            Self::Client(_) => KeyUsage::client_auth(),
        }
    }
}

impl PeerTrust {
    pub(super) fn new(
        check: Check,
        chain: Vec<CertificateDer<'static>>,
        changes: watch::Receiver<()>,
    ) -> Self {
        Self { check, chain, changes }
    }

    /// Completes when the peer is no longer trusted: its certificate has expired, or roots or
    /// revocation lists that were replaced since the handshake refuse it. Cancel safe.
    pub(super) async fn lost(mut self) -> RpcError {
        let expires = self.expires();
        loop {
            let expired = async {
                match expires {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            let changed = async {
                if self.changes.changed().await.is_err() {
                    pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = expired => return RpcError::unavailable("the peer's certificate has expired"),
            }
            if let Err(error) = self.verify() {
                return RpcError::unavailable(explain(&error));
            }
        }
    }

    fn verify(&self) -> Result<(), Error> {
        let (certificate, intermediates) =
            self.chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        let now = UnixTime::now();
        match &self.check {
            Check::Server(verifier, name) => verifier.verify(certificate, intermediates, name, now),
            Check::Client(verifier) => verifier.verify(certificate, intermediates, now),
        }
    }

    /// When the certificate expires, by the monotonic clock. `None`: beyond the range of that
    /// clock.
    fn expires(&self) -> Option<Instant> {
        let (certificate, intermediates) = self.chain.split_first()?;
        let usage = self.check.usage();
        let not_after = self.check.trust().not_after(certificate, intermediates, usage)?;
        // The certificate is valid for the whole of its last second.
        let left = not_after.as_secs().saturating_add(1).saturating_sub(UnixTime::now().as_secs());
        Instant::now().checked_add(Duration::from_secs(left))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        IsCa, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, date_time_ymd,
    };

    use super::*;

    const HOUR: u64 = 3_600;

    /// A client's certificate that expires in an hour, of an authority whose roots are in a file.
    struct Bench {
        authority: CertifiedIssuer<'static, KeyPair>,
        folder: tempfile::TempDir,
        trust: Arc<Trust>,
        chain: Vec<CertificateDer<'static>>,
    }

    fn from_now(seconds: u64) -> Duration {
        Duration::from_secs(UnixTime::now().as_secs() + seconds)
    }

    impl Bench {
        fn new() -> Self {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate().unwrap();
            let authority = CertifiedIssuer::self_signed(params, key).unwrap();
            let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
            params.not_after = date_time_ymd(1970, 1, 1) + from_now(HOUR);
            params.serial_number = Some(SerialNumber::from(7_u64));
            let own = params.signed_by(&KeyPair::generate().unwrap(), &authority).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let roots = folder.path().join("roots");
            std::fs::write(&roots, authority.pem()).unwrap();
            let bench = Self {
                trust: Trust::of_file(&roots).unwrap(),
                chain: vec![own.der().clone()],
                folder,
                authority,
            };
            bench.revoke(&[]);
            Self { trust: bench.trust.with_crls_file(&bench.crls()).unwrap(), ..bench }
        }

        fn crls(&self) -> std::path::PathBuf {
            self.folder.path().join("crls")
        }

        fn revoke(&self, serials: &[u64]) {
            let epoch = date_time_ymd(1970, 1, 1);
            let revoked = serials.iter().map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: epoch + from_now(0),
                reason_code: None,
                invalidity_date: None,
            });
            let list = CertificateRevocationListParams {
                this_update: epoch + from_now(0),
                next_update: epoch + from_now(HOUR * 24),
                crl_number: SerialNumber::from(1_u64),
                issuing_distribution_point: None,
                revoked_certs: revoked.collect(),
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let list = list.signed_by(&self.authority).unwrap();
            std::fs::write(self.crls(), list.pem().unwrap()).unwrap();
        }

        fn lost(&self) -> impl Future<Output = RpcError> + use<> {
            let check = Check::Client(Arc::new(ClientVerifier(Arc::clone(&self.trust))));
            let changes = check.changes();
            PeerTrust::new(check, self.chain.clone(), changes).lost()
        }

        fn reload(&self) {
            self.trust.replace(self.trust.load().unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_believed_until_its_certificate_expires() {
        let bench = Bench::new();
        let started = Instant::now();
        let error = bench.lost().await;
        assert_eq!(error.message(), "the peer's certificate has expired");
        let took = started.elapsed().as_secs();
        assert!((HOUR - 5..=HOUR + 2).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_refused_after_a_reload_is_believed_no_longer() {
        let bench = Bench::new();
        let started = Instant::now();
        let lost = tokio::spawn(bench.lost());
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.revoke(&[8]);
        bench.reload();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!lost.is_finished(), "another one is revoked");
        bench.revoke(&[7, 8]);
        bench.reload();
        assert!(lost.await.unwrap().message().contains("is revoked"));
        assert!(started.elapsed() < Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_during_the_handshake_is_not_missed() {
        let bench = Bench::new();
        // Subscribed before, polled behind it.
        let lost = bench.lost();
        bench.revoke(&[7]);
        bench.reload();
        assert!(lost.await.message().contains("is revoked"));
    }
}
