//! The life of a client's connections, in virtual time where time matters: the clock stands still
//! until every task waits, then jumps.
#![allow(missing_docs)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant as StdInstant};

use rpc_registry::{Instance, Registry};
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Frame, Kind};
use rpc_runtime::{BackOff, Client, ClientBuilder, ConnectionState, RpcError, Server};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{RawServer, hello};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECOND: Duration = Duration::from_secs(1);

fn lazy() -> ClientBuilder {
    Client::builder().lazy(true)
}

/// Pauses of 100 ms, 200 ms, … exactly.
fn steady() -> BackOff {
    BackOff::default().jitter(0.0)
}

fn state(client: &Client) -> ConnectionState {
    client.connections()[0].state
}

async fn becomes(client: &Client, expected: ConnectionState) {
    let mut changes = client.state_changes();
    let reached = async { while changes.changed().await.unwrap()[0].state != expected {} };
    let what = format!("{expected:?}");
    within(Duration::from_secs(100), &what, reached).await;
}

/// What is so after no time at all, in virtual time.
async fn at_once<T>(future: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let output = future.await;
    assert_eq!(started.elapsed(), Duration::ZERO, "it took a while");
    output
}

async fn register(registry: &Arc<dyn Registry>, id: &str, uri: &str) -> rpc_registry::Lease {
    let instance = Instance::new("e2e.Probe", uri).with_version("1.4.0").with_id(id);
    registry.register(instance).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_states_of_a_connection_are_seen_as_they_come() {
    let client = lazy().connect("memory:states").await.unwrap();
    let probe = ProbeClient::new(client.clone());
    assert_eq!(state(&client), ConnectionState::Idle);
    probe.add(1, 2).await.unwrap_err();
    assert_eq!(state(&client), ConnectionState::BackingOff);
    tokio::time::sleep(SECOND).await;
    let (server, _) = serve("memory:states").await;
    assert_eq!(probe.add(1, 2).await, Ok(3));
    assert_eq!(state(&client), ConnectionState::Ready);
    tokio::time::sleep(SECOND).await;
    let sleeping = probe.clone();
    let under_way = tokio::spawn(async move { sleeping.sleep(5_000).await });
    tokio::time::sleep(MS(10)).await;
    let shutdown = tokio::spawn(server.shutdown());
    becomes(&client, ConnectionState::Draining).await;
    under_way.await.unwrap().unwrap();
    shutdown.await.unwrap().unwrap();
    becomes(&client, ConnectionState::Idle).await;
    client.close().await;
    assert_eq!(state(&client), ConnectionState::Closed);
}

#[tokio::test(start_paused = true)]
async fn new_calls_go_to_a_new_connection_while_the_old_one_drains() {
    let (old, _) = serve("memory:draining").await;
    let client = Client::builder().connect("memory:draining").await.unwrap();
    let probe = ProbeClient::new(client.clone());
    let sleeping = probe.clone();
    let under_way = tokio::spawn(async move { sleeping.sleep(5_000).await });
    tokio::time::sleep(SECOND).await;
    let shutdown = tokio::spawn(old.shutdown());
    becomes(&client, ConnectionState::Draining).await;
    let (_new, seen) = serve("memory:draining").await;
    assert_eq!(at_once(probe.add(1, 2)).await, Ok(3));
    assert_eq!(seen.started(), 1, "calls at the new server");
    assert_eq!(under_way.await.unwrap(), Ok(5_000));
    shutdown.await.unwrap().unwrap();
    let info = &client.connections()[0];
    assert_eq!((info.state, info.reconnects), (ConnectionState::Ready, 1));
    assert!(info.last_error.as_ref().unwrap().to_string().contains("shutting down"), "{info:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lazy_client_connects_at_its_first_call() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = Server::builder().provide(ProbeServer::new(Provider::new("lazy")));
    let server = server.pipeline(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Vec::new()
    });
    let server = server.bind("memory:lazy").await.unwrap();
    let probe = ProbeClient::new(lazy().connect(server.local_uri()).await.unwrap());
    tokio::time::sleep(SECOND).await;
    assert_eq!(connections.load(Ordering::SeqCst), 0);
    assert_eq!(probe.add(1, 2).await, Ok(3));
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let error = lazy().connect("nonsense").await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_during_back_off_fails_at_once_with_the_cause_and_the_time_that_is_left() {
    let client = lazy().back_off(steady()).connect("memory:nobody").await.unwrap();
    let probe = ProbeClient::new(client);
    probe.add(1, 2).await.unwrap_err();
    tokio::time::sleep(MS(30)).await;
    let error = at_once(probe.add(1, 2)).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no server listens on memory:nobody"), "{text}");
    assert!(text.contains("the next attempt is due in 70ms"), "{text}");
    assert!(error.source().unwrap().to_string().contains("no server listens"), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_readiness_takes_the_first_attempt_that_succeeds() {
    let builder = lazy().back_off(steady()).wait_for_ready(true);
    let probe = ProbeClient::new(builder.connect("memory:patience").await.unwrap());
    let started = Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|n| {
            let probe = probe.with_timeout(60 * SECOND);
            tokio::spawn(async move { probe.add(n, 1).await })
        })
        .collect();
    tokio::time::sleep(MS(2_000)).await;
    let (_server, _) = serve("memory:patience").await;
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), Ok(n as i64 + 1));
    }
    // Attempts at 0, 100, 300, 700, 1500 and 3100 ms.
    let took = started.elapsed();
    assert!((MS(3_100)..MS(3_110)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_readiness_ends_at_its_deadline_and_says_what_failed_last() {
    let client = lazy().connect("memory:in-vain").await.unwrap();
    let probe = ProbeClient::new(client).with_wait_for_ready(true).with_timeout(5 * SECOND);
    let started = Instant::now();
    let error = probe.add(1, 2).await.unwrap_err();
    let took = started.elapsed();
    assert!((5 * SECOND..MS(5_010)).contains(&took), "{took:?}");
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error:?}");
    assert!(error.source().unwrap().to_string().contains("no server listens"), "{error:?}");
    let impatient = probe.with_wait_for_ready(false);
    assert!(at_once(impatient.add(1, 2)).await.unwrap_err().is_unavailable());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_readiness_waits_for_a_provider_to_be_registered() {
    let (server, _) = serve("memory:to-be-registered").await;
    let registry = rpc_registry::connect("memory:wait-for-provider").await.unwrap();
    let client = Client::builder().wait_for_ready(true);
    let client = client.discover(Arc::clone(&registry), &PROBE_DESCRIPTOR).await.unwrap();
    let probe = ProbeClient::new(client).with_timeout(60 * SECOND);
    let started = Instant::now();
    let call = tokio::spawn(async move { probe.add(1, 2).await });
    tokio::time::sleep(7 * SECOND).await;
    let _lease = register(&registry, "late", server.local_uri()).await;
    assert_eq!(call.await.unwrap(), Ok(3));
    assert_eq!(started.elapsed(), 7 * SECOND);
}

/// Ends its connection at the first frame that comes; the hello of its end has left by then.
struct Dies;

impl ChannelHandler for Dies {
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        ctx.close(RpcError::unavailable("it died"));
        Ok(Flow::Stop)
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_greets_and_dies_over_and_over_is_not_hammered() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let server = Server::builder().provide(ProbeServer::new(Provider::new("dying")));
    let server = server.pipeline(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        vec![Change::add_last("dies", Dies)]
    });
    let _server = server.bind("memory:dying").await.unwrap();
    let client = lazy().back_off(steady()).connect("memory:dying").await.unwrap();
    let probe = ProbeClient::new(client.clone());
    let started = Instant::now();
    while started.elapsed() < 20 * SECOND {
        let error = probe.add(1, 2).await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        tokio::time::sleep(MS(1)).await;
    }
    // 0, 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3, 12.7 s, each a little late.
    let connections = connections.load(Ordering::SeqCst);
    assert!((8..=9).contains(&connections), "{connections} connections");
    assert_eq!(state(&client), ConnectionState::BackingOff);
}

#[tokio::test(start_paused = true)]
async fn each_connection_after_the_first_counts_as_a_reconnect() {
    let client = lazy().connect("memory:counted").await.unwrap();
    let probe = ProbeClient::new(client.clone());
    for reconnects in 0..4 {
        let (server, _) = serve("memory:counted").await;
        assert_eq!(probe.add(1, 2).await, Ok(3));
        assert_eq!(client.connections()[0].reconnects, reconnects);
        tokio::time::sleep(SECOND).await;
        server.shutdown().await.unwrap();
    }
}

/// Knows that the peer is gone after a second, as a heartbeat would.
struct FindsItGone(Option<StdInstant>);

impl ChannelHandler for FindsItGone {
    fn channel_active(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.0 = Some(ctx.now() + SECOND);
        Ok(Flow::Next)
    }
    fn poll_timeout(&self) -> Option<StdInstant> {
        self.0
    }
    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.0 = None;
        ctx.close(RpcError::unavailable("no sign of life"));
        Ok(Flow::Next)
    }
}

/// Reads nothing after its first frame.
struct Stuck;

impl ChannelHandler for Stuck {
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        ctx.set_auto_read(false);
        Ok(Flow::Next)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_on_a_half_open_connection_fail_as_soon_as_it_is_known_and_the_next_is_on_a_new_one()
{
    let opened = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&opened);
    let server = Server::builder().provide(ProbeServer::new(Provider::new("stuck")));
    let server = server.pipeline(move || match counted.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Change::add_last("stuck", Stuck)],
        _ => Vec::new(),
    });
    let _server = server.bind("memory:half-open").await.unwrap();
    let looks = || vec![Change::add_last("looks", FindsItGone(None))];
    let client = Client::builder().pipeline(looks).connect("memory:half-open").await.unwrap();
    let probe = ProbeClient::new(client).with_timeout(60 * SECOND);
    let started = Instant::now();
    // More than the transport takes, so that the rest can never be written.
    let error = probe.echo("x".repeat(1 << 20)).await.unwrap_err();
    assert_eq!(error.message(), "no sign of life");
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
    assert!(started.elapsed() < MS(1_010), "{:?}", started.elapsed());
    assert_eq!(at_once(probe.add(1, 2)).await, Ok(3));
    assert_eq!(opened.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_announced_anew_is_tried_at_once() {
    const URI: &str = "memory://announced";
    let registry = rpc_registry::connect("memory:announcing").await.unwrap();
    let first = register(&registry, "first", URI).await;
    let client = Client::builder().discover(Arc::clone(&registry), &PROBE_DESCRIPTOR);
    let client = client.await.unwrap();
    let probe = ProbeClient::new(client.clone());
    let mut pauses = 0;
    while pauses < 6 {
        let error = probe.add(1, 2).await.unwrap_err();
        pauses += usize::from(!error.message().contains("the next attempt"));
        tokio::time::sleep(MS(10)).await;
    }
    let (_server, _) = serve(URI).await;
    let error = at_once(probe.add(1, 2)).await.unwrap_err();
    assert!(error.is_unavailable(), "nobody said that it is there: {error:?}");
    // Beside the old registration, whose end nobody has noticed yet.
    let _second = register(&registry, "second", URI).await;
    tokio::task::yield_now().await;
    assert_eq!(at_once(probe.add(1, 2)).await, Ok(3));
    assert_eq!(client.connections().len(), 1);
    // The end of the old one changes nothing.
    first.revoke().await.unwrap();
    assert_eq!(at_once(probe.add(1, 2)).await, Ok(3));
    assert_eq!(client.connections()[0].reconnects, 0);
}

#[tokio::test]
async fn an_attempt_to_an_address_that_leaves_the_registry_is_given_up_and_never_repeated() {
    let accepted = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&accepted);
    let (ended, mut endings) = mpsc::unbounded_channel();
    let deaf = RawServer::start_rude(move |mut peer| {
        counted.fetch_add(1, Ordering::SeqCst);
        let ended = ended.clone();
        async move {
            peer.drain().await;
            let _ = ended.send(());
        }
    })
    .await;
    let registry = rpc_registry::connect("memory:withdrawing").await.unwrap();
    let lease = register(&registry, "deaf", &deaf.uri()).await;
    let client = Client::builder().connect_timeout(60 * SECOND).back_off(steady());
    let client = client.discover(Arc::clone(&registry), &PROBE_DESCRIPTOR).await.unwrap();
    let probe = ProbeClient::new(client.clone()).with_timeout(60 * SECOND);
    let call = tokio::spawn({
        let probe = probe.clone();
        async move { probe.add(1, 2).await }
    });
    until("the attempt", || accepted.load(Ordering::SeqCst) == 1).await;
    lease.revoke().await.unwrap();
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    soon("the end of the attempt", endings.recv()).await.unwrap();
    for _ in 0..20 {
        assert!(probe.add(1, 2).await.unwrap_err().is_unavailable());
        tokio::time::sleep(MS(20)).await;
    }
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    until("the address is forgotten", || client.connections().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_the_calls_under_way_and_takes_no_new_ones() {
    let (_server, seen) = serve("memory:closing").await;
    let client = Client::builder().connect("memory:closing").await.unwrap();
    let probe = ProbeClient::new(client.clone());
    let sleeping = probe.clone();
    let under_way = tokio::spawn(async move { sleeping.sleep(5_000).await });
    tokio::time::sleep(MS(10)).await;
    let started = Instant::now();
    let closing = [client.clone(), client.clone()].map(|client| {
        tokio::spawn(async move {
            client.close().await;
            Instant::now()
        })
    });
    tokio::time::sleep(MS(10)).await;
    assert_eq!(state(&client), ConnectionState::Draining);
    for probe in [probe.clone(), probe.with_wait_for_ready(true)] {
        let error = at_once(probe.add(1, 2)).await.unwrap_err();
        assert_eq!(error.message(), "the client was closed");
        assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    }
    assert_eq!(under_way.await.unwrap(), Ok(5_000));
    for closing in closing {
        let took = closing.await.unwrap() - started;
        assert!((MS(4_900)..MS(5_100)).contains(&took), "{took:?}");
    }
    assert_eq!((state(&client), seen.started()), (ConnectionState::Closed, 1));
    at_once(client.close()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_done_when_the_drain_timeout_of_a_client_has_passed_fails_with_the_reason() {
    let (_server, seen) = serve("memory:cut-off").await;
    let client = Client::builder().drain_timeout(2 * SECOND).connect("memory:cut-off").await;
    let client = client.unwrap();
    let probe = ProbeClient::new(client.clone()).with_timeout(60 * SECOND);
    let call = tokio::spawn(async move { probe.sleep(50_000).await });
    tokio::time::sleep(MS(10)).await;
    let started = Instant::now();
    // The budget holds although nobody waits for the end.
    let impatient = tokio::time::timeout(MS(10), client.close()).await;
    assert!(impatient.is_err());
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.message(), "the client was closed before the call was done");
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
    client.close().await;
    let took = started.elapsed();
    assert!((2 * SECOND..MS(2_020)).contains(&took), "{took:?}");
    tokio::time::sleep(MS(10)).await;
    assert_eq!((seen.waiting(), seen.dropped()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_calls_that_wait_for_a_connection() {
    let registry = rpc_registry::connect("memory:closed-while-waiting").await.unwrap();
    let discovering = Client::builder().wait_for_ready(true);
    let discovering = discovering.discover(registry, &PROBE_DESCRIPTOR).await.unwrap();
    let backing_off = lazy().wait_for_ready(true).connect("memory:not-there").await.unwrap();
    for client in [discovering, backing_off] {
        let probe = ProbeClient::new(client.clone()).with_timeout(60 * SECOND);
        let call = tokio::spawn(async move { probe.add(1, 2).await });
        tokio::time::sleep(SECOND).await;
        at_once(client.close()).await;
        let error = at_once(call).await.unwrap().unwrap_err();
        assert_eq!(error.message(), "the client was closed");
    }
}

#[tokio::test]
async fn a_provider_is_told_when_its_client_is_closed() {
    let (heard, mut frames) = mpsc::unbounded_channel();
    let server = RawServer::start(move |mut peer| {
        let heard = heard.clone();
        async move {
            while let Some(frame) = peer.any_frame().await {
                let _ = heard.send(frame.header.kind);
            }
            let _ = heard.send(Kind::Error);
        }
    })
    .await;
    let client = Client::builder().connect(server.uri()).await.unwrap();
    soon("closing", client.close()).await;
    let mut all = Vec::new();
    while all.last() != Some(&Kind::Error) {
        all.push(soon("a frame", frames.recv()).await.unwrap());
    }
    assert_eq!(all, [Kind::Hello, Kind::GoAway, Kind::Error], "the last one is the end");
}

#[tokio::test]
async fn an_attempt_that_is_under_way_when_its_client_is_closed_is_given_up() {
    let (begun, mut attempts) = watch::channel(0);
    let server = RawServer::start_rude(move |mut peer| {
        begun.send_modify(|begun| *begun += 1);
        async move {
            peer.drain().await;
            peer.try_send(&hello()).await;
        }
    })
    .await;
    let client = lazy().connect_timeout(60 * SECOND).connect(server.uri()).await.unwrap();
    let probe = ProbeClient::new(client.clone()).with_timeout(60 * SECOND);
    let call = tokio::spawn(async move { probe.add(1, 2).await });
    soon("the attempt", attempts.wait_for(|begun| *begun == 1)).await.unwrap();
    soon("closing", client.close()).await;
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert_eq!(error.message(), "the client was closed");
    assert!(error.is_safe_to_retry(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn who_follows_the_states_misses_no_change_and_hears_of_the_end() {
    let (server, _) = serve("memory:followed").await;
    let client = Client::builder().connect("memory:followed").await.unwrap();
    let mut changes = client.state_changes();
    let first = at_once(changes.changed()).await.unwrap();
    assert_eq!(first[0].state, ConnectionState::Ready);
    assert!(tokio::time::timeout(SECOND, changes.changed()).await.is_err(), "nothing changed");
    server.shutdown().await.unwrap();
    assert_eq!(changes.changed().await.unwrap()[0].state, ConnectionState::Idle);
    drop(client);
    let end = async { while changes.changed().await.is_some() {} };
    within(SECOND, "the end", end).await;
}

#[tokio::test]
async fn a_back_off_that_makes_no_sense_is_refused_when_the_client_is_made() {
    let nonsense = || Client::builder().back_off(BackOff::default().first(Duration::ZERO));
    let registry = rpc_registry::connect("memory:nonsense").await.unwrap();
    for error in [
        nonsense().lazy(true).connect("memory:nonsense").await.unwrap_err(),
        nonsense().discover(registry, &PROBE_DESCRIPTOR).await.unwrap_err(),
    ] {
        assert!(error.is_invalid() && error.to_string().contains("first pause"), "{error}");
    }
}
