//! Many providers behind one client: the directory of a service, and load balancing.

mod addresses;
mod directory;
mod load_balancer;
mod providers;
mod rejected;
mod subset;
mod turn;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Registry;

use self::directory::Directory;
use self::load_balancer::{LoadBalancer, RoundRobin};
use crate::call::Call;
use crate::client::{
    Availability, Client, ClientBuilder, Endpoint, EndpointSettings, Pick, Picker,
};
use crate::connection::Channel;
use crate::descriptor::ServiceDescriptor;
use crate::error::RpcError;

impl ClientBuilder {
    /// Finds the providers of `service` in `registry`, and follows changes.
    ///
    /// It does not wait for a provider. While there is none, calls fail at once as unavailable,
    /// which is safe to retry, or [wait](Self::wait_for_ready) for one.
    ///
    /// A registry is trusted for addresses only. A client with TLS settings follows only encrypted
    /// addresses, see [`allow_plaintext`](Self::allow_plaintext), and accepts only providers whose
    /// certificates match the identity in those settings.
    ///
    /// # Errors
    /// A setting is invalid, the TLS settings name no identity of the providers, the registry does
    /// not answer, or there is no tokio runtime.
    pub async fn discover(
        self,
        registry: Arc<dyn Registry>,
        service: &'static ServiceDescriptor,
    ) -> Result<Client, RpcError> {
        let settings = self.endpoint_settings(Some(service.key().name()))?;
        let schemes = self.discovery.schemes(settings.transport.has_tls())?;
        let discovery = self.discovery.clone();
        let watch = Directory::watch(registry, service.key(), discovery, schemes, settings);
        let directory = watch.await?;
        Ok(self.client(Arc::new(Cluster { directory, balancer: Box::new(RoundRobin::default()) })))
    }
}

/// Providers that a call examines for an open connection. In a longer list it then takes any open
/// connection.
const LOOKED_AT: usize = 64;
/// Maximum providers that a call tries to connect to.
const TRIED: usize = 1_024;
/// How long a call waits for a connection to one provider before it tries the next as well.
const NEXT_AFTER: Duration = Duration::from_millis(200);

/// A picker for all providers of a service.
struct Cluster {
    directory: Directory,
    balancer: Box<dyn LoadBalancer>,
}

impl Cluster {
    /// The providers, starting with the next one in turn.
    fn in_order<'e>(
        &self,
        endpoints: &'e [Arc<Endpoint>],
    ) -> impl Iterator<Item = &'e Arc<Endpoint>> + 'e {
        let first = self.balancer.pick(endpoints).min(endpoints.len());
        let (before, from) = endpoints.split_at(first);
        from.iter().chain(before)
    }

    /// Connects to the next provider in turn, or to the first one after it that can be reached.
    /// Nothing was sent yet, so this is safe for every method. While others are tried, the attempt
    /// of a slow provider continues.
    async fn connected(&self) -> Result<Pick, RpcError> {
        // Providers without a connection first: otherwise they would get no calls while others have
        // one.
        let (missing, others): (Vec<_>, Vec<_>) = self
            .in_order(&self.directory.endpoints())
            .take(TRIED)
            .cloned()
            .partition(|endpoint| matches!(endpoint.availability(), Availability::Connectable));
        loop {
            let mut failed = None;
            let mut pending = false;
            for endpoint in missing.iter().chain(&others) {
                match tokio::time::timeout(NEXT_AFTER, endpoint.connected()).await {
                    Ok(Ok(pick)) => return Ok(pick),
                    Ok(Err(error)) => failed = Some(error),
                    Err(_) => pending = true,
                }
            }
            if !pending {
                return Err(failed.unwrap_or_else(|| self.directory.nobody()));
            }
        }
    }
}

impl Cluster {
    /// Begins to connect an endpoint that was skipped in favour of a connected one. Not while many
    /// attempts are in progress: with a long list of unreachable addresses, each call would begin
    /// one more.
    fn begin(&self, endpoint: &Endpoint) {
        if self.settings().connecting.available_permits() > 0 {
            endpoint.begin();
        }
    }
}

impl Picker for Cluster {
    fn pick(&self, _: &Call<'_>) -> Option<Pick> {
        let endpoints = self.directory.endpoints();
        let mut missing = None;
        let mut found = None;
        for endpoint in self.in_order(&endpoints).take(LOOKED_AT) {
            match endpoint.availability() {
                Availability::Ready(pick) => {
                    found = Some(pick);
                    break;
                }
                Availability::Connectable => missing = missing.or(Some(endpoint)),
                Availability::BackingOff => {}
            }
        }
        if found.is_none() && endpoints.len() > LOOKED_AT {
            found = self.settings().all.any_ready();
        }
        if let (Some(_), Some(missing)) = (&found, missing) {
            self.begin(missing);
        }
        found
    }

    fn connect<'p>(
        &'p self,
        _: &'p Call<'_>,
    ) -> Pin<Box<dyn Future<Output = Result<Pick, RpcError>> + Send + 'p>> {
        Box::pin(self.connected())
    }

    fn open(&self) -> Vec<Arc<Channel>> {
        self.directory.endpoints().iter().flat_map(|endpoint| endpoint.open()).collect()
    }

    fn describe(&self) -> String {
        self.directory.describe()
    }

    fn settings(&self) -> &EndpointSettings {
        self.directory.settings()
    }

    fn close(&self) {
        self.directory.stop();
    }
}
