//! Reloads the certificates of a client periodically.

use super::settings::NameServersSettings;

/// Reloads the files of authorities, certificate and key periodically while the settings are in
/// use. Certificates are replaced before they expire, and this process is not notified.
pub(super) fn reload_tls(
    settings: &std::sync::Arc<NameServersSettings>,
    runtime: &tokio::runtime::Handle,
) {
    const INTERVAL: std::time::Duration = std::time::Duration::from_secs(60);

    if !settings.renew_tls {
        return;
    }
    let settings = std::sync::Arc::downgrade(settings);
    runtime.spawn(async move {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(settings) = settings.upgrade() else { return };
            let Some(tls) = settings.tls.clone() else { return };
            let read = tokio::task::spawn_blocking(move || tls.reload()).await;
            if let Ok(Err(error)) = read {
                tracing::warn!(%error, "the certificates for name servers can't be read again");
            }
        }
    });
}
