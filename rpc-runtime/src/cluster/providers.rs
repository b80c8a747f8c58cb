//! [`Providers`]: applies a registry's list to the existing endpoints.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rpc_registry::Instance;

use super::rejected::Rejected;
use crate::client::{Endpoint, EndpointSettings};
use crate::descriptor::ServiceKey;
use crate::uri::Uri;

/// Instances that are processed between two yields to other tasks.
const BETWEEN_YIELDS: usize = 64;

/// The addresses of a service that are followed, and which instances are registered there.
///
/// A writer of the registry can make lists long. So applying a list takes linear time, holds no
/// lock, and yields to other tasks.
pub(super) struct Providers {
    service: ServiceKey,
    schemes: Vec<&'static str>,
    max_instances: usize,
    settings: Arc<EndpointSettings>,
    by_uri: HashMap<String, Provider>,
}

/// An address and its registered instances.
struct Provider {
    endpoint: Arc<Endpoint>,
    /// Ordered by [`registration`].
    registrations: Vec<Instance>,
}

/// What distinguishes registrations of the same address.
fn registration(instance: &Instance) -> (&str, u64, u64) {
    (instance.id(), instance.epoch(), instance.started_ms())
}

/// The result of applying a list.
pub(super) struct Taken {
    /// All of them, in the order of the list.
    pub(super) endpoints: Arc<[Arc<Endpoint>]>,
    /// Those that stay and have a new registration.
    pub(super) announced: Vec<Arc<Endpoint>>,
    /// Those that are no longer there.
    pub(super) gone: Vec<Arc<Endpoint>>,
    pub(super) rejected: Rejected,
}

impl Providers {
    pub(super) fn new(
        service: ServiceKey,
        schemes: Vec<&'static str>,
        max_instances: usize,
        settings: Arc<EndpointSettings>,
    ) -> Self {
        Self { service, schemes, max_instances, settings, by_uri: HashMap::new() }
    }

    pub(super) fn settings(&self) -> &Arc<EndpointSettings> {
        &self.settings
    }

    /// Applies a complete list. Endpoints of addresses that stay are kept.
    ///
    /// Not cancel safe: known endpoints are lost in part.
    pub(super) async fn take_over(&mut self, instances: &[Instance]) -> Taken {
        let mut rejected = Rejected::default();
        let mut room = self.room_beside_known(instances).await;
        let mut endpoints = Vec::with_capacity(instances.len().min(self.max_instances));
        let mut by_uri: HashMap<String, Provider> = HashMap::with_capacity(endpoints.capacity());
        let mut before = std::mem::take(&mut self.by_uri);
        // The previous registrations at the addresses that stay.
        let mut registered = HashMap::new();
        for (number, instance) in instances.iter().enumerate() {
            give_way(number).await;
            if !self.accepts(instance, &mut rejected) {
                continue;
            }
            // One registration of each known address is always accepted.
            let is_known = before.contains_key(instance.uri());
            if !is_known && room == 0 {
                rejected.over_limit += 1;
                continue;
            }
            if let Some(provider) = by_uri.get_mut(instance.uri()) {
                provider.registrations.push(instance.clone());
                room -= 1;
                continue;
            }
            let endpoint = match before.remove_entry(instance.uri()) {
                Some((uri, provider)) => {
                    registered.insert(uri, provider.registrations);
                    provider.endpoint
                }
                None => match Uri::parse(instance.uri()) {
                    Ok(uri) => Arc::new(Endpoint::new(uri, &self.settings)),
                    Err(error) => {
                        rejected.unusable.add(error.message());
                        continue;
                    }
                },
            };
            endpoints.push(Arc::clone(&endpoint));
            let registrations = vec![instance.clone()];
            by_uri.insert(instance.uri().to_owned(), Provider { endpoint, registrations });
            room -= usize::from(!is_known);
        }
        let mut announced = Vec::new();
        for (number, (uri, provider)) in by_uri.iter_mut().enumerate() {
            give_way(number).await;
            provider.registrations.sort_unstable_by(|a, b| registration(a).cmp(&registration(b)));
            if let Some(old) = registered.get(uri)
                && provider.is_announced_since(old)
            {
                announced.push(Arc::clone(&provider.endpoint));
            }
        }
        self.by_uri = by_uri;
        let gone = before.into_values().map(|provider| provider.endpoint).collect();
        Taken { endpoints: endpoints.into(), announced, gone, rejected }
    }

    /// How many instances are accepted beside one at each known address. So neither new registrations
    /// nor many registrations of one address can displace known providers.
    async fn room_beside_known(&self, instances: &[Instance]) -> usize {
        if instances.len() <= self.max_instances {
            return self.max_instances;
        }
        let mut known = HashSet::new();
        for (number, instance) in instances.iter().enumerate() {
            give_way(number).await;
            if self.by_uri.contains_key(instance.uri()) {
                known.insert(instance.uri());
            }
        }
        self.max_instances.saturating_sub(known.len())
    }

    /// Whether the contract and the client's settings allow calls to the instance.
    fn accepts(&self, instance: &Instance, rejected: &mut Rejected) -> bool {
        if !self.service.accepts(instance.version(), instance.group()) {
            let version = instance.version();
            rejected.versions.add(&match instance.group() {
                "" => format!("version {version}"),
                group => format!("version {version} in group {group}"),
            });
            return false;
        }
        let scheme = instance.uri().split(':').next().unwrap_or_default();
        // For an unknown scheme, the error of a connection attempt says more.
        let is_known = crate::transport::SCHEMES.iter().any(|(known, _)| *known == scheme);
        if is_known && !self.schemes.contains(&scheme) {
            rejected.schemes.add(scheme);
            return false;
        }
        true
    }
}

impl Provider {
    /// Whether there is a registration that is not among the `old` ones.
    fn is_announced_since(&self, old: &[Instance]) -> bool {
        self.registrations.iter().any(|new| {
            old.binary_search_by(|old| registration(old).cmp(&registration(new))).is_err()
        })
    }
}

/// Yields to other tasks every [`BETWEEN_YIELDS`] steps.
pub(super) async fn give_way(step: usize) {
    if step % BETWEEN_YIELDS == BETWEEN_YIELDS - 1 {
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::client::ClientBuilder;

    fn providers(max_instances: usize) -> Providers {
        let settings = ClientBuilder::default().endpoint_settings(None).unwrap();
        Providers::new(ServiceKey::new("svc", "1.0.0", ""), vec!["memory"], max_instances, settings)
    }

    fn list(name: &str, numbers: std::ops::Range<usize>) -> Vec<Instance> {
        let instance = |n| {
            Instance::new("svc", format!("memory://{name}-{n}")).with_id(format!("{name}-{n:06}"))
        };
        numbers.map(instance).collect()
    }

    fn uris(taken: &Taken) -> Vec<&str> {
        taken.endpoints.iter().map(|endpoint| endpoint.uri().as_str()).collect()
    }

    /// The processor time of this thread, where the system tells it.
    fn thread_time(started: Instant) -> Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
        nanos.map_or_else(|| started.elapsed(), Duration::from_nanos)
    }

    #[tokio::test]
    async fn taking_over_four_times_as_many_instances_takes_about_four_times_as_long() {
        let started = Instant::now();
        let took = async |n: usize, lists: [Vec<Instance>; 3]| {
            let mut providers = providers(n);
            let begun = thread_time(started);
            for list in lists {
                providers.take_over(&list).await;
            }
            thread_time(started) - begun
        };
        let same = |n| {
            let instance =
                |id: usize| Instance::new("svc", "memory://same").with_id(format!("{id:06}"));
            let list = |from: usize| (from..from + n).map(instance).collect::<Vec<_>>();
            [list(0), list(n), list(n / 2)]
        };
        let all = |n| [list("a", 0..n), list("b", 0..n), list("b", n / 2..n + n / 2)];
        for lists in [&same as &dyn Fn(usize) -> [Vec<Instance>; 3], &all] {
            let (mut short, mut long) = (Duration::MAX, Duration::MAX);
            for _ in 0..3 {
                short = short.min(took(2_000, lists(2_000)).await);
                long = long.min(took(8_000, lists(8_000)).await);
            }
            assert!(long < short * 8, "{short:?}, {long:?}");
        }
    }

    #[tokio::test]
    async fn those_that_are_followed_go_before_others_of_a_list_that_is_too_long() {
        let mut providers = providers(3);
        let known = list("known", 0..2);
        assert_eq!(providers.take_over(&known).await.endpoints.len(), 2);
        let mut long = list("fake", 0..10);
        long.extend(known);
        let taken = providers.take_over(&long).await;
        assert_eq!(uris(&taken), ["memory://fake-0", "memory://known-0", "memory://known-1"]);
        assert_eq!(taken.rejected.over_limit, 9);
        assert!(taken.gone.is_empty() && taken.announced.is_empty());
        let taken = providers.take_over(&list("known", 1..2)).await;
        assert_eq!((uris(&taken), taken.gone.len()), (vec!["memory://known-1"], 2));
    }

    #[tokio::test]
    async fn many_registrations_of_one_address_do_not_take_the_place_of_other_addresses() {
        let mut providers = providers(3);
        let known = list("known", 0..2);
        providers.take_over(&known).await;
        let again = |n| known[0].clone().with_id(format!("again-{n}"));
        let mut long: Vec<_> = (0..10).map(again).collect();
        long.extend(known.iter().cloned());
        let taken = providers.take_over(&long).await;
        assert_eq!(uris(&taken), ["memory://known-0", "memory://known-1"]);
        assert_eq!(taken.rejected.over_limit, 9);
        assert!(taken.gone.is_empty());
    }

    #[tokio::test]
    async fn an_address_is_announced_by_a_registration_that_was_not_there_before() {
        let mut providers = providers(10);
        let one = list("a", 0..1);
        providers.take_over(&one).await;
        assert!(providers.take_over(&one).await.announced.is_empty());
        let again: Vec<_> = one.iter().map(|it| it.clone().with_epoch(1)).collect();
        assert_eq!(providers.take_over(&again).await.announced.len(), 1);
        let both: Vec<_> = again.iter().cloned().chain([again[0].clone().with_id("b")]).collect();
        assert_eq!(providers.take_over(&both).await.announced.len(), 1);
        assert!(providers.take_over(&again).await.announced.is_empty(), "one of two is gone");
    }
}
