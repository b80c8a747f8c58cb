//! [`Resilient`]: what every registry on other machines has in common.
//!
//! | file | what |
//! | --- | --- |
//! | [`keeper`] | a registration is made again for as long as its lease lives |
//! | [`follower`] | a service is followed again whenever that broke |
//! | [`roster`] | which of the instances that a registry has lost are believed to be gone |
//! | [`cache`] | what was known is kept in a file, for a start without the registry |

mod back_off;
mod cache;
mod follower;
mod keeper;
mod roster;
mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;

use self::cache::Cache;
#[cfg(feature = "__fuzz")]
pub use self::cache::rewritten_cache;
use self::follower::Follower;
pub use self::settings::{Protection, ResilientSettings};
use crate::back_end::BackEnd;
use crate::instance::check_service;
use crate::{BoxFuture, Instance, Lease, Registry, RegistryError, Snapshot, Source, Watch};

/// A [`Registry`] made of a [`BackEnd`].
///
/// - **Leases** that are lost are registered again, with a higher epoch, until that succeeds or the
///   lease is dropped; [`Lease::states`] tells. The pause between attempts grows from 0.1 to 10 s.
/// - **Watches** survive the loss of the registry. Meanwhile they say so once, with the last list;
///   afterwards they go on with what the registry says then.
/// - **Lists** that shrink suspiciously are not believed: see [`Protection`]. That takes knowing what
///   was there, so it is so for services that are watched. Lookups of others say what the registry says.
/// - **Lookups** while the registry is away are answered with what was last known, from this process
///   or from the cache file, and [`Snapshot::age`] tells how old that is. Without any, they fail.
///
/// All tasks run in the tokio runtime in which it was made.
pub struct Resilient<B> {
    shared: Arc<Shared<B>>,
}

struct Shared<B> {
    back_end: B,
    settings: ResilientSettings,
    cache: Option<Cache>,
    runtime: Handle,
    followers: Mutex<HashMap<String, Weak<Follower>>>,
}

impl<B: BackEnd> Resilient<B> {
    /// Adds what `settings` ask for.
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
        let followers = Mutex::default();
        let shared = Shared { back_end, settings, cache, runtime, followers };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The back end, for what only that can do.
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
            keeper::register(&self.shared, instance).await
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
            follower::watch(&self.shared, service).await
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

impl<B> Shared<B> {
    fn followers(&self) -> MutexGuard<'_, HashMap<String, Weak<Follower>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follower(&self, service: &str) -> Option<Arc<Follower>> {
        self.followers().get(service).and_then(Weak::upgrade)
    }

    /// What the registry says, and what is kept beside it.
    fn looked_up(&self, service: &str, mut instances: Vec<Instance>) -> Snapshot {
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        let snapshot = match self.follower(service) {
            Some(follower) => follower.looked_up(instances),
            None => Snapshot::of(instances),
        };
        if let Some(cache) = &self.cache {
            cache.note(service, &snapshot);
        }
        snapshot
    }

    /// What the registry said last, in this process or before.
    fn last_known(&self, service: &str) -> Option<Snapshot> {
        if let Some(known) = self.follower(service).and_then(|follower| follower.last_known()) {
            return Some(known);
        }
        let (instances, as_of) = self.cache.as_ref()?.get(service)?;
        Some(Snapshot::of(instances).with_source(Source::Cache { as_of }))
    }
}

/// Whether the registry could not be asked. Else it has answered, and that counts.
fn is_away(error: &RegistryError) -> bool {
    error.is_unavailable() || error.is_timeout()
}
