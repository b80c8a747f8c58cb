//! Many calls at once on one connection: dropped at any moment, large and small, both ways.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use rpc_runtime::pipeline::Watermarks;
use rpc_runtime::{Client, Dispatch, Result, Server};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, Seen, serve};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until, within};

const SECOND: Duration = Duration::from_secs(1);
const TASKS: u64 = 64;

/// Polls a future once and says whether it is done.
async fn poll_once<F: Future + ?Sized>(mut future: Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

/// Makes calls and drops them after a few polls, mixed with calls that must be answered.
async fn call_and_drop(probe: ProbeClient, mut random: Random, until: Instant) -> u64 {
    let mut answered = 0;
    while Instant::now() < until {
        if random.below(2) == 0 {
            let n = random.below(1 << 40) as i64;
            let sum = within(2 * SECOND, "a call that is not dropped", probe.add(n, 1)).await;
            assert_eq!(sum, Ok(n + 1));
            answered += 1;
            continue;
        }
        let size = 1 << random.below(18);
        let mut dropped: Pin<Box<dyn Future<Output = ()> + Send>> = match random.below(4) {
            0 => Box::pin(async { drop(probe.wait().await) }),
            1 => Box::pin(async { drop(probe.sleep(1).await) }),
            2 => Box::pin(async { drop(probe.note("dropped".into()).await) }),
            _ => Box::pin(async { drop(probe.echo("d".repeat(size)).await) }),
        };
        for _ in 0..random.below(4) {
            if poll_once(dropped.as_mut()).await {
                break;
            }
            if random.below(2) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
    answered
}

/// The promise to flush must be kept whatever becomes of those who made it.
async fn calls_dropped_at_any_moment(uri: &str, seed: u64) {
    let (server, seen) = serve(uri).await;
    let client = Client::builder().timeout(60 * SECOND).connect(server.local_uri()).await.unwrap();
    let probe = ProbeClient::new(client);
    let end = Instant::now() + 2 * SECOND;
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| tokio::spawn(call_and_drop(probe.clone(), Random::new(seed + n), end)))
        .collect();
    for task in tasks {
        let answered = soon("a task's end", task).await.unwrap();
        assert!(answered > 0, "a task got no answer at all");
    }
    // Every cancel has reached the provider, and nothing hangs.
    until("no dropped call goes on", || seen.waiting() == 0).await;
    assert!(seen.dropped() > 0, "no call was dropped while it waited");
    assert_eq!(within(2 * SECOND, "the next call", probe.add(1, 2)).await, Ok(3));
    assert_eq!(server.channels().len(), 1, "the connection was lost on the way");
    within(3 * SECOND, "the shutdown of an idle server", server.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_dropped_at_any_moment_leave_nothing_hanging() {
    calls_dropped_at_any_moment("tcp://127.0.0.1:0", 1_000).await;
}

#[tokio::test]
async fn calls_dropped_at_any_moment_leave_nothing_hanging_on_a_single_thread() {
    calls_dropped_at_any_moment("tcp://127.0.0.1:0", 2_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_dropped_at_any_moment_leave_nothing_hanging_in_memory() {
    calls_dropped_at_any_moment("memory:stress-dropped", 3_000).await;
}

/// A server and a client of it that are congested almost at once.
async fn tight(uri: &str, dispatch: Dispatch) -> (Server, ProbeClient, Arc<Seen>) {
    let watermarks = Watermarks { high: 4 << 10, low: 1 << 10 };
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder()
        .provide(ProbeServer::new(provider))
        .dispatch(dispatch)
        .watermarks(watermarks)
        .max_concurrent_requests(4);
    let server = server.bind(uri).await.unwrap();
    let client = Client::builder()
        .watermarks(watermarks)
        .max_in_flight(48)
        .timeout(60 * SECOND)
        .connect(server.local_uri())
        .await
        .unwrap();
    (server, ProbeClient::new(client), seen)
}

/// A text that no other call sends, of 1 byte to 1 MiB; the small ones are the most.
fn text(random: &mut Random, task: u64, call: u64) -> String {
    let size = 1_usize << random.below(21);
    let mut text = format!("<{task}.{call}>").repeat(size / 4 + 1);
    text.truncate(size);
    text
}

async fn echoes(probe: &ProbeClient, calls: u64, seed: u64) {
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let probe = probe.clone();
            let mut random = Random::new(seed + task);
            tokio::spawn(async move {
                for call in 0..calls {
                    let text = text(&mut random, task, call);
                    let echo = probe.echo(text.clone()).await.unwrap();
                    assert!(echo == text, "call {call} of task {task} got another's answer");
                }
            })
        })
        .collect();
    for task in tasks {
        // A deadlock would be one for ever.
        within(40 * SECOND, "a task's end", task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_all_sizes_both_ways_at_once_neither_deadlock_nor_mix() {
    for dispatch in [Dispatch::Inline, Dispatch::Spawn] {
        let (server, probe, _) = tight("tcp://127.0.0.1:0", dispatch).await;
        echoes(&probe, 10, 10_000).await;
        assert_eq!(server.channels().len(), 1);
        within(3 * SECOND, "the shutdown of an idle server", server.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn payloads_of_all_sizes_both_ways_at_once_neither_deadlock_nor_mix_on_a_single_thread() {
    for (uri, dispatch) in
        [("tcp://127.0.0.1:0", Dispatch::Inline), ("memory:stress-sizes", Dispatch::Spawn)]
    {
        let (server, probe, _) = tight(uri, dispatch).await;
        echoes(&probe, 8, 20_000).await;
        assert_eq!(server.channels().len(), 1);
        within(3 * SECOND, "the shutdown of an idle server", server.shutdown()).await.unwrap();
    }
}

async fn oneway_flood(uri: &str) {
    const SENDERS: usize = 8;
    const SMALL: usize = 2_000;
    const LARGE: usize = 20;
    let (server, probe, seen) = tight(uri, Dispatch::Inline).await;
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move {
                for n in 0..SMALL {
                    probe.note("small".into()).await?;
                    if n % (SMALL / LARGE) == 0 {
                        probe.note("L".repeat(256 << 10)).await?;
                    }
                }
                Result::<()>::Ok(())
            })
        })
        .collect();
    // Calls on the same connection get their turn all along.
    for n in 0..100 {
        let sum = within(10 * SECOND, "a call within the flood", probe.add(n, 1)).await;
        assert_eq!(sum, Ok(n + 1));
    }
    for sender in senders {
        within(30 * SECOND, "a sender's end", sender).await.unwrap().unwrap();
    }
    let all = SENDERS * (SMALL + LARGE);
    until("all notes arrived", || seen.notes() >= all).await;
    within(3 * SECOND, "the shutdown of an idle server", server.shutdown()).await.unwrap();
    assert_eq!(seen.notes(), all, "some notes arrived twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_oneway_calls_loses_none_and_keeps_nobody_from_calling() {
    oneway_flood("tcp://127.0.0.1:0").await;
}

#[tokio::test]
async fn a_flood_of_oneway_calls_loses_none_on_a_single_thread() {
    oneway_flood("tcp://127.0.0.1:0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_in_the_midst_of_many_calls_loses_none_that_it_took() {
    for round in 0..5 {
        let (server, seen) = serve("tcp://127.0.0.1:0").await;
        let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
        let callers: Vec<_> = (0..TASKS)
            .map(|n| {
                let probe = probe.clone();
                tokio::spawn(async move {
                    let mut random = Random::new(30_000 + 100 * round + n);
                    loop {
                        let result = match random.below(3) {
                            0 => probe.add(1, 2).await.map(drop),
                            1 => probe.sleep(random.below(20)).await.map(drop),
                            _ => probe.echo("e".repeat(1 << random.below(16))).await.map(drop),
                        };
                        if let Err(error) = result {
                            return error;
                        }
                    }
                })
            })
            .collect();
        until("they call", || seen.started() > 500).await;
        within(8 * SECOND, "the shutdown", server.shutdown()).await.unwrap();
        let mut messages = BTreeSet::new();
        for caller in callers {
            let error = soon("the caller's end", caller).await.unwrap();
            // Nothing that was taken is lost: all that fails was surely not run.
            assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
            messages.insert(error.message().to_owned());
        }
        assert!(!messages.is_empty());
        assert_eq!(seen.waiting(), 0);
    }
}
