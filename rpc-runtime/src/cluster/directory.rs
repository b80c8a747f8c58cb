//! [`Directory`]: the providers of a service, as its registry has them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_registry::{Instance, Registry, Watch, limited};
use tokio::task::JoinHandle;

use crate::client::{Endpoint, EndpointSettings};
use crate::descriptor::ServiceKey;
use crate::error::RpcError;
use crate::status::Status;
use crate::uri::Uri;

/// How long to wait before asking a registry again whose watch broke.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// The providers of a service, kept up to date by a task.
pub(super) struct Directory {
    shared: Arc<Shared>,
    following: JoinHandle<()>,
}

struct Shared {
    registry: Arc<dyn Registry>,
    service: ServiceKey,
    settings: Arc<EndpointSettings>,
    listing: Mutex<Listing>,
}

#[derive(Default)]
struct Listing {
    endpoints: Arc<[Arc<Endpoint>]>,
    /// The same, with what is registered there.
    providers: Vec<Provider>,
    /// What is registered under the name but does not fit, for messages.
    misfits: Vec<String>,
}

/// An address, with all that is registered for it.
struct Provider {
    endpoint: Arc<Endpoint>,
    registrations: Vec<Registration>,
}

impl Provider {
    /// There is a registration that was not there before.
    fn is_announced_since(&self, old: &Self) -> bool {
        self.registrations.iter().any(|new| !old.registrations.contains(new))
    }
}

/// Tells a registration from another of the same address.
#[derive(PartialEq, Eq)]
struct Registration {
    id: String,
    epoch: u64,
    started_ms: u64,
}

impl Registration {
    fn of(instance: &Instance) -> Self {
        let id = instance.id().to_owned();
        Self { id, epoch: instance.epoch(), started_ms: instance.started_ms() }
    }
}

impl Directory {
    /// Asks the registry and follows what it says from then on.
    pub(super) async fn watch(
        registry: Arc<dyn Registry>,
        service: ServiceKey,
        settings: Arc<EndpointSettings>,
    ) -> Result<Self, RpcError> {
        let shared = Arc::new(Shared { registry, service, settings, listing: Mutex::default() });
        let watch = shared.start().await?;
        let following = tokio::spawn(Arc::clone(&shared).follow(watch));
        Ok(Self { shared, following })
    }

    pub(super) fn endpoints(&self) -> Arc<[Arc<Endpoint>]> {
        Arc::clone(&self.shared.listing().endpoints)
    }

    pub(super) fn settings(&self) -> &EndpointSettings {
        &self.shared.settings
    }

    /// The list stays as it is from now on.
    pub(super) fn stop(&self) {
        self.following.abort();
    }

    pub(super) fn describe(&self) -> String {
        format!("{} in {}", self.shared.service, self.shared.registry.uri())
    }

    /// Why there is no provider.
    pub(super) fn nobody(&self) -> RpcError {
        let misfits = self.shared.listing().misfits.join(", ");
        if misfits.is_empty() {
            let message = format!("no provider of {} is registered", self.describe());
            return RpcError::unavailable(message);
        }
        let message = format!(
            "version mismatch: no provider of {} is registered, only {misfits}",
            self.describe()
        );
        RpcError::new(Status::NotFound, message)
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

    /// A watch whose first state is taken over already.
    async fn start(&self) -> Result<Watch, RpcError> {
        let failed = |error: rpc_registry::RegistryError| {
            RpcError::unavailable(format!("cannot look up {}: {error}", self.service))
                .with_source(&error)
        };
        let mut watch = self.registry.watch(self.service.name()).await.map_err(failed)?;
        let snapshot = watch.changed().await.map_err(failed)?;
        self.take_over(&snapshot.instances);
        Ok(watch)
    }

    async fn follow(self: Arc<Self>, mut watch: Watch) {
        loop {
            match watch.changed().await {
                Ok(snapshot) => self.take_over(&snapshot.instances),
                Err(error) => {
                    limited!(warn, service = %self.service, %error, "the watch of the registry broke; the last list stays in use");
                    watch = loop {
                        tokio::time::sleep(WATCH_AGAIN).await;
                        match self.start().await {
                            Ok(watch) => break watch,
                            Err(error) => {
                                limited!(warn, service = %self.service, %error, "the registry is still away")
                            }
                        }
                    };
                }
            }
        }
    }

    /// Takes over a complete list. Links to addresses that stay are kept, others are retired.
    fn take_over(&self, instances: &[Instance]) {
        let mut listing = self.listing();
        let mut providers: Vec<Provider> = Vec::with_capacity(instances.len());
        listing.misfits.clear();
        for instance in instances {
            if !self.service.accepts(instance.version(), instance.group()) {
                let group = Some(instance.group()).filter(|group| !group.is_empty());
                listing.misfits.push(match group {
                    None => format!("version {}", instance.version()),
                    Some(group) => format!("version {} in group {group}", instance.version()),
                });
                continue;
            }
            let registration = Registration::of(instance);
            let is_there = |provider: &Provider| provider.endpoint.uri().as_str() == instance.uri();
            if let Some(provider) = providers.iter_mut().find(|provider| is_there(provider)) {
                provider.registrations.push(registration);
                continue;
            }
            let known = listing.providers.iter().find(|provider| is_there(provider));
            let endpoint = match (known, Uri::parse(instance.uri())) {
                (Some(provider), _) => Arc::clone(&provider.endpoint),
                (None, Ok(uri)) => Arc::new(Endpoint::new(uri, &self.settings)),
                (None, Err(error)) => {
                    limited!(warn, service = %self.service, %error, "a registered address is not usable");
                    continue;
                }
            };
            providers.push(Provider { endpoint, registrations: vec![registration] });
        }
        let mut announced = Vec::new();
        let mut gone = Vec::new();
        for old in &listing.providers {
            match providers.iter().find(|new| Arc::ptr_eq(&old.endpoint, &new.endpoint)) {
                Some(new) if new.is_announced_since(old) => {
                    announced.push(Arc::clone(&new.endpoint))
                }
                Some(_) => {}
                None => gone.push(Arc::clone(&old.endpoint)),
            }
        }
        listing.endpoints = providers.iter().map(|new| Arc::clone(&new.endpoint)).collect();
        let before = std::mem::replace(&mut listing.providers, providers);
        drop(listing);
        drop(before);
        tracing::debug!(service = %self.service, providers = self.listing().endpoints.len(), "providers changed");
        announced.iter().for_each(|endpoint| endpoint.announce());
        gone.iter()
            .for_each(|endpoint| endpoint.retire("the address was withdrawn from the registry"));
        self.settings.all.changed();
    }
}
