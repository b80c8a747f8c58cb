//! The known defects of simple RPC frameworks, one test each, and some that Rust frameworks had.
//!
//! The numbered ones are the fifteen that a simple framework over Netty, as courses build it, has.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::future::join_all;
use rpc_registry::{Instance, Registry};
use rpc_runtime::protocol::{Header, Kind};
use rpc_runtime::{Client, Result, RpcError, Server, rpc_service};
use rpc_tests::probe::{Nested, Probe, ProbeClient, ProbeServer, Provider, Seen, method, serve};
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{self, RawPeer, RawServer, frame};

const SECOND: Duration = Duration::from_secs(1);

async fn stub(server: &Server) -> ProbeClient {
    ProbeClient::connect(server.local_uri()).await.unwrap()
}

/// A client with room for so many calls at a time.
async fn narrow(uri: &str, max_in_flight: usize) -> ProbeClient {
    ProbeClient::new(Client::builder().max_in_flight(max_in_flight).connect(uri).await.unwrap())
}

/// Polls a future once; it must not be ready.
async fn poll_once<F: Future + Unpin>(future: &mut F) {
    std::future::poll_fn(|cx| {
        assert!(std::pin::Pin::new(&mut *future).poll(cx).is_pending(), "ready at once");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_01_a_timed_out_call_is_completed() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await.with_timeout(SECOND / 10);
    let started = Instant::now();
    let results = soon("all calls", join_all((0..100).map(|_| probe.wait()))).await;
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
    for result in results {
        let error = result.unwrap_err();
        assert!(error.is_timeout() && !error.is_safe_to_retry(), "{error:?}");
    }
    until("the provider stops, too", || seen.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_02_a_timeout_fires_when_it_is_due_and_not_with_the_next_sweep() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    // One call with a far deadline must not set the pace.
    let mut far = Box::pin(probe.wait());
    poll_once(&mut far).await;
    for milliseconds in [5, 20, 100, 300] {
        let timeout = Duration::from_millis(milliseconds);
        let started = Instant::now();
        let error = soon("the call", probe.with_timeout(timeout).wait()).await.unwrap_err();
        let took = started.elapsed();
        assert!(error.is_timeout(), "{error:?}");
        assert!(took >= timeout && took < timeout + SECOND, "{timeout:?} took {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_03_answers_that_race_timeouts_do_not_change_how_many_calls_fit() {
    const ROOM: usize = 8;
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = narrow(server.local_uri(), ROOM).await;
    let (mut answered, mut timed_out) = (0, 0);
    for round in 0..60 {
        // Deadlines all around the time that the answers take.
        let calls = (0..4 * ROOM as u64).map(|n| {
            let timeout = Duration::from_micros(3_000 + (n * 977 + round * 131) % 12_000);
            let probe = probe.with_timeout(timeout);
            async move { probe.sleep(5).await }
        });
        for result in soon("a round", join_all(calls)).await {
            match result {
                Ok(5) => answered += 1,
                Err(error) if error.is_timeout() => timed_out += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(answered > 20 && timed_out > 20, "no race: {answered} answered, {timed_out} not");
    until("the provider is idle", || seen.waiting() == 0).await;
    exactly_this_many_fit(&probe, &seen, ROOM).await;
}

/// Fewer: permits were lost. More: some were released twice.
async fn exactly_this_many_fit(probe: &ProbeClient, seen: &Seen, room: usize) {
    let calls: Vec<_> = (0..room)
        .map(|_| {
            let probe = probe.with_timeout(30 * SECOND);
            tokio::spawn(async move { probe.wait().await })
        })
        .collect();
    until("as many calls wait as fit", || seen.waiting() == room).await;
    let one_more = soon("one more", probe.with_timeout(SECOND / 10).add(1, 2)).await;
    assert!(
        one_more.as_ref().is_err_and(|error| error.is_timeout() && error.is_safe_to_retry()),
        "it was sent: {one_more:?}"
    );
    calls.iter().for_each(|call| call.abort());
    until("none waits any more", || seen.waiting() == 0).await;
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_04_a_write_that_fails_leaves_neither_entry_nor_permit_behind() {
    const ROOM: usize = 4;
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let client = Client::builder().max_in_flight(ROOM).max_payload(1_000);
    let probe = ProbeClient::new(client.connect(server.local_uri()).await.unwrap());
    for _ in 0..10 {
        let calls = (0..2 * ROOM).map(|_| probe.echo("x".repeat(2_000)));
        for result in soon("the calls", join_all(calls)).await {
            assert!(result.is_err_and(|error| error.is_too_large()));
        }
    }
    exactly_this_many_fit(&probe, &seen, ROOM).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_04_a_connection_that_breaks_while_calls_are_written_leaves_no_permit_behind() {
    const ROOM: usize = 4;
    // Takes a little and breaks, again and again; then a real provider takes the address over.
    let breaking = RawServer::start(|mut peer| async move {
        peer.requested().await;
    })
    .await;
    let uri = breaking.uri();
    let probe = narrow(&uri, ROOM).await.with_timeout(5 * SECOND);
    for _ in 0..10 {
        let calls = (0..2 * ROOM).map(|_| probe.echo("x".repeat(200_000)));
        for result in soon("the calls", join_all(calls)).await {
            assert!(result.unwrap_err().is_unavailable());
        }
    }
    drop(breaking);
    let (_server, seen) = rebind(&uri).await;
    soon("the provider is back", async {
        while probe.add(1, 2).await != Ok(3) {
            tokio::time::sleep(SECOND / 100).await;
        }
    })
    .await;
    exactly_this_many_fit(&probe, &seen, ROOM).await;
}

/// Serves at an address that another listener has just left.
async fn rebind(uri: &str) -> (Server, Arc<Seen>) {
    let provider = Provider::new("again");
    let seen = provider.seen();
    soon("the address is free", async {
        loop {
            let server = Server::builder().provide(ProbeServer::new(provider.clone()));
            if let Ok(server) = server.bind(uri).await {
                return (server, Arc::clone(&seen));
            }
            tokio::time::sleep(SECOND / 1000).await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_05_a_connection_that_ends_ends_its_calls_at_once() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = narrow(server.local_uri(), 100).await.with_timeout(30 * SECOND);
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move { (probe.wait().await, Instant::now()) })
        })
        .collect();
    until("half of the calls wait, half of them queue", || seen.waiting() == 100).await;
    let ended = Instant::now();
    drop(server);
    let mut not_safe = 0;
    for call in calls {
        let (result, at) = soon("the call's end", call).await.unwrap();
        let error = result.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        assert!(at - ended < 2 * SECOND, "{:?}", at - ended);
        not_safe += usize::from(!error.is_safe_to_retry());
    }
    // Those that queued may have been sent on a second connection that ended as well.
    assert!(not_safe >= 100, "a retry was called safe for calls that were in work: {not_safe}");
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_06_a_congested_connection_does_not_slow_another() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let deaf = RawServer::start(|peer| async move {
        let _open = peer;
        std::future::pending().await
    })
    .await;
    let congested = narrow(&deaf.uri(), 4).await.with_timeout(20 * SECOND);
    let stuck: Vec<_> = (0..64)
        .map(|_| {
            let probe = congested.clone();
            tokio::spawn(async move { probe.echo("x".repeat(1 << 20)).await })
        })
        .collect();
    let probe = stub(&server).await.with_timeout(5 * SECOND);
    for n in 0..500 {
        assert_eq!(soon("the call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert!(stuck.iter().all(|call| !call.is_finished()), "the other one is not congested");
    stuck.iter().for_each(|call| call.abort());
}

#[tokio::test]
async fn defect_06_waiting_for_room_does_not_block_the_event_loop() {
    // All of it on one thread: who blocks it, blocks everything.
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = narrow(server.local_uri(), 1).await.with_timeout(5 * SECOND);
    let mut first = Box::pin(probe.wait());
    poll_once(&mut first).await;
    let second = tokio::spawn({
        let probe = probe.clone();
        async move { probe.add(1, 2).await }
    });
    until("the first call is in work", || seen.waiting() == 1).await;
    assert_eq!(soon("another connection", stub(&server).await.add(1, 2)).await, Ok(3));
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(soon("its turn", second).await.unwrap(), Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_06_a_call_that_gets_no_room_fails_at_its_deadline_and_says_so() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = narrow(server.local_uri(), 1).await;
    let mut first = Box::pin(probe.wait());
    poll_once(&mut first).await;
    let started = Instant::now();
    let error = soon("the call", probe.with_timeout(SECOND / 5).add(1, 2)).await.unwrap_err();
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error:?}");
    assert!(error.message().contains("before the request could be sent"), "{error}");
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_07_a_dead_connection_is_replaced_by_the_next_call() {
    let (mut server, _) = serve("tcp://127.0.0.1:0").await;
    let uri = server.local_uri().to_owned();
    let probe = stub(&server).await.with_timeout(5 * SECOND);
    for _ in 0..5 {
        assert_eq!(soon("the call", probe.add(1, 2)).await, Ok(3));
        drop(server);
        (server, _) = rebind(&uri).await;
        // One request may have been under way to the old server when that ended.
        let first = soon("the first call", probe.add(1, 2)).await;
        assert!(first.is_ok() || first.unwrap_err().is_unavailable());
        assert_eq!(soon("the second call", probe.add(1, 2)).await, Ok(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_07_a_provider_that_was_away_is_found_again() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let uri = server.local_uri().to_owned();
    let probe = stub(&server).await;
    drop(server);
    until_unavailable(&probe).await;
    for _ in 0..20 {
        let started = Instant::now();
        let error = soon("a call to nobody", probe.add(1, 2)).await.unwrap_err();
        assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
        assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    }
    let _server = rebind(&uri).await;
    within(3 * SECOND, "the provider is found again", async {
        while probe.add(1, 2).await != Ok(3) {
            tokio::time::sleep(SECOND / 200).await;
        }
    })
    .await;
}

async fn until_unavailable(probe: &ProbeClient) {
    soon("the client has noticed", async {
        while !probe.add(1, 2).await.is_err_and(|error| error.is_safe_to_retry()) {
            tokio::time::sleep(SECOND / 1000).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_08_a_blocking_handler_does_not_delay_other_calls() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    a_blocking_handler_delays_nobody(&stub(&server).await, &seen).await;
}

#[tokio::test]
async fn defect_08_a_blocking_handler_does_not_delay_other_calls_on_a_single_thread() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    a_blocking_handler_delays_nobody(&stub(&server).await, &seen).await;
}

async fn a_blocking_handler_delays_nobody(probe: &ProbeClient, seen: &Seen) {
    let blocked: Vec<_> = (0..8)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move { probe.block(1_000).await })
        })
        .collect();
    until("all of them block", || seen.waiting() == 8).await;
    for n in 0..50 {
        assert_eq!(soon("the call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert_eq!(seen.waiting(), 8, "the calls were only answered when the others were done");
    for call in blocked {
        assert_eq!(soon("the blocking call", call).await.unwrap(), Ok(1_000));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_09_a_length_that_was_made_up_is_refused_and_the_next_frame_is_read() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let long = vec![0; (8 << 20) + 1];
    peer.send(&frame(wire::request_header(1, "echo"), &long)).await;
    assert!(peer.answer(1).await.error().is_too_large());
    peer.check().await;
    peer.send(&Header { length: u32::MAX, ..wire::request_header(2, "echo") }.encode()).await;
    assert!(peer.answer(2).await.error().is_too_large());
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_10_a_request_that_does_not_parse_is_answered_and_the_connection_stays() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    for body in [&b""[..], b"\xc1", b"\x92\x01", b"junk"] {
        peer.send(&frame(wire::request_header(1, "add"), body)).await;
        let error = peer.answer(1).await.error();
        assert!(error.is_decode() && !error.message().is_empty(), "{error:?}");
    }
    let unknown = Header { method: 1, ..wire::request_header(2, "add") };
    peer.send(&frame(unknown, &[])).await;
    assert!(peer.answer(2).await.error().is_not_found());
    peer.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_11_a_panicking_or_failing_method_yields_an_error_that_says_so() {
    for dispatch in rpc_tests::probe::DISPATCHES {
        let server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
        // Else the texts of panics stay at the provider.
        let server = server.dispatch(dispatch).expose_internal_errors(true);
        let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
        let probe = stub(&server).await;
        for (result, word) in [
            (probe.panic("on purpose".into()).await, "on purpose"),
            (probe.panic(String::new()).await, "panicked"),
        ] {
            let error = result.unwrap_err();
            assert!(error.is_internal() && !error.is_safe_to_retry(), "{dispatch:?}: {error:?}");
            for word in [word, "e2e.Probe/", server.local_uri()] {
                assert!(error.to_string().contains(word), "{dispatch:?}: {word}: {error}");
            }
        }
        let error = probe.fail("the disk is full".into()).await.unwrap_err();
        assert!(error.is_internal() && error.to_string().contains("the disk is full"), "{error:?}");
        assert_eq!(probe.add(1, 2).await, Ok(3));
        assert_eq!(server.channels().len(), 1, "the connection was lost");
    }
}

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Shape {
    Point,
    Circle(f64),
    Box { width: u32, height: u32 },
}

#[rpc_service]
pub trait Several {
    async fn none(&self) -> Result<()>;
    async fn one(&self, shape: Shape) -> Result<Shape>;
    async fn many(
        &self,
        a: u8,
        b: Option<String>,
        c: Vec<(i64, char)>,
        d: std::collections::BTreeMap<String, Nested>,
        e: [bool; 3],
    ) -> Result<String>;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_12_a_service_has_several_methods_with_several_arguments_of_any_type() {
    struct All;
    impl Several for All {
        async fn none(&self) -> Result<()> {
            Ok(())
        }
        async fn one(&self, shape: Shape) -> Result<Shape> {
            Ok(shape)
        }
        async fn many(
            &self,
            a: u8,
            b: Option<String>,
            c: Vec<(i64, char)>,
            d: std::collections::BTreeMap<String, Nested>,
            e: [bool; 3],
        ) -> Result<String> {
            Ok(format!("{a} {b:?} {c:?} {d:?} {e:?}"))
        }
    }
    let server = Server::builder().provide(SeveralServer::new(All));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let several = SeveralClient::connect(server.local_uri()).await.unwrap();
    several.none().await.unwrap();
    for shape in [Shape::Point, Shape::Circle(0.5), Shape::Box { width: 1, height: 2 }] {
        assert_eq!(several.one(shape.clone()).await, Ok(shape));
    }
    let d = std::collections::BTreeMap::from([("k".to_owned(), Nested::default())]);
    let e = [true, false, true];
    for b in [None, Some("é".to_owned())] {
        let c = vec![(i64::MIN, '→'), (0, '0')];
        let local = All.many(255, b.clone(), c.clone(), d.clone(), e).await;
        assert_eq!(several.many(255, b, c, d.clone(), e).await, local);
    }
}

/// Servers with these names that announce themselves in a registry.
async fn providers(registry: &Arc<dyn Registry>, names: &[&str]) -> Vec<Server> {
    let mut servers = Vec::new();
    for name in names {
        let server = Server::builder().provide(ProbeServer::new(Provider::new(*name)));
        let server = server.registry(Arc::clone(registry));
        servers.push(server.bind("tcp://127.0.0.1:0").await.unwrap());
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_13_the_first_provider_does_not_win_silently() {
    for names in [&["a", "b"][..], &["a", "b", "c"], &["a", "b", "c", "d", "e", "f"]] {
        let uri = format!("memory:defect-13-{}", names.len());
        let registry = rpc_registry::connect(uri).await.unwrap();
        let _servers = providers(&registry, names).await;
        let probe = ProbeClient::discover(registry).await.unwrap();
        let rounds = 20;
        let mut calls = std::collections::BTreeMap::<String, usize>::new();
        for _ in 0..rounds * names.len() {
            *calls.entry(soon("the call", probe.who()).await.unwrap()).or_default() += 1;
        }
        for name in names {
            let got = calls.get(*name).copied().unwrap_or(0);
            assert!(got >= rounds / 2, "{name} got {got} calls of {calls:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_14_a_provider_that_has_ended_is_no_longer_listed() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", dir.path().display());
    let registry = rpc_registry::connect(&uri).await.unwrap();
    let mut servers = providers(&registry, &["stopped", "dropped", "stays"]).await;
    let probe = ProbeClient::discover(rpc_registry::connect(&uri).await.unwrap()).await.unwrap();
    assert_eq!(registry.lookup("e2e.Probe").await.unwrap().len(), 3);

    soon("shutdown", servers.remove(0).shutdown()).await.unwrap();
    assert_eq!(registry.lookup("e2e.Probe").await.unwrap().len(), 2, "after a shutdown");
    drop(servers.remove(0));
    soon("the dropped server's entry goes", async {
        while registry.lookup("e2e.Probe").await.unwrap().len() > 1 {
            tokio::time::sleep(SECOND / 1000).await;
        }
    })
    .await;
    let left = registry.lookup("e2e.Probe").await.unwrap();
    assert_eq!(left[0].uri(), servers[0].local_uri());
    soon("only that one is called", async {
        let mut in_a_row = 0;
        while in_a_row < 10 {
            in_a_row = if probe.who().await.as_deref() == Ok("stays") { in_a_row + 1 } else { 0 };
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_14_a_registry_file_cut_at_any_byte_is_an_answer_or_an_error_and_no_endless_loop() {
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("file://{}", dir.path().display());
    let registry = rpc_registry::connect(&uri).await.unwrap();
    let _lease = registry.register(Instance::new("S", "tcp://127.0.0.1:1")).await.unwrap();
    let path = dir.path().join("registry.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        // A fresh one has nothing cached.
        let fresh = rpc_registry::connect(&uri).await.unwrap();
        match within(5 * SECOND, "a look-up", fresh.lookup("S")).await {
            Ok(found) => assert!(found.len() <= 1, "cut at {cut}: {found:?}"),
            Err(error) => assert!(error.is_corrupt(), "cut at {cut}: {error:?}"),
        }
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(registry.lookup("S").await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_15_a_stop_finishes_the_calls_that_are_in_work() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let probe = probe.clone();
            tokio::spawn(async move {
                if n % 2 == 0 { probe.sleep(300).await } else { probe.block(300).await }
            })
        })
        .collect();
    until("all are in work", || seen.waiting() == 100).await;
    let started = Instant::now();
    let stop = tokio::spawn(server.shutdown());
    for call in calls {
        assert_eq!(soon("a call in work", call).await.unwrap(), Ok(300));
    }
    soon("shutdown", stop).await.unwrap().unwrap();
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    let error = probe.add(1, 2).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_15_a_rolling_restart_loses_no_call() {
    let registry = rpc_registry::connect("memory:defect-15").await.unwrap();
    let mut servers = providers(&registry, &["a", "b"]).await;
    let probe = ProbeClient::discover(Arc::clone(&registry)).await.unwrap();
    let stop = Arc::<AtomicBool>::default();
    let answered = Arc::<AtomicUsize>::default();
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (probe, stop) = (probe.clone(), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(probe.sleep(2).await, Ok(2));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for _ in 0..6 {
        servers.extend(providers(&registry, &["new"]).await);
        let so_far = answered.load(Ordering::Relaxed);
        until("calls go on", || answered.load(Ordering::Relaxed) > so_far + 50).await;
        soon("shutdown", servers.remove(0).shutdown()).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon("the caller's end", caller).await.expect("no call is lost");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defect_15_what_is_not_done_within_the_budget_is_cut_off_and_told() {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider)).drain_timeout(SECOND / 2);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let probe = stub(&server).await.with_timeout(30 * SECOND);
    let call = tokio::spawn(async move { probe.wait().await });
    until("it is in work", || seen.waiting() == 1).await;
    let started = Instant::now();
    soon("shutdown", server.shutdown()).await.unwrap();
    let took = started.elapsed();
    assert!(took >= SECOND / 2 && took < 3 * SECOND, "{took:?}");
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
    until("the method is dropped", || seen.waiting() == 0).await;
}

// ---- lessons from Rust frameworks --------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cancelled_within_its_write_does_not_poison_the_connection() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    let text = "x".repeat(4 << 20);
    for n in 0..10 {
        // More than the socket takes at once, so the frame is cut when the call is dropped.
        let mut dropped = Box::pin(probe.echo(text.clone()));
        poll_once(&mut dropped).await;
        drop(dropped);
        assert_eq!(soon("the next call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert_eq!(server.channels().len(), 1, "the connection was lost");
    assert!(seen.started() >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_is_dropped_at_the_provider_too() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await.with_timeout(60 * SECOND);
    let mut calls: Vec<_> = (0..100).map(|_| Box::pin(probe.wait())).collect();
    for call in &mut calls {
        poll_once(call).await;
    }
    // The promise to flush is kept by polling the calls on.
    let waiting = async {
        let all = join_all(&mut calls);
        tokio::select! {
            _ = all => panic!("answered"),
            () = until("all of them wait", || seen.waiting() == 100) => {}
        }
    };
    soon("all of them wait", waiting).await;
    drop(calls);
    until("none of them waits", || seen.waiting() == 0).await;
    assert_eq!(seen.dropped(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_right_after_it_was_sent_does_not_run_to_its_deadline() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await.with_timeout(60 * SECOND);
    for _ in 0..10 {
        // Request and cancel leave in one write and arrive in one read.
        let mut calls: Vec<_> = (0..10).map(|_| Box::pin(probe.wait())).collect();
        for call in &mut calls {
            poll_once(call).await;
        }
        drop(calls);
        assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
    }
    until("none of them waits", || seen.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_that_arrives_with_its_request_ends_it() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let wait = wire::request(1, "wait", &[0_u8; 0]);
    peer.send(&[wait, wire::bare(Kind::Cancel, 1)].concat()).await;
    peer.check().await;
    until("it does not wait", || seen.waiting() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_polled_once_and_then_left_alone_holds_up_nobody() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await.with_timeout(3 * SECOND);
    let mut first = Box::pin(probe.wait());
    poll_once(&mut first).await;
    until("the first call waits", || seen.waiting() == 1).await;
    // As in a `select!` in a loop, whose body is busy with something else.
    let mut left_alone = pin!(probe.wait());
    poll_once(&mut left_alone).await;
    let other = tokio::spawn({
        let probe = probe.clone();
        async move { probe.add(1, 2).await }
    });
    assert_eq!(soon("the other call", other).await.unwrap(), Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_travels_with_the_call() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await.with_timeout(5 * SECOND);
    let left = probe.remaining().await.unwrap().unwrap();
    assert!((3_000..=5_001).contains(&left), "{left} ms");
    assert!(method("remaining").timeout().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_whether_a_retry_is_safe_only_when_that_is_known() {
    // The provider may have run it, and nobody knows.
    let server = RawServer::start(|mut peer| async move {
        peer.requested().await;
    })
    .await;
    let probe = ProbeClient::connect(server.uri()).await.unwrap();
    let error: RpcError = soon("the call", probe.add(1, 2)).await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_and_pings_are_heard_while_too_much_is_in_work() {
    const IN_WORK: usize = 4;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server =
        Server::builder().provide(ProbeServer::new(provider)).max_concurrent_requests(IN_WORK);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    for id in 1..=IN_WORK as u64 {
        peer.send(&wire::request(id, "wait", &[0_u8; 0])).await;
    }
    until("as much is in work as may be", || seen.waiting() == IN_WORK).await;
    peer.send(&wire::bare(Kind::Ping, 9)).await;
    let pong = within(2 * SECOND, "a pong", peer.next()).await.unwrap();
    assert_eq!((pong.header.kind, pong.header.id), (Kind::Pong, 9));
    peer.send(&wire::bare(Kind::Cancel, 1)).await;
    until("one is cancelled", || seen.waiting() == IN_WORK - 1).await;
    peer.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_dropped_while_too_much_is_in_work_make_room_for_the_next() {
    const IN_WORK: usize = 4;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server =
        Server::builder().provide(ProbeServer::new(provider)).max_concurrent_requests(IN_WORK);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let probe = stub(&server).await.with_timeout(60 * SECOND);
    probe.add(1, 2).await.unwrap();
    let calls: Vec<_> = (0..3 * IN_WORK)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move { probe.wait().await })
        })
        .collect();
    until("as much is in work as may be", || seen.waiting() == IN_WORK).await;
    calls.iter().for_each(|call| call.abort());
    let next = probe.with_timeout(5 * SECOND);
    assert_eq!(soon("the next call", next.add(1, 2)).await, Ok(3));
}

/// On one thread, what was cancelled ends only after the requests behind have been read.
#[tokio::test]
async fn requests_that_follow_cancels_do_not_keep_later_cancels_from_being_read() {
    const IN_WORK: u64 = 4;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder()
        .provide(ProbeServer::new(provider))
        .max_concurrent_requests(IN_WORK as usize);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let wait = |id| wire::request(id, "wait", &[0_u8; 0]);
    for id in 1..=IN_WORK {
        peer.send(&wait(id)).await;
    }
    until("as much is in work as may be", || seen.waiting() == IN_WORK as usize).await;
    let mut bytes = Vec::new();
    for id in 1..=IN_WORK {
        bytes.extend(wire::bare(Kind::Cancel, id));
        bytes.extend(wait(IN_WORK + id));
    }
    bytes.extend(wire::bare(Kind::Ping, 9));
    peer.send(&bytes).await;
    let pong = within(2 * SECOND, "a pong", peer.next()).await.unwrap();
    assert_eq!((pong.header.kind, pong.header.id), (Kind::Pong, 9));
}
