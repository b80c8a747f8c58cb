//! What depends on time, in virtual time: the clock stands still until every task waits, then jumps.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::time::Duration;

use crate::common::{ids, instance, registry, registry_with, server, until_seen};
use rpc_nameserver::{
    Change, NameError, NameServer, NameServersSettings, NameService, NameServiceClient, pack,
};
use rpc_registry::{LeaseState, LeaseStates, Registry, Source};
use rpc_runtime::Blob;
use tokio::time::{Instant, sleep, timeout};

const SEC: fn(u64) -> Duration = Duration::from_secs;

/// A virtual clock never stands still, so what does not happen would be waited for for ever.
async fn next(states: &mut LeaseStates) -> Option<LeaseState> {
    timeout(SEC(3_600), states.changed()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_says_nothing_for_its_expiry_is_removed_at_the_next_scan() {
    let _server = server("memory:silent").await;
    // A provider that never renews, as one that is stopped.
    let stopped = NameServiceClient::connect("memory:silent").await.unwrap();
    let mut session = stopped.attend(7, 120_000).await.unwrap();
    let changes = vec![Change::Register { instance: instance("a"), new: true, secret: None }];
    stopped.report(7, 1, pack(&changes).unwrap()).await.unwrap();
    let consumer = registry(&["memory:silent"]).await;
    sleep(SEC(119)).await;
    assert_eq!(ids(&consumer.lookup("svc").await.unwrap()), ["a"]);
    sleep(SEC(7)).await;
    assert!(consumer.lookup("svc").await.unwrap().is_empty());
    assert!(session.next().await.is_none(), "it is told, so that it can come back");
    assert!(!stopped.renew(7, 1).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn renewals_keep_a_registration_for_ever() {
    let _server = server("memory:renewed").await;
    let provider = registry(&["memory:renewed"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let epoch = lease.instance().epoch();
    for _ in 0..20 {
        sleep(SEC(60)).await;
        let listed = provider.lookup("svc").await.unwrap();
        assert_eq!((ids(&listed), listed[0].epoch()), (vec!["a"], epoch), "never even replaced");
    }
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_message_renews_its_session_before_its_body_is_decoded() {
    let _server = server("memory:touch").await;
    let stub = NameServiceClient::connect("memory:touch").await.unwrap();
    let _session = stub.attend(7, 10_000).await.unwrap();
    stub.report(7, 1, pack(&Vec::<Change>::new()).unwrap()).await.unwrap();
    for _ in 0..5 {
        sleep(SEC(8)).await;
        let told = stub.report(7, 2, Blob::from(b"nonsense".to_vec())).await;
        assert!(matches!(told, Err(NameError::Invalid(_))), "{told:?}");
    }
    assert!(stub.renew(7, 1).await.unwrap(), "and it changes nothing");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_again_empty_is_told_all_without_the_lease_being_lost() {
    let first = server("memory:again").await;
    let provider = registry(&["memory:again"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    first.shutdown().await.unwrap();
    sleep(SEC(60)).await;
    let _second = server("memory:again").await;
    sleep(SEC(6)).await;
    let listed = provider.lookup("svc").await.unwrap();
    assert_eq!(ids(&listed), ["a"]);
    assert_eq!(listed[0].epoch(), lease.instance().epoch());
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_lost_after_its_expiry_without_any_server_and_comes_back_with_a_higher_epoch() {
    let first = server("memory:lost").await;
    let provider = registry(&["memory:lost"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let mut states = lease.states();
    first.shutdown().await.unwrap();
    let gone = Instant::now();
    let Some(LeaseState::Lost { cause }) = next(&mut states).await else { panic!("still held") };
    assert!(cause.to_string().contains("no name server has confirmed"), "{cause}");
    // It was confirmed up to one interval before.
    assert!((SEC(89)..=SEC(121)).contains(&gone.elapsed()), "{:?}", gone.elapsed());
    sleep(SEC(300)).await;
    let _second = server("memory:lost").await;
    let held = loop {
        if let Some(LeaseState::Held { epoch }) = next(&mut states).await {
            break epoch;
        }
    };
    assert!(held > lease.instance().epoch());
    let listed = provider.lookup("svc").await.unwrap();
    assert_eq!((ids(&listed), listed[0].epoch()), (vec!["a"], held));
}

#[tokio::test(start_paused = true)]
async fn one_of_two_servers_keeps_the_lease_and_the_other_is_told_when_it_is_back() {
    let _a = server("memory:both-a").await;
    let b = server("memory:both-b").await;
    let provider = registry(&["memory:both-a", "memory:both-b"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let at_b = registry(&["memory:both-b"]).await;
    assert_eq!(ids(&at_b.lookup("svc").await.unwrap()), ["a"], "both are told before it returns");
    b.shutdown().await.unwrap();
    sleep(SEC(600)).await;
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
    let _b = server("memory:both-b").await;
    sleep(SEC(6)).await;
    assert_eq!(ids(&at_b.lookup("svc").await.unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_starting_is_not_asked_who_is_there() {
    let _old = server("memory:grace-old").await;
    let grace = NameServer::builder();
    let _new = grace.bind("memory:grace-new").await.unwrap();
    let old_only = registry(&["memory:grace-old"]).await;
    let _lease = old_only.register(instance("a")).await.unwrap();
    // Whichever is asked first.
    for _ in 0..8 {
        let consumer = registry(&["memory:grace-new", "memory:grace-old"]).await;
        assert_eq!(ids(&consumer.lookup("svc").await.unwrap()), ["a"]);
        assert_eq!(consumer.watch("svc").await.unwrap().changed().await.unwrap().len(), 1);
    }
    let new_only = registry(&["memory:grace-new"]).await;
    let error = new_only.lookup("svc").await.unwrap_err();
    assert!(error.is_unavailable() && error.to_string().contains("is starting"), "{error}");
    sleep(SEC(36)).await;
    assert!(new_only.lookup("svc").await.unwrap().is_empty(), "now it knows that nobody is");
}

#[tokio::test(start_paused = true)]
async fn the_list_of_a_server_that_is_starting_is_taken_with_care() {
    let first = server("memory:careful").await;
    let providers = registry(&["memory:careful"]).await;
    let consumer = registry(&["memory:careful"]).await;
    let mut leases = Vec::new();
    for id in ["a", "b", "c"] {
        leases.push(providers.register(instance(id)).await.unwrap());
    }
    let mut watch = consumer.watch("svc").await.unwrap();
    until_seen(&mut watch, |it| it.len() == 3).await;
    first.shutdown().await.unwrap();
    let away = until_seen(&mut watch, |it| !it.is_current()).await;
    assert!(matches!(away.source, Source::Cache { .. }) && away.len() == 3);
    drop(leases);
    drop(providers);
    let _second = NameServer::builder().bind("memory:careful").await.unwrap();
    // One of the three is back; of the others the new server can't know.
    let other = registry(&["memory:careful"]).await;
    let _lease = other.register(instance("b")).await.unwrap();
    let kept = until_seen(&mut watch, |it| matches!(it.source, Source::Protected { .. })).await;
    assert_eq!(ids(&kept), ["a", "b", "c"]);
    sleep(SEC(301)).await;
    assert_eq!(ids(&until_seen(&mut watch, |it| it.is_current()).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn the_first_list_after_a_move_to_another_server_is_taken_with_care() {
    let knows = server("memory:move-knows").await;
    let _knows_nobody = server("memory:move-other").await;
    let providers = registry(&["memory:move-knows"]).await;
    let _leases = [
        providers.register(instance("a")).await.unwrap(),
        providers.register(instance("b")).await.unwrap(),
    ];
    // Whichever server it has chosen; one that has chosen the other one sees nobody.
    let (_consumer, mut watch) = loop {
        let consumer = registry(&["memory:move-knows", "memory:move-other"]).await;
        let mut watch = consumer.watch("svc").await.unwrap();
        if watch.changed().await.unwrap().len() == 2 {
            break (consumer, watch);
        }
    };
    knows.shutdown().await.unwrap();
    let next = watch.changed().await.unwrap();
    assert!(matches!(next.source, Source::Protected { .. }), "{next:?}");
    assert_eq!(ids(&next), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn an_older_life_of_a_provider_never_replaces_the_newer_one() {
    let _server = server("memory:lives").await;
    // The older one is stopped, with its connection open.
    let older = NameServiceClient::connect("memory:lives").await.unwrap();
    let _session = older.attend(7, 3_000).await.unwrap();
    let change = |epoch| {
        let instance = instance("a").with_epoch(epoch);
        pack(&vec![Change::Register { instance, new: false, secret: None }]).unwrap()
    };
    older.report(7, 1, change(5)).await.unwrap();
    sleep(SEC(10)).await;
    let newer = registry(&["memory:lives"]).await;
    let lease = newer.register(instance("a")).await.unwrap();
    // It goes on, finds its session lost, and registers anew, with the next epochs.
    let _session = older.attend(7, 3_000).await.unwrap();
    for epoch in 5..10 {
        assert_eq!(older.report(7, epoch, change(epoch)).await.unwrap().len(), 1);
    }
    let listed = newer.lookup("svc").await.unwrap();
    assert_eq!(listed[0].epoch(), lease.instance().epoch());
}

#[tokio::test(start_paused = true)]
async fn who_finds_its_id_taken_at_a_server_that_started_anew_hears_of_it() {
    let first = server("memory:taken").await;
    let provider = registry(&["memory:taken"]).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let mut states = lease.states();
    first.shutdown().await.unwrap();
    sleep(SEC(1)).await;
    let _second = server("memory:taken").await;
    // Somebody else is there before the provider is back.
    let other = NameServiceClient::connect("memory:taken").await.unwrap();
    let _session = other.attend(7, 600_000).await.unwrap();
    let changes = vec![Change::Register { instance: instance("a"), new: true, secret: None }];
    assert!(other.report(7, 1, pack(&changes).unwrap()).await.unwrap().is_empty());
    let taken = Instant::now();
    let Some(LeaseState::Lost { cause }) = next(&mut states).await else { panic!("still held") };
    assert!(cause.is_already_exists(), "{cause}");
    assert!(taken.elapsed() <= SEC(6), "{:?}", taken.elapsed());
}

#[tokio::test(start_paused = true)]
async fn servers_that_can_not_be_reached_are_said_within_the_timeout() {
    let settings = NameServersSettings::new(["memory:nobody-1", "memory:nobody-2"]);
    let registry = registry_with(settings.with_timeout(SEC(2))).await;
    let begun = Instant::now();
    for error in [
        registry.lookup("svc").await.unwrap_err(),
        registry.watch("svc").await.map(drop).unwrap_err(),
        registry.services().await.unwrap_err(),
        registry.unregister("svc", "a").await.unwrap_err(),
        registry.register(instance("a")).await.map(drop).unwrap_err(),
    ] {
        assert!(error.is_unavailable(), "{error}");
        for part in ["memory:nobody-1", "memory:nobody-2", "(registry nameserver:"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    assert!(begun.elapsed() <= SEC(10), "{:?}", begun.elapsed());
}
