//! [`Directory`]: the providers of a service, followed in its registry.

use std::future::pending;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use rpc_registry::{LogLimit, Registry, Watch, limited, rest_after};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::providers::{ListUpdate, Providers};
use super::rejected::Rejected;
use super::turn::{CHANGED, Turn};
use crate::client::{DiscoverySettings, Endpoint, EndpointSettings};
use crate::connection::clock;
use crate::descriptor::ServiceKey;
use crate::error::RpcError;
use crate::status::Status;

/// Pause before a broken watch is repeated.
const WATCH_AGAIN: Duration = Duration::from_secs(1);
/// How often a subset is reviewed.
const REVIEW: Duration = Duration::from_secs(1);

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
    /// Replaced as a whole, so that calls read it without a lock.
    listing: ArcSwap<Listing>,
    skipped: LogLimit,
}

#[derive(Default)]
struct Listing {
    endpoints: Arc<[Arc<Endpoint>]>,
    rejected: Arc<Rejected>,
}

/// The endpoints in use at one moment, in the order of the client.
///
/// Not to be held across an await: the list that was replaced is freed by the task of the directory
/// if no call holds it any more, and otherwise by the last call.
pub(super) struct Endpoints(Guard<Arc<Listing>>);

impl Deref for Endpoints {
    type Target = [Arc<Endpoint>];

    fn deref(&self) -> &[Arc<Endpoint>] {
        &self.0.endpoints
    }
}

impl Directory {
    /// Looks the service up and follows its changes.
    pub(super) async fn watch(
        registry: Arc<dyn Registry>,
        service: ServiceKey,
        discovery: DiscoverySettings,
        schemes: Vec<&'static str>,
        settings: Arc<EndpointSettings>,
    ) -> Result<Self, RpcError> {
        let providers = Providers::new(service, schemes, &discovery, Arc::clone(&settings));
        let (listing, skipped) = (ArcSwap::default(), LogLimit::new());
        let shared = Arc::new(Shared { registry, service, discovery, listing, skipped });
        let mut task = DirectoryTask { shared: Arc::clone(&shared), providers, replaced: None };
        let watch = task.start().await?;
        let following = tokio::spawn(task.run(watch));
        Ok(Self { shared, settings, following })
    }

    pub(super) fn endpoints(&self) -> Endpoints {
        Endpoints(self.shared.listing.load())
    }

    pub(super) fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    /// Stops following; the list stays as it is.
    pub(super) fn stop(&self) {
        self.following.abort();
    }

    pub(super) fn describe(&self) -> String {
        self.shared.describe()
    }

    /// The error of a call when there is no provider.
    pub(super) fn nobody(&self) -> RpcError {
        let described = self.describe();
        let listing = self.shared.listing.load();
        let Rejected { versions, schemes, unusable, .. } = &*listing.rejected;
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
struct DirectoryTask {
    shared: Arc<Shared>,
    providers: Providers,
    /// The last listing but one, until no call has it any more.
    replaced: Option<Arc<Listing>>,
}

impl DirectoryTask {
    /// Starts a watch, and applies its first list.
    async fn start(&mut self) -> Result<Watch, RpcError> {
        let service = self.shared.service;
        let failed = |error: rpc_registry::RegistryError| {
            RpcError::unavailable(format!("cannot look up {service}: {error}")).with_source(&error)
        };
        let mut watch = self.shared.registry.watch(service.name()).await.map_err(failed)?;
        let snapshot = watch.changed().await.map_err(failed)?;
        let update = self.providers.apply(&snapshot.instances).await;
        self.publish(update).await;
        Ok(watch)
    }

    async fn run(mut self, mut watch: Watch) {
        let service = self.shared.service;
        loop {
            let changed = tokio::select! {
                changed = watch.changed() => Some(changed),
                () = review_is_due(self.providers.has_subset()) => None,
            };
            match changed {
                None => {
                    let update = self.providers.review().await;
                    if update.endpoints.is_some() {
                        self.publish(update).await;
                    }
                }
                Some(Ok(snapshot)) => {
                    let begun = Instant::now();
                    let update = self.providers.apply(&snapshot.instances).await;
                    self.publish(update).await;
                    tokio::time::sleep(rest_after(begun.elapsed())).await;
                }
                Some(Err(error)) => {
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
            self.replaced = None;
        }
    }

    /// Publishes an update. Links to remaining addresses are kept, others are retired.
    async fn publish(&mut self, update: ListUpdate) {
        let ListUpdate { endpoints, announced, retired, rejected } = update;
        self.shared.log_skipped(&rejected);
        let is_changed = endpoints.is_some();
        let endpoints =
            endpoints.unwrap_or_else(|| Arc::clone(&self.shared.listing.load().endpoints));
        let providers = endpoints.len();
        let before = self.shared.listing.swap(Arc::new(Listing { endpoints, rejected }));
        self.replaced = Some(before);
        if is_changed {
            tracing::debug!(service = %self.shared.service, providers, "providers changed");
        }
        announced.iter().for_each(|endpoint| endpoint.announce());
        let mut turn = Turn::default();
        for endpoint in retired {
            endpoint.retire("the address left the registry or the client's subset");
            drop(endpoint);
            turn.work(CHANGED).await;
        }
        self.providers.settings().all.changed();
    }
}

/// Ready when the subset is to be reviewed; never if all addresses are used.
async fn review_is_due(has_subset: bool) {
    if has_subset { tokio::time::sleep(REVIEW).await } else { pending().await }
}
