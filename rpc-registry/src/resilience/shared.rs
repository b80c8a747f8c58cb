//! [`Shared`]: what the tasks of a registry share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::ResilientSettings;
use super::cache::Cache;
use super::subscription::Subscription;
use crate::sync::Mutex;
use crate::{Instance, RegistryError, Snapshot, Source};

pub(super) struct Shared<B> {
    pub(super) back_end: B,
    pub(super) settings: ResilientSettings,
    pub(super) cache: Option<Cache>,
    pub(super) runtime: Handle,
    /// By service. A subscription is kept by its task.
    pub(super) subscriptions: Mutex<HashMap<String, Weak<Subscription>>>,
}

impl<B> Shared<B> {
    pub(super) fn new(
        back_end: B,
        settings: ResilientSettings,
        cache: Option<Cache>,
        runtime: Handle,
    ) -> Self {
        Self { back_end, settings, cache, runtime, subscriptions: Mutex::default() }
    }

    fn subscription(&self, service: &str) -> Option<Arc<Subscription>> {
        self.subscriptions.lock().get(service).and_then(Weak::upgrade)
    }

    /// The list of the registry, with the protected instances.
    pub(super) fn looked_up(&self, service: &str, mut instances: Vec<Instance>) -> Snapshot {
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        let snapshot = match self.subscription(service) {
            Some(subscription) => subscription.looked_up(instances),
            None => Snapshot::of(instances),
        };
        if let Some(cache) = &self.cache {
            cache.note(service, &snapshot);
        }
        snapshot
    }

    /// The last list of the registry, from this process or from the cache file.
    pub(super) fn last_known(&self, service: &str) -> Option<Snapshot> {
        if let Some(known) = self.subscription(service).and_then(|it| it.last_known()) {
            return Some(known);
        }
        let (instances, as_of) = self.cache.as_ref()?.get(service)?;
        Some(Snapshot::of(instances).with_source(Source::Cache { as_of }))
    }
}

/// Whether the registry could not be asked. Other errors are answers of the registry.
pub(super) fn is_away(error: &RegistryError) -> bool {
    error.is_unavailable() || error.is_timeout()
}
