//! [`Subject`]: the registry under test, with assertions that name the rule.
#![expect(clippy::panic, reason = "it tests, so it fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::fixture::Fixture;
use crate::random::random_u64;
use crate::{Instance, Lease, Registry, Snapshot, Watch};

/// How long a rule may take, and a change to arrive.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a change must arrive that needs no expiration.
pub(super) const SOON: Duration = Duration::from_secs(5);

/// The registry that a rule is checked on, and the name of the rule.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) fixture: &'a dyn Fixture,
    pub(super) name: &'a str,
}

impl Subject<'_> {
    pub(super) async fn connect(&self) -> Arc<dyn Registry> {
        match self.fixture.connect().await {
            Ok(registry) => registry,
            Err(error) => panic!("{}: cannot connect: {error}", self.name),
        }
    }

    /// The name of an unused service.
    pub(super) fn service(&self, name: &str) -> String {
        format!("{name}-{:016x}", random_u64())
    }

    pub(super) fn instance(&self, service: &str, id: &str) -> Instance {
        Instance::new(service, "tcp://127.0.0.1:9").with_id(id)
    }

    pub(super) async fn register(&self, registry: &Arc<dyn Registry>, instance: Instance) -> Lease {
        match registry.register(instance).await {
            Ok(lease) => lease,
            Err(error) => panic!("{}: cannot register: {error}", self.name),
        }
    }

    pub(super) async fn lookup(&self, registry: &Arc<dyn Registry>, service: &str) -> Snapshot {
        match registry.lookup(service).await {
            Ok(found) => found,
            Err(error) => panic!("{}: cannot look up: {error}", self.name),
        }
    }

    pub(super) async fn ids(&self, registry: &Arc<dyn Registry>, service: &str) -> Vec<String> {
        ids(&self.lookup(registry, service).await)
    }

    /// Waits until the watch returns a snapshot with this property.
    pub(super) async fn until(
        &self,
        watch: &mut Watch,
        what: &str,
        wanted: impl Fn(&Snapshot) -> bool,
    ) -> Snapshot {
        let mut last = None;
        let seen = timeout(PATIENCE, async {
            loop {
                match watch.changed().await {
                    Ok(now) if wanted(&now) => return now,
                    Ok(now) => last = Some(now),
                    Err(error) => panic!("{}: the watch broke: {error}", self.name),
                }
            }
        });
        match seen.await {
            Ok(seen) => seen,
            Err(_) => panic!("{}: not so: {what}; the last state is {last:?}", self.name),
        }
    }

    /// Waits until a condition holds.
    pub(super) async fn soon(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !is_so().await {
            assert!(begun.elapsed() < PATIENCE, "{}: not so: {what}", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

pub(super) fn ids(instances: &[Instance]) -> Vec<String> {
    instances.iter().map(|instance| instance.id().to_owned()).collect()
}
