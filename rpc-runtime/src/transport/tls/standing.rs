//! [`Standing`]: how long the peer of an open connection is believed.

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

/// The certificate of a peer, and what it is checked with.
pub(super) struct Standing {
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

impl Standing {
    pub(super) fn new(
        check: Check,
        chain: Vec<CertificateDer<'static>>,
        changes: watch::Receiver<()>,
    ) -> Self {
        Self { check, chain, changes }
    }

    /// Ready when the peer is no longer believed: its certificate has expired, or was refused by
    /// roots or revocation lists that have been replaced since the handshake. Cancel safe.
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

    /// When the certificate expires, by the clock that does not jump. `None`: in more time than that
    /// clock can tell.
    fn expires(&self) -> Option<Instant> {
        let (certificate, intermediates) = self.chain.split_first()?;
        let usage = self.check.usage();
        let not_after = self.check.trust().not_after(certificate, intermediates, usage)?;
        // It is in force for the whole of its last second.
        let left = not_after.as_secs().saturating_add(1).saturating_sub(UnixTime::now().as_secs());
        Instant::now().checked_add(Duration::from_secs(left))
    }
}
