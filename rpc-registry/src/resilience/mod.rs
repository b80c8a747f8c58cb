//! [`Resilient`]: the layer that all back ends have in common.
//!
//! | file | what |
//! | --- | --- |
//! | [`renewal`] | a registration is made again as long as its lease lives |
//! | [`subscription`] | the state of a service that is watched |
//! | [`following`] | the task that keeps a subscription up to date |
//! | [`protection`] | which instances that a registry no longer lists are kept for a while |
//! | [`cache`], [`cache_file`] | the last lists, in a file for a start without the registry |
//! | [`shared`] | what the tasks of a registry share |

mod cache;
mod cache_file;
mod following;
mod protection;
mod renewal;
mod settings;
mod shared;
mod subscription;

use std::sync::Arc;

use tokio::runtime::Handle;

use self::cache::Cache;
#[cfg(feature = "__fuzz")]
pub use self::cache_file::rewritten_cache;
pub use self::settings::{Protection, ResilientSettings};
use self::shared::{Shared, is_away};
use crate::back_end::BackEnd;
use crate::instance::check_service;
use crate::{BoxFuture, Instance, Lease, Registry, RegistryError, Snapshot, Watch};

/// A [`Registry`] made of a [`BackEnd`].
///
/// - **Leases** that are lost are registered again, with a higher epoch, until that succeeds or the
///   lease is dropped; [`Lease::states`] reports it. The pause between attempts grows from 0.1 to
///   10 s.
/// - **Watches** survive the loss of the registry. They report it once, with the last list, and
///   continue when the registry is back.
/// - **Lists** that shrink suspiciously are protected: see [`Protection`]. That requires an earlier
///   list, so it applies to services that are watched. Lookups of other services return the list of
///   the registry.
/// - **Lookups** during an outage return the last known list, from this process or from the cache
///   file, and [`Snapshot::age`] returns its age. Without a known list they fail.
///
/// All tasks run in the tokio runtime in which it was made.
pub struct Resilient<B> {
    shared: Arc<Shared<B>>,
}

impl<B: BackEnd> Resilient<B> {
    /// Adds the layer with these settings to a back end.
    ///
    /// # Errors
    ///
    /// `is_unavailable` outside of a tokio runtime.
    pub async fn new(back_end: B, settings: ResilientSettings) -> Result<Self, RegistryError> {
        let runtime = Handle::try_current().map_err(|error| {
            RegistryError::unavailable("a registry needs a tokio runtime")
                .with_registry(back_end.uri())
                .with_source(error)
        })?;
        let cache = match settings.cache_file(back_end.uri()) {
            Some(path) => Some(Cache::open(path, runtime.clone()).await),
            None => None,
        };
        Ok(Self { shared: Arc::new(Shared::new(back_end, settings, cache, runtime)) })
    }

    /// The back end, for functions that only it has.
    pub fn back_end(&self) -> &B {
        &self.shared.back_end
    }

    fn check(&self, service: &str) -> Result<(), RegistryError> {
        check_service(service).map_err(|error| error.with_registry(self.uri()))
    }
}

impl<B: BackEnd> Registry for Resilient<B> {
    fn uri(&self) -> &str {
        self.shared.back_end.uri()
    }

    fn register<'a>(&'a self, instance: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>> {
        Box::pin(async move {
            instance.validate().map_err(|error| error.with_registry(self.uri()))?;
            renewal::register(&self.shared, instance).await
        })
    }

    fn lookup<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            match self.shared.back_end.list(service).await {
                Ok(instances) => Ok(self.shared.looked_up(service, instances)),
                Err(error) if is_away(&error) => self.shared.last_known(service).ok_or(error),
                Err(error) => Err(error),
            }
        })
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            following::watch(&self.shared, service).await
        })
    }

    fn unregister<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            self.shared.back_end.remove(service, instance_id).await
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let mut names = self.shared.back_end.services().await?;
            names.sort_unstable();
            names.dedup();
            Ok(names)
        })
    }
}
