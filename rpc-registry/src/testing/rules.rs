//! The rules of a back end.
#![expect(clippy::expect_used, reason = "it tests, so it fails by panicking")]

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::subject::{SOON, Subject};
use super::watch_rules::{
    a_change_names_who_came_and_who_went, a_watch_begins_with_the_present_state_and_follows,
    a_watch_needs_no_registry_handle, an_orderly_departure_of_all_is_believed_at_once,
    nobody_is_an_empty_list,
};
use crate::{Instance, Lease};

pub(super) type Rule = for<'a> fn(Subject<'a>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        &[$((stringify!($rule), (|subject| Box::pin($rule(subject))) as Rule)),*]
    };
}

/// All rules, by their names.
pub(super) const RULES: &[(&str, Rule)] = rules![
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

async fn a_registration_is_found_as_it_was_given(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let given = Instance::new(&service, "tcp://[::1]:7?x=%20")
        .with_id("the-id")
        .with_version("2.3.4")
        .with_group("blue")
        .with_weight(7)
        .with_zone("zone-1")
        .with_metadata("key", "any text, \"quoted\",\nin lines, \u{e4}")
        .with_started_ms(1_234_567);
    let lease = subject.register(&provider, given.clone()).await;
    let found = subject.lookup(&consumer, &service).await;
    assert_eq!(found.len(), 1, "{}", subject.name);
    let expected = given.with_epoch(lease.instance().epoch());
    assert_eq!(found.first(), Some(&expected), "{}", subject.name);
    assert_eq!(lease.instance(), &expected, "{}: the lease tells what was stored", subject.name);
    assert!(found.is_current() && found.age().is_none(), "{}", subject.name);
    drop(lease);
}

async fn a_revoked_lease_is_gone_at_once(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let lease = subject.register(&provider, subject.instance(&service, "a")).await;
    let mut states = lease.states();
    lease.revoke().await.expect("a lease that is held can be revoked");
    assert!(subject.ids(&consumer, &service).await.is_empty(), "{}", subject.name);
    let ended = timeout(SOON, async { while states.changed().await.is_some() {} }).await;
    assert!(ended.is_ok(), "{}: whoever follows the lease hears of its end", subject.name);
}

async fn a_dropped_lease_is_gone_soon(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let lease = subject.register(&provider, subject.instance(&service, "a")).await;
    let dropped = Instant::now();
    drop(lease);
    subject.soon("it is gone", async || subject.ids(&consumer, &service).await.is_empty()).await;
    assert!(dropped.elapsed() < SOON, "{}: took {:?}", subject.name, dropped.elapsed());
}

async fn an_id_is_taken_while_its_lease_lives(subject: Subject<'_>) {
    let (one, two) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let lease = subject.register(&one, subject.instance(&service, "a")).await;
    for registry in [&one, &two] {
        let refused = registry.register(subject.instance(&service, "a")).await;
        let refused = refused.expect_err("the id is taken");
        assert!(refused.is_already_exists(), "{}: {refused}", subject.name);
    }
    assert_eq!(subject.ids(&two, &service).await, ["a"], "{}", subject.name);
    lease.revoke().await.expect("revoked");
    let next = subject.register(&two, subject.instance(&service, "a")).await;
    assert_eq!(subject.ids(&one, &service).await, ["a"], "{}", subject.name);
    drop(next);
}

async fn ids_of_different_services_do_not_meet(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let (one, two) = (subject.service("svc"), subject.service("svc"));
    let longer = format!("{one}x");
    let first = subject.register(&registry, subject.instance(&one, "a")).await;
    let second = subject.register(&registry, subject.instance(&two, "a")).await;
    let third = subject.register(&registry, subject.instance(&longer, "b")).await;
    assert_eq!(subject.ids(&registry, &one).await, ["a"], "{}: no prefix matches", subject.name);
    first.revoke().await.expect("revoked");
    assert!(subject.ids(&registry, &one).await.is_empty(), "{}", subject.name);
    assert_eq!(subject.ids(&registry, &two).await, ["a"], "{}", subject.name);
    assert_eq!(subject.ids(&registry, &longer).await, ["b"], "{}", subject.name);
    drop((second, third));
}

async fn an_administrator_can_remove_a_registration_and_its_lease_cannot_remove_its_successor(
    subject: Subject<'_>,
) {
    let (provider, admin) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let stale = subject.register(&provider, subject.instance(&service, "a")).await;
    assert!(admin.unregister(&service, "a").await.expect("removed"), "{}", subject.name);
    assert!(subject.ids(&admin, &service).await.is_empty(), "{}", subject.name);
    assert!(!admin.unregister(&service, "a").await.expect("not there"), "{}", subject.name);
    assert!(!admin.unregister(&service, "never").await.expect("not there"), "{}", subject.name);
    let successor = subject.register(&admin, subject.instance(&service, "a").with_weight(9)).await;
    let _ = stale.revoke().await;
    sleep(Duration::from_millis(200)).await;
    let found = subject.lookup(&provider, &service).await;
    assert_eq!(found.first().map(Instance::weight), Some(9), "{}", subject.name);
    drop(successor);
}

async fn services_with_a_living_instance_are_listed(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let (b, a) = (subject.service("svc-b"), subject.service("svc-a"));
    let mut leases = Vec::new();
    for (service, id) in [(&b, "1"), (&a, "1"), (&a, "2")] {
        leases.push(subject.register(&registry, subject.instance(service, id)).await);
    }
    let names = registry.services().await.expect("the services");
    assert!(names.is_sorted(), "{}: {names:?}", subject.name);
    for service in [&a, &b] {
        let times = names.iter().filter(|name| *name == service).count();
        assert_eq!(times, 1, "{}: {names:?}", subject.name);
    }
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
    let names = registry.services().await.expect("the services");
    assert!(!names.contains(&a) && !names.contains(&b), "{}: {names:?}", subject.name);
}

async fn names_with_odd_characters_stay_apart(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let base = subject.service("odd");
    let services: Vec<_> = ["", "/x", "/", "%2Fx", ".", "..", "/../x", "\u{e4}", "*", "=", "'\"\\"]
        .iter()
        .map(|suffix| format!("{base}{suffix}"))
        .collect();
    let odd_ids = ["a/b", "a%2Fb", "..", "a", "A", "\u{fc}", "a=b&c", "#", "\"'\\"];
    let mut leases = Vec::new();
    for service in &services {
        leases.push(subject.register(&registry, subject.instance(service, "one")).await);
    }
    for id in odd_ids {
        leases.push(subject.register(&registry, subject.instance(&base, id)).await);
    }
    for service in services.iter().skip(1) {
        assert_eq!(subject.ids(&registry, service).await, ["one"], "{}: {service}", subject.name);
    }
    let found: BTreeSet<_> = subject.ids(&registry, &base).await.into_iter().collect();
    let mut expected: BTreeSet<_> = odd_ids.map(str::to_owned).into();
    expected.insert("one".to_owned());
    assert_eq!(found, expected, "{}", subject.name);
    let names = registry.services().await.expect("the services");
    assert!(services.iter().all(|service| names.contains(service)), "{}: {names:?}", subject.name);
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
}

async fn invalid_input_is_refused(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let bad = registry.register(Instance::new("svc", "nowhere")).await;
    assert!(bad.expect_err("no URI").is_invalid_instance(), "{}", subject.name);
    let bad = registry.register(Instance::new("", "tcp://127.0.0.1:1")).await;
    assert!(bad.expect_err("no name").is_invalid_instance(), "{}", subject.name);
    for service in ["", "a b", "a\nb"] {
        let looked = registry.lookup(service).await;
        assert!(looked.expect_err("no name").is_invalid_instance(), "{}", subject.name);
        let watched = registry.watch(service).await;
        assert!(watched.expect_err("no name").is_invalid_instance(), "{}", subject.name);
        let removed = registry.unregister(service, "a").await;
        assert!(removed.expect_err("no name").is_invalid_instance(), "{}", subject.name);
    }
}

async fn many_who_register_at_once_are_all_found(subject: Subject<'_>) {
    let (one, two) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let mut registering = JoinSet::new();
    for number in 0..50 {
        let registry = Arc::clone(if number % 2 == 0 { &one } else { &two });
        let instance = subject.instance(&service, &format!("{number:02}"));
        registering.spawn(async move { registry.register(instance).await });
    }
    let mut leases = Vec::new();
    while let Some(lease) = registering.join_next().await {
        leases.push(lease.expect("no panic").expect("registered"));
    }
    let found = subject.ids(&two, &service).await;
    assert_eq!(found.len(), 50, "{}", subject.name);
    assert!(found.is_sorted(), "{}: {found:?}", subject.name);
    let mut revoking: JoinSet<_> = leases.into_iter().map(Lease::revoke).collect();
    while let Some(revoked) = revoking.join_next().await {
        revoked.expect("no panic").expect("revoked");
    }
    assert!(subject.ids(&one, &service).await.is_empty(), "{}", subject.name);
}

async fn a_cancelled_registration_leaves_nothing(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let service = subject.service("svc");
    for step in 0..40_u64 {
        let instance = subject.instance(&service, &format!("{step}"));
        let patience = Duration::from_micros(step * 100);
        drop(timeout(patience, registry.register(instance)).await);
    }
    subject
        .soon("what was cancelled is taken back", async || {
            subject.ids(&registry, &service).await.is_empty()
        })
        .await;
}
