//! The `memory:` back end: one registry per name and process, for tests and for programs whose
//! services all run in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::sync::watch;

use crate::back_end::{Announcement, BackEnd, Claim, Feed, Session, Update};
use crate::sync::Mutex;
use crate::{BoxFuture, Instance, RegistryError, RegistryUri, Resilient, ResilientSettings};

/// The registry that a `memory:` URI names. `memory:name` and `memory://name` are the same; the
/// name may be empty.
pub(crate) async fn connect(uri: &RegistryUri) -> Result<Resilient<MemoryBackEnd>, RegistryError> {
    // A session in this process neither expires nor gets lost, so there is nothing to protect.
    Resilient::new(MemoryBackEnd::new(uri)?, ResilientSettings::default()).await
}

pub(crate) struct MemoryBackEnd {
    uri: String,
    namespace: Arc<Namespace>,
}

/// The registrations of one name. It lives as long as the process. Without registrations and feeds
/// it is empty.
#[derive(Default)]
struct Namespace {
    services: Mutex<BTreeMap<String, Service>>,
    /// The number of the last registration.
    registrations: AtomicU64,
}

static NAMESPACES: LazyLock<Mutex<BTreeMap<String, Arc<Namespace>>>> =
    LazyLock::new(Mutex::default);

struct Service {
    /// By instance id.
    registrations: BTreeMap<String, Registration>,
    /// Incremented with each change.
    version: watch::Sender<u64>,
}

struct Registration {
    instance: Instance,
    /// Identifies the registration, so that the session of one that was removed by an administrator
    /// cannot remove its successor with the same id.
    number: u64,
}

impl MemoryBackEnd {
    fn new(uri: &RegistryUri) -> Result<Self, RegistryError> {
        uri.expect_params(&[])?;
        let name = format!("{}{}", uri.authority().unwrap_or_default(), uri.path());
        let namespace = Arc::clone(NAMESPACES.lock().entry(name).or_default());
        Ok(Self { uri: uri.as_str().to_owned(), namespace })
    }

    fn add(&self, instance: Instance) -> Result<MemorySession, RegistryError> {
        let mut services = self.namespace.services.lock();
        let service = services.entry(instance.service().to_owned()).or_default();
        if service.registrations.contains_key(instance.id()) {
            return Err(RegistryError::already_exists(format!(
                "the instance {:?} of {:?} is registered and alive",
                instance.id(),
                instance.service()
            ))
            .with_registry(&self.uri)
            .with_hint("give each provider its own id, or end the other one first"));
        }
        let number = self.namespace.registrations.fetch_add(1, Ordering::Relaxed);
        let registration = Registration { instance: instance.clone(), number };
        service.registrations.insert(instance.id().to_owned(), registration);
        service.publish();
        Ok(MemorySession { namespace: Arc::clone(&self.namespace), instance, number })
    }
}

impl BackEnd for MemoryBackEnd {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        _: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        Box::pin(async move {
            let session = self.add(instance.clone())?;
            let lost = Box::pin(std::future::pending());
            Ok(Announcement { instance, lost, session: Box::new(session) })
        })
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move { Ok(self.namespace.list(service)) })
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            let feed = MemoryFeed {
                namespace: Arc::clone(&self.namespace),
                service: service.to_owned(),
                version: Some(self.namespace.subscribe(service)),
                listed: BTreeSet::new(),
            };
            Ok(Box::new(feed) as _)
        })
    }

    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move { Ok(self.namespace.remove(service, instance_id, |_| true)) })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let services = self.namespace.services.lock();
            let provided = services.iter().filter(|(_, service)| !service.registrations.is_empty());
            Ok(provided.map(|(name, _)| name.clone()).collect())
        })
    }
}

struct MemorySession {
    namespace: Arc<Namespace>,
    instance: Instance,
    number: u64,
}

impl Session for MemorySession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        self.abandon();
        Box::pin(async { Ok(()) })
    }

    fn abandon(&mut self) {
        let is_own = |found: &Registration| found.number == self.number;
        self.namespace.remove(self.instance.service(), self.instance.id(), is_own);
    }
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.abandon();
    }
}

struct MemoryFeed {
    namespace: Arc<Namespace>,
    service: String,
    /// `None` only while it is dropped.
    version: Option<watch::Receiver<u64>>,
    /// The ids of the last list.
    listed: BTreeSet<String>,
}

impl Feed for MemoryFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(async {
            // The sender is in the service, which stays as long as it has a receiver.
            if let Some(version) = &mut self.version
                && version.changed().await.is_err()
            {
                return Err(RegistryError::unavailable("the registry in memory is gone"));
            }
            let instances = self.namespace.list(&self.service);
            let listed: BTreeSet<_> = instances.iter().map(|it| it.id().to_owned()).collect();
            let departed = self.listed.difference(&listed).cloned().collect();
            self.listed = listed;
            Ok(Update { instances, departed, after_fault: false })
        })
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        self.version = None;
        self.namespace.drop_unused(&self.service);
    }
}

impl Namespace {
    /// Ordered by id.
    fn list(&self, service: &str) -> Vec<Instance> {
        let services = self.services.lock();
        let Some(service) = services.get(service) else { return Vec::new() };
        service.registrations.values().map(|it| it.instance.clone()).collect()
    }

    /// The version of a service, marked as changed.
    fn subscribe(&self, service: &str) -> watch::Receiver<u64> {
        let mut services = self.services.lock();
        let mut version = services.entry(service.to_owned()).or_default().version.subscribe();
        version.mark_changed();
        version
    }

    fn remove(&self, service: &str, id: &str, which: impl FnOnce(&Registration) -> bool) -> bool {
        let mut services = self.services.lock();
        let Some(found) = services.get_mut(service) else { return false };
        if !found.registrations.get(id).is_some_and(which) {
            return false;
        }
        found.registrations.remove(id);
        found.publish();
        if found.is_unused() {
            services.remove(service);
        }
        true
    }

    fn drop_unused(&self, service: &str) {
        let mut services = self.services.lock();
        if services.get(service).is_some_and(Service::is_unused) {
            services.remove(service);
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self { registrations: BTreeMap::new(), version: watch::channel(0).0 }
    }
}

impl Service {
    fn publish(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// Whether there are neither registrations nor feeds.
    fn is_unused(&self) -> bool {
        self.registrations.is_empty() && self.version.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant as Time;

    use super::*;
    use crate::connect;

    fn instance(id: &str) -> Instance {
        Instance::new("svc", "tcp://127.0.0.1:1").with_id(id)
    }

    fn ids(instances: &[Instance]) -> Vec<&str> {
        instances.iter().map(Instance::id).collect()
    }

    #[tokio::test]
    async fn all_connections_of_one_name_see_each_other_and_no_other_name() {
        let one = connect("memory:shared").await.unwrap();
        let two = connect("memory://shared").await.unwrap();
        let other = connect("memory:other").await.unwrap();
        let _b = one.register(instance("b")).await.unwrap();
        let _a = two.register(instance("a")).await.unwrap();
        assert_eq!(ids(&two.lookup("svc").await.unwrap()), ["a", "b"]);
        assert_eq!(one.services().await.unwrap(), ["svc"]);
        assert!(other.lookup("svc").await.unwrap().is_empty());
        assert!(other.services().await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_hears_of_each_change_at_once_without_keeping_the_registry() {
        let begun = Time::now();
        let registry = connect("memory:watched").await.unwrap();
        let mut watch = registry.watch("svc").await.unwrap();
        assert!(watch.changed().await.unwrap().instances.is_empty());
        let lease = registry.register(instance("a")).await.unwrap();
        drop(registry);
        assert_eq!(ids(&watch.changed().await.unwrap().instances), ["a"]);
        drop(lease);
        assert!(watch.changed().await.unwrap().instances.is_empty());
        assert_eq!(Time::now(), begun, "it took time");
    }

    #[tokio::test]
    async fn a_stale_lease_does_not_remove_its_successor() {
        let registry = connect("memory:fenced").await.unwrap();
        let stale = registry.register(instance("a")).await.unwrap();
        assert!(registry.register(instance("a")).await.unwrap_err().is_already_exists());
        assert!(registry.unregister("svc", "a").await.unwrap());
        assert!(!registry.unregister("svc", "a").await.unwrap());
        let lease = registry.register(instance("a")).await.unwrap();
        stale.revoke().await.unwrap();
        assert_eq!(registry.lookup("svc").await.unwrap().len(), 1);
        lease.revoke().await.unwrap();
        assert!(registry.lookup("svc").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn services_without_registrations_and_watches_are_forgotten() {
        let uri = RegistryUri::parse("memory:forgetful").unwrap();
        let registry = MemoryBackEnd::new(&uri).unwrap();
        let names = || registry.namespace.services.lock().keys().cloned().collect::<Vec<_>>();
        drop(registry.follow("watched").await.unwrap());
        drop(registry.announce(instance("a"), Claim::New).await.unwrap());
        assert_eq!(names(), Vec::<String>::new());
        let feed = registry.follow("svc").await.unwrap();
        let announced = registry.announce(instance("a"), Claim::New).await.unwrap();
        drop(announced);
        assert_eq!(names(), ["svc"]);
        drop(feed);
        assert_eq!(names(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn invalid_input_is_refused() {
        let registry = connect("memory:strict").await.unwrap();
        let bad = Instance::new("svc", "nowhere");
        assert!(registry.register(bad).await.unwrap_err().is_invalid_instance());
        assert!(registry.lookup("").await.unwrap_err().is_invalid_instance());
        assert!(connect("memory:x?lease=1s").await.err().unwrap().is_invalid_uri());
    }
}
