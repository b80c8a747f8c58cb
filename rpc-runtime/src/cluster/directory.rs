//! [`Directory`]: the providers of a service, as its registry has them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_registry::{Instance, LogLimit, Registry, Watch, limited, rest_after};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::providers::{Providers, Taken, give_way};
use super::rejected::Rejected;
use crate::client::{DiscoverySettings, Endpoint, EndpointSettings};
use crate::connection::clock;
use crate::descriptor::ServiceKey;
use crate::error::RpcError;
use crate::status::Status;

/// How long to wait before asking a registry again whose watch broke.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// The providers of a service, kept up to date by a task.
pub(super) struct Directory {
    shared: Arc<Shared>,
    settings: Arc<EndpointSettings>,
    following: JoinHandle<()>,
}

struct Shared {
    registry: Arc<dyn Registry>,
    service: ServiceKey,
    discovery: DiscoverySettings,
    /// Replaced as a whole. Calls take this lock, so it is held only for the replacement.
    listing: Mutex<Listing>,
    skipped: LogLimit,
}

#[derive(Default)]
struct Listing {
    endpoints: Arc<[Arc<Endpoint>]>,
    rejected: Rejected,
}

impl Directory {
    /// Asks the registry and follows what it says from then on.
    pub(super) async fn watch(
        registry: Arc<dyn Registry>,
        service: ServiceKey,
        discovery: DiscoverySettings,
        schemes: Vec<&'static str>,
        settings: Arc<EndpointSettings>,
    ) -> Result<Self, RpcError> {
        let max_instances = discovery.max_providers;
        let providers = Providers::new(service, schemes, max_instances, Arc::clone(&settings));
        let (listing, skipped) = (Mutex::default(), LogLimit::new());
        let shared = Arc::new(Shared { registry, service, discovery, listing, skipped });
        let mut follow = Follow { shared: Arc::clone(&shared), providers };
        let watch = follow.start().await?;
        let following = tokio::spawn(follow.run(watch));
        Ok(Self { shared, settings, following })
    }

    pub(super) fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.shared.listing().endpoints)
    }

    pub(super) fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    /// The list stays as it is from now on.
    pub(super) fn stop(&self) {
        self.following.abort();
    }

    pub(super) fn describe(&self) -> String {
        self.shared.describe()
    }

    /// Why there is no provider.
    pub(super) fn nobody(&self) -> RpcError {
        let described = self.describe();
        let listing = self.shared.listing();
        let Rejected { versions, schemes, unusable, .. } = &listing.rejected;
        if !schemes.is_empty() {
            let why = self.shared.discovery.why_not();
            return RpcError::unavailable(format!(
                "no provider of {described} is followed: {} at addresses of {schemes} are skipped, \
                 because {why}",
                schemes.count()
            ));
        }
        if !versions.is_empty() {
            let message = format!(
                "version mismatch: no provider of {described} is registered, only {versions}"
            );
            return RpcError::new(Status::NotFound, message);
        }
        if !unusable.is_empty() {
            return RpcError::unavailable(format!(
                "no provider of {described} has a usable address: {unusable}"
            ));
        }
        RpcError::unavailable(format!("no provider of {described} is registered"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.following.abort();
    }
}

impl Shared {
    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self) -> String {
        format!("{} in {}", self.service, self.registry.uri())
    }

    /// Logs registered instances that are not followed.
    fn log_skipped(&self, rejected: &Rejected) {
        let Rejected { schemes, unusable, over_limit, .. } = rejected;
        if schemes.is_empty() && unusable.is_empty() && *over_limit == 0 {
            return;
        }
        let Some(held_back) = self.skipped.pass(clock()) else { return };
        let service = &self.service;
        if !schemes.is_empty() {
            let (skipped, why) = (schemes.count(), self.discovery.why_not());
            tracing::warn!(%service, skipped, held_back, "instances at addresses of {schemes} are skipped: {why}");
        }
        if !unusable.is_empty() {
            let skipped = unusable.count();
            tracing::warn!(%service, skipped, held_back, "registered addresses are not usable: {unusable}");
        }
        if *over_limit > 0 {
            let limit = self.discovery.max_providers;
            tracing::warn!(%service, skipped = over_limit, limit, held_back, "instances beyond `max_providers` are skipped");
        }
    }
}

/// The task that keeps a directory up to date.
struct Follow {
    shared: Arc<Shared>,
    providers: Providers,
}

impl Follow {
    /// A watch whose first state is taken over already.
    async fn start(&mut self) -> Result<Watch, RpcError> {
        let service = self.shared.service;
        let failed = |error: rpc_registry::RegistryError| {
            RpcError::unavailable(format!("cannot look up {service}: {error}")).with_source(&error)
        };
        let mut watch = self.shared.registry.watch(service.name()).await.map_err(failed)?;
        let snapshot = watch.changed().await.map_err(failed)?;
        self.take_over(&snapshot.instances).await;
        Ok(watch)
    }

    async fn run(mut self, mut watch: Watch) {
        let service = self.shared.service;
        loop {
            match watch.changed().await {
                Ok(snapshot) => {
                    let begun = Instant::now();
                    self.take_over(&snapshot.instances).await;
                    tokio::time::sleep(rest_after(begun.elapsed())).await;
                }
                Err(error) => {
                    limited!(warn, %service, %error, "the watch of the registry broke; the last list stays in use");
                    watch = loop {
                        tokio::time::sleep(WATCH_AGAIN).await;
                        match self.start().await {
                            Ok(watch) => break watch,
                            Err(error) => {
                                limited!(warn, %service, %error, "the registry is still away")
                            }
                        }
                    };
                }
            }
        }
    }

    /// Takes over a complete list. Links to addresses that stay are kept, others are retired.
    async fn take_over(&mut self, instances: &[Instance]) {
        let Taken { endpoints, announced, gone, rejected } =
            self.providers.take_over(instances).await;
        let providers = endpoints.len();
        self.shared.log_skipped(&rejected);
        let before =
            std::mem::replace(&mut *self.shared.listing(), Listing { endpoints, rejected });
        drop(before);
        tracing::debug!(service = %self.shared.service, providers, "providers changed");
        announced.iter().for_each(|endpoint| endpoint.announce());
        for (number, endpoint) in gone.into_iter().enumerate() {
            endpoint.retire("the address was withdrawn from the registry");
            drop(endpoint);
            give_way(number).await;
        }
        self.providers.settings().all.changed();
    }
}
