//! Authentication of servers and of this client: TLS and tokens.

use std::fmt;
use std::fs::File;
use std::io::Read;

use rpc_registry::{RegistryError, RegistryUri};

use super::NameServersSettings;

pub(super) const PARAMS: [&str; 5] = ["ca", "cert", "key", "server_name", "token_file"];
/// Maximum length of a token, in bytes.
const MAX_TOKEN: usize = 4_096;

/// A token. `Debug` and messages do not show it.
#[derive(Clone)]
pub(super) struct Token(String);

impl Token {
    pub(super) fn new(token: String) -> Result<Self, &'static str> {
        let is_visible = token.bytes().all(|byte| byte.is_ascii_graphic());
        match is_visible && (1..=MAX_TOKEN).contains(&token.len()) {
            true => Ok(Self(token)),
            false => Err("the token must have 1 to 4096 visible ASCII characters"),
        }
    }

    /// The metadata sent with each call.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The transport of a URI: TLS if it names an authority.
pub(super) fn scheme(uri: &RegistryUri) -> &'static str {
    if uri.param("ca").is_some() { "tls" } else { "tcp" }
}

/// Applies the parameters of a URI.
pub(super) fn from_uri(
    settings: NameServersSettings,
    uri: &RegistryUri,
) -> Result<NameServersSettings, RegistryError> {
    let settings = match uri.param("ca") {
        Some(ca) => with_tls(settings, uri, ca)?,
        None => match ["cert", "key", "server_name"].iter().find(|it| uri.param(it).is_some()) {
            Some(param) => {
                return Err(uri
                    .wrong(format!("{param} needs ca, the authority of the servers"))
                    .with_hint("name its PEM file with ca="));
            }
            None => settings,
        },
    };
    let Some(path) = uri.param("token_file") else { return Ok(settings) };
    let mut text = String::new();
    let limit = u64::try_from(MAX_TOKEN).unwrap_or(u64::MAX).saturating_add(2);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_string(&mut text))
        .map_err(|error| uri.wrong(format!("the file of token_file can't be read: {error}")))?;
    settings.with_token(text.trim())
}

#[cfg(not(feature = "tls"))]
fn with_tls(
    _: NameServersSettings,
    uri: &RegistryUri,
    _: &str,
) -> Result<NameServersSettings, RegistryError> {
    Err(uri.wrong("this program was built without the feature tls of rpc-nameserver"))
}

#[cfg(feature = "tls")]
fn with_tls(
    settings: NameServersSettings,
    uri: &RegistryUri,
    ca: &str,
) -> Result<NameServersSettings, RegistryError> {
    use rpc_runtime::{ClientTls, RpcError};

    let wrong = |error: RpcError| uri.wrong(error.message());
    let mut tls = ClientTls::roots_pem_file(ca).map_err(wrong)?;
    match (uri.param("cert"), uri.param("key")) {
        (Some(cert), Some(key)) => {
            tls = tls.identity_pem_files(cert, key).map_err(wrong)?;
        }
        (None, None) => {}
        _ => return Err(uri.wrong("the parameters cert and key must be given together")),
    }
    if let Some(name) = uri.param("server_name") {
        tls = tls.server_name(name).map_err(wrong)?;
    }
    Ok(NameServersSettings { renew_tls: true, ..settings.with_tls(tls) })
}

/// Reloads the files of authorities, certificate and key periodically while the settings are in
/// use. Certificates are replaced before they expire, and this process is not notified.
#[cfg(feature = "tls")]
pub(super) fn renew_tls(
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
