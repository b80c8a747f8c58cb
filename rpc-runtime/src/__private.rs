//! Items for generated code. Not part of the public interface: they change without notice.

pub use std::sync::Arc;
pub use std::time::Duration;

pub use rpc_registry::Registry;

pub use crate::client::{call, notify};
pub use crate::protocol::payload::{Arguments, Defaulted, Wire};
pub use crate::service::{Method, Oneway, Outcome, fingerprint_of, unary, unknown_method};

use crate::client::Client;
use crate::descriptor::ServiceDescriptor;
use crate::error::RpcError;

/// A client of the provider at `uri`.
pub async fn connect(uri: &str, _: &'static ServiceDescriptor) -> Result<Client, RpcError> {
    Client::builder().connect(uri).await
}

/// A client of all providers of `service`.
pub async fn discover(
    registry: Arc<dyn Registry>,
    service: &'static ServiceDescriptor,
) -> Result<Client, RpcError> {
    Client::builder().discover(registry, service).await
}
