//! One client's large, slow and many requests, and the calls of others meanwhile.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use rpc_runtime::protocol::{Header, Kind};
use rpc_runtime::{
    Client, Dispatch, MethodDescriptor, Result, Server, ServerBuilder, Streaming, rpc_service,
};
use rpc_tests::pace::PacedCalls;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::process::SAYS;
use rpc_tests::turn;
use rpc_tests::victim::{self, Victim};
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{RawFrame, RawPeer, arguments, frame, request, request_header};
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

const SECOND: Duration = Duration::from_secs(1);
/// The role of a child that serves on one event loop.
pub(crate) const EVENT_LOOP: &str = "event-loop";

#[rpc_service(name = "e2e.Turns")]
trait Turns {
    /// How many there are. As an array of numbers on the wire, each is decoded by itself.
    async fn count(&self, numbers: Vec<u8>) -> Result<usize>;
    #[rpc(blocking)]
    async fn count_blocking(&self, numbers: Vec<u8>) -> Result<usize>;
    /// How many there are, and the sum of the numbers.
    async fn count_wide(
        &self,
        groups: Vec<Vec<Wide>>,
        numbers: Streaming<u32>,
    ) -> Result<(usize, u32)>;
    #[rpc(blocking)]
    async fn count_wide_blocking(&self, groups: Vec<Vec<Wide>>) -> Result<usize>;
    /// How many turns another task gets while this one takes items that have arrived.
    async fn turns_between(&self, items: Streaming<Vec<Wide>>) -> Result<usize>;
    /// Holds the thread for so many microseconds. Returns the task that it ran in.
    async fn hold(&self, microseconds: u64) -> Result<String>;
    /// The same in virtual time.
    async fn take(&self, microseconds: u64) -> Result<String>;
}

/// 6 KiB of memory, and one byte on the wire.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Wide {
    #[serde(skip)]
    _rows: [[u64; 32]; 24],
}

/// So many times 90 KiB of memory, and 16 bytes on the wire.
fn wide(groups: usize) -> Vec<Vec<Wide>> {
    vec![vec![Wide::default(); 15]; groups]
}

fn total(groups: &[Vec<Wide>]) -> usize {
    groups.iter().map(Vec::len).sum()
}

struct Busy;

impl Turns for Busy {
    async fn count(&self, numbers: Vec<u8>) -> Result<usize> {
        Ok(numbers.len())
    }
    async fn count_blocking(&self, numbers: Vec<u8>) -> Result<usize> {
        Ok(numbers.len())
    }
    async fn count_wide(
        &self,
        groups: Vec<Vec<Wide>>,
        mut numbers: Streaming<u32>,
    ) -> Result<(usize, u32)> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok((total(&groups), sum))
    }
    async fn count_wide_blocking(&self, groups: Vec<Vec<Wide>>) -> Result<usize> {
        Ok(total(&groups))
    }
    async fn turns_between(&self, mut items: Streaming<Vec<Wide>>) -> Result<usize> {
        tokio::time::sleep(SECOND).await;
        let turns = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&turns);
        // Not by `yield_now`, which waits until no other task is ready.
        let other = tokio::spawn(poll_fn(move |cx| {
            counted.fetch_add(1, Ordering::Relaxed);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        while let Some(item) = items.next().await {
            item?;
        }
        other.abort();
        Ok(turns.load(Ordering::Relaxed))
    }
    async fn hold(&self, microseconds: u64) -> Result<String> {
        let until = Instant::now() + Duration::from_micros(microseconds);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        Ok(tokio::task::id().to_string())
    }
    async fn take(&self, microseconds: u64) -> Result<String> {
        let mut time = pin!(tokio::time::advance(Duration::from_micros(microseconds)));
        poll_fn(|cx| {
            // The time has passed with the first poll; behind it, others would get a turn.
            let _ = time.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        Ok(tokio::task::id().to_string())
    }
}

fn turns(name: &str) -> &'static MethodDescriptor {
    TURNS_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap()
}

fn turns_header(id: u64, name: &str) -> Header {
    Header { id, method: turns(name).id(), deadline_ms: 60_000, ..Header::new(Kind::Request) }
}

/// The argument of `count`: 8 MiB of numbers, written by hand since that is quicker.
fn many_numbers() -> Vec<u8> {
    const NUMBERS: usize = (8 << 20) - 64;
    let mut body = vec![0x91, 0xdd];
    body.extend((NUMBERS as u32).to_be_bytes());
    body.resize(body.len() + NUMBERS, 7);
    body
}

fn turns_request(id: u64, name: &str, values: &impl Serialize) -> Vec<u8> {
    frame(turns_header(id, name), &arguments(values))
}

fn builder() -> ServerBuilder {
    let probe = ProbeServer::new(Provider::new("turns"));
    Server::builder().provide(probe).provide(TurnsServer::new(Busy))
}

/// What the child that serves does.
pub(crate) fn play() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let server = builder().event_loops(1).bind("tcp://127.0.0.1:0").await.unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

/// Sends ten requests of 8 MiB, and leaves them a second. Returns how many bytes it sent.
async fn large_requests(uri: String, name: &str) -> u64 {
    let body = many_numbers();
    let mut peer = RawPeer::connect(&uri).await;
    let mut sent = 0;
    for id in 1..=10 {
        let request = frame(turns_header(id, name), &body);
        peer.send(&request).await;
        sent += request.len() as u64;
    }
    tokio::time::sleep(SECOND).await;
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_do_not_hold_the_event_loop_that_another_client_is_on() {
    for name in ["count", "count_blocking"] {
        victim::repeated(name, async || {
            let mut victim = Victim::start(EVENT_LOOP, &[]).await;
            victim.under(Client::builder(), |uri| large_requests(uri, name)).await
        })
        .await;
    }
}

/// 300 connections with two requests of 5 KB each, whose arguments take 27 MiB of memory.
async fn wide_requests(uri: String) -> u64 {
    let body = arguments(&(wide(300),));
    assert!((4_000..6_000).contains(&body.len()));
    let requests: Vec<u8> =
        (1..=2).flat_map(|id| frame(turns_header(id, "count_wide_blocking"), &body)).collect();
    let mut peers = Vec::new();
    for _ in 0..300 {
        peers.push(RawPeer::connect(&uri).await);
    }
    let mut sent = 0;
    for peer in &mut peers {
        peer.send(&requests).await;
        sent += requests.len() as u64;
    }
    tokio::time::sleep(SECOND).await;
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_with_large_arguments_do_not_hold_the_event_loop_of_another_client() {
    victim::repeated("large arguments in small requests", async || {
        Victim::start(EVENT_LOOP, &[]).await.under(Client::builder(), wide_requests).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_requests_with_large_arguments_are_answered_wherever_their_methods_run() {
    let _turn = turn::mine().await;
    for builder in [builder(), builder().event_loops(1), builder().dispatch(Dispatch::Spawn)] {
        let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
        let client = TurnsClient::connect(server.local_uri()).await.unwrap();
        for groups in [0, 1, 2, 3, 4, 100] {
            let numbers = Streaming::from_items(1..=100);
            let counted = soon("a stream", client.count_wide(wide(groups), numbers)).await;
            assert_eq!(counted, Ok((15 * groups, 5_050)));
            assert_eq!(client.count_wide_blocking(wide(groups)).await, Ok(15 * groups));
        }
        // What takes more than the limit was not run, and its stream has ended.
        let (sender, numbers) = Streaming::channel(1);
        let error = client.count_wide(wide(400), numbers).await.unwrap_err();
        assert!(error.is_decode() && error.message().contains("33554432 bytes"), "{error}");
        soon("the stream's end", async { while sender.send(1).await.is_ok() {} }).await;
        assert!(client.count_wide_blocking(wide(400)).await.unwrap_err().is_decode());
        soon("the end", server.shutdown()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_method_that_takes_large_items_leaves_turns_for_other_tasks_between_them() {
    let server = builder().bind("memory:items").await.unwrap();
    let client = TurnsClient::connect(server.local_uri()).await.unwrap();
    let turns = async |wide: usize| {
        let items = Streaming::from_items(vec![vec![Wide::default(); wide]; 100]);
        client.turns_between(items).await.unwrap()
    };
    let between_small = turns(1).await;
    assert!(between_small < 10, "{between_small}");
    let between_large = turns(15).await;
    assert!(between_large >= 99, "{between_large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_beyond_a_small_memory_limit_are_refused_at_once() {
    let server = builder().max_decoded(100 << 10).bind("memory:small").await.unwrap();
    let client = TurnsClient::connect(server.local_uri()).await.unwrap();
    assert_eq!(client.count_wide_blocking(wide(1)).await, Ok(15));
    let error = client.count_wide_blocking(wide(2)).await.unwrap_err();
    assert!(error.is_decode() && error.message().contains("102400 bytes"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_requests_are_answered_wherever_their_methods_run() {
    let _turn = turn::mine().await;
    for builder in [builder(), builder().event_loops(1)] {
        let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
        let client = TurnsClient::connect(server.local_uri()).await.unwrap();
        for size in [0, 65_534, 65_535, 65_536, 65_537, 1 << 20] {
            let numbers = vec![7; size];
            assert_eq!(client.count(numbers.clone()).await, Ok(size));
            assert_eq!(client.count_blocking(numbers).await, Ok(size));
        }
        // What does not decode was not run.
        let mut peer = RawPeer::connect(server.local_uri()).await;
        for name in ["count", "count_blocking"] {
            peer.send(&turns_request(1, name, &("x".repeat(1 << 20),))).await;
            let answer = peer.answer(1).await;
            assert!(answer.error().is_decode() && answer.is_unexecuted(), "{answer:?}");
        }
        soon("the end", server.shutdown()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocking_calls_of_one_client_leave_threads_for_those_of_another_and_of_tokio() {
    let _turn = turn::mine().await;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut greedy = RawPeer::connect(server.local_uri()).await;
    let many: Vec<u8> = (1..=1_024).flat_map(|id| request(id, "block", &(3_000,))).collect();
    greedy.send(&many).await;
    until("many of them hold a thread", || seen.waiting() >= 200).await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let started = Instant::now();
    assert_eq!(soon("another's call", probe.block(1)).await, Ok(1));
    soon("a job of tokio's", tokio::task::spawn_blocking(|| {})).await.unwrap();
    let took = started.elapsed();
    assert!(seen.waiting() >= 200, "they have ended meanwhile");
    assert!(took < SECOND, "it took {took:?}");
    // Those that have not begun are taken back.
    drop(greedy);
    soon("their end", async {
        until("they have ended", || seen.waiting() == 0).await;
        server.shutdown().await.unwrap();
    })
    .await;
    assert!(seen.started() <= 2 * 256 + 8, "{} have begun", seen.started());
}

/// From an address of this machine that is not the one of other clients.
async fn connect_from_elsewhere(uri: &str) -> RawPeer {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address = uri.strip_prefix("tcp://").unwrap().parse().unwrap();
    RawPeer::new(soon("connecting", socket.connect(address)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_blocking_calls_of_many_connections_of_an_address_leave_threads_for_another_address() {
    let _turn = turn::mine().await;
    const HELD: Duration = Duration::from_secs(20);
    let mut victim = Victim::server().await;
    let mut peers = Vec::new();
    for _ in 0..600 {
        let mut peer = connect_from_elsewhere(victim.says()).await;
        peer.send(&request(1, "block", &(HELD.as_millis() as u64,))).await;
        peers.push(peer);
    }
    let probe = ProbeClient::connect(victim.says()).await.unwrap();
    let held = async {
        while probe.waiting().await.unwrap() < 480 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("their share of the threads", held).await;
    let started = Instant::now();
    assert_eq!(soon("another's call", probe.block(1)).await, Ok(1));
    let took = started.elapsed();
    assert_eq!(probe.waiting().await, Ok(480), "they have more than their share, or have ended");
    eprintln!("it took {took:?}");
    assert!(took < SECOND, "it took {took:?}");
    victim.lives();
}

/// The frame says that a limit was reached before the method ran.
fn is_refused(frame: &RawFrame) -> bool {
    frame.header.status == 40 && frame.is_unexecuted()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_does_not_take_all_that_a_server_may_have_in_work() {
    let _turn = turn::mine().await;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider));
    let server = server.max_total_concurrent_requests(64).bind("tcp://127.0.0.1:0").await.unwrap();
    let mut greedy = RawPeer::connect(server.local_uri()).await;
    let wait = |id| frame(Header { deadline_ms: 0, ..request_header(id, "wait") }, &[0x90]);
    greedy.send(&(1..=100).flat_map(wait).collect::<Vec<_>>()).await;
    for _ in 0..100 - 32 {
        let refused = greedy.next().await.unwrap();
        assert!(is_refused(&refused), "{refused:?}");
        let error = refused.error();
        assert!(error.message().contains("max_total_concurrent_requests"), "{error}");
    }
    until("its share waits", || seen.waiting() == 32).await;
    // Others are served, and get their shares.
    let mut others = Vec::new();
    for others_waiting in [16, 24, 28] {
        let mut other = RawPeer::connect(server.local_uri()).await;
        other.check().await;
        other.send(&(1..=40).flat_map(wait).collect::<Vec<_>>()).await;
        until("its share waits", || seen.waiting() == 32 + others_waiting).await;
        others.push(other);
    }
    // What has ended is free again.
    drop(others);
    until("the others' have ended", || seen.waiting() == 32).await;
    let mut other = RawPeer::connect(server.local_uri()).await;
    other.send(&(1..=15).flat_map(wait).collect::<Vec<_>>()).await;
    other.check().await;
    drop((greedy, other));
    until("all have ended", || seen.waiting() == 0).await;
    soon("the end", server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_call_of_one_client_leaves_the_calls_of_another_in_place() {
    let _turn = turn::mine().await;
    let server = builder().bind("tcp://127.0.0.1:0").await.unwrap();
    let slow = TurnsClient::connect(server.local_uri()).await.unwrap();
    let quick = TurnsClient::connect(server.local_uri()).await.unwrap();
    // In place, calls run in the task of their connection. A busy machine may stop one for so long
    // that it counts as slow itself.
    let mut in_place = false;
    for _ in 0..20 {
        slow.hold(5_000).await.unwrap();
        in_place |= quick.hold(0).await.unwrap() == quick.hold(0).await.unwrap();
    }
    assert!(in_place);
}

#[tokio::test(start_paused = true)]
async fn requests_that_take_half_a_turn_each_do_not_take_many_turns_together() {
    let server = builder().bind("memory:turns").await.unwrap();
    let client = TurnsClient::connect(server.local_uri()).await.unwrap();
    client.take(0).await.unwrap();
    let calls = futures::future::join_all((0..64).map(|_| client.take(400))).await;
    let mut tasks = HashMap::<String, usize>::new();
    for task in calls {
        *tasks.entry(task.unwrap()).or_default() += 1;
    }
    // Three of the first batch run in place, then the rest of it in tasks of their own, and the
    // batches become smaller.
    assert!(tasks.len() > 4, "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_whose_deadline_passes_before_it_is_decoded_does_not_run() {
    let _turn = turn::mine().await;
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider));
    let server = server.provide(TurnsServer::new(Busy)).bind("tcp://127.0.0.1:0").await.unwrap();
    let mut busy = RawPeer::connect(server.local_uri()).await;
    let body = many_numbers();
    for id in 1..=4 {
        busy.send(&frame(turns_header(id, "count"), &body)).await;
    }
    let mut late = RawPeer::connect(server.local_uri()).await;
    let text = arguments(&("t".repeat(100_000),));
    late.send(&frame(Header { deadline_ms: 1, ..request_header(1, "echo") }, &text)).await;
    let answer = late.answer(1).await;
    assert!(answer.error().is_timeout() && answer.is_unexecuted(), "{answer:?}");
    assert_eq!(seen.started(), 0);
    late.send(&request(2, "echo", &("t".repeat(100_000),))).await;
    assert_eq!(late.answer(2).await.value::<String>().len(), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_others_are_answered_while_a_client_sends_without_a_pause() {
    let _turn = turn::mine().await;
    let server = builder().event_loops(1).bind("tcp://127.0.0.1:0").await.unwrap();
    let calls = PacedCalls::start(Client::builder(), server.local_uri());
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let many: Vec<u8> = (1..=1_000).flat_map(|id| turns_request(id, "hold", &(300,))).collect();
    peer.flood(&many, SECOND).await;
    let delays = calls.finish().await;
    assert!(delays.worst() < 2 * SECOND, "{:?}, median {:?}", delays.worst(), delays.median());
}
