use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::instance::check_service;
use crate::lease::LeaseHandle;
use crate::watch::WatchSender;
use crate::{BoxFuture, Instance, Lease, Registry, RegistryError, RegistryUri, Snapshot, Watch};

/// The `memory:` back end: one registry per name and process, for tests and for programs whose
/// services all live in one process.
pub(crate) struct MemoryRegistry {
    uri: String,
    space: Arc<Space>,
}

/// What one name stands for. It lives as long as the process, so that a watch needs no registry
/// handle to be kept; without leases and watches it is empty.
#[derive(Default)]
struct Space {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    services: BTreeMap<String, Service>,
    registrations: u64,
}

struct Service {
    /// By instance id.
    instances: BTreeMap<String, Registration>,
    watches: WatchSender,
}

struct Registration {
    instance: Instance,
    /// Tells this registration from a later one of the same id, so that the lease of one that was
    /// removed by an administrator can't remove its successor.
    number: u64,
}

static SPACES: LazyLock<Mutex<BTreeMap<String, Arc<Space>>>> = LazyLock::new(Mutex::default);

impl MemoryRegistry {
    /// `memory:name` and `memory://name` are the same; the name may be empty.
    pub(crate) fn connect(uri: &RegistryUri) -> Result<Self, RegistryError> {
        uri.expect_params(&[])?;
        let name = format!("{}{}", uri.authority().unwrap_or_default(), uri.path());
        let mut spaces = SPACES.lock().unwrap_or_else(PoisonError::into_inner);
        let space = Arc::clone(spaces.entry(name).or_default());
        Ok(Self { uri: uri.as_str().to_owned(), space })
    }

    fn check(&self, service: &str) -> Result<(), RegistryError> {
        check_service(service).map_err(|error| error.with_registry(&self.uri))
    }

    fn add(&self, instance: Instance) -> Result<Lease, RegistryError> {
        instance.validate().map_err(|error| error.with_registry(&self.uri))?;
        let mut state = self.space.lock();
        state.registrations += 1;
        let number = state.registrations;
        let service = state.service(instance.service());
        if service.instances.contains_key(instance.id()) {
            return Err(RegistryError::already_exists(format!(
                "the instance {:?} of {:?} is registered and alive",
                instance.id(),
                instance.service()
            ))
            .with_registry(&self.uri)
            .with_hint("give each provider its own id, or end the other one first"));
        }
        let registration = Registration { instance: instance.clone(), number };
        service.instances.insert(instance.id().to_owned(), registration);
        service.publish();
        let handle = MemoryLease { space: Arc::clone(&self.space), key: key(&instance), number };
        Ok(Lease::new(instance, handle))
    }
}

impl Registry for MemoryRegistry {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn register<'a>(&'a self, instance: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>> {
        Box::pin(async move { self.add(instance) })
    }

    fn lookup<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            let state = self.space.lock();
            let list = state.services.get(service).map(Service::list).unwrap_or_default();
            Ok(Snapshot::of(list))
        })
    }

    fn watch<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            let mut state = self.space.lock();
            state.drop_unused();
            Ok(state.service(service).watches.subscribe())
        })
    }

    fn unregister<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            self.check(service)?;
            Ok(self.space.lock().remove(service, instance_id, |_| true))
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let state = self.space.lock();
            let alive = state.services.iter().filter(|(_, service)| !service.instances.is_empty());
            Ok(alive.map(|(name, _)| name.clone()).collect())
        })
    }
}

struct MemoryLease {
    space: Arc<Space>,
    key: (String, String),
    number: u64,
}

impl LeaseHandle for MemoryLease {
    fn revoke(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.abandon();
            Ok(())
        })
    }

    fn abandon(&mut self) {
        let (service, id) = &self.key;
        self.space.lock().remove(service, id, |found| found.number == self.number);
    }
}

impl Space {
    /// Every change under this lock is made in one piece, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn service(&mut self, name: &str) -> &mut Service {
        self.services.entry(name.to_owned()).or_insert_with(|| Service {
            instances: BTreeMap::new(),
            watches: Watch::channel(Vec::new()).0,
        })
    }

    fn remove(&mut self, service: &str, id: &str, which: impl Fn(&Registration) -> bool) -> bool {
        let Some(found) = self.services.get_mut(service) else { return false };
        if !found.instances.get(id).is_some_and(which) {
            return false;
        }
        found.instances.remove(id);
        found.publish();
        self.drop_unused();
        true
    }

    /// Forgets services that nobody provides or watches, lest they pile up.
    fn drop_unused(&mut self) {
        self.services
            .retain(|_, service| !(service.instances.is_empty() && service.watches.is_closed()));
    }
}

impl Service {
    fn list(&self) -> Vec<Instance> {
        self.instances.values().map(|registration| registration.instance.clone()).collect()
    }

    fn publish(&self) {
        self.watches.send(self.list());
    }
}

fn key(instance: &Instance) -> (String, String) {
    (instance.service().to_owned(), instance.id().to_owned())
}

#[cfg(test)]
mod tests {
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

    #[tokio::test]
    async fn a_watch_hears_of_each_change_without_keeping_the_registry() {
        let registry = connect("memory:watched").await.unwrap();
        let mut watch = registry.watch("svc").await.unwrap();
        assert!(watch.changed().await.unwrap().instances.is_empty());
        let lease = registry.register(instance("a")).await.unwrap();
        drop(registry);
        assert_eq!(ids(&watch.changed().await.unwrap().instances), ["a"]);
        drop(lease);
        assert!(watch.changed().await.unwrap().instances.is_empty());
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
    async fn services_that_nobody_uses_are_forgotten() {
        let uri = RegistryUri::parse("memory:forgetful").unwrap();
        let registry = MemoryRegistry::connect(&uri).unwrap();
        drop(registry.watch("watched").await.unwrap());
        drop(registry.register(instance("a")).await.unwrap());
        assert!(registry.space.lock().services.is_empty());
    }

    #[tokio::test]
    async fn invalid_input_is_refused() {
        let registry = connect("memory:strict").await.unwrap();
        let bad = Instance::new("svc", "nowhere");
        assert!(registry.register(bad).await.unwrap_err().is_invalid_instance());
        assert!(registry.lookup("").await.unwrap_err().is_invalid_instance());
        assert!(connect("memory:x?ttl=1").await.err().unwrap().is_invalid_uri());
    }
}
