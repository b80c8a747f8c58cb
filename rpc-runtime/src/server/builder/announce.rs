//! The announcements of a server in a registry.

use std::net::IpAddr;

use rpc_registry::{Instance, Lease, Registry};

use super::ServerBuilder;
use crate::error::RpcError;
use crate::server::dispatcher::Provided;
use crate::uri::Uri;

impl ServerBuilder {
    /// The instances to announce; none without a registry.
    pub(super) fn instances(&self, local: &Uri) -> Result<Vec<Instance>, RpcError> {
        let Some(registry) = &self.registry else { return Ok(Vec::new()) };
        let uri = match &self.advertise {
            Some(uri) => Uri::parse(uri)?,
            None if is_unspecified(local) => {
                return Err(RpcError::invalid(format!(
                    "{local} is no address that a consumer can connect to; \
                     name one with `advertise(\"{}://host:port\")`",
                    local.scheme()
                )));
            }
            None => local.clone(),
        };
        let outside = match uri.scheme() {
            "memory" if !registry.uri().starts_with("memory:") => Some("process"),
            "unix"
                if !["memory:", "file:"].iter().any(|local| registry.uri().starts_with(local)) =>
            {
                Some("machine")
            }
            _ => None,
        };
        if let Some(place) = outside {
            return Err(RpcError::invalid(format!(
                "{uri} leads nowhere outside of this {place}, so it is not announced in {}",
                registry.uri()
            )));
        }
        let instance = |provided: &Provided| {
            let key = provided.service.descriptor().key();
            let mut instance = Instance::new(key.name(), uri.as_str())
                .with_version(key.version())
                .with_group(key.group())
                .with_weight(self.weight);
            for (name, value) in &self.metadata {
                instance = instance.with_metadata(name, value);
            }
            instance
        };
        Ok(self.services.iter().map(instance).collect())
    }
}

pub(super) async fn announce(
    registry: &dyn Registry,
    instance: Instance,
) -> Result<Lease, RpcError> {
    let name = instance.service().to_owned();
    registry.register(instance).await.map_err(|error| {
        RpcError::unavailable(format!("cannot announce {name} in {}: {error}", registry.uri()))
            .with_source(&error)
    })
}

/// `0.0.0.0` or `::`: all addresses of this machine.
fn is_unspecified(uri: &Uri) -> bool {
    let host = uri.rest().rsplit_once(':').map_or("", |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}
