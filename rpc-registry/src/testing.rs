//! What every back end must do, as tests for the authors of back ends (feature `testing`).
//!
//! ```
//! use rpc_registry::testing::{self, Fixture};
//!
//! # async fn demo() {
//! testing::conformance(&|| rpc_registry::connect("memory:under-test")).await;
//! # }
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(demo());
//! ```
//!
//! A rule that is broken panics with its name. Services and ids are new in each run, so the registry
//! need not be empty.
#![expect(clippy::panic, clippy::expect_used, reason = "it tests, so it fails by panicking")]

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::instance::random_bits;
use crate::{
    BoxFuture, Instance, Lease, LeaseState, Registry, RegistryError, Snapshot, Source, Watch,
};

/// How long a rule may take, and a change to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon a change must arrive where nothing has to expire for it.
const SOON: Duration = Duration::from_secs(5);

/// A registry under test.
pub trait Fixture: Sync {
    /// Makes another connection to the same registry.
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>>;
}

impl<F, C> Fixture for F
where
    F: Fn() -> C + Sync,
    C: Future<Output = Result<Arc<dyn Registry>, RegistryError>> + Send + 'static,
{
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(self())
    }
}

/// A registry under test that can be taken away.
pub trait Outage: Fixture {
    /// The registry is away from here on, with what it knows.
    fn stop(&self) -> BoxFuture<'_, ()>;

    /// It is there again, at the same URI.
    fn start(&self) -> BoxFuture<'_, ()>;
}

type Rule = for<'a> fn(Under<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), (|under| Box::pin($rule(under))) as Rule)),*]
    };
}

/// Checks every rule that holds while the registry is there. Needs a multi-thread runtime with its
/// timer enabled.
///
/// # Panics
///
/// If a rule is broken, with its name.
pub async fn conformance(fixture: &dyn Fixture) {
    let rules: &[(&str, Rule)] = rules![
        a_registration_is_found_as_it_was_given,
        a_revoked_lease_is_gone_at_once,
        a_dropped_lease_is_gone_soon,
        an_id_is_taken_while_its_lease_lives,
        ids_of_different_services_do_not_meet,
        an_administrator_can_remove_a_registration_and_its_lease_cannot_remove_its_successor,
        a_watch_begins_with_the_present_state_and_follows,
        a_change_names_who_came_and_who_went,
        a_watch_needs_no_registry_handle,
        an_orderly_departure_of_all_is_believed_at_once,
        nobody_is_an_empty_list,
        services_with_a_living_instance_are_listed,
        names_with_odd_characters_stay_apart,
        invalid_input_is_refused,
        many_who_register_at_once_are_all_found,
        a_cancelled_registration_leaves_nothing,
    ];
    for (name, rule) in rules {
        eprintln_rule(name);
        let run = rule(Under { fixture, name });
        if timeout(PATIENCE, run).await.is_err() {
            panic!("{name}: not done within {PATIENCE:?}");
        }
    }
}

/// Checks what holds while the registry is away for so long, and after that. A registry that must
/// let leases lapse for it to be interesting needs a longer time than they have.
///
/// # Panics
///
/// If a rule is broken.
pub async fn outage(fixture: &dyn Outage, away: Duration) {
    let under = Under { fixture, name: "outage" };
    let service = under.service("svc");
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let lease = under.register(&provider, under.instance(&service, "a")).await;
    let epoch = lease.instance().epoch();
    let mut watch = consumer.watch(&service).await.expect("a watch");
    under.until(&mut watch, "the registration is seen", |now| now.len() == 1).await;

    fixture.stop().await;
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < away || asked == 0 {
        let found = consumer.lookup(&service).await.expect("lookups are answered from the cache");
        assert_eq!(found.len(), 1, "while it is away, the last list stays in use");
        assert!(found.age().is_some(), "an answer from the cache says how old it is");
        asked += 1;
        sleep(Duration::from_millis(200)).await;
    }
    let unknown = consumer.lookup(&under.service("unknown")).await;
    let unknown = unknown.expect_err("nothing is known of it, so there is no answer");
    assert!(unknown.is_unavailable() || unknown.is_timeout(), "{unknown}");

    fixture.start().await;
    under
        .until(&mut watch, "the watch is whole again", |now| {
            now.len() == 1 && now.source == Source::Registry
        })
        .await;
    under
        .soon("the registration is there again", async || {
            let found = consumer.lookup(&service).await;
            found.is_ok_and(|found| found.is_current() && found.len() == 1)
        })
        .await;
    if let LeaseState::Held { epoch: now } = lease.states().now() {
        assert!(now >= epoch, "the epoch never falls");
    }
    let late = under.register(&provider, under.instance(&service, "b")).await;
    under.until(&mut watch, "changes are seen again", |now| now.len() == 2).await;
    late.revoke().await.expect("revoked");
    lease.revoke().await.expect("revoked");
    under.until(&mut watch, "an orderly departure is believed", |now| now.is_empty()).await;
}

#[expect(clippy::print_stderr, reason = "a test that hangs or fails should say where")]
fn eprintln_rule(name: &str) {
    eprintln!("conformance: {name}");
}

/// The registry that a rule is checked on.
#[derive(Clone, Copy)]
struct Under<'a> {
    fixture: &'a dyn Fixture,
    name: &'a str,
}

impl Under<'_> {
    async fn connect(&self) -> Arc<dyn Registry> {
        match self.fixture.connect().await {
            Ok(registry) => registry,
            Err(error) => panic!("{}: cannot connect: {error}", self.name),
        }
    }

    /// A service that nobody else has.
    fn service(&self, name: &str) -> String {
        format!("{name}-{:016x}", random_bits())
    }

    fn instance(&self, service: &str, id: &str) -> Instance {
        Instance::new(service, "tcp://127.0.0.1:9").with_id(id)
    }

    async fn register(&self, registry: &Arc<dyn Registry>, instance: Instance) -> Lease {
        match registry.register(instance).await {
            Ok(lease) => lease,
            Err(error) => panic!("{}: cannot register: {error}", self.name),
        }
    }

    async fn lookup(&self, registry: &Arc<dyn Registry>, service: &str) -> Snapshot {
        match registry.lookup(service).await {
            Ok(found) => found,
            Err(error) => panic!("{}: cannot look up: {error}", self.name),
        }
    }

    async fn ids(&self, registry: &Arc<dyn Registry>, service: &str) -> Vec<String> {
        ids(&self.lookup(registry, service).await)
    }

    /// Waits until the watch returns such a state.
    async fn until(
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

    /// Waits until something is so.
    async fn soon(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let begun = Instant::now();
        while !is_so().await {
            assert!(begun.elapsed() < PATIENCE, "{}: not so: {what}", self.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
}

fn ids(instances: &[Instance]) -> Vec<String> {
    instances.iter().map(|instance| instance.id().to_owned()).collect()
}

async fn a_registration_is_found_as_it_was_given(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let given = Instance::new(&service, "tcp://[::1]:7?x=%20")
        .with_id("the-id")
        .with_version("2.3.4")
        .with_group("blue")
        .with_weight(7)
        .with_zone("zone-1")
        .with_metadata("key", "any text, \"quoted\",\nin lines, \u{e4}")
        .with_started_ms(1_234_567);
    let lease = under.register(&provider, given.clone()).await;
    let found = under.lookup(&consumer, &service).await;
    assert_eq!(found.len(), 1, "{}", under.name);
    let expected = given.with_epoch(lease.instance().epoch());
    assert_eq!(found.first(), Some(&expected), "{}", under.name);
    assert_eq!(lease.instance(), &expected, "{}: the lease tells what was stored", under.name);
    assert!(found.is_current() && found.age().is_none(), "{}", under.name);
    drop(lease);
}

async fn a_revoked_lease_is_gone_at_once(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let lease = under.register(&provider, under.instance(&service, "a")).await;
    let mut states = lease.states();
    lease.revoke().await.expect("a lease that is held can be revoked");
    assert!(under.ids(&consumer, &service).await.is_empty(), "{}", under.name);
    let ended = timeout(SOON, async { while states.changed().await.is_some() {} }).await;
    assert!(ended.is_ok(), "{}: whoever follows the lease hears of its end", under.name);
}

async fn a_dropped_lease_is_gone_soon(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let lease = under.register(&provider, under.instance(&service, "a")).await;
    let dropped = Instant::now();
    drop(lease);
    under.soon("it is gone", async || under.ids(&consumer, &service).await.is_empty()).await;
    assert!(dropped.elapsed() < SOON, "{}: took {:?}", under.name, dropped.elapsed());
}

async fn an_id_is_taken_while_its_lease_lives(under: Under<'_>) {
    let (one, two) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let lease = under.register(&one, under.instance(&service, "a")).await;
    for registry in [&one, &two] {
        let refused = registry.register(under.instance(&service, "a")).await;
        let refused = refused.expect_err("the id is taken");
        assert!(refused.is_already_exists(), "{}: {refused}", under.name);
    }
    assert_eq!(under.ids(&two, &service).await, ["a"], "{}", under.name);
    lease.revoke().await.expect("revoked");
    let next = under.register(&two, under.instance(&service, "a")).await;
    assert_eq!(under.ids(&one, &service).await, ["a"], "{}", under.name);
    drop(next);
}

async fn ids_of_different_services_do_not_meet(under: Under<'_>) {
    let registry = under.connect().await;
    let (one, two) = (under.service("svc"), under.service("svc"));
    let longer = format!("{one}x");
    let first = under.register(&registry, under.instance(&one, "a")).await;
    let second = under.register(&registry, under.instance(&two, "a")).await;
    let third = under.register(&registry, under.instance(&longer, "b")).await;
    assert_eq!(under.ids(&registry, &one).await, ["a"], "{}: no prefix matches", under.name);
    first.revoke().await.expect("revoked");
    assert!(under.ids(&registry, &one).await.is_empty(), "{}", under.name);
    assert_eq!(under.ids(&registry, &two).await, ["a"], "{}", under.name);
    assert_eq!(under.ids(&registry, &longer).await, ["b"], "{}", under.name);
    drop((second, third));
}

async fn an_administrator_can_remove_a_registration_and_its_lease_cannot_remove_its_successor(
    under: Under<'_>,
) {
    let (provider, admin) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let stale = under.register(&provider, under.instance(&service, "a")).await;
    assert!(admin.unregister(&service, "a").await.expect("removed"), "{}", under.name);
    assert!(under.ids(&admin, &service).await.is_empty(), "{}", under.name);
    assert!(!admin.unregister(&service, "a").await.expect("not there"), "{}", under.name);
    assert!(!admin.unregister(&service, "never").await.expect("not there"), "{}", under.name);
    let successor = under.register(&admin, under.instance(&service, "a").with_weight(9)).await;
    let _ = stale.revoke().await;
    sleep(Duration::from_millis(200)).await;
    let found = under.lookup(&provider, &service).await;
    assert_eq!(found.first().map(Instance::weight), Some(9), "{}", under.name);
    drop(successor);
}

async fn a_watch_begins_with_the_present_state_and_follows(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let a = under.register(&provider, under.instance(&service, "a")).await;
    let mut watch = consumer.watch(&service).await.expect("a watch");
    let first = timeout(SOON, watch.changed()).await.expect("at once").expect("a state");
    assert_eq!(ids(&first), ["a"], "{}", under.name);
    let b = under.register(&provider, under.instance(&service, "b")).await;
    under.until(&mut watch, "b has come", |now| ids(now) == ["a", "b"]).await;
    a.revoke().await.expect("revoked");
    under.until(&mut watch, "a has left", |now| ids(now) == ["b"]).await;
    let mut second = consumer.watch(&service).await.expect("a second watch");
    let state = timeout(SOON, second.changed()).await.expect("at once").expect("a state");
    assert_eq!(ids(&state), ["b"], "{}: a later watch begins with the state of then", under.name);
    drop(b);
    under.until(&mut watch, "b has left", |now| now.is_empty()).await;
    under.until(&mut second, "b has left", |now| now.is_empty()).await;
}

async fn a_change_names_who_came_and_who_went(under: Under<'_>) {
    let registry = under.connect().await;
    let service = under.service("svc");
    let a = under.register(&registry, under.instance(&service, "a")).await;
    let mut watch = registry.watch(&service).await.expect("a watch");
    let first = watch.changed().await.expect("a state");
    assert_eq!(first.change.added, ["a"], "{}", under.name);
    let b = under.register(&registry, under.instance(&service, "b")).await;
    let then = under.until(&mut watch, "b has come", |now| now.len() == 2).await;
    assert_eq!(then.change.added, ["b"], "{}", under.name);
    assert!(then.change.removed.is_empty(), "{}", under.name);
    a.revoke().await.expect("revoked");
    let last = under.until(&mut watch, "a has left", |now| now.len() == 1).await;
    assert_eq!(last.change.removed, ["a"], "{}", under.name);
    drop(b);
}

async fn a_watch_needs_no_registry_handle(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let mut watch = consumer.watch(&service).await.expect("a watch");
    drop(consumer);
    let lease = under.register(&provider, under.instance(&service, "a")).await;
    drop(provider);
    under.until(&mut watch, "a has come", |now| now.len() == 1).await;
    lease.revoke().await.expect("a lease needs no registry handle either");
    under.until(&mut watch, "a has left", |now| now.is_empty()).await;
}

async fn an_orderly_departure_of_all_is_believed_at_once(under: Under<'_>) {
    let (provider, consumer) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let mut watch = consumer.watch(&service).await.expect("a watch");
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f"] {
        leases.push(under.register(&provider, under.instance(&service, id)).await);
    }
    under.until(&mut watch, "all have come", |now| now.len() == 6).await;
    let leaving = Instant::now();
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
    under.until(&mut watch, "all have left", |now| now.is_empty()).await;
    assert!(leaving.elapsed() < SOON, "{}: took {:?}", under.name, leaving.elapsed());
    assert!(under.lookup(&consumer, &service).await.is_current(), "{}", under.name);
}

async fn nobody_is_an_empty_list(under: Under<'_>) {
    let registry = under.connect().await;
    let service = under.service("nobody");
    assert!(under.ids(&registry, &service).await.is_empty(), "{}", under.name);
    let mut watch = registry.watch(&service).await.expect("a watch");
    let state = timeout(SOON, watch.changed()).await.expect("at once").expect("a state");
    assert!(state.is_empty(), "{}", under.name);
}

async fn services_with_a_living_instance_are_listed(under: Under<'_>) {
    let registry = under.connect().await;
    let (b, a) = (under.service("svc-b"), under.service("svc-a"));
    let mut leases = Vec::new();
    for (service, id) in [(&b, "1"), (&a, "1"), (&a, "2")] {
        leases.push(under.register(&registry, under.instance(service, id)).await);
    }
    let names = registry.services().await.expect("the services");
    assert!(names.is_sorted(), "{}: {names:?}", under.name);
    for service in [&a, &b] {
        let times = names.iter().filter(|name| *name == service).count();
        assert_eq!(times, 1, "{}: {names:?}", under.name);
    }
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
    let names = registry.services().await.expect("the services");
    assert!(!names.contains(&a) && !names.contains(&b), "{}: {names:?}", under.name);
}

async fn names_with_odd_characters_stay_apart(under: Under<'_>) {
    let registry = under.connect().await;
    let base = under.service("odd");
    let services: Vec<_> = ["", "/x", "/", "%2Fx", ".", "..", "/../x", "\u{e4}", "*", "=", "'\"\\"]
        .iter()
        .map(|suffix| format!("{base}{suffix}"))
        .collect();
    let odd_ids = ["a/b", "a%2Fb", "..", "a", "A", "\u{fc}", "a=b&c", "#", "\"'\\"];
    let mut leases = Vec::new();
    for service in &services {
        leases.push(under.register(&registry, under.instance(service, "one")).await);
    }
    for id in odd_ids {
        leases.push(under.register(&registry, under.instance(&base, id)).await);
    }
    for service in services.iter().skip(1) {
        assert_eq!(under.ids(&registry, service).await, ["one"], "{}: {service}", under.name);
    }
    let found: BTreeSet<_> = under.ids(&registry, &base).await.into_iter().collect();
    let mut expected: BTreeSet<_> = odd_ids.map(str::to_owned).into();
    expected.insert("one".to_owned());
    assert_eq!(found, expected, "{}", under.name);
    let names = registry.services().await.expect("the services");
    assert!(services.iter().all(|service| names.contains(service)), "{}: {names:?}", under.name);
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
}

async fn invalid_input_is_refused(under: Under<'_>) {
    let registry = under.connect().await;
    let bad = registry.register(Instance::new("svc", "nowhere")).await;
    assert!(bad.expect_err("no URI").is_invalid_instance(), "{}", under.name);
    let bad = registry.register(Instance::new("", "tcp://127.0.0.1:1")).await;
    assert!(bad.expect_err("no name").is_invalid_instance(), "{}", under.name);
    for service in ["", "a b", "a\nb"] {
        let looked = registry.lookup(service).await;
        assert!(looked.expect_err("no name").is_invalid_instance(), "{}", under.name);
        let watched = registry.watch(service).await;
        assert!(watched.expect_err("no name").is_invalid_instance(), "{}", under.name);
        let removed = registry.unregister(service, "a").await;
        assert!(removed.expect_err("no name").is_invalid_instance(), "{}", under.name);
    }
}

async fn many_who_register_at_once_are_all_found(under: Under<'_>) {
    let (one, two) = (under.connect().await, under.connect().await);
    let service = under.service("svc");
    let mut registering = JoinSet::new();
    for number in 0..50 {
        let registry = Arc::clone(if number % 2 == 0 { &one } else { &two });
        let instance = under.instance(&service, &format!("{number:02}"));
        registering.spawn(async move { registry.register(instance).await });
    }
    let mut leases = Vec::new();
    while let Some(lease) = registering.join_next().await {
        leases.push(lease.expect("no panic").expect("registered"));
    }
    let found = under.ids(&two, &service).await;
    assert_eq!(found.len(), 50, "{}", under.name);
    assert!(found.is_sorted(), "{}: {found:?}", under.name);
    let mut revoking: JoinSet<_> = leases.into_iter().map(Lease::revoke).collect();
    while let Some(revoked) = revoking.join_next().await {
        revoked.expect("no panic").expect("revoked");
    }
    assert!(under.ids(&one, &service).await.is_empty(), "{}", under.name);
}

async fn a_cancelled_registration_leaves_nothing(under: Under<'_>) {
    let registry = under.connect().await;
    let service = under.service("svc");
    for step in 0..40_u64 {
        let instance = under.instance(&service, &format!("{step}"));
        let patience = Duration::from_micros(step * 100);
        drop(timeout(patience, registry.register(instance)).await);
    }
    under
        .soon("what was cancelled is taken back", async || {
            under.ids(&registry, &service).await.is_empty()
        })
        .await;
}
