//! Servers on loopback, that come and go.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{ids, instance, registry, server, until_listed, until_seen, within};
use rpc_nameserver::{
    Change, NameError, NameServer, NameServers, NameServersSettings, NameService,
    NameServiceClient, Why, pack, unpack,
};
use rpc_registry::{Instance, LeaseState, Registry, Resilient, ResilientSettings};
use rpc_runtime::{Blob, Client};

const ANY: &str = "tcp://127.0.0.1:0";

/// What a provider that is not ours may send.
fn registers(instances: impl IntoIterator<Item = Instance>) -> Blob {
    let register = |instance| Change::Register { instance, new: true, secret: None };
    let changes = instances.into_iter().map(register);
    pack(&changes.collect::<Vec<_>>()).unwrap()
}

#[tokio::test]
async fn the_end_of_a_connection_removes_what_came_over_it_at_once() {
    let server = server(ANY).await;
    let consumer = registry(&[server.local_uri()]).await;
    let mut watch = consumer.watch("svc").await.unwrap();
    // A process of its own, as it were.
    let process = tokio::runtime::Runtime::new().unwrap();
    let place = server.local_uri().to_owned();
    let provider = process.spawn(async move {
        let stub = NameServiceClient::connect(place).await.unwrap();
        let session = stub.attend(7, 600_000).await.unwrap();
        stub.report(7, 1, registers([instance("a"), instance("b")])).await.unwrap();
        (stub, session)
    });
    let provider = provider.await.unwrap();
    until_seen(&mut watch, |it| it.len() == 2).await;
    let cut = Instant::now();
    // Nothing is said, as when it is killed.
    process.shutdown_background();
    until_seen(&mut watch, |it| it.is_empty()).await;
    assert!(cut.elapsed() < Duration::from_secs(2), "{:?}", cut.elapsed());
    drop(provider);
}

#[tokio::test]
async fn a_provider_that_drops_its_lease_is_gone_although_its_registry_is_dropped_too() {
    let server = server(ANY).await;
    let consumer = registry(&[server.local_uri()]).await;
    let provider = registry(&[server.local_uri()]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    until_listed(&consumer, &["a"]).await;
    drop(provider);
    until_listed(&consumer, &["a"]).await;
    drop(lease);
    until_listed(&consumer, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_servers_is_killed_and_lookups_and_watches_go_on() {
    let (a, b) = (server(ANY).await, server(ANY).await);
    let both = [a.local_uri().to_owned(), b.local_uri().to_owned()];
    let both = both.each_ref().map(String::as_str);
    let providers = registry(&both).await;
    let _x = providers.register(instance("x")).await.unwrap();
    let y = providers.register(instance("y")).await.unwrap();
    // Some of them stay with the one that is killed.
    let mut consumers = Vec::new();
    for _ in 0..8 {
        let consumer = Arc::new(registry(&both).await);
        let watch = consumer.watch("svc").await.unwrap();
        consumers.push((consumer, watch));
    }
    let done = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let askers: Vec<_> = consumers
        .iter()
        .map(|(consumer, _)| {
            let (consumer, done, asked) =
                (Arc::clone(consumer), Arc::clone(&done), Arc::clone(&asked));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let found = consumer.lookup("svc").await.unwrap();
                    assert_eq!(ids(&found), ["x", "y"]);
                    asked.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        })
        .collect();
    while asked.load(Ordering::Relaxed) < 100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(a);
    let after = asked.load(Ordering::Relaxed) + 400;
    within(async {
        while asked.load(Ordering::Relaxed) < after {
            assert!(askers.iter().all(|asker| !asker.is_finished()), "a lookup went wrong");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    done.store(true, Ordering::Relaxed);
    for asker in askers {
        asker.await.unwrap();
    }
    y.revoke().await.unwrap();
    for (_, watch) in &mut consumers {
        until_seen(watch, |it| ids(it) == ["x"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_are_killed_and_what_was_known_stays_until_they_are_back() {
    let (a, b) = (server(ANY).await, server(ANY).await);
    let places = [a.local_uri().to_owned(), b.local_uri().to_owned()];
    let both = places.each_ref().map(String::as_str);
    let provider = registry(&both).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let cache = std::env::temp_dir().join(format!("rpc-nameserver-test-{}", std::process::id()));
    let consumer = async || {
        let back_end = NameServers::new(NameServersSettings::new(both)).await.unwrap();
        let mut settings = ResilientSettings::default();
        settings.cache = Some(cache.clone());
        Resilient::new(back_end, settings).await.unwrap()
    };
    let first = consumer().await;
    let mut watch = first.watch("svc").await.unwrap();
    until_seen(&mut watch, |it| it.len() == 1).await;
    drop((a, b));
    let away = until_seen(&mut watch, |it| !it.is_current()).await;
    assert_eq!(ids(&away), ["a"]);
    let found = first.lookup("svc").await.unwrap();
    assert_eq!((ids(&found), found.age().is_some()), (vec!["a"], true));
    // Another process, that begins now.
    let found = within(async {
        loop {
            match consumer().await.lookup("svc").await {
                Ok(found) => break found,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    assert!(found.age().is_some() && ids(&found) == ["a"]);
    let again = NameServer::builder().grace(Duration::ZERO);
    let (_a, _b) = (again.clone().bind(both[0]).await.unwrap(), again.bind(both[1]).await.unwrap());
    for server in both {
        until_listed(&registry(&[server]).await, &["a"]).await;
    }
    until_seen(&mut watch, |it| it.is_current() && ids(it) == ["a"]).await;
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
    std::fs::remove_dir_all(cache).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_starts_with_one_of_two_servers_and_the_other_hears_when_it_is_there() {
    let a = server(ANY).await;
    let free = server(ANY).await;
    let place = free.local_uri().to_owned();
    free.shutdown().await.unwrap();
    let provider = registry(&[a.local_uri(), &place]).await;
    let begun = Instant::now();
    let _lease = provider.register(instance("a")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let _b = server(&place).await;
    until_listed(&registry(&[&place]).await, &["a"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_instances_are_registered_followed_and_taken_back() {
    const SERVICES: usize = 500;
    const EACH: usize = 20;
    let server = server(ANY).await;
    let consumer = registry(&[server.local_uri()]).await;
    let provider = Arc::new(registry(&[server.local_uri()]).await);
    let mut watch = consumer.watch("svc-7").await.unwrap();
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..SERVICES * EACH {
        let provider = Arc::clone(&provider);
        tasks.spawn(async move {
            let service = format!("svc-{}", n % SERVICES);
            let instance = Instance::new(service, format!("tcp://127.0.0.1:{}", 1 + n));
            provider.register(instance).await.unwrap()
        });
    }
    let leases = within(tasks.join_all()).await;
    eprintln!("{} registered in {:?}", leases.len(), begun.elapsed());
    assert_eq!(within(consumer.services()).await.unwrap().len(), SERVICES);
    for n in [0, 7, 499] {
        assert_eq!(consumer.lookup(&format!("svc-{n}")).await.unwrap().len(), EACH);
    }
    until_seen(&mut watch, |it| it.len() == EACH).await;
    drop(leases);
    until_seen(&mut watch, |it| it.is_empty() && it.is_current()).await;
    within(async {
        while !consumer.services().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_instances_of_one_service_are_one_list() {
    let server = server(ANY).await;
    let provider = NameServiceClient::connect(server.local_uri()).await.unwrap();
    let _session = provider.attend(7, 600_000).await.unwrap();
    let all: Vec<_> = (0..10_000).map(|n| instance(&format!("i{n:05}"))).collect();
    for (n, part) in all.chunks(1_000).enumerate() {
        let version = if n == 9 { 1 } else { 0 };
        let refused = provider.report(7, version, registers(part.iter().cloned())).await.unwrap();
        assert!(refused.is_empty());
    }
    let consumer = registry(&[server.local_uri()]).await;
    assert_eq!(*consumer.lookup("svc").await.unwrap(), *all);
    assert_eq!(*until_seen(&mut consumer.watch("svc").await.unwrap(), |_| true).await, *all);
    assert!(provider.renew(7, 1).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_may_follow_thousands_of_services_at_one_server() {
    let server = server(ANY).await;
    let consumer = registry(&[server.local_uri()]).await;
    let provider = registry(&[server.local_uri()]).await;
    let mut watches = Vec::new();
    for n in 0..3_000 {
        watches.push(within(consumer.watch(&format!("svc-{n}"))).await.unwrap());
    }
    for n in [0, 1_500, 2_999] {
        let service = format!("svc-{n}");
        let _lease = provider.register(Instance::new(service, "tcp://127.0.0.1:1")).await.unwrap();
        until_seen(&mut watches[n], |it| it.len() == 1).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_a_hundred_watchers_soon() {
    let server = server(ANY).await;
    let provider = registry(&[server.local_uri()]).await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        let consumer = registry(&[server.local_uri()]).await;
        let mut watch = consumer.watch("svc").await.unwrap();
        until_seen(&mut watch, |_| true).await;
        watches.push(watch);
    }
    for round in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let begun = Instant::now();
        let lease = provider.register(instance("a")).await.unwrap();
        for watch in &mut watches {
            until_seen(watch, |it| it.len() == 1).await;
        }
        let took = begun.elapsed();
        eprintln!("round {round}: {took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
        lease.revoke().await.unwrap();
        for watch in &mut watches {
            until_seen(watch, |it| it.is_empty()).await;
        }
    }
}

#[tokio::test]
async fn what_strangers_send_is_refused_and_harms_nobody() {
    let server = NameServer::builder().grace(Duration::ZERO).max_bytes(64 << 10).bind(ANY).await;
    let server = server.unwrap();
    let provider = registry(&[server.local_uri()]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let stranger = NameServiceClient::connect(server.local_uri()).await.unwrap();

    // A session that nobody has.
    assert!(!stranger.renew(1, 1).await.unwrap());
    let told = stranger.report(1, 1, registers([instance("b")])).await;
    assert_eq!(told, Err(NameError::NoSession));
    // A version that nobody told, and one of somebody else's session.
    let _session = stranger.attend(2, 600_000).await.unwrap();
    assert!(!stranger.renew(2, u64::MAX).await.unwrap());
    // What belongs to somebody else.
    let epoch = lease.instance().epoch();
    let leave = Change::Unregister { service: "svc".into(), id: "a".into(), epoch };
    assert!(stranger.report(2, 1, pack(&vec![leave]).unwrap()).await.unwrap().is_empty());
    let refusals = stranger.report(2, 2, registers([instance("a").with_epoch(u64::MAX)])).await;
    assert_eq!(refusals.unwrap()[0].why, Why::Invalid, "an epoch of the far future");
    let refusals = stranger.report(2, 2, registers([instance("a").with_epoch(epoch + 1)])).await;
    assert_eq!(refusals.unwrap()[0].why, Why::Taken);
    let removed = stranger.remove("svc".into(), "a".into(), None).await;
    assert!(matches!(removed, Err(NameError::Denied(_))), "{removed:?}");
    // What can't be decoded, is not allowed, or too much.
    for body in [&b""[..], &[0xc1], &[0xdd, 0xff, 0xff, 0xff, 0xff], b"\x91\x81\xa8Register\xc0"] {
        let told = stranger.report(2, 3, Blob::from(body.to_vec())).await;
        assert!(matches!(told, Err(NameError::Invalid(_))), "{told:?}");
    }
    let refusals = stranger.report(2, 3, registers([instance("a b")])).await.unwrap();
    assert_eq!(refusals[0].why, Why::Invalid);
    let many = (0..1_000).map(|n| instance(&format!("i{n}")));
    let refusals = stranger.report(2, 4, registers(many)).await.unwrap();
    assert!(refusals.len() > 800 && refusals.iter().all(|it| it.why == Why::Full));
    for expiry in [0, 999, 86_400_001, u64::MAX] {
        let attended = stranger.attend(3, expiry).await.map(drop);
        assert!(matches!(attended, Err(NameError::Invalid(_))), "{attended:?}");
    }
    for service in [String::new(), "a b".into(), "x".repeat(256)] {
        let followed = stranger.follow(service).await.map(drop);
        assert!(matches!(followed, Err(NameError::Invalid(_))), "{followed:?}");
    }
    let huge = Client::builder().max_payload(64 << 20).connect(server.local_uri()).await.unwrap();
    let told = NameServiceClient::new(huge).report(2, 5, Blob::from(vec![0; 33 << 20])).await;
    assert!(matches!(&told, Err(NameError::Rpc(error)) if error.is_too_large()), "{told:?}");
    // Streams that are not read any more leave nothing behind: there is room again and again.
    for _ in 0..200 {
        drop(stranger.follow("svc".into()).await);
    }
    let listed: Vec<Instance> =
        unpack(&stranger.lookup("svc".into()).await.unwrap().instances).unwrap();
    assert_eq!(listed[0], *lease.instance());
}

#[tokio::test]
async fn a_server_that_is_no_name_server_is_said() {
    let other = rpc_runtime::Server::builder().bind(ANY).await.unwrap();
    let error = registry(&[other.local_uri()]).await.lookup("svc").await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("is no name server"), "{error}");
}

#[tokio::test]
async fn when_none_can_be_reached_the_error_names_each_and_the_registry_once() {
    let places = ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"];
    let registry = registry(&places).await;
    let lookup = registry.lookup("svc").await.unwrap_err();
    let register = registry.register(instance("a")).await.unwrap_err();
    for error in [lookup, register] {
        let message = error.to_string();
        assert!(error.is_unavailable() && places.iter().all(|it| message.contains(it)), "{error}");
        assert_eq!(message.matches("(registry ").count(), 1, "{message}");
        assert!(
            message.ends_with("; check that a name server runs there and can be reached from here")
        );
    }
}

#[tokio::test]
async fn the_scheme_can_be_used_like_any_other() {
    rpc_nameserver::register_scheme().unwrap();
    assert!(rpc_nameserver::register_scheme().unwrap_err().is_already_exists());
    let server = server(ANY).await;
    let place = server.local_uri().replace("tcp://", "nameserver://");
    let uri = format!("{place}/?cache=off&renew_interval=1s&lease=3s");
    let registry = rpc_registry::connect(&uri).await.unwrap();
    assert_eq!(registry.uri(), uri);
    let _lease = registry.register(instance("a")).await.unwrap();
    assert_eq!(registry.services().await.unwrap(), ["svc"]);
    // Longer than the expiry.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(ids(&registry.lookup("svc").await.unwrap()), ["a"]);
    for bad in ["nameserver:", "nameserver://a:x", "nameserver://u:pw@a", "nameserver://a?ttl=5"] {
        let error = rpc_registry::connect(bad).await.map(drop).unwrap_err();
        assert!(error.is_invalid_uri() && !error.to_string().contains("pw"), "{error}");
    }
}
