//! [`RemoteServer`]: the connection of a client to one name server.

use std::time::Duration;

use rpc_registry::RegistryError;
use rpc_runtime::{BackOff, Client, Heartbeat};

use super::NameServersSettings;
use crate::contract::{AUTHORIZATION, HEARTBEAT, NameError, NameServiceClient};

/// Maximum payload of a list that is read. Servers of earlier versions send up to this size.
const MAX_PAYLOAD: usize = 32 << 20;
/// Maximum pause before a server that is away is connected to again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A name server. The connection is opened when it is needed, and again after a loss.
pub(super) struct RemoteServer {
    pub(super) uri: String,
    pub(super) stub: NameServiceClient,
    /// The timeout of a call, and of the first item of a stream.
    pub(super) timeout: Duration,
}

impl RemoteServer {
    pub(super) async fn new(
        uri: &str,
        settings: &NameServersSettings,
    ) -> Result<Self, RegistryError> {
        let builder = Client::builder()
            .lazy(true)
            .connect_timeout(settings.timeout)
            .timeout(settings.timeout)
            .max_payload(MAX_PAYLOAD)
            .heartbeat(Heartbeat::default().interval(HEARTBEAT))
            .back_off(BackOff::default().longest(LONGEST_PAUSE));
        #[cfg(feature = "tls")]
        let builder = match &settings.tls {
            Some(tls) => builder.tls(tls.clone()),
            None => builder,
        };
        let client = builder.connect(uri).await.map_err(|error| {
            RegistryError::invalid_uri(format!("cannot use the name server {uri}: {error}"))
                .with_registry(&settings.uri)
                .with_source(error)
        })?;
        let stub = NameServiceClient::new(client);
        let stub = match &settings.token {
            Some(token) => stub.with_metadata(AUTHORIZATION, token.header()),
            None => stub,
        };
        Ok(Self { uri: uri.to_owned(), stub, timeout: settings.timeout })
    }

    /// Explains an error of this server. The caller adds the URI of the registry.
    pub(super) fn explain(&self, error: NameError) -> RegistryError {
        let uri = &self.uri;
        match error {
            NameError::Starting { left_ms } => RegistryError::unavailable(format!(
                "the name server {uri} is starting, and knows all providers in {left_ms} ms at most"
            )),
            NameError::NoSession => {
                RegistryError::unavailable(format!("the name server {uri} has ended the session"))
            }
            NameError::Invalid(what) => {
                RegistryError::invalid_instance(format!("the name server {uri} refuses it: {what}"))
            }
            NameError::Full(what) => {
                RegistryError::unavailable(format!("the name server {uri} is full: {what}"))
            }
            NameError::Denied(what) => RegistryError::permission_denied(format!(
                "the name server {uri} does not allow it: {what}"
            )),
            NameError::Rpc(error) if error.is_timeout() => {
                RegistryError::timeout(format!("the name server {uri} does not answer: {error}"))
                    .with_source(error)
            }
            NameError::Rpc(error) if error.is_not_found() => {
                RegistryError::unavailable(format!("{uri} is no name server: {error}"))
                    .with_source(error)
            }
            NameError::Rpc(error) => {
                RegistryError::unavailable(format!("the name server {uri} can't be used: {error}"))
                    .with_source(error)
            }
        }
    }
}

/// Whether another server may be able to respond.
pub(super) fn is_worth_another(error: &RegistryError) -> bool {
    error.is_unavailable() || error.is_timeout()
}
