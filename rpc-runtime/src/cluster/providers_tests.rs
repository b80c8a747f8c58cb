use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::client::{ClientBuilder, SubsetSize};

/// Neither a limit of the subset nor of the instances.
const ALL: SubsetSize = SubsetSize { size: usize::MAX, above: usize::MAX };

fn providers(max_providers: usize, subset: SubsetSize) -> Providers {
    let builder = ClientBuilder::default();
    let settings = builder.endpoint_settings(None).unwrap();
    let mut discovery = builder.discovery;
    discovery.max_providers = max_providers;
    discovery.subset = subset;
    Providers::new(ServiceKey::new("svc", "1.0.0", ""), vec!["memory"], &discovery, settings)
}

fn instance(id: impl Into<String>, uri: impl Into<String>) -> Instance {
    Instance::new("svc", uri).with_id(id).with_started_ms(1)
}

fn list(name: &str, numbers: std::ops::Range<usize>) -> Vec<Instance> {
    numbers.map(|n| instance(format!("{name}-{n:06}"), format!("memory://{name}-{n}"))).collect()
}

impl Providers {
    async fn take(&mut self, list: &[Instance]) -> ListUpdate {
        self.apply(&Arc::from(list)).await
    }
}

fn uris(update: &ListUpdate) -> Vec<&str> {
    let endpoints = update.endpoints.as_deref().expect("the endpoints have changed");
    let mut uris: Vec<_> = endpoints.iter().map(|endpoint| endpoint.uri().as_str()).collect();
    uris.sort_unstable();
    uris
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
    let took = async |n: usize, subset: SubsetSize, lists: [Vec<Instance>; 3]| {
        let mut providers = providers(n, subset);
        let begun = thread_time(started);
        for list in lists {
            providers.take(&list).await;
        }
        thread_time(started) - begun
    };
    let same = |n| {
        let list = |from: usize| -> Vec<_> {
            (from..from + n).map(|id| instance(format!("{id:06}"), "memory://same")).collect()
        };
        [list(0), list(n), list(n / 2)]
    };
    let all = |n| [list("a", 0..n), list("b", 0..n), list("b", n / 2..n + n / 2)];
    for lists in [&same as &dyn Fn(usize) -> [Vec<Instance>; 3], &all] {
        for subset in [ALL, SubsetSize::default()] {
            let (mut short, mut long) = (Duration::MAX, Duration::MAX);
            for _ in 0..3 {
                short = short.min(took(2_000, subset, lists(2_000)).await);
                long = long.min(took(8_000, subset, lists(8_000)).await);
            }
            assert!(long < short * 8, "{short:?}, {long:?}");
        }
    }
}

#[tokio::test]
async fn a_change_of_one_instance_costs_far_less_than_the_first_list() {
    let started = Instant::now();
    for subset in [ALL, SubsetSize::default()] {
        let mut providers = providers(20_000, subset);
        let mut instances = list("a", 0..10_000);
        let begun = thread_time(started);
        providers.take(&instances).await;
        let first = thread_time(started) - begun;
        let mut change = Duration::MAX;
        for n in 0..10 {
            instances[n] = instance(format!("a-{n:06}"), format!("memory://other-{n}"));
            let list = Arc::from(&*instances);
            let begun = thread_time(started);
            providers.apply(&list).await;
            change = change.min(thread_time(started) - begun);
        }
        assert!(change * 4 < first, "{first:?} for all, {change:?} for one");
    }
}

#[tokio::test]
async fn those_that_are_followed_go_before_others_of_a_list_that_is_too_long() {
    let mut providers = providers(3, ALL);
    let known = list("known", 0..2);
    assert_eq!(uris(&providers.take(&known).await), ["memory://known-0", "memory://known-1"]);
    let mut long = list("fake", 0..10);
    long.extend(known);
    let update = providers.take(&long).await;
    assert_eq!(uris(&update), ["memory://fake-0", "memory://known-0", "memory://known-1"]);
    assert_eq!(update.rejected.over_limit, 9);
    assert!(update.retired.is_empty() && update.announced.is_empty());
    let update = providers.take(&list("known", 1..2)).await;
    assert_eq!((uris(&update), update.retired.len()), (vec!["memory://known-1"], 2));
    assert_eq!(update.rejected.over_limit, 0);
}

#[tokio::test]
async fn many_registrations_of_one_address_do_not_take_the_place_of_other_addresses() {
    let mut providers = providers(3, ALL);
    let known = list("known", 0..2);
    let first = providers.take(&known).await;
    assert_eq!(uris(&first), ["memory://known-0", "memory://known-1"]);
    let again = |n| known[0].clone().with_id(format!("again-{n}"));
    let mut long: Vec<_> = (0..10).map(again).collect();
    long.extend(known.iter().cloned());
    let update = providers.take(&long).await;
    assert!(update.endpoints.is_none(), "they are the same");
    assert_eq!(update.rejected.over_limit, 9);
    assert!(update.retired.is_empty());
}

#[tokio::test]
async fn an_address_is_announced_by_a_registration_that_was_not_there_before() {
    let mut providers = providers(10, ALL);
    let one = list("a", 0..1);
    providers.take(&one).await;
    assert!(providers.take(&one).await.announced.is_empty());
    let again: Vec<_> = one.iter().map(|it| it.clone().with_epoch(1)).collect();
    assert_eq!(providers.take(&again).await.announced.len(), 1);
    let both: Vec<_> = again.iter().cloned().chain([again[0].clone().with_id("b")]).collect();
    assert_eq!(providers.take(&both).await.announced.len(), 1);
    assert!(providers.take(&again).await.announced.is_empty(), "one of two is gone");
}

#[tokio::test]
async fn a_list_that_is_in_no_order_is_followed_all_the_same() {
    let mut providers = providers(10, ALL);
    let mut instances = list("a", 0..6);
    let all = uris(&providers.take(&instances).await).join(" ");
    instances.reverse();
    instances.swap(1, 4);
    let update = providers.take(&instances).await;
    assert!(update.endpoints.is_none_or(|endpoints| endpoints.len() == 6));
    assert!(update.retired.is_empty() && update.announced.is_empty());
    instances.remove(3);
    let update = providers.take(&instances).await;
    assert_eq!((uris(&update).len(), update.retired.len()), (5, 1), "{all}");
}

#[tokio::test]
async fn a_change_of_a_long_list_moves_one_address_of_a_subset_at_most() {
    let mut providers = providers(20_000, SubsetSize::default());
    let mut instances = list("a", 0..200);
    let mut used: BTreeSet<String> =
        uris(&providers.take(&instances).await).into_iter().map(str::to_owned).collect();
    assert_eq!(used.len(), 20);
    for n in 0..100 {
        let left = instances.remove(n);
        let update = providers.take(&instances).await;
        let was_used = used.remove(left.uri());
        assert_eq!(update.endpoints.is_some(), was_used, "only the loss of a member changes it");
        if was_used {
            let now: BTreeSet<_> = uris(&update).into_iter().map(str::to_owned).collect();
            assert_eq!(now.difference(&used).count(), 1, "the next one takes its place");
            assert!(now.is_superset(&used));
            used = now;
        }
    }
}

#[tokio::test]
async fn clients_choose_subsets_that_give_all_providers_about_as_many_clients() {
    let instances = Arc::from(list("a", 0..200));
    let mut clients = BTreeMap::new();
    for _ in 0..1_000 {
        let mut providers = providers(20_000, SubsetSize::default());
        for uri in uris(&providers.apply(&instances).await) {
            *clients.entry(uri.to_owned()).or_insert(0) += 1;
        }
    }
    // The standard deviation is 9.5.
    assert_eq!(clients.len(), 200);
    assert!(clients.values().all(|it| (50..150).contains(it)), "{clients:?}");
}

#[tokio::test]
async fn addresses_that_cannot_be_reached_have_others_used_beside_them() {
    let mut providers = providers(20_000, SubsetSize { size: 3, above: 3 });
    // Nobody listens there.
    let first = providers.take(&list("nobody", 0..10)).await.endpoints.unwrap();
    assert!(providers.review().await.endpoints.is_none(), "nothing is known of them yet");
    for (failed, endpoint) in first[..2].iter().enumerate() {
        endpoint.connected().await.map(drop).unwrap_err();
        let now = providers.review().await.endpoints.unwrap();
        assert_eq!(now.len(), 4 + failed);
        assert!(first.iter().zip(&*now).all(|(first, now)| Arc::ptr_eq(first, now)));
    }
    first[0].announce();
    assert!(providers.review().await.endpoints.is_none(), "nothing is connected in its place");
}

/// What a registry may say of an id.
#[derive(Clone, Debug)]
struct Said {
    address: usize,
    /// 0 and 1 are accepted.
    kind: usize,
    epoch: u64,
    weight: u32,
}

fn said() -> impl Strategy<Value = Said> {
    (0_usize..9, 0_usize..6, 0_u64..2, 1_u32..3).prop_map(|(address, kind, epoch, weight)| Said {
        address,
        kind,
        epoch,
        weight,
    })
}

fn lists() -> impl Strategy<Value = Vec<BTreeMap<u8, Said>>> {
    prop::collection::vec(prop::collection::btree_map(0_u8..14, said(), 0..14), 1..12)
}

fn build((id, said): (&u8, &Said)) -> Instance {
    let address = said.address;
    let instance = match said.kind {
        4 => instance("", format!("tcp://h:{address}")),
        5 => instance("", format!("memory: {address}")),
        _ => instance("", format!("memory://{address}")),
    };
    let version = if said.kind == 3 { "2.0.0" } else { "1.0.0" };
    instance
        .with_id(format!("{id:02}"))
        .with_version(version)
        .with_epoch(said.epoch)
        .with_weight(said.weight)
}

/// The rules, without regard to cost.
#[derive(Default)]
struct Model {
    followed: Vec<Instance>,
    is_subset: bool,
    used: BTreeMap<String, *const Endpoint>,
}

impl Model {
    const MAX: usize = 8;
    const SUBSET: SubsetSize = SubsetSize { size: 3, above: 5 };

    fn check(&mut self, list: &[Instance], update: &ListUpdate, providers: &Providers) {
        let is_version = |it: &&Instance| it.version() == "1.0.0";
        let has_scheme = |it: &&Instance| it.uri().starts_with("memory:");
        let is_usable = |it: &&Instance| !it.uri().contains(' ');
        let of_version: Vec<_> = list.iter().filter(is_version).collect();
        let of_scheme: Vec<_> = of_version.iter().copied().filter(has_scheme).collect();
        let usable: Vec<_> = of_scheme.iter().copied().filter(is_usable).collect();

        let known: BTreeSet<_> = self.followed.iter().map(Instance::uri).collect();
        let mut followed: Vec<&Instance> =
            usable.iter().copied().filter(|it| self.followed.contains(it)).collect();
        for &it in &usable {
            let has_none = followed.iter().all(|other| other.uri() != it.uri());
            if known.contains(it.uri()) && has_none {
                followed.push(it);
            }
        }
        for &it in &usable {
            if followed.len() < Self::MAX && !followed.contains(&it) {
                followed.push(it);
            }
        }
        let rejected = &update.rejected;
        assert_eq!(rejected.versions.count(), list.len() - of_version.len());
        assert_eq!(rejected.schemes.count(), of_version.len() - of_scheme.len());
        assert_eq!(rejected.unusable.count(), of_scheme.len() - usable.len());
        assert_eq!(rejected.over_limit, usable.len() - followed.len());

        let addresses: BTreeSet<_> = followed.iter().map(|it| it.uri()).collect();
        self.is_subset = addresses.len() > Self::SUBSET.above
            || (self.is_subset && addresses.len() > Self::SUBSET.size);
        let rank = |uri: &&str| providers.addresses.rank(uri).unwrap();
        let mut in_order: Vec<&str> = addresses.iter().copied().collect();
        in_order.sort_by_key(rank);
        if self.is_subset {
            // Nothing is connected, so as many are kept of those in use.
            let beyond = in_order.split_off(Self::SUBSET.size);
            let kept = beyond.into_iter().filter(|uri| self.used.contains_key(*uri));
            in_order.extend(kept.take(Self::SUBSET.size));
        }

        let old_registrations: Vec<_> = self.followed.iter().map(registration).collect();
        let announced: BTreeSet<_> = followed
            .iter()
            .filter(|it| !old_registrations.contains(&registration(it)))
            .filter_map(|it| self.used.get(it.uri()).copied())
            .collect();
        assert_eq!(update.announced.iter().map(Arc::as_ptr).collect::<BTreeSet<_>>(), announced);

        let is_unchanged = self.used.len() == in_order.len()
            && in_order.iter().all(|uri| self.used.contains_key(*uri));
        let retired: BTreeSet<_> =
            self.used.iter().filter(|(uri, _)| !in_order.contains(&uri.as_str())).collect();
        let retired: BTreeSet<_> = retired.into_iter().map(|(_, endpoint)| *endpoint).collect();
        assert_eq!(update.retired.iter().map(Arc::as_ptr).collect::<BTreeSet<_>>(), retired);
        assert_eq!(update.endpoints.is_none(), is_unchanged, "{:?} and {in_order:?}", self.used);
        if let Some(endpoints) = &update.endpoints {
            let now: Vec<_> = endpoints.iter().map(|it| it.uri().as_str()).collect();
            assert_eq!(now, in_order);
            for endpoint in &**endpoints {
                let before = self.used.get(endpoint.uri().as_str());
                assert!(before.is_none_or(|before| *before == Arc::as_ptr(endpoint)));
            }
            let of = |it: &Arc<Endpoint>| (it.uri().as_str().to_owned(), Arc::as_ptr(it));
            self.used = endpoints.iter().map(of).collect();
        }
        self.followed = followed.into_iter().cloned().collect();
    }
}

proptest! {
    #[test]
    fn every_sequence_of_lists_gives_what_the_rules_say(lists in lists()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut providers = providers(Model::MAX, Model::SUBSET);
            let mut model = Model::default();
            // All that was in use, so that no address of an endpoint in memory is used twice.
            let mut kept = Vec::new();
            for said in lists {
                let list: Arc<[Instance]> = said.iter().map(build).collect();
                let update = providers.apply(&list).await;
                model.check(&list, &update, &providers);
                kept.push(update);
                // The same list again, in other memory.
                let list: Arc<[Instance]> = said.iter().map(build).collect();
                let update = providers.apply(&list).await;
                model.check(&list, &update, &providers);
                assert!(update.endpoints.is_none() && update.announced.is_empty());
                kept.push(update);
            }
        });
    }
}
