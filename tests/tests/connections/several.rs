//! Several connections to one address.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_registry::Instance;
use rpc_runtime::protocol::Kind;
use rpc_runtime::{Client, Context, Result, Server, rpc_service};
use rpc_tests::probe::{Probe, ProbeClient, serve};
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{self, RawPeer, RawServer};
use tokio::sync::watch;

#[rpc_service]
trait Whose {
    /// The caller's end of the connection.
    async fn connection(&self) -> Result<String>;
}

struct Told;

impl Whose for Told {
    async fn connection(&self) -> Result<String> {
        Ok(Context::current().peer().unwrap_or_default().to_owned())
    }
}

async fn connect(uri: &str, connections: usize) -> Client {
    let builder = Client::builder().connections(connections);
    soon("connecting", builder.connect(uri)).await.unwrap()
}

async fn all_open(client: &Client, connections: usize) {
    until("all connections are open", || client.channels().len() == connections).await;
}

/// Answers each request for a sum with `7`.
async fn answer_all(peer: &mut RawPeer) {
    while let Some(request) = peer.requested().await {
        peer.try_send(&wire::ok(request.header.id, &7_i64)).await;
    }
}

#[tokio::test]
async fn calls_are_spread_evenly_over_all_connections() {
    let server = Server::builder().provide(WhoseServer::new(Told));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = connect(server.local_uri(), 3).await;
    all_open(&client, 3).await;
    let whose = WhoseClient::new(client);
    let mut calls: HashMap<String, usize> = HashMap::new();
    for _ in 0..30 {
        *calls.entry(whose.connection().await.unwrap()).or_default() += 1;
    }
    assert_eq!(calls.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{calls:?}");
}

#[tokio::test]
async fn no_connections_count_as_one() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let client = connect(server.local_uri(), 0).await;
    let probe = ProbeClient::new(client.clone());
    for n in 0..10 {
        assert_eq!(probe.add(n, 1).await, Ok(n + 1));
    }
    assert_eq!((client.channels().len(), server.channels().len()), (1, 1));
}

#[tokio::test]
async fn a_lost_connection_loses_only_its_own_calls_and_is_made_again() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let (lose, losing) = watch::channel(false);
    let counted = Arc::clone(&accepted);
    let server = RawServer::start(move |mut peer| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let mut losing = losing.clone();
        async move {
            let first = peer.requested().await;
            losing.wait_for(|lose| *lose).await.unwrap();
            if number == 0 {
                return;
            }
            if let Some(request) = first {
                peer.try_send(&wire::ok(request.header.id, &7_i64)).await;
            }
            answer_all(&mut peer).await;
        }
    })
    .await;
    let client = connect(&server.uri(), 2).await;
    all_open(&client, 2).await;
    let probe = ProbeClient::new(client.clone());
    let calls = futures::future::join3(probe.add(3, 4), probe.add(3, 4), async {
        // Both are sent by now: they were polled before this.
        lose.send_replace(true);
    });
    let (one, other, ()) = soon("both calls", calls).await;
    let results = [one, other];
    assert_eq!(results.iter().filter(|result| **result == Ok(7)).count(), 1, "{results:?}");
    let lost = results.into_iter().find_map(Result::err).unwrap();
    assert!(lost.is_unavailable(), "{lost}");
    for _ in 0..4 {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    }
    all_open(&client, 2).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_call_waits_for_one_connection_only_and_begins_none_that_is_under_way() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    let server = RawServer::start_rude(move |mut peer| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if number > 0 {
                return std::future::pending().await;
            }
            peer.try_send(&wire::hello()).await;
            answer_all(&mut peer).await;
        }
    })
    .await;
    let builder = Client::builder().connections(3).connect_timeout(Duration::from_secs(60));
    let client = soon("connecting", builder.connect(server.uri())).await.unwrap();
    until("all have begun", || accepted.load(Ordering::SeqCst) == 3).await;
    let probe = ProbeClient::new(client.clone());
    for _ in 0..50 {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    }
    assert_eq!((client.channels().len(), accepted.load(Ordering::SeqCst)), (1, 3));
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_tried_less_and_less_and_fails_no_call() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    let server = RawServer::start_rude(move |mut peer| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if number == 0 {
                peer.try_send(&wire::hello()).await;
                answer_all(&mut peer).await;
            }
        }
    })
    .await;
    let client = connect(&server.uri(), 2).await;
    let probe = ProbeClient::new(client);
    let mut calls = 0;
    // Two attempts are the first ones; a third shows that it is tried again.
    while accepted.load(Ordering::SeqCst) < 3 || calls < 300 {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
        calls += 1;
    }
    let attempts = accepted.load(Ordering::SeqCst);
    // Their pauses double, so this would do for a minute.
    assert!(attempts < 12, "{attempts} attempts in {calls} calls");
}

#[tokio::test]
async fn all_connections_to_a_provider_end_when_it_leaves_the_registry() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let registry = rpc_registry::connect("memory:several-connections").await.unwrap();
    let instance = Instance::new("e2e.Probe", server.local_uri()).with_version("1.4.0");
    let lease = registry.register(instance).await.unwrap();
    let descriptor = &rpc_tests::probe::PROBE_DESCRIPTOR;
    let client = Client::builder().connections(3).discover(registry, descriptor).await.unwrap();
    let probe = ProbeClient::new(client.clone());
    assert_eq!(probe.add(1, 2).await, Ok(3));
    all_open(&client, 3).await;
    lease.revoke().await.unwrap();
    until("all are closed", || server.channels().is_empty()).await;
    assert!(probe.add(1, 2).await.is_err());
    assert!(server.channels().is_empty());
}

#[tokio::test]
async fn all_connections_end_with_their_client() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let client = connect(server.local_uri(), 3).await;
    all_open(&client, 3).await;
    drop(client);
    until("all are closed", || server.channels().is_empty()).await;
}

#[test]
fn a_caller_outside_of_any_runtime_can_wait_for_a_provider() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let discovered = |registry: &'static str, uri: String| async move {
        let registry = rpc_registry::connect(registry).await.unwrap();
        let instance = Instance::new("e2e.Probe", &uri).with_version("1.4.0");
        let lease = registry.register(instance).await.unwrap();
        let client = Client::builder().wait_for_ready(true);
        let client = client.discover(registry, &rpc_tests::probe::PROBE_DESCRIPTOR).await.unwrap();
        (ProbeClient::new(client), lease)
    };
    let (server, _) = runtime.block_on(serve("memory:for-outside"));
    let uri = server.local_uri().to_owned();
    let (probe, _lease) = runtime.block_on(discovered("memory:outside", uri));
    assert_eq!(futures::executor::block_on(probe.add(1, 2)), Ok(3));

    let nobody = "memory://nobody-for-outside".to_owned();
    let (probe, _lease) = runtime.block_on(discovered("memory:nobody-outside", nobody));
    let probe = probe.with_timeout(Duration::from_millis(200));
    let error = futures::executor::block_on(probe.add(1, 2)).unwrap_err();
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error:?}");
}

#[test]
fn a_connection_that_is_made_again_lives_in_the_runtime_of_its_client() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (home, guest) = (runtime(), runtime());
    let (probe, server) = home.block_on(async {
        let (server, _) = serve("memory:client-at-home").await;
        let client = connect("memory:client-at-home", 1).await;
        soon("the first server's end", server.shutdown()).await.unwrap();
        until("its connection is gone", || client.channels().is_empty()).await;
        let probe = ProbeClient::new(client);
        let opened = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&opened);
        let server = Server::builder().provide(WhoseServer::new(Told)).pipeline(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Vec::new()
        });
        (probe, (server.bind("memory:client-at-home").await.unwrap(), opened))
    });
    // That there is no such method is answer enough.
    let error = guest.block_on(probe.add(1, 2)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    drop(guest);
    let error = home.block_on(probe.add(1, 2)).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(server.1.load(Ordering::SeqCst), 1);
    drop(home);
}

#[tokio::test]
async fn a_call_does_not_fail_because_all_connections_go_away_at_once() {
    const OLD: usize = 8;
    let (accepted, requested) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (leave, leaving) = watch::channel(false);
    let (counted, asked) = (Arc::clone(&accepted), Arc::clone(&requested));
    let server = RawServer::start(move |mut peer| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let (asked, mut leaving) = (Arc::clone(&asked), leaving.clone());
        async move {
            if number < OLD {
                // Never answered, so the client does not close the connection.
                peer.requested().await;
                asked.fetch_add(1, Ordering::SeqCst);
                leaving.wait_for(|leave| *leave).await.unwrap();
                peer.try_send(&wire::bare(Kind::GoAway, 0)).await;
            }
            answer_all(&mut peer).await;
        }
    })
    .await;
    let client = connect(&server.uri(), OLD).await;
    all_open(&client, OLD).await;
    let probe = ProbeClient::new(client);
    for _ in 0..OLD {
        let probe = probe.clone();
        tokio::spawn(async move { probe.add(3, 4).await });
    }
    until("each has a call", || requested.load(Ordering::SeqCst) == OLD).await;
    leave.send_replace(true);
    while accepted.load(Ordering::SeqCst) < 2 * OLD {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    }
}
