//! [`Picker`]: selects the connection for a call.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::endpoint::{Availability, Endpoint};
use super::pick::Pick;
use super::settings::EndpointSettings;
use crate::call::Call;
use crate::connection::Channel;
use crate::error::RpcError;

/// Selects the connection for each attempt of a call. Implemented for a single address and for a
/// cluster.
pub(crate) trait Picker: Send + Sync + 'static {
    /// An open connection, if there is one. Takes at most one lock.
    fn pick(&self, call: &Call<'_>) -> Option<Pick>;

    /// A connection, after connecting if need be.
    fn connect<'p>(
        &'p self,
        call: &'p Call<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Pick, RpcError>> + Send + 'p>>;

    /// The open connections.
    fn open(&self) -> Vec<Arc<Channel>>;

    /// The target, for messages.
    fn describe(&self) -> String;

    fn settings(&self) -> &EndpointSettings;

    /// The client is about to be closed: providers are no longer followed.
    fn close(&self) {}
}

/// The picker of a client with one address.
pub(super) struct SingleAddress {
    pub(super) endpoint: Endpoint,
    pub(super) settings: Arc<EndpointSettings>,
}

impl Picker for SingleAddress {
    fn pick(&self, _: &Call<'_>) -> Option<Pick> {
        match self.endpoint.availability() {
            Availability::Ready(pick) => Some(pick),
            Availability::Connectable | Availability::BackingOff => None,
        }
    }

    fn connect<'p>(
        &'p self,
        _: &'p Call<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Pick, RpcError>> + Send + 'p>> {
        Box::pin(self.endpoint.connected())
    }

    fn open(&self) -> Vec<Arc<Channel>> {
        self.endpoint.open().collect()
    }

    fn describe(&self) -> String {
        self.endpoint.uri().to_string()
    }

    fn settings(&self) -> &EndpointSettings {
        &self.settings
    }
}
